"""What a proposed scheme must respect, against enumeration."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sat_optuna.sampler.budget import Budget, Constraints
from sat_optuna.sampler.policy import Policy
from tests.sampler.schemes import all_schemes

patient = settings(deadline=None)


def random_budget(sizes: list[int], seed: int, *, limits: int) -> Budget:
    """Some limits of which each alone allows a part of the schemes; the last has an extra."""
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, 9, size=(limits, len(sizes), max(sizes))).astype(float)
    mask = rng.random((len(sizes), max(sizes))) < 0.5
    extras = [(limits - 1, 5.0, mask)]
    totals = costs[:, np.arange(len(sizes)), all_schemes(sizes)].sum(axis=2)
    return Budget(sizes, np.quantile(totals, 0.6, axis=1), costs, extras)


@patient
@given(
    st.lists(st.integers(2, 4), min_size=1, max_size=4),
    st.integers(0, 999),
    st.integers(1, 3),
    st.sampled_from([0.1, 3.0]),
)
def test_all_schemes_within_a_budget_are_drawn_once_and_no_others(sizes, seed, limits, spread):
    """However unlikely the policy makes them: exactly the set that enumeration finds."""
    budget = random_budget(sizes, seed, limits=limits)
    everything = all_schemes(sizes)
    allowed = {scheme.tobytes() for scheme in everything[budget.allows(everything)]}
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=spread * 3, size=(len(sizes), max(sizes)))
    policy = Policy.from_logits(logits, tuple(sizes)).floored(1e-6)
    seen = np.zeros((0, len(sizes)), dtype=np.int64)
    for _ in allowed:
        seen = np.vstack([seen, Constraints(seen, budget=budget).draw(policy, rng)])
    assert {scheme.tobytes() for scheme in seen} == allowed
    if allowed:  # finished: it repeats, and still keeps the budget
        assert Constraints(seen, budget=budget).draw(policy, rng).tobytes() in allowed


@patient
@given(st.integers(0, 999), st.integers(1, 2))
def test_a_tilted_policy_keeps_the_budget_on_average_and_is_the_closest_that_does(seed, limits):
    """Of policies p exp(-lambda c): a mixture with p is over the limit, so lambda is the least."""
    sizes = (2, 3, 4, 2, 3)
    rng = np.random.default_rng(seed)
    costs = rng.random((limits, 5, 4)) * (np.arange(4) < np.array(sizes)[:, None])
    policy = Policy.from_logits(rng.normal(size=(5, 4)), sizes)
    mean = (policy.probabilities * costs).sum(axis=(1, 2))
    other = Policy.from_logits(rng.normal(scale=2, size=(5, 4)), sizes)  # it keeps the limits
    at_most = (other.probabilities * costs).sum(axis=(1, 2))
    budget = Budget(sizes, at_most, costs)
    tilted = budget.tilted(policy.probabilities)
    np.testing.assert_allclose(tilted.sum(axis=1), 1.0)
    after = (tilted * costs).sum(axis=(1, 2))
    assert (after <= at_most + (1e-6 if limits == 1 else 0.05)).all()
    if (mean <= at_most).all():
        np.testing.assert_array_equal(tilted, policy.probabilities)
    elif limits == 1:
        assert after[0] == pytest.approx(at_most[0], abs=1e-5)


def test_a_likely_region_over_the_budget_is_left_for_the_likeliest_within():
    """27 of 54 connections, where the policy wants all: draws are at the limit, not far below."""
    sizes = (2,) * 54
    costs = np.tile([0.0, 1.0], (1, 54, 1))
    budget = Budget(sizes, np.array([27.0]), costs)
    logits = np.tile([0.0, 6.0], (54, 1))
    policy = Policy.from_logits(logits, sizes)
    rng = np.random.default_rng(0)
    within = Constraints(np.zeros((0, 54), dtype=np.int64), budget=budget)
    counts = [int(within.draw(policy, rng).sum()) for _ in range(200)]
    assert max(counts) <= 27
    assert np.mean(counts) > 22


@patient
@given(st.lists(st.integers(2, 4), min_size=1, max_size=5), st.integers(0, 99))
def test_candidates_are_different_new_and_keep_what_is_fixed(sizes, seed):
    rng = np.random.default_rng(seed)
    policy = Policy.from_logits(rng.normal(size=(len(sizes), max(sizes))), tuple(sizes))
    every = all_schemes(tuple(sizes))
    seen = every[rng.random(len(every)) < 0.5]
    fixed = {0: int(rng.integers(sizes[0]))}
    budget = Budget(sizes, np.array([1.0]), np.tile(np.arange(max(sizes)), (1, len(sizes), 1)))
    found = Constraints(seen, fixed, budget).candidates(policy, rng, 20)
    rows = {tuple(row) for row in found.tolist()}
    assert len(rows) == len(found) <= 21
    assert not rows & {tuple(row) for row in seen.tolist()}
    assert all(row[0] == fixed[0] and sum(row) <= 1 for row in rows)


def test_a_budget_that_gives_up_says_so_before_it_is_broken():
    """Nothing is drawn outside it, as if it had been found out that nothing keeps it."""
    costs = np.zeros((2, 40, 2))
    costs[0, :, 1], costs[1, :, 1] = -1, 1
    opposed = Budget([2] * 40, np.array([-20.0, 19.0]), costs)
    rng, even = np.random.default_rng(0), np.full((40, 2), 0.5)
    for seen in (np.zeros((0, 40), dtype=np.int64), np.zeros((1, 40), dtype=np.int64)):
        with pytest.raises(ValueError, match="partial schemes keeps all limits"):
            Constraints(seen, budget=opposed).draw(Policy(even, (2,) * 40), rng)
