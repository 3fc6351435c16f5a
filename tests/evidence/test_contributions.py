"""Contributions of blocks against other ways to compute them, and how often intervals hold."""

import math
from itertools import pairwise, permutations, product

import numpy as np
import pytest

from sat_optuna.evidence.contributions import (
    agreement,
    best_densities,
    densities,
    interactions,
    main_effects,
    shapley_values,
)


def table(blocks, choices=2):
    return np.array([*product(range(choices), repeat=blocks)], dtype=np.uint8)


def noisy(truth, rng, noise=1.0, seeds=2):
    of_seeds = rng.normal(0, 1, seeds)  # what a seed does to all schemes
    return truth[:, None] + of_seeds + noise * rng.normal(size=(len(truth), seeds))


STAGES, KINDS = (3, 2), ["se"]


@pytest.mark.golden
@pytest.mark.parametrize("kinds", [["se"], ["se", "sge"]])
def test_shapley_values_are_the_mean_over_all_orders(kinds):
    choices = table(4, len(kinds) + 1)
    values = np.random.default_rng(0).normal(90, 3, (len(choices), 2))
    worth = {
        tuple(row): value for row, value in zip(choices.tolist(), values.mean(1), strict=True)
    }
    found = iter(shapley_values(choices, values, stages=(4,), kinds=kinds))
    for block in range(4):
        for kind in range(1, len(kinds) + 1):
            gains = []
            for order in permutations(range(4)):
                scheme = [kind if b in order[: order.index(block)] else 0 for b in range(4)]
                before = worth[tuple(scheme)]
                scheme[block] = kind
                gains.append(worth[tuple(scheme)] - before)
            assert next(found).points == pytest.approx(np.mean(gains))


@pytest.mark.golden
def test_effects_and_interactions_are_those_of_a_regression_on_signs():
    choices = table(5)
    values = np.random.default_rng(1).normal(90, 3, (32, 3))
    signs = 2.0 * choices - 1
    pairs = [signs[:, i] * signs[:, j] for i in range(5) for j in range(i + 1, 5)]
    design = np.column_stack([np.ones(32), signs, *pairs])
    solved = np.linalg.lstsq(design, values.mean(axis=1), rcond=None)[0]
    effects = main_effects(choices, values, stages=STAGES, kinds=KINDS)
    assert [e.points for e in effects] == pytest.approx(2 * solved[1:6])
    found = interactions(choices, values, stages=STAGES, kinds=KINDS)
    assert [i.points for i in found] == pytest.approx(4 * solved[6:])
    assert found[0].blocks == ("s1.b00", "s1.b01")


@pytest.mark.parametrize("measured", [main_effects, interactions, shapley_values])
def test_what_a_seed_adds_to_all_schemes_changes_nothing(measured):
    choices, rng = table(5), np.random.default_rng(2)
    values = rng.normal(90, 3, (32, 2))
    first, second = (
        measured(choices, v, stages=STAGES, kinds=KINDS)
        for v in (values, values + np.array([40, -40]))
    )
    for a, b in zip(first, second, strict=True):
        assert (a.points, a.low, a.high) == pytest.approx((b.points, b.low, b.high))


def test_a_missing_scheme_leaves_main_effects_and_no_more():
    choices = table(5)
    values = noisy(3.0 * choices[:, 0], np.random.default_rng(3), noise=0.1)
    values[7, 1] = math.nan  # one run
    assert len(shapley_values(choices, values, stages=STAGES, kinds=KINDS)) == 5
    some = np.arange(32) != 9  # a whole scheme
    effects = main_effects(choices[some], values[some], stages=STAGES, kinds=KINDS)
    assert effects[0].points == pytest.approx(3.0, abs=0.2)
    assert effects[0].low > 2
    assert shapley_values(choices[some], values[some], stages=STAGES, kinds=KINDS) == []
    assert interactions(choices[some], values[some], stages=STAGES, kinds=KINDS) == []


def test_one_seed_of_all_schemes_has_no_intervals():
    choices = table(5)
    values = np.random.default_rng(4).normal(90, 1, (32, 1))
    for effect in shapley_values(choices, values, stages=STAGES, kinds=KINDS):
        assert math.isnan(effect.low)
        assert math.isnan(effect.p)


def test_densities_and_the_best_of_them():
    choices = table(5)
    ones = choices.sum(axis=1)
    values = noisy(90.0 - (ones - 2.0) ** 2, np.random.default_rng(5), noise=0.1)
    found = densities(choices, values)
    assert [(d.connections, d.schemes) for d in found] == [*enumerate([1, 5, 10, 10, 5, 1])]
    of_two = values[ones == 2].mean()
    assert found[2].mean == pytest.approx(of_two)
    assert best_densities(choices, values) == [2]
    flat = noisy(np.full(32, 90.0), np.random.default_rng(60))
    assert sorted(best_densities(choices, flat)) == [0, 1, 2, 3, 4, 5]


def test_agreement_of_two_seeds():
    choices, rng = table(5), np.random.default_rng(7)
    values = noisy(choices @ np.array([5.0, 3, 1, -1, -3]), rng, noise=0.1)
    one, two = (
        main_effects(choices, column[:, None], stages=STAGES, kinds=KINDS) for column in values.T
    )
    assert agreement(one, two) == pytest.approx((1.0, 2 / math.factorial(5)))
    assert math.isnan(agreement(one[:1], two[:1])[0])
    order = sorted(one, key=lambda effect: effect.points)
    assert all(a.points < b.points for a, b in pairwise(order))


@pytest.mark.slow
def test_the_interval_of_a_planted_block_holds_in_95_per_cent_of_10000_draws():
    choices, rng = table(5), np.random.default_rng(8)
    truth = 2.0 * choices[:, 0] - 1.0 * choices[:, 3] + 1.5 * choices[:, 0] * choices[:, 1]
    planted = 2.75  # half of the schemes have the second block
    inside = right = 0
    for _ in range(10_000):
        effect = main_effects(choices, noisy(truth, rng), stages=STAGES, kinds=KINDS)[0]
        inside += effect.low <= planted <= effect.high
        right += effect.points > 0
    assert right == 10_000
    assert 0.943 <= inside / 10_000 <= 0.957


@pytest.mark.slow
@pytest.mark.parametrize("uneven", [False, True])
def test_intervals_of_shapley_values_hold_where_noise_differs_too(uneven):
    choices, rng = table(6), np.random.default_rng(9)
    truth = 30.0 * choices[:, 0] + choices[:, 1]
    noise = np.where(choices[:, 0] == 1, 0.3, 2.0) if uneven else np.ones(64)
    inside, count = np.zeros(6), 600
    for _ in range(count):
        values = truth[:, None] + noise[:, None] * rng.normal(size=(64, 2))
        found = shapley_values(choices, values, stages=(6,), kinds=KINDS)
        wanted = [30.0, 1.0, 0, 0, 0, 0]
        inside += [e.low <= w <= e.high for e, w in zip(found, wanted, strict=True)]
    assert inside.mean() / count == pytest.approx(0.95, abs=0.02)
