"""Seeds are functions of a key: the same for ever, different elsewhere, and touch nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sat_optuna.seeds import generator_for, seed_for, seeded

PARTS = st.one_of(st.integers(-(2**70), 2**70), st.text("ab1\N{MULTIPLICATION SIGN}", max_size=4))
KEYS = st.lists(PARTS, max_size=4).map(tuple)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("key", "seed"),
    [
        ((), 8_203_414_616_412_130_826),
        (("order", 0, 1), 8_639_817_837_933_930_023),
        (("backbone", 7), 1_484_369_589_902_069_448),
    ],
)
def test_seeds_never_change(key, seed):
    assert seed_for(*key) == seed


@given(KEYS)
def test_seed_is_a_pure_function_that_torch_and_numpy_take(key):
    assert seed_for(*key) == seed_for(*key)
    assert 0 <= seed_for(*key) < 2**63


@given(KEYS, KEYS)
def test_different_keys_have_different_seeds(one, other):
    assert (seed_for(*one) == seed_for(*other)) == (one == other)


def test_text_and_number_are_different_keys():
    assert len({seed_for(1, 2), seed_for("1", 2), seed_for(12), seed_for("1", "2")}) == 4


def test_whole_numbers_of_other_libraries_count_as_the_same():
    assert seed_for("a", np.int64(3)) == seed_for("a", torch.tensor(3)) == seed_for("a", 3)


@pytest.mark.parametrize("part", [1.0, None, (1, 2), object()])
def test_what_has_no_text_of_its_own_is_refused(part):
    with pytest.raises(TypeError, match="give texts and whole numbers"):
        seed_for("a", part)


def test_generator_draws_the_same_for_the_same_key():
    drawn = [
        torch.rand(3, generator=generator_for(*p)).tolist() for p in (("a", 1), ("a", 1), ("a", 2))
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    torch.rand(3, generator=generator_for("a"))
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_seeds_the_global_generator_and_gives_its_state_back():
    before = torch.get_rng_state()
    with seeded("weights", 0):
        first = torch.rand(3)
        with seeded("inner"):
            torch.rand(1)
        rest = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    expected = torch.rand(5, generator=generator_for("weights", 0))
    assert torch.equal(torch.cat([first, rest]), expected)


def test_seeded_gives_the_state_back_after_a_failure():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded("weights"):
        1 / torch.rand(1).int().item()
    assert torch.equal(torch.get_rng_state(), before)
