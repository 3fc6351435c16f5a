"""The critic and its code against formulas written independently here."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sat_optuna.sampler.critic import Code, Quadratic, normal_scores, simplex
from sat_optuna.sampler.policy import Policy
from tests.sampler.schemes import Array, all_schemes, batch_of, policy_of, read, rewarded, told

patient = settings(deadline=None)  # the machine may be busy
SIZES = st.lists(st.integers(2, 4), min_size=1, max_size=3).map(tuple)


def slow_scores(rewards: Sequence[float]) -> list[float]:
    """Normal quantiles of mid-ranks by bisection on erf; slow and independent of scipy."""
    scores = []
    for reward in rewards:
        below = sum(other < reward for other in rewards)
        rank = below + (sum(other == reward for other in rewards) + 1) / 2
        share = (rank - 0.5) / len(rewards)
        low, high = -9.0, 9.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if 0.5 + 0.5 * math.erf(middle / 2**0.5) < share else (low, middle)
            )
        scores.append((low + high) / 2)
    return scores


@patient
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=20))
def test_scores_are_the_normal_quantiles_of_mid_ranks(rewards):
    got = normal_scores(np.array(rewards, dtype=float))
    np.testing.assert_allclose(got, slow_scores(rewards), atol=1e-9)


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_corners_of_the_simplex_have_length_one_and_equal_angles(size):
    corners = simplex(size)
    expected = np.full((size, size), -1.0 / (size - 1))
    np.fill_diagonal(expected, 1.0)
    np.testing.assert_allclose(corners @ corners.T, expected, atol=1e-12)
    np.testing.assert_allclose(corners.sum(axis=0), 0.0, atol=1e-12)


def test_codes_of_schemes_are_corners_and_an_open_slot_has_none():
    code = Code((2, 3))
    codes = code.of(np.array([[1, 2], [-1, 0]])).reshape(2, 2, 2)
    np.testing.assert_allclose(codes[0, 0, :1], simplex(2)[1])
    np.testing.assert_allclose(codes[0, 1], simplex(3)[2])
    assert codes[0, 0, 1] == 0.0
    assert codes[1, 0].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(codes[1, 1], simplex(3)[0])


def random_model(sizes: Sequence[int], seed: int) -> tuple[Code, Quadratic, Array]:
    """A code, a random q of it as the actor takes it, and (1) of all schemes with b = 0."""
    rng = np.random.default_rng(seed)
    code = Code(tuple(sizes))
    linear = rng.normal(size=code.length)
    pairs = rng.normal(size=(code.length, code.length))
    values = np.array([linear @ c + c @ pairs @ c for c in code.of(all_schemes(sizes))])
    return code, code.quadratic(linear, pairs), values


@patient
@given(SIZES, st.integers(0, 99))
def test_the_quadratic_is_that_of_equation_1_up_to_a_constant(sizes, seed):
    code, q, values = random_model(sizes, seed)
    found = q.of(code.of(all_schemes(sizes)))
    np.testing.assert_allclose(found - found.mean(), values - values.mean(), atol=1e-10)


def mean_reward(p: Array, sizes: Sequence[int], values: Array) -> float:
    """J of (8): the value of each scheme times its probability."""
    slots = np.arange(len(sizes))
    return float(
        sum(p[slots, x].prod() * v for x, v in zip(all_schemes(sizes), values, strict=True))
    )


def centred(rows: Array, sizes: Sequence[int]) -> list[float]:
    """The entries that exist, less their slot's mean."""
    return [
        x - row[:size].mean() for row, size in zip(rows, sizes, strict=True) for x in row[:size]
    ]


def differences(function: Any, at: Array) -> Array:
    """Central differences of a function in each entry of an array."""
    slopes = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[index] = 1e-5
        slopes[index] = (function(at + step) - function(at - step)) / 2e-5
    return slopes


@patient
@given(SIZES, st.integers(0, 99))
def test_advantages_are_the_derivatives_of_the_mean_reward(sizes, seed):
    """(9), but for a constant of the slot; also for Q with terms within a slot."""
    code, q, values = random_model(sizes, seed)
    p = policy_of(sizes, seed).probabilities
    got = code.products(q.slopes(code.mean(p)))
    slopes = differences(lambda p: mean_reward(p, sizes, values), p)
    np.testing.assert_allclose(centred(got, sizes), centred(slopes, sizes), atol=1e-8)


@patient
@given(SIZES, st.integers(0, 99))
def test_the_step_is_the_natural_gradient_of_mean_reward_plus_entropy(sizes, seed):
    """(10): A / tau - theta is F^-1 grad (J / tau + H), but for a constant of the slot."""
    code, q, values = random_model(sizes, seed)
    tau = 0.4

    def objective(logits: Array) -> float:
        p = Policy.from_logits(logits, tuple(sizes)).probabilities
        return mean_reward(p, sizes, values) / tau - float((p[p > 0] * np.log(p[p > 0])).sum())

    theta = np.random.default_rng(seed).normal(size=(len(sizes), max(sizes)))
    p = Policy.from_logits(theta, tuple(sizes)).probabilities
    got = code.products(q.slopes(code.mean(p))) / tau - theta
    gradient = differences(objective, theta)
    natural = np.zeros_like(theta)
    for slot, size in enumerate(sizes):
        row = p[slot, :size]
        fisher = np.diag(row) - np.outer(row, row)
        natural[slot, :size] = np.linalg.pinv(fisher, rcond=1e-9) @ gradient[slot, :size]
    np.testing.assert_allclose(centred(got, sizes), centred(natural, sizes), rtol=1e-4, atol=1e-4)


def covariance(codes: Array, slots: int, rho: float, noise: float) -> Array:
    """(3) as loops."""
    size = len(codes)
    matrix = np.zeros((size, size))
    for s, t in itertools.product(range(size), repeat=2):
        c = sum(x * y for x, y in zip(codes[s], codes[t], strict=True)) / slots
        matrix[s, t] = 1.0 + (1.0 - rho) * c + rho * c**2 + (noise if s == t else 0.0)
    return matrix


@pytest.mark.parametrize("count", [10, 11, 19, 57])
def test_the_bordered_inverse_is_the_inverse(count):
    sizes = (2, 3, 4, 2)
    batch = rewarded(sizes, count)
    critic, _ = read(sizes, batch)
    assert critic.rows.tolist() == list(range(count))
    matrix = covariance(Code(sizes).of(batch.schemes), 4, critic.rho, critic.noise)
    np.testing.assert_allclose(critic.inverse @ matrix, np.eye(count), atol=1e-8)


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_rho_and_noise_are_those_of_the_greatest_evidence(noise):
    """(6) by the determinant and the inverse; -N/2 log v stands for the maximum over v."""
    sizes = (2, 3, 2, 3)
    batch = rewarded(sizes, 40, noise=noise)
    critic, y = read(sizes, batch, warmup=40)
    codes = Code(sizes).of(batch.schemes)
    best, expected = -math.inf, (0.0, 0.0, 0.0)
    for rho, s in itertools.product((0.0, 0.1, 0.3, 0.6), (0.03, 0.1, 0.3, 1.0)):
        matrix = covariance(codes, 4, rho, s)
        v = y @ np.linalg.solve(matrix, y) / 40
        evidence = -20 * math.log(v) - 0.5 * np.linalg.slogdet(matrix)[1]
        evidence -= 4 * max(0.0, math.log(s / 0.1))
        if evidence > best:
            best, expected = evidence, (rho, s, float(v))
    assert (critic.rho, critic.noise) == expected[:2]
    assert critic.scale == pytest.approx(expected[2])


@pytest.mark.parametrize(("noise", "rho"), [(0.0, 0.3), (3.0, 0.0)])
def test_draws_have_the_mean_and_spread_of_the_posterior(noise, rho):
    """(4), (5) against a Gaussian process's formulas, for differences of q (b is not drawn)."""
    sizes = (2, 3, 3)
    batch = rewarded(sizes, 12, seed=1, noise=noise)
    critic, y = read(sizes, batch, warmup=12)
    assert critic.rho == rho
    code = Code(sizes)
    others = code.of(all_schemes(sizes))
    both = np.concatenate([code.of(batch.schemes), others])
    matrix = covariance(both, 3, critic.rho, 0.0)
    known, cross, own = matrix[:12, :12], matrix[12:, :12], matrix[12:, 12:]
    inverse = np.linalg.inv(known + critic.noise * np.eye(12))
    scaled = y / math.sqrt(critic.scale)
    means = critic.means(y) / math.sqrt(critic.scale)
    np.testing.assert_allclose(means, known @ inverse @ scaled, atol=1e-8)

    def values(rng: np.random.Generator | None) -> Array:
        q = critic.draw(y, rng, 0.5).of(others)
        return np.asarray(q[1:] - q[0])

    contrast = np.hstack([-np.ones((17, 1)), np.eye(17)])
    mean = contrast @ cross @ inverse @ scaled
    np.testing.assert_allclose(values(None), mean, atol=1e-8)
    expected = contrast @ (own - cross @ inverse @ cross.T) @ contrast.T
    rng = np.random.default_rng(0)
    draws = np.array([values(rng) for _ in range(6000)])
    spread = math.sqrt(expected.diagonal().max())
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.05 * spread)
    np.testing.assert_allclose(np.cov(draws.T), 0.25 * expected, atol=0.03 * spread**2)


def test_a_long_history_is_remembered_by_its_best_and_its_latest():
    critic, y = read((2,) * 12, rewarded((2,) * 12, 500))
    assert len(critic.rows) < 320 + 64
    assert set(range(500 - 160, 500)) <= set(critic.rows.tolist())
    assert y.argmax() in critic.rows


def test_without_pairs_the_critic_is_a_linear_regression():
    critic, y = read((2, 2, 2), rewarded((2, 2, 2), 30), pairs=False)
    assert critic.rho == 0.0
    assert not critic.draw(y, np.random.default_rng(0), 1.0).pairs.any()


def test_rewards_of_equal_schemes_are_averaged():
    """Read again and again the critic's mean of a scheme goes to its mean reward."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=8)
    schemes = np.tile(all_schemes((2, 2, 2)), (30, 1))
    batch = batch_of(schemes, np.tile(truth, 30) + rng.normal(size=240))
    critic, y = read((2, 2, 2), batch)
    averages = y.reshape(30, 8).mean(axis=0)
    np.testing.assert_allclose(critic.means(y)[:8], averages, atol=0.35)
    known, merits = told((2, 2, 2), batch).merits()
    np.testing.assert_array_equal(known[merits.argmax()], schemes[averages.argmax()])
