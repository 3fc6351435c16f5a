"""Ranks of supernet scores against single trainings, and regrets against a known truth."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from sat_optuna.evidence.ranking import (
    holders,
    regret_of_scheme,
    regret_of_top,
    seed_to_seed,
    tau_of_scores,
)
from sat_optuna.evidence.shares import TrueMeans


def by_pairs(first, second):
    """Kendall's tau-b, pair by pair."""
    signs = [
        (np.sign(first[i] - first[j]), np.sign(second[i] - second[j]))
        for i, j in combinations(range(len(first)), 2)
    ]
    both = sum(a * b for a, b in signs)
    return both / math.sqrt(sum(a * a for a, _ in signs) * sum(b * b for _, b in signs))


def drawn(rng, schemes=64, supernets=5, seeds=2, spread=1.0, off=0.8, noise=0.4):
    truth = rng.normal(0, spread, schemes)
    scores = truth + off * rng.normal(size=(supernets, schemes))
    return truth, scores, truth[:, None] + noise * rng.normal(size=(schemes, seeds))


@pytest.mark.golden
def test_tau_is_the_mean_over_supernets_and_training_seeds():
    _, scores, values = drawn(np.random.default_rng(0), schemes=20)
    scores, values = scores.round(0), values.round(0)  # ties
    found = tau_of_scores(scores, values)
    wanted = [by_pairs(row, column) for row in scores for column in values.T]
    assert found.tau == pytest.approx(np.mean(wanted))
    assert (found.supernets, found.seeds, found.schemes) == (5, 2, 20)
    assert found.low < found.tau < found.high
    assert seed_to_seed(values).tau == pytest.approx(by_pairs(*values.T))


def test_missing_runs_and_scores_are_left_out():
    _, scores, values = drawn(np.random.default_rng(1), schemes=30)
    values[:5], values[5:8, 1], scores[0, 9] = math.nan, math.nan, math.nan
    found = tau_of_scores(scores[:1], values)
    rows = [r for r in range(8, 30) if r != 9]
    firsts = [5, 6, 7, *rows]
    wanted = by_pairs(scores[0, firsts], values[firsts, 0]) + by_pairs(
        scores[0, rows], values[rows, 1]
    )
    assert found.tau == pytest.approx(wanted / 2)
    assert found.schemes == 25


@pytest.mark.parametrize(("supernets", "seeds"), [(4, 2), (5, 1)])
def test_too_few_supernets_or_seeds_have_no_interval(supernets, seeds):
    _, scores, values = drawn(np.random.default_rng(2), supernets=supernets, seeds=seeds)
    found = tau_of_scores(scores, values)
    assert found.tau > 0
    assert math.isnan(found.low)


def test_equal_scores_rank_nothing():
    _, scores, values = drawn(np.random.default_rng(3))
    assert math.isnan(tau_of_scores(np.zeros_like(scores), values).tau)
    assert math.isnan(seed_to_seed(values[:, :1]).tau)


def test_among_the_holders_of_the_block_that_matters_little_is_ranked():
    rng = np.random.default_rng(4)
    choices = rng.integers(0, 2, (200, 8)).astype(np.uint8)
    truth = 40.0 * choices[:, 0] + rng.normal(0, 0.5, 200)
    scores = 3.0 * choices[:, 0] + rng.normal(0, 0.3, (5, 200))
    values = truth[:, None] + 0.5 * rng.normal(size=(200, 2))
    held = holders(choices, 0)
    assert held.sum() == choices[:, 0].sum()
    assert tau_of_scores(scores, values).tau > 0.4
    assert abs(tau_of_scores(scores[:, held], values[held]).tau) < 0.15


def test_regret_of_known_schemes():
    values = np.repeat(np.arange(100.0)[:, None], 2, axis=1)
    values[:, 1] += np.random.default_rng(5).normal(0, 0.01, 100)
    truth = TrueMeans(values)
    best, middle = regret_of_scheme(truth, 99), regret_of_scheme(truth, 49)
    assert (best.points, best.percentile) == pytest.approx((0, 100), abs=0.1)
    assert (middle.points, middle.percentile) == pytest.approx((50, 100 * 49 / 99), abs=0.1)
    scores = np.zeros((2, 100))
    scores[0, [10, 60]], scores[1, [20, 99]] = [2, 1], [2, 1]
    one, two = (regret_of_top(scores, truth, count) for count in (1, 2))
    assert one.points == pytest.approx((89 + 79) / 2, abs=0.1)
    assert two.points == pytest.approx((39 + 0) / 2, abs=0.1)
    assert math.isnan(two.low)  # of two supernets
    assert math.isnan(two.high)
    scores = np.zeros((5, 100))
    scores[range(5), [89, 84, 79, 74, 69]] = 1  # regrets of 10, 15, 20, 25, 30
    five = regret_of_top(scores, truth, 1)
    half = stats.t.ppf(0.975, 4) * math.sqrt(62.5 / 5)
    assert (five.low, five.points, five.high) == pytest.approx((20 - half, 20, 20 + half), abs=0.1)


def test_what_was_not_trained_has_no_regret():
    values = np.random.default_rng(6).normal(size=(8, 2))
    values[3] = math.nan
    truth = TrueMeans(values)
    with pytest.raises(ValueError, match="scheme 3 has no run in the table; train it"):
        regret_of_scheme(truth, 3)
    with pytest.raises(ValueError, match="no scheme of the table has a score and a run"):
        regret_of_top(np.full((1, 8), math.nan), truth, 1)


@pytest.mark.slow
def test_intervals_of_tau_and_regret_hold():
    rng = np.random.default_rng(7)
    truth = rng.normal(size=64)
    taus, ceilings, inside = [], [], np.zeros(4)
    for _ in range(300):
        scores = truth + 0.8 * rng.normal(size=64)
        values = truth[:, None] + 0.4 * rng.normal(size=(64, 2))
        taus.append(tau_of_scores(scores[None], values).tau)
        ceilings.append(seed_to_seed(values).tau)
    count = 60
    for _ in range(count):
        scores = truth + 0.8 * rng.normal(size=(5, 64))
        values = truth[:, None] + 0.4 * rng.normal(size=(64, 2))
        tau, ceiling = tau_of_scores(scores, values), seed_to_seed(values)
        inside[0] += tau.low <= np.mean(taus) <= tau.high
        inside[1] += ceiling.low <= np.mean(ceilings) <= ceiling.high
        fresh, scored, runs = drawn(rng, supernets=1)
        known, chosen = TrueMeans(runs), int(scored[0].argmax())
        regret = regret_of_scheme(known, chosen)
        inside[2] += regret.low <= fresh.max() - fresh[chosen] <= regret.high
        more = fresh + 0.8 * rng.normal(size=(400, 64))  # what supernets come to in the mean
        top = regret_of_top(more[:5], known, 1)
        mean = fresh.max() - fresh[more.argmax(axis=1)].mean()
        inside[3] += top.low - 1e-9 <= mean <= top.high
    assert min(inside / count) >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / count)
