"""Turns, intervals and shares: with a clock that only the passes move, and by hand."""

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from sat_optuna.cost.timing import (
    Estimate,
    TimingError,
    check_rounds,
    images_for,
    increment,
    interleaved_ms,
    latencies_ms,
    median_of,
    network_ms,
    share_of_increment,
)
from tests.cost.clock import Clock
from tests.networks import SHAPE

CPU = torch.device("cpu")


def test_each_pass_is_timed_once_a_round_after_the_warm_up(monkeypatch):
    clock = Clock(monkeypatch)
    calls: list[str] = []
    rounds: list[int] = []

    def run(name: str, milliseconds: float) -> None:
        calls.append(name)
        clock.pass_ms(milliseconds)

    passes = {
        name: partial(run, name, cost) for name, cost in (("a", 1.0), ("b", 2.5), ("c", 40.0))
    }
    times = interleaved_ms(
        passes, device=CPU, rounds=8, warm_up=2, on_event=lambda _: rounds.append(len(calls))
    )
    assert times == {
        "a": pytest.approx([1.0] * 8),
        "b": pytest.approx([2.5] * 8),
        "c": pytest.approx([40.0] * 8),
    }
    turns = ["".join(calls[start : start + 3]) for start in range(0, len(calls), 3)]
    assert len(turns) == 10
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert len(set(turns)) > 2  # another order each round
    assert rounds == list(range(9, 31, 3))
    first = list(calls)
    calls.clear()
    interleaved_ms(passes, device=CPU, rounds=8, warm_up=2)
    assert calls == first
    calls.clear()
    interleaved_ms(passes, device=CPU, rounds=8, warm_up=2, seed=1)
    assert calls != first


class Witness(nn.Module):
    """Notes how it is called."""

    def __init__(self, calls: list[Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.calls = calls

    def forward(self, x):
        self.calls.append((self.training, torch.is_inference_mode_enabled(), x.shape, x.dtype))
        return x


def test_networks_are_timed_in_eval_and_inference_mode_and_left_as_they_were():
    calls: list[Any] = []
    models = {name: Witness(calls) for name in ("a", "b", "c")}
    models["c"].eval()
    times = network_ms(models, SHAPE, batch=3, rounds=6)
    assert [len(values) for values in times.values()] == [6, 6, 6]
    assert all(value > 0 for values in times.values() for value in values)
    assert set(calls) == {(False, True, torch.Size((3, *SHAPE)), torch.float64)}
    assert [model.training for model in models.values()] == [True, True, False]


def test_a_latency_is_the_median_over_rounds(monkeypatch):
    clock = Clock(monkeypatch)
    durations = iter([9, 9, 9, 5, 1, 2, 7, 3])

    class Timed(nn.Module):
        def forward(self, x):
            clock.pass_ms(next(durations))

    assert latencies_ms({"net": Timed()}, SHAPE, batch=1, repeats=5) == {"net": pytest.approx(3.0)}


def test_no_network_takes_no_time():
    assert latencies_ms({}, SHAPE, batch=1, repeats=1) == {}


def test_images_are_the_same_each_time_and_of_the_networks_dtype():
    half = nn.Linear(1, 1, dtype=torch.bfloat16)
    images = images_for(half, (2, 3, 4), 5)
    assert (images.shape, images.dtype) == ((5, 2, 3, 4), torch.bfloat16)
    torch.testing.assert_close(images_for(half, (2, 3, 4), 5), images, rtol=0, atol=0)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("rounds", "rank"),
    # Tables of the sign test: the largest r with P(at most r - 1 heads in n tosses) <= 0.025.
    [(6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (15, 4), (20, 6), (25, 8), (30, 10), (31, 10)],
)
def test_the_interval_of_a_median_is_the_sign_tests(rounds, rank):
    values = np.random.default_rng(rounds).permutation(rounds) + 1.0
    middle = (rounds + 1) / 2
    assert median_of(values.tolist()) == Estimate(middle, rank, rounds + 1 - rank)
    assert (
        2 * stats.binom.cdf(rank - 1, rounds, 0.5) <= 0.05 < 2 * stats.binom.cdf(rank, rounds, 0.5)
    )


def test_the_interval_of_a_median_covers_it():
    # Of a skewed distribution too: asks nothing of its form.
    draws = np.random.default_rng(0).exponential(size=(2000, 15))
    covered = sum(e.low <= np.log(2) <= e.high for e in map(median_of, draws.tolist()))
    assert 0.95 < covered / 2000 < 0.98  # 1 - 2 P(at most 3 heads of 15) = 0.965


@pytest.mark.parametrize("rounds", [-1, 0, 1, 5])
def test_too_few_rounds_are_refused(rounds):
    with pytest.raises(TimingError, match=rf"^{rounds} rounds given; give at least 6, fewer have"):
        check_rounds(rounds)


def test_every_estimate_refuses_too_few_rounds():
    few = [1.0] * 5
    for estimate in (
        lambda: median_of(few),
        lambda: increment(few, few),
        lambda: share_of_increment(few, few, few),
    ):
        with pytest.raises(TimingError, match="5 rounds given"):
            estimate()


def test_an_increment_is_taken_round_by_round():
    # A machine that is twice as slow every other round; the network takes a quarter longer.
    plain = [10.0, 20.0] * 4
    assert increment([12.5, 25.0] * 4, plain) == Estimate(0.25, 0.25, 0.25)
    times = [11.0, 24.0, 13.0, 28.0, 15.0, 32.0, 17.0, 36.0]  # 10, 20, ..., 80 % longer
    found = increment(times, plain)
    assert (found.value, found.low, found.high) == pytest.approx((0.45, 0.1, 0.8))


def test_a_share_is_taken_round_by_round():
    plain = [10.0, 20.0] * 4
    full = [14.0, 28.0] * 4
    assert share_of_increment([11.0, 22.0] * 4, full, plain) == Estimate(0.25, 0.25, 0.25)
    assert share_of_increment(full, full, plain) == Estimate(1, 1, 1)
    assert share_of_increment(plain, full, plain) == Estimate(0, 0, 0)


def test_no_share_where_full_cannot_be_told_from_plain():
    plain = [10.0] * 8
    assert share_of_increment([11.0] * 8, plain, plain) is None
    assert share_of_increment([11.0] * 8, [14.0] * 7 + [9.0], plain) is None


def test_a_round_in_which_full_was_no_slower_widens_the_interval_of_the_share():
    # 12 rounds: the third smallest and largest. One round says nothing, so it might stand on
    # either side: the second smallest and largest of the other 11.
    plain = [10.0] * 12
    times = [10.0 + step for step in range(12)]
    shares = share_of_increment(times, [20.0] * 12, plain)
    assert shares is not None
    assert (shares.low, shares.high) == pytest.approx((0.2, 0.9))
    shares = share_of_increment(times, [20.0] * 11 + [9.0], plain)
    assert shares is not None
    assert (shares.value, shares.low, shares.high) == pytest.approx((0.5, 0.1, 0.9))


@given(st.lists(st.floats(0.1, 10), min_size=6, max_size=40))
def test_a_median_lies_in_its_interval_whatever_the_order(values):
    found = median_of(values)
    assert found.low <= found.value <= found.high
    assert median_of(values[::-1]) == found
    assert all(a <= b for a, b in pairwise((min(values), found.low, found.high, max(values))))
