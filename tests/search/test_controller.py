"""The numpy core against formulas written independently here."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sat_optuna.search.controller import (
    Batch,
    NaturalGradient,
    PaperController,
    Policy,
    _weights,
    scalarised,
)

Array = NDArray[Any]
Trials = list[tuple[tuple[int, ...], float]]
patient = settings(deadline=None)  # the machine may be busy
SIZES = st.lists(st.integers(2, 4), min_size=1, max_size=3).map(tuple)


def policy_of(sizes: Sequence[int], seed: int, spread: float = 1.0) -> Policy:
    logits = np.random.default_rng(seed).normal(scale=spread, size=(len(sizes), max(sizes)))
    return Policy.from_logits(logits, tuple(sizes))


def all_schemes(sizes: Sequence[int]) -> Array:
    return np.array(list(itertools.product(*(range(size) for size in sizes))))


def batch_of(schemes: Any, rewards: Any, log_probs: Any = None) -> Batch:
    logs = np.full(len(schemes), np.nan) if log_probs is None else np.asarray(log_probs)
    return Batch(np.asarray(schemes), np.asarray(rewards, dtype=float).reshape(-1, 1), logs)


def test_policy_is_a_softmax_over_the_choices_that_exist():
    policy = Policy.from_logits(np.array([[0.0, math.log(3), 99.0], [1.0, 1.0, 1.0]]), (2, 3))
    expected = [[0.25, 0.75, 0.0], [1 / 3, 1 / 3, 1 / 3]]
    np.testing.assert_allclose(policy.probabilities, expected, rtol=1e-14)
    assert policy.mode().tolist() == [1, 0]


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
    draws = [tuple(policy.draw(rng, seen=seen).tolist()) for _ in range(4000)]
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
        seen = np.vstack([seen, policy.draw(rng, seen=seen)])
    assert len({tuple(row) for row in seen.tolist()}) == math.prod(sizes)


def test_in_a_finished_space_draws_follow_the_policy():
    policy = Policy(np.array([[0.9, 0.1], [0.2, 0.8]]), (2, 2))
    rng = np.random.default_rng(0)
    draws = [policy.draw(rng, seen=all_schemes((2, 2))) for _ in range(2000)]
    np.testing.assert_allclose(np.mean(draws, axis=0), [0.1, 0.8], atol=0.04)


def test_fixed_choices_hold_and_the_rest_avoids_what_was_seen():
    policy = Policy(np.array([[0.99, 0.01], [0.5, 0.5]]), (2, 2))
    rng = np.random.default_rng(0)
    seen = np.array([[0, 1]])
    for _ in range(20):
        assert policy.draw(rng, seen=seen, fixed={1: 1}).tolist() == [1, 1]
    forced = policy.draw(rng, seen=np.array([[0, 1], [1, 1]]), fixed={1: 1})
    assert forced[1] == 1


def test_one_objective_is_its_own_reward_and_several_weigh_the_same():
    one = np.array([[3.0], [5.0]])
    assert scalarised(one).tolist() == [3.0, 5.0]
    several = np.array([[1.0, 1000.0, 7.0], [2.0, 3000.0, 7.0], [3.0, 2000.0, 7.0]])
    unit = math.sqrt(1.5)
    np.testing.assert_allclose(scalarised(several), np.array([-2, 1, 1]) * unit / 3, atol=1e-12)


@patient
@given(st.integers(0, 99))
def test_weights_estimate_any_mean_without_bias(seed):
    """Des Raj: over all ordered draws without replacement the weighted sum is the exact mean."""
    rng = np.random.default_rng(seed)
    sizes = (2, 3)
    schemes = all_schemes(sizes)
    pi = np.exp(policy_of(sizes, seed).log_prob(schemes))
    f = rng.normal(size=6)
    known = [0, 4]
    mean = 0.0
    for drawn in itertools.permutations([1, 2, 3, 5], 3):
        chance, left = 1.0, 1.0 - pi[known].sum()
        for one in drawn:
            chance, left = chance * pi[one] / left, left - pi[one]
        rows = [*known, *drawn]
        mean += chance * float(_weights(pi[rows], 3) @ f[rows])
    assert mean == pytest.approx(float(pi @ f))


def normal_scores(rewards: Sequence[float]) -> list[float]:
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


def one_step(p: Any, old: Trials, new: Trials, rates: tuple[float, float]) -> Any:
    """Equations (1) to (6) of the controller for two choices a slot, written as loops."""
    lr, damping = rates
    rows = [x for x, _ in old + new]
    scores = normal_scores([r for _, r in old + new])
    pi = [math.prod(p[i][k] for i, k in enumerate(x)) for x in rows]
    n, size = len(old), len(new)
    exact = sum(pi[t] * scores[t] for t in range(n))
    unseen = 1 - sum(pi[:n])
    baselines = [
        exact + unseen * sum(scores[n + b] for b in range(size) if b != j) / (size - 1)
        for j in range(size)
    ]
    terms = [pi[t] * (scores[t] - sum(baselines) / size) for t in range(n)]
    for j in range(size):
        weight = (1 - sum(pi[: n + j]) + (size - 1 - j) * pi[n + j]) / size
        terms.append(weight * (scores[n + j] - baselines[j]))
    logits = []
    for i, row in enumerate(p):
        g = [
            sum(a * ((x[i] == k) - row[k]) for a, x in zip(terms, rows, strict=True))
            for k in range(2)
        ]
        logits.append([math.log(row[k]) + lr * g[k] / (row[k] + damping) for k in range(2)])
    return [[math.exp(v) / sum(map(math.exp, row)) for v in row] for row in logits]


@pytest.mark.golden
def test_two_steps_equal_the_equations_written_as_loops():
    first: Trials = [((0, 0, 1), 2.0), ((1, 0, 0), -1.0), ((1, 1, 1), 40.0)]
    second: Trials = [((0, 1, 1), 3.0), ((1, 0, 1), 2.0)]
    controller = NaturalGradient((2, 2, 2), learning_rate=0.7, damping=0.1, floor=0.0)
    p = [[0.5, 0.5]] * 3
    seen: Trials = []
    for batch in (first, second):
        controller.tell(batch_of([x for x, _ in batch], [r for _, r in batch]))
        p = one_step(p, seen, batch, (0.7, 0.1))
        seen = seen + batch
        np.testing.assert_allclose(controller.policy.probabilities, p, rtol=1e-9)


def test_without_damping_the_step_is_the_inverse_fisher_matrix_times_the_gradient():
    schemes, rewards = [[0, 2], [1, 1], [1, 0], [0, 1]], [1.0, 2.0, 3.0, 4.0]
    controller = NaturalGradient((2, 3), learning_rate=0.3, damping=0.0, floor=0.0)
    scores = np.array(normal_scores(rewards))
    pi = np.full(4, 1 / 6)
    advantages = scores - (scores.sum() - scores) / 3
    terms = _weights(pi, 4) * advantages
    controller.tell(batch_of(schemes, rewards))
    for slot, size in enumerate((2, 3)):
        p = np.full(size, 1 / size)
        gradient = sum(
            t * (np.eye(size)[x[slot]] - p) for t, x in zip(terms, schemes, strict=True)
        )
        step = 0.3 * np.linalg.pinv(np.diag(p) - np.outer(p, p)) @ gradient
        weights = np.exp(np.log(p) + step)
        got = controller.policy.probabilities[slot, :size]
        np.testing.assert_allclose(got, weights / weights.sum(), rtol=1e-9)


def test_equal_rewards_and_trials_without_reward_teach_nothing():
    controller = NaturalGradient((2, 2))
    uniform = controller.policy.probabilities
    controller.tell(batch_of([[0, 1], [1, 1]], [5.0, 5.0]))
    controller.tell(batch_of([[0, 0], [1, 0]], [np.nan, np.inf]))
    controller.tell(batch_of([[0, 0], [1, 0]], [np.nan, 9.0]))
    np.testing.assert_allclose(controller.policy.probabilities, uniform)


def test_equal_schemes_count_as_one_with_their_mean_weight():
    once, twice = NaturalGradient((2, 2)), NaturalGradient((2, 2))
    once.tell(batch_of([[0, 0], [1, 1], [0, 1]], [1.0, 3.0, 2.0]))
    twice.tell(batch_of([[0, 0], [1, 1], [0, 1]], [1.0, 3.0, 2.0]))
    once.tell(batch_of([[1, 0], [0, 0]], [4.0, 1.0]))
    twice.tell(batch_of([[1, 0], [0, 0]], [4.0, 1.0]))
    np.testing.assert_array_equal(once.policy.probabilities, twice.policy.probabilities)
    assert once._masses()[[0, 4]].tolist() == [once._masses()[0]] * 2
    complete = np.exp(once.policy.log_prob(all_schemes((2, 2)))).sum()
    assert once._masses().sum() == pytest.approx(complete)


def test_a_scheme_with_open_choices_moves_the_slots_it_chose_alone():
    controller = NaturalGradient((2, 2))
    controller.tell(batch_of([[0, -1], [1, -1]], [0.0, 1.0]))
    p = controller.policy.probabilities
    assert p[0, 1] > 0.6
    assert p[1].tolist() == [0.5, 0.5]


def loss_of(
    parameters: list[Array],
    sizes: Sequence[int],
    schemes: Array,
    advantages: Array,
    behaviour: Array | None = None,
) -> float:
    """The paper preset's losses as its docstring states them, from the parameters on."""
    bias, weight, offset = parameters
    logits = (np.maximum(bias, 0) @ weight + offset).reshape(len(sizes), -1) / 5.0
    totals = []
    for scheme in schemes:
        total = 0.0
        for slot, choice in enumerate(scheme):
            row = logits[slot, : sizes[slot]]
            total += row[choice] - math.log(np.exp(row).sum())
        totals.append(total)
    logs = np.array(totals)
    if behaviour is None:
        return float(-(advantages * logs).mean())
    ratio = np.minimum(np.exp(logs - behaviour), 10.0)
    clipped = np.clip(ratio, 0.9, 1.1)
    return float(-0.1 * np.minimum(ratio * advantages, clipped * advantages).mean())


@pytest.mark.parametrize("replay", [False, True], ids=["online", "replay"])
@pytest.mark.parametrize("sizes", [(2, 2, 2, 2), (2, 4, 3)], ids=str)
def test_paper_gradient_is_that_of_its_stated_losses(sizes, replay):
    controller = PaperController(sizes, seed=3)
    rng = np.random.default_rng(0)
    schemes = np.stack([rng.integers(size, size=6) for size in sizes], axis=1)
    advantages = rng.normal(size=6)
    behaviour = None
    if replay:  # ratios inside the clip, on both sides of it, and cut; none at a corner
        shift = np.array([0.0, 0.05, -0.05, 0.3, -0.3, -3.0])
        behaviour = controller.policy.log_prob(schemes) + shift
    got = controller.gradient(schemes, advantages, behaviour)
    for place, parameter in enumerate(controller.parameters):
        for index in np.ndindex(parameter.shape):
            if place == 1 and index[0] % 10:
                continue  # a tenth of the large matrix is enough
            ends = []
            for sign in (1, -1):
                moved = [p.copy() for p in controller.parameters]
                moved[place][index] += sign * 1e-5
                ends.append(loss_of(moved, sizes, schemes, advantages, behaviour))
            slope = (ends[0] - ends[1]) / 2e-5
            assert got[place][index] == pytest.approx(slope, abs=2e-9, rel=1e-5)


def test_paper_curiosity_is_a_schemes_own_and_fades_with_visits():
    controller = PaperController((2,) * 8, seed=0)
    often, never = np.zeros((1, 8), dtype=np.int64), np.ones((1, 8), dtype=np.int64)
    for _ in range(50):
        controller._curiosity.bonus(often)
    bonus = controller._curiosity.bonus(np.concatenate([often, never]))
    assert bonus[1] > 10 * bonus[0]


def test_paper_curiosity_trains_on_the_gradient_of_its_own_bonus():
    """One step of Adam from rest goes against the sign of each derivative, by the rate."""
    schemes = np.array([[0, 1, 2], [1, 0, 0]])
    target = PaperController((2, 2, 3), seed=1)._curiosity
    before = [p.copy() for p in target._learned]
    target.bonus(schemes)
    for place, start in enumerate(before):
        step = target._learned[place] - start
        for index in [(0,) * start.ndim, tuple(size - 1 for size in start.shape)]:
            ends = []
            for sign in (1, -1):
                probe = PaperController((2, 2, 3), seed=1)._curiosity
                probe._learned[place][index] += sign * 1e-5
                ends.append(float(probe.bonus(schemes).mean()))
            slope = (ends[0] - ends[1]) / 2e-5
            assert abs(slope) < 1e-7 or step[index] == pytest.approx(-0.05 * np.sign(slope), 1e-3)


def test_paper_controller_learns_the_sign_of_each_choice():
    controller = PaperController((2,) * 6, seed=0)
    weights = np.array([3.0, -3.0, 3.0, -3.0, 3.0, -3.0])
    rng = np.random.default_rng(0)
    nothing = np.zeros((0, 6), dtype=np.int64)
    for _ in range(60):
        policy = controller.policy
        schemes = np.stack([policy.draw(rng, seen=nothing) for _ in range(3)])
        controller.tell(batch_of(schemes, schemes @ weights, policy.log_prob(schemes)))
    assert controller.policy.mode().tolist() == [1, 0, 1, 0, 1, 0]


def test_paper_controller_ignores_a_batch_without_rewards():
    controller = PaperController((2, 2), seed=0)
    before = controller.policy.probabilities
    controller.tell(batch_of([[0, 0]], [np.nan]))
    np.testing.assert_array_equal(controller.policy.probabilities, before)
