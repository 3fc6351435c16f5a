"""The schemes a supernet is trained under."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sat_optuna.errors import SchemeError
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.random_schemes import draw_scheme

STAGES = (2, 3, 2)


def draw(
    step: int,
    *,
    kinds: int = 1,
    connect: float = 0.5,
    draws: str = "iid",
    seed: int = 0,
) -> Scheme:
    return draw_scheme(STAGES, kinds, connect=connect, draws=draws, seed=seed, step=step)


@given(
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.sampled_from(["iid", "balanced"]),
)
@settings(max_examples=30, deadline=None)
def test_a_pure_function_of_seed_and_step(seed, step, kinds, draws):
    drawn = draw(step, kinds=kinds, draws=draws, seed=seed)
    torch.rand(3)  # the global generator has no part in it
    assert draw(step, kinds=kinds, draws=draws, seed=seed) == drawn
    assert drawn.stages == STAGES
    assert max(drawn.choices) <= kinds


@pytest.mark.parametrize("draws", ["iid", "antithetic", "balanced"])
def test_seeds_and_steps_draw_different_schemes(draws):
    drawn = [draw(2 * step, draws=draws, seed=seed) for step in range(20) for seed in (0, 1)]
    assert len(set(drawn)) > 30


@given(st.integers(0, 10**6), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_antithetic_pairs_are_complements(seed, pair):
    one, other = (draw(2 * pair + k, draws="antithetic", seed=seed).choices for k in (0, 1))
    assert [a + b for a, b in zip(one, other, strict=True)] == [1] * 7


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_a_balanced_run_takes_each_choice_once_at_each_block(seed, run, kinds):
    steps = range(run * (kinds + 1), (run + 1) * (kinds + 1))
    drawn = [draw(s, kinds=kinds, draws="balanced", seed=seed).choices for s in steps]
    for taken in zip(*drawn, strict=True):
        assert sorted(taken) == list(range(kinds + 1))


@pytest.mark.parametrize("draws", ["antithetic", "balanced"])
def test_on_and_off_are_equally_often(draws):
    drawn = [draw(step, draws=draws).choices for step in range(20)]
    assert [sum(taken) for taken in zip(*drawn, strict=True)] == [10] * 7


@pytest.mark.parametrize("connect", [0.0, 0.25, 1.0])
def test_iid_blocks_are_connected_with_the_probability_asked_for(connect):
    drawn = [draw(step, kinds=3, connect=connect).choices for step in range(400)]
    counts = Counter(choice for choices in drawn for choice in choices)
    wanted = {0: 1 - connect, 1: connect / 3, 2: connect / 3, 3: connect / 3}
    for choice, share in wanted.items():
        assert counts[choice] / 2800 == pytest.approx(share, abs=0.03)


def test_iid_blocks_are_drawn_apart():
    drawn = [draw(step).choices for step in range(400)]
    for left, right in pairwise(range(7)):
        agree = sum(choices[left] == choices[right] for choices in drawn) / 400
        assert agree == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"connect": 1.5}, r"connect = 1\.5 given; give a probability in 0\.\.1"),
        ({"draws": "idd"}, "draws = 'idd' given; choose one of iid, antithetic, balanced"),
        ({"draws": "antithetic", "connect": 0.4}, r"connect = 0\.4 and 1 kind"),
        ({"draws": "antithetic", "kinds": 2}, r"connect = 0\.5 and 2 kind"),
    ],
)
def test_what_cannot_be_drawn(wrong, message):
    with pytest.raises(SchemeError, match=message):
        draw(0, **wrong)
