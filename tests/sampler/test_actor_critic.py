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

from sat_optuna.sampler.actor_critic import (
    ActorCritic,
    Batch,
    Budget,
    PaperController,
    Policy,
    _Code,
    _Critic,
    _normal_scores,
    _simplex,
    scalarised,
)

Array = NDArray[Any]
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


@patient
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=20))
def test_scores_are_the_normal_quantiles_of_mid_ranks(rewards):
    got = _normal_scores(np.array(rewards, dtype=float))
    np.testing.assert_allclose(got, normal_scores(rewards), atol=1e-9)


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_corners_of_the_simplex_have_length_one_and_equal_angles(size):
    corners = _simplex(size)
    expected = np.full((size, size), -1.0 / (size - 1))
    np.fill_diagonal(expected, 1.0)
    np.testing.assert_allclose(corners @ corners.T, expected, atol=1e-12)
    np.testing.assert_allclose(corners.sum(axis=0), 0.0, atol=1e-12)


def test_codes_of_schemes_are_corners_and_an_open_slot_has_none():
    code = _Code((2, 3))
    codes = code.of(np.array([[1, 2], [-1, 0]])).reshape(2, 2, 2)
    np.testing.assert_allclose(codes[0, 0, :1], _simplex(2)[1])
    np.testing.assert_allclose(codes[0, 1], _simplex(3)[2])
    assert codes[0, 0, 1] == 0.0
    assert codes[1, 0].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(codes[1, 1], _simplex(3)[0])


def random_model(sizes: Sequence[int], seed: int) -> tuple[_Code, Array, Array, Array]:
    """A code, a random w and Q + Q' as the actor takes them, and (1) of all schemes, b = 0."""
    rng = np.random.default_rng(seed)
    code = _Code(tuple(sizes))
    linear = rng.normal(size=code.length)
    pairs = rng.normal(size=(code.length, code.length))
    q = np.array([linear @ c + c @ pairs @ c for c in code.of(all_schemes(sizes))])
    return code, *code.apart(linear, pairs), q


def mean_reward(p: Array, sizes: Sequence[int], q: Array) -> float:
    """J of (8): q of each scheme times its probability."""
    slots = np.arange(len(sizes))
    return float(sum(p[slots, x].prod() * v for x, v in zip(all_schemes(sizes), q, strict=True)))


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
    code, linear, pairs, q = random_model(sizes, seed)
    p = policy_of(sizes, seed).probabilities
    got = code.products(linear + pairs @ code.mean(p))
    slopes = differences(lambda p: mean_reward(p, sizes, q), p)
    np.testing.assert_allclose(centred(got, sizes), centred(slopes, sizes), atol=1e-8)


@patient
@given(SIZES, st.integers(0, 99))
def test_the_step_is_the_natural_gradient_of_mean_reward_plus_entropy(sizes, seed):
    """(10): A / tau - theta is F^-1 grad (J / tau + H), but for a constant of the slot."""
    code, linear, pairs, q = random_model(sizes, seed)
    tau = 0.4

    def objective(logits: Array) -> float:
        p = Policy.from_logits(logits, tuple(sizes)).probabilities
        return mean_reward(p, sizes, q) / tau - float((p[p > 0] * np.log(p[p > 0])).sum())

    theta = np.random.default_rng(seed).normal(size=(len(sizes), max(sizes)))
    p = Policy.from_logits(theta, tuple(sizes)).probabilities
    got = code.products(linear + pairs @ code.mean(p)) / tau - theta
    gradient = differences(objective, theta)
    natural = np.zeros_like(theta)
    for slot, size in enumerate(sizes):
        row = p[slot, :size]
        fisher = np.diag(row) - np.outer(row, row)
        natural[slot, :size] = np.linalg.pinv(fisher, rcond=1e-9) @ gradient[slot, :size]
    np.testing.assert_allclose(centred(got, sizes), centred(natural, sizes), rtol=1e-4, atol=1e-4)


def history(sizes: Sequence[int], count: int, seed: int = 0, noise: float = 0.1) -> Batch:
    """Schemes and rewards of single choices and neighbouring pairs."""
    rng = np.random.default_rng([seed, count])
    schemes = np.stack([rng.integers(size, size=count) for size in sizes], axis=1)
    weights = rng.normal(size=len(sizes))
    rewards = schemes @ weights + 0.5 * schemes[:, 0] * schemes[:, -1]
    return batch_of(schemes, rewards + noise * rng.normal(size=count))


def part_of(batch: Batch, begin: int, end: int) -> Batch:
    return Batch(batch.schemes[begin:end], batch.values[begin:end], batch.log_probs[begin:end])


def told(sizes: Sequence[int], batch: Batch, **kwargs: Any) -> ActorCritic:
    controller = ActorCritic(sizes, **kwargs)
    controller.tell(batch)
    return controller


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
    batch = history(sizes, count)
    controller = told(sizes, batch)
    controller._learned()
    critic = controller._critic
    codes = controller._code.of(batch.schemes)
    assert critic.rows.tolist() == list(range(count))
    matrix = covariance(codes, 4, critic.rho, critic.noise)
    np.testing.assert_allclose(critic.inverse @ matrix, np.eye(count), atol=1e-8)


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_rho_and_noise_are_those_of_the_greatest_evidence(noise):
    """(7) by the determinant and the inverse; -N/2 log v stands for the maximum over v."""
    sizes = (2, 3, 2, 3)
    batch = history(sizes, 40, noise=noise)
    critic = _Critic(_Code(sizes), warmup=40, caution=4.0, pairs=True)
    y = np.array(normal_scores(batch.values[:, 0].tolist()))
    critic.read(batch.schemes, lambda _: y)
    codes = _Code(sizes).of(batch.schemes)
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


def test_draws_have_the_mean_and_spread_of_the_posterior():
    """(4), (5) against a Gaussian process's formulas, for differences of q (b is not drawn)."""
    sizes = (2, 3, 3)
    batch = history(sizes, 12, noise=1.0)
    controller = told(sizes, batch)
    y = controller._learned()
    critic, code = controller._critic, controller._code
    critic.rho = 0.3  # with pairs, whatever the evidence says
    others = code.of(all_schemes(sizes))
    matrix = covariance(np.concatenate([code.of(batch.schemes), others]), 3, 0.3, 0.0)
    known, cross, own = matrix[:12, :12], matrix[12:, :12], matrix[12:, 12:]
    inverse = np.linalg.inv(known + critic.noise * np.eye(12))
    critic._inverse[:12, :12] = inverse
    scaled = y / math.sqrt(critic.scale)
    np.testing.assert_allclose(
        critic.means(y) / math.sqrt(critic.scale), known @ inverse @ scaled, atol=1e-8
    )

    def values(rng: np.random.Generator | None) -> Array:
        linear, pairs = critic.draw(y, rng, 0.5)
        q = others @ linear + np.einsum("xd,de,xe->x", others, pairs, others)
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


@pytest.mark.parametrize("count", [9, 10, 64, 131, 500])
def test_a_controller_told_all_at_once_proposes_the_same_bits(count):
    """500 trials are more than the critic remembers."""
    sizes = (2, 3, 2, 4, 2, 2, 5)
    batch = history(sizes, count)
    step = ActorCritic(sizes)
    cuts = sorted(np.random.default_rng(count).choice(count, count // 4, replace=False).tolist())
    for begin, end in itertools.pairwise([0, *cuts, count]):
        step.tell(part_of(batch, begin, end))
        step.propose(np.random.default_rng(begin), seen=batch.schemes[:end])
    fresh = told(sizes, batch)
    for seed in range(5):
        both = [
            controller.propose(np.random.default_rng(seed), seen=batch.schemes)
            for controller in (step, fresh)
        ]
        assert both[0][0].tolist() == both[1][0].tolist()
        assert both[0][1] == both[1][1]
    np.testing.assert_array_equal(step.policy.probabilities, fresh.policy.probabilities)


def test_a_long_history_is_remembered_by_its_best_and_its_latest():
    batch = history((2,) * 12, 500)
    controller = told((2,) * 12, batch)
    y = controller._learned()
    rows = controller._critic.rows
    assert len(rows) < 320 + 64
    assert set(range(500 - 160, 500)) <= set(rows.tolist())
    assert y.argmax() in rows


def searched(
    sizes: Sequence[int], reward: Any, trials: int, *, seed: int, group: int = 1
) -> tuple[ActorCritic, Array, Array]:
    """Propose and tell, a group at a time."""
    controller = ActorCritic(sizes)
    seen = np.zeros((0, len(sizes)), dtype=np.int64)
    rewards: list[float] = []
    for number in range(trials):
        rng = np.random.default_rng([seed, number])
        seen = np.vstack([seen, controller.propose(rng, seen=seen)[0]])
        if len(seen) % group == 0:
            rewards += [reward(scheme) for scheme in seen[-group:]]
            controller.tell(batch_of(seen[-group:], rewards[-group:]))
    return controller, seen, np.array(rewards)


@pytest.mark.parametrize("group", [1, 8])
def test_default_finds_the_optimum_of_choices_and_pairs(group):
    sizes = (2, 3, 4, 2, 3, 2, 4, 2)  # 2304 schemes
    everything = all_schemes(sizes)
    for seed in range(3):
        rng = np.random.default_rng([9, seed])
        table = [rng.normal(size=size) for size in sizes]
        pair = rng.normal(size=(4, 4))

        def reward(x: Any, table: Any = table, pair: Any = pair) -> float:
            return float(sum(t[k] for t, k in zip(table, x, strict=True)) + pair[x[2], x[6]])

        _, seen, rewards = searched(sizes, reward, 96, seed=seed, group=group)
        assert len(set(map(bytes, seen))) == 96
        assert rewards.max() == pytest.approx(max(map(reward, everything)))


def test_recommended_scheme_is_better_than_the_luckiest_where_rewards_are_noisy():
    weights = np.linspace(-1.0, 1.0, 16)
    gains = []
    for seed in range(20):
        rng = np.random.default_rng([3, seed])
        schemes = rng.integers(2, size=(80, 16))
        rewards = schemes @ weights + 3.0 * rng.normal(size=80)
        known, merits = told((2,) * 16, batch_of(schemes, rewards)).merits()
        recommended = known[merits.argmax()]
        gains.append((recommended - schemes[rewards.argmax()]) @ weights)
    assert np.mean(gains) > 0.2


@pytest.mark.parametrize("controller", [ActorCritic((2, 2)), PaperController((2, 2), seed=0)])
def test_without_a_critic_a_scheme_is_as_good_as_its_mean_reward(controller):
    assert [len(part) for part in controller.merits()] == [0, 0]
    controller.tell(batch_of([[0, 1], [0, 0], [0, 1]], [1.0, 2.5, 3.0]))
    schemes, merits = controller.merits()
    assert schemes.tolist() == [[0, 0], [0, 1]]
    assert merits.tolist() == [2.5, 2.0]


def test_merit_trusts_what_the_critic_leaves_more_the_more_trials_say_it():
    """Against the formula of `merits`, in loops."""
    rng = np.random.default_rng(0)
    schemes = rng.integers(2, size=(60, 5))
    controller = told((2,) * 5, batch_of(schemes, rng.normal(size=60)))
    known, merits = controller.merits()
    y = controller._learned()
    means = controller._critic.means(y)
    for scheme, merit in zip(known, merits, strict=True):
        mine = np.flatnonzero((schemes == scheme).all(axis=1))
        own = 0.1 * len(mine) / (1 + 0.1 * (len(mine) - 1))
        expected = means[mine[0]] + own * (y[mine].mean() - means[mine[0]])
        assert merit == pytest.approx(expected)
    assert len(known) == len(set(map(bytes, schemes)))


def test_draws_from_the_critic_are_wide_at_first_and_narrow_where_rewards_are_noisy(monkeypatch):
    """(6), with what the draw is given."""
    given: list[float] = []
    draw = _Critic.draw

    def noted(self, y, rng, spread):
        given.append(spread)
        return draw(self, y, rng, spread)

    monkeypatch.setattr(_Critic, "draw", noted)
    for count, wide in ((20, 1.5), (100, 1.0), (400, 0.5)):
        controller = told((2,) * 9, history((2,) * 9, count))
        controller.propose(np.random.default_rng(0), seen=np.zeros((0, 9), dtype=np.int64))
        assert given[-1] == pytest.approx(wide / (1 + 3 * controller._critic.noise))


def test_proposals_are_distinct_until_the_space_is_finished_and_go_on_then():
    sizes = (2, 3, 4)
    controller, seen, _ = searched(sizes, lambda x: float(x.sum()), 24, seed=0)
    assert len(set(map(bytes, seen))) == 24
    again, log_prob = controller.propose(np.random.default_rng(0), seen=seen)
    assert again.tolist() in seen.tolist()
    assert log_prob < 0


@pytest.mark.parametrize("count", [0, 30])
def test_fixed_choices_hold_and_the_others_adapt(count):
    """The reward wants both equal, and 1 rather than 0: given a 0, the other is to be 0."""
    rng = np.random.default_rng(0)
    schemes = rng.integers(2, size=(count, 6))
    rewards = 3.0 * (schemes[:, 0] == schemes[:, 1]) + schemes[:, 0]
    controller = told((2,) * 6, batch_of(schemes, rewards))
    nothing = np.zeros((0, 6), dtype=np.int64)
    got = [
        controller.propose(np.random.default_rng(seed), seen=nothing, fixed={0: 0})
        for seed in range(20)
    ]
    assert all(scheme[0] == 0 for scheme, _ in got)
    assert all(math.isfinite(log_prob) for _, log_prob in got)
    if count:
        assert sum(int(scheme[1]) for scheme, _ in got) <= 4


def test_log_probability_is_that_of_the_policy_drawn_from():
    """The uniform policy's within the warm-up; later the proposal's own."""
    uniform = ActorCritic((2, 3, 4))
    nothing = np.zeros((0, 3), dtype=np.int64)
    _, log_prob = uniform.propose(np.random.default_rng(0), seen=nothing)
    assert log_prob == pytest.approx(-math.log(24))
    controller = told((2, 3, 4), history((2, 3, 4), 40))
    scheme, log_prob = controller.propose(np.random.default_rng(0), seen=nothing)
    values = controller._drawn_values(np.random.default_rng(0))
    policy = controller._improved(values, {}, None)
    assert log_prob == policy.log_prob(scheme[None])[0]


def test_of_the_draws_the_critic_picks_the_best_that_is_new():
    sizes = (2, 3, 4)
    controller = told(sizes, history(sizes, 12))
    every = all_schemes(sizes)
    values = controller._drawn_values(np.random.default_rng(0))
    assert values is not None
    merits = values.of(controller._code.of(every))
    seen = np.zeros((0, 3), dtype=np.int64)
    first, _ = controller.propose(np.random.default_rng(0), seen=seen)
    # In so small a space the mode or one of 32 draws is surely the best of all.
    assert (first == every[merits.argmax()]).all()
    for _ in range(len(every)):
        scheme, _ = controller.propose(np.random.default_rng(0), seen=seen)
        seen = np.concatenate([seen, scheme[None]])
    assert len(np.unique(seen, axis=0)) == len(every)


def test_one_draw_is_a_plain_one():
    sizes, nothing = (2, 3, 4), np.zeros((0, 3), dtype=np.int64)
    plain = told(sizes, history(sizes, 12), draws=1)
    rng = np.random.default_rng(0)
    policy = plain._improved(plain._drawn_values(rng), {}, None)
    expected = policy.draw(rng, seen=nothing)
    scheme, _ = plain.propose(np.random.default_rng(0), seen=nothing)
    assert (scheme == expected).all()


def test_values_are_those_of_equation_1_up_to_a_constant():
    sizes = (2, 3, 4)
    controller = told(sizes, history(sizes, 30))
    codes = controller._code.of(all_schemes(sizes))
    values = controller._drawn_values(np.random.default_rng(3))
    assert values is not None
    found = values.of(codes)
    spread = min(1.5, 10.0 / math.sqrt(30)) / (1.0 + 3.0 * controller._critic.noise)
    linear, pairs = controller._critic.draw(
        controller._learned(), np.random.default_rng(3), spread
    )
    q = np.array([linear @ phi + phi @ pairs @ phi for phi in codes])
    np.testing.assert_allclose(found - found.mean(), q - q.mean(), atol=1e-10)


@given(
    sizes_and_seed=st.tuples(
        st.lists(st.integers(2, 4), min_size=1, max_size=5), st.integers(0, 99)
    )
)
def test_draws_are_different_new_and_keep_what_is_fixed(sizes_and_seed):
    sizes, seed = sizes_and_seed
    rng = np.random.default_rng(seed)
    policy = Policy.from_logits(rng.normal(size=(len(sizes), max(sizes))), tuple(sizes))
    every = all_schemes(tuple(sizes))
    seen = every[rng.random(len(every)) < 0.5]
    fixed = {0: int(rng.integers(sizes[0]))}
    budget = Budget(sizes, np.array([1.0]), np.tile(np.arange(max(sizes)), (1, len(sizes), 1)))
    found = policy.draws(rng, 20, seen=seen, fixed=fixed, budget=budget)
    rows = {tuple(row) for row in found.tolist()}
    assert len(rows) == len(found) <= 21
    assert not rows & {tuple(row) for row in seen.tolist()}
    assert all(row[0] == fixed[0] and sum(row) <= 1 for row in rows)


@pytest.mark.parametrize("reward", [0.0, 5.0, 1e99])
def test_equal_rewards_are_no_obstacle_and_teach_nothing(reward):
    schemes = all_schemes((2,) * 5)[:20]
    controller = told((2,) * 5, batch_of(schemes, [reward] * 20))
    np.testing.assert_allclose(controller.policy.probabilities, 0.5, atol=1e-6)
    controller.propose(np.random.default_rng(0), seen=schemes)


def test_trials_without_reward_teach_nothing():
    batch = history((2, 3, 2), 30)
    with_nan = batch.values.copy()
    with_nan[[3, 17, 20], 0] = np.nan, np.inf, -1e101
    broken = told((2, 3, 2), Batch(batch.schemes, with_nan, batch.log_probs))
    keep = np.abs(with_nan[:, 0]) < 1e101
    whole = told((2, 3, 2), Batch(batch.schemes[keep], batch.values[keep], batch.log_probs[keep]))
    np.testing.assert_array_equal(broken.policy.probabilities, whole.policy.probabilities)


def test_rewards_of_equal_schemes_are_averaged():
    """Told again and again the critic's mean of a scheme goes to its mean reward."""
    schemes = np.tile(all_schemes((2, 2, 2)), (30, 1))
    rng = np.random.default_rng(0)
    truth = rng.normal(size=8)
    controller = told((2, 2, 2), batch_of(schemes, np.tile(truth, 30) + rng.normal(size=240)))
    averages = controller._learned().reshape(30, 8).mean(axis=0)
    means = controller._critic.means(controller._learned())[:8]
    np.testing.assert_allclose(means, averages, atol=0.35)
    known, merits = controller.merits()
    np.testing.assert_array_equal(known[merits.argmax()], schemes[averages.argmax()])


def test_schemes_with_open_choices_are_learned_from():
    rng = np.random.default_rng(0)
    schemes = rng.integers(2, size=(40, 3))
    schemes[schemes[:, 0] == 0, 1] = -1  # the second is asked for only after a 1
    rewards = 2.0 * schemes[:, 0] + np.where(schemes[:, 1] == 1, 3.0, 0.0)
    controller = told((2, 2, 2), batch_of(schemes, rewards))
    assert controller.policy.mode()[:2].tolist() == [1, 1]


def test_without_pairs_and_ranks_the_critic_is_a_linear_regression():
    batch = history((2, 2, 2), 30)
    controller = told((2, 2, 2), batch, pairs=False, ranks=False)
    y = controller._learned()
    raw = batch.values[:, 0]
    np.testing.assert_allclose(y, (raw - raw.mean()) / raw.std())
    assert controller._critic.rho == 0.0


def loss_of(
    parameters: list[Array],
    sizes: Sequence[int],
    schemes: Array,
    advantages: Array,
    behaviour: Array | None = None,
    *,
    tanh_c: float | None = None,
    temperature: float = 5.0,
) -> float:
    """The paper preset's losses as its docstring states them, from the parameters on."""
    bias, weight, offset = parameters
    logits = (np.maximum(bias, 0) @ weight + offset).reshape(len(sizes), -1) / temperature
    if tanh_c is not None:
        logits = tanh_c * np.tanh(logits)
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
@pytest.mark.parametrize(
    ("sizes", "switches"),
    [
        ((2, 2, 2, 2), {}),
        ((2, 4, 3), {}),
        ((2, 4, 3), {"tanh_c": 1.5, "temperature": 0.7}),
    ],
    ids=str,
)
def test_paper_gradient_is_that_of_its_stated_losses(sizes, switches, replay):
    controller = PaperController(sizes, seed=3, **switches)
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
                ends.append(loss_of(moved, sizes, schemes, advantages, behaviour, **switches))
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


def test_paper_switches_turn_their_parts_off():
    """Without curiosity and replay the second of two equal-reward steps moves nothing."""
    schemes = np.array([[0, 1], [1, 1]])
    cases: list[tuple[dict[str, Any], bool]] = [
        ({"rnd": False, "replay": False}, False),
        ({"replay": False}, True),
    ]
    for switches, moves in cases:
        controller = PaperController((2, 2), seed=0, **switches)
        before = controller.policy.probabilities
        controller.tell(batch_of(schemes, [3.0, 3.0]))
        assert (controller.policy.probabilities != before).any() == moves
    for replay in (False, True):
        controller = PaperController((2, 2), seed=0, rnd=False, replay=replay, ema_decay=0.0)
        for step in range(20):
            controller.tell(batch_of(schemes, [step, step + 1.0]))
        assert controller._adam._steps == (31 if replay else 20)
    for decay, baseline in ((0.0, 5.0), (1.0, 1.0), (0.75, 2.0)):
        controller = PaperController((2, 2), seed=0, rnd=False, ema_decay=decay)
        controller.tell(batch_of(schemes, [1.0, 1.0]))
        controller.tell(batch_of(schemes, [5.0, 5.0]))
        assert controller._baseline == baseline


def published_loss(
    parameters: list[Array], sizes: Sequence[int], schemes: Array, advantages: Array, old: Array
) -> Any:
    """The smaller of the two sums, its ratios held at `ratios`; returns a function of those."""
    bias, weight, offset = parameters
    logits = (np.maximum(bias, 0) @ weight + offset).reshape(len(sizes), -1) / 5.0
    logs = np.array(
        [
            [logits[i, k] - math.log(np.exp(logits[i, : sizes[i]]).sum()) for i, k in enumerate(x)]
            for x in schemes
        ]
    )

    def loss(ratios: Array) -> float:
        sums = [
            (r * logs * advantages[:, None]).sum() for r in (ratios, np.clip(ratios, 0.9, 1.1))
        ]
        return float(-0.1 * min(sums) / len(schemes))

    return loss, np.exp(logs - old)


def test_paper_gradient_with_the_published_defects_is_that_of_the_published_loss():
    sizes = (2, 4, 3)
    controller = PaperController(sizes, seed=3, repaired=False)
    rng = np.random.default_rng(0)
    schemes = np.stack([rng.integers(size, size=6) for size in sizes], axis=1)
    advantages = rng.normal(size=6)
    old = controller.policy.slot_log_probs(schemes) + rng.normal(scale=0.3, size=schemes.shape)
    got = controller.gradient(schemes, advantages, old)
    _, ratios = published_loss(controller.parameters, sizes, schemes, advantages, old)
    for place, index in [(0, (0,)), (0, (7,)), (1, (3, 5)), (2, (0,)), (2, (6,)), (2, (9,))]:
        ends = []
        for sign in (1, -1):
            moved = [p.copy() for p in controller.parameters]
            moved[place][index] += sign * 1e-5
            ends.append(published_loss(moved, sizes, schemes, advantages, old)[0](ratios))
        slope = (ends[0] - ends[1]) / 2e-5
        assert got[place][index] == pytest.approx(slope, abs=2e-9, rel=1e-5)


def test_published_defects_scramble_and_leave_curiosity_out_of_what_is_stored():
    controller = PaperController((2, 3), seed=0, repaired=False)
    controller.tell(batch_of([[1, 2], [0, 1], [1, 0]], [1.0, 2.0, 3.0]))
    schemes, rewards, behaviour = controller._buffer[0]
    assert schemes.tolist() == [[1, 0], [1, 2], [1, 0]]  # 1 0 1 2 1 0, slot by slot
    assert rewards.tolist() == [1.0, 2.0, 3.0]
    assert behaviour.shape == (3, 2)
