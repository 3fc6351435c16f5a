"""The policy: its probabilities, and draws without repeats, against enumeration."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sat_optuna.sampler.policy import Policy
from tests.sampler.schemes import all_schemes, policy_of

patient = settings(deadline=None)  # the machine may be busy
SIZES = st.lists(st.integers(2, 4), min_size=1, max_size=3).map(tuple)


def test_policy_is_a_softmax_over_the_choices_that_exist():
    policy = Policy.from_logits(np.array([[0.0, math.log(3), 99.0], [1.0, 1.0, 1.0]]), (2, 3))
    expected = [[0.25, 0.75, 0.0], [1 / 3, 1 / 3, 1 / 3]]
    np.testing.assert_allclose(policy.probabilities, expected, rtol=1e-14)


@patient
@given(SIZES, st.integers(0, 99))
def test_probabilities_of_all_schemes_sum_to_one(sizes, seed):
    policy = policy_of(sizes, seed)
    assert np.exp(policy.log_prob(all_schemes(sizes))).sum() == pytest.approx(1.0)


@patient
@given(SIZES, st.integers(0, 99), st.floats(0.001, 0.5))
def test_floor_bounds_every_probability_and_keeps_the_sum(sizes, seed, floor):
    policy = policy_of(sizes, seed, spread=30.0).floored(floor)
    np.testing.assert_allclose(policy.probabilities.sum(axis=1), 1.0)
    for row, size in zip(policy.probabilities, sizes, strict=True):
        assert (row[:size] >= floor / size * (1 - 1e-12)).all()
        assert (row[size:] == 0).all()


def test_floor_leaves_a_policy_above_it_as_it_is():
    policy = Policy(np.array([[0.3, 0.7]]), (2,))
    np.testing.assert_allclose(policy.floored(0.1).probabilities, [[0.3, 0.7]], rtol=1e-14)


def test_log_prob_leaves_out_slots_that_were_not_chosen():
    policy = Policy(np.array([[0.3, 0.7, 0.0], [0.2, 0.3, 0.5]]), (2, 3))
    logs = policy.log_prob(np.array([[1, 2], [1, -1], [-1, -1]]))
    np.testing.assert_allclose(logs, [math.log(0.35), math.log(0.7), 0.0])


def test_draws_follow_the_policy_given_that_the_scheme_is_unseen():
    policy = Policy(np.array([[0.6, 0.4, 0.0], [0.5, 0.3, 0.2]]), (2, 3))
    seen = np.array([[0, 0], [1, 2], [0, 0], [0, -1]])  # a repeat and an open one change nothing
    left = [(0, 1), (0, 2), (1, 0), (1, 1)]
    expected = np.exp(policy.log_prob(np.array(left)))
    expected /= expected.sum()
    rng = np.random.default_rng(0)
    draws = [tuple(policy.draw(rng, seen, {}).tolist()) for _ in range(4000)]
    shares = [draws.count(scheme) / 4000 for scheme in left]
    np.testing.assert_allclose(shares, expected, atol=4 * 0.5 / math.sqrt(4000))
    assert set(draws) == set(left)


@settings(max_examples=40, deadline=None)
@given(SIZES, st.integers(0, 999), st.sampled_from([0.0, 3.0, 400.0]))
def test_nothing_is_drawn_twice_until_all_is_drawn(sizes, seed, spread):
    policy = policy_of(sizes, seed, spread)  # at 400 most probabilities are 0 as floats
    rng = np.random.default_rng(seed)
    seen = np.zeros((0, len(sizes)), dtype=np.int64)
    for _ in range(math.prod(sizes)):
        seen = np.vstack([seen, policy.draw(rng, seen, {})])
    assert len({tuple(row) for row in seen.tolist()}) == math.prod(sizes)


def test_in_a_finished_space_draws_follow_the_policy():
    policy = Policy(np.array([[0.9, 0.1], [0.2, 0.8]]), (2, 2))
    rng = np.random.default_rng(0)
    draws = [policy.draw(rng, all_schemes((2, 2)), {}) for _ in range(2000)]
    np.testing.assert_allclose(np.mean(draws, axis=0), [0.1, 0.8], atol=0.04)


def test_fixed_choices_hold_and_the_rest_avoids_what_was_seen():
    policy = Policy(np.array([[0.99, 0.01], [0.5, 0.5]]), (2, 2))
    rng = np.random.default_rng(0)
    seen = np.array([[0, 1]])
    for _ in range(20):
        assert policy.draw(rng, seen, {1: 1}).tolist() == [1, 1]
    forced = policy.draw(rng, np.array([[0, 1], [1, 1]]), {1: 1})
    assert forced[1] == 1
