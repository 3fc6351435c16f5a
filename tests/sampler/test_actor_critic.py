"""The default controller: what it learns and proposes."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from sat_optuna.sampler.actor_critic import ActorCritic
from sat_optuna.sampler.budget import Constraints
from sat_optuna.sampler.controller import Batch
from sat_optuna.sampler.critic import Code
from tests.sampler.schemes import Array, all_schemes, batch_of, nothing_seen, read, rewarded, told


def part_of(batch: Batch, begin: int, end: int) -> Batch:
    return Batch(batch.schemes[begin:end], batch.values[begin:end], batch.log_probs[begin:end])


@pytest.mark.parametrize("count", [9, 10, 64, 131, 500])
def test_a_controller_told_all_at_once_proposes_the_same_bits(count):
    """500 trials are more than the critic remembers."""
    sizes = (2, 3, 2, 4, 2, 2, 5)
    batch = rewarded(sizes, count)
    step = ActorCritic(sizes)
    cuts = sorted(np.random.default_rng(count).choice(count, count // 4, replace=False).tolist())
    for begin, end in itertools.pairwise([0, *cuts, count]):
        step.tell(part_of(batch, begin, end))
        step.propose(np.random.default_rng(begin), Constraints(batch.schemes[:end]))
    fresh = told(sizes, batch)
    for seed in range(5):
        both = [
            controller.propose(np.random.default_rng(seed), Constraints(batch.schemes))
            for controller in (step, fresh)
        ]
        assert both[0][0].tolist() == both[1][0].tolist()
        assert both[0][1] == both[1][1]
    np.testing.assert_array_equal(step.policy.probabilities, fresh.policy.probabilities)


def searched(
    sizes: Sequence[int], reward: Any, trials: int, *, seed: int, group: int = 1
) -> tuple[ActorCritic, Array, Array]:
    """Propose and tell, a group at a time."""
    controller = ActorCritic(sizes)
    seen = np.zeros((0, len(sizes)), dtype=np.int64)
    rewards: list[float] = []
    for number in range(trials):
        rng = np.random.default_rng([seed, number])
        seen = np.vstack([seen, controller.propose(rng, Constraints(seen))[0]])
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


def test_merit_trusts_what_the_critic_leaves_more_the_more_trials_say_it():
    """Against the formula of `merits`, in loops."""
    rng = np.random.default_rng(0)
    schemes = rng.integers(2, size=(60, 5))
    batch = batch_of(schemes, rng.normal(size=60))
    known, merits = told((2,) * 5, batch).merits()
    critic, y = read((2,) * 5, batch)
    means = critic.means(y)
    for scheme, merit in zip(known, merits, strict=True):
        mine = np.flatnonzero((schemes == scheme).all(axis=1))
        own = 0.1 * len(mine) / (1 + 0.1 * (len(mine) - 1))
        expected = means[mine[0]] + own * (y[mine].mean() - means[mine[0]])
        assert merit == pytest.approx(expected)
    assert len(known) == len(set(map(bytes, schemes)))


def test_draws_from_the_critic_are_wide_at_first_and_narrow_where_rewards_are_noisy():
    """(7): a breadth of 0.5 changes nothing once 10 / sqrt(N) is 0.5, and thrift scales it."""
    sizes = (2,) * 9

    def proposed(count: int, **options: float) -> list[float]:
        controller = told(sizes, rewarded(sizes, count, noise=2.0), **options)
        rngs = map(np.random.default_rng, range(5))
        return [controller.propose(rng, nothing_seen(sizes))[1] for rng in rngs]

    for count, spread in ((20, 1.5), (100, 1.0), (400, 0.5)):
        assert proposed(count) == proposed(count, breadth=spread)
        assert proposed(count) != proposed(count, breadth=0.9 * spread)
        assert proposed(count) != proposed(count, thrift=0.0)
    assert proposed(400) == proposed(400, breadth=9.0)


def test_proposals_are_distinct_until_the_space_is_finished_and_go_on_then():
    sizes = (2, 3, 4)
    controller, seen, _ = searched(sizes, lambda x: float(x.sum()), 24, seed=0)
    assert len(set(map(bytes, seen))) == 24
    again, log_prob = controller.propose(np.random.default_rng(0), Constraints(seen))
    assert again.tolist() in seen.tolist()
    assert log_prob < 0


@pytest.mark.parametrize("count", [0, 30])
def test_fixed_choices_hold_and_the_others_adapt(count):
    """The reward wants both equal, and 1 rather than 0: given a 0, the other is to be 0."""
    rng = np.random.default_rng(0)
    schemes = rng.integers(2, size=(count, 6))
    rewards = 3.0 * (schemes[:, 0] == schemes[:, 1]) + schemes[:, 0]
    controller = told((2,) * 6, batch_of(schemes, rewards))
    given = Constraints(np.zeros((0, 6), dtype=np.int64), {0: 0})
    got = [controller.propose(np.random.default_rng(seed), given) for seed in range(20)]
    assert all(scheme[0] == 0 for scheme, _ in got)
    assert all(math.isfinite(log_prob) for _, log_prob in got)
    if count:
        assert sum(int(scheme[1]) for scheme, _ in got) <= 4


def test_log_probability_is_that_of_the_policy_drawn_from():
    """The uniform policy's during warm-up; later the proposal's own, here that of the mean."""
    sizes = (2, 3, 4)
    _, log_prob = ActorCritic(sizes).propose(np.random.default_rng(0), nothing_seen(sizes))
    assert log_prob == pytest.approx(-math.log(24))
    controller = told(sizes, rewarded(sizes, 40), breadth=0.0)
    scheme, log_prob = controller.propose(np.random.default_rng(0), nothing_seen(sizes))
    assert log_prob == controller.policy.log_prob(scheme[None])[0]


def test_of_the_draws_the_critic_picks_the_best_that_is_new():
    """In so small a space the mode or one of 32 draws is surely the best of all."""
    sizes, batch, every = (2, 3, 4), rewarded((2, 3, 4), 12), all_schemes((2, 3, 4))
    critic, y = read(sizes, batch)
    values = critic.draw(y, None, 0.0).of(Code(sizes).of(every))
    controller = told(sizes, batch, breadth=0.0)
    seen = np.zeros((0, 3), dtype=np.int64)
    for _ in range(len(every)):
        scheme, _ = controller.propose(np.random.default_rng(0), Constraints(seen))
        seen = np.concatenate([seen, scheme[None]])
    assert (seen[0] == every[values.argmax()]).all()
    assert len(np.unique(seen, axis=0)) == len(every)


def test_one_draw_is_a_plain_one():
    """It follows the policy, where the best of 32 draws would nearly always be the same."""
    sizes = (2, 3, 4)
    controller = told(sizes, rewarded(sizes, 12), draws=1, breadth=0.0)
    rng = np.random.default_rng(0)
    found = np.array([controller.propose(rng, nothing_seen(sizes))[0] for _ in range(800)])
    p = controller.policy.probabilities
    for slot, size in enumerate(sizes):
        shares = np.bincount(found[:, slot], minlength=size) / 800
        np.testing.assert_allclose(shares, p[slot, :size], atol=4 * 0.5 / math.sqrt(800))


@pytest.mark.parametrize("reward", [0.0, 5.0, 1e99])
def test_equal_rewards_are_no_obstacle_and_teach_nothing(reward):
    schemes = all_schemes((2,) * 5)[:20]
    controller = told((2,) * 5, batch_of(schemes, [reward] * 20))
    np.testing.assert_allclose(controller.policy.probabilities, 0.5, atol=1e-6)
    controller.propose(np.random.default_rng(0), Constraints(schemes))


def test_trials_without_reward_teach_nothing():
    batch = rewarded((2, 3, 2), 30)
    with_nan = batch.values.copy()
    with_nan[[3, 17, 20], 0] = np.nan, np.inf, -1e101
    broken = told((2, 3, 2), Batch(batch.schemes, with_nan, batch.log_probs))
    keep = np.abs(with_nan[:, 0]) < 1e101
    whole = told((2, 3, 2), Batch(batch.schemes[keep], batch.values[keep], batch.log_probs[keep]))
    np.testing.assert_array_equal(broken.policy.probabilities, whole.policy.probabilities)


def test_schemes_with_open_choices_are_learned_from():
    rng = np.random.default_rng(0)
    schemes = rng.integers(2, size=(40, 3))
    schemes[schemes[:, 0] == 0, 1] = -1  # the second is asked for only after a 1
    rewards = 2.0 * schemes[:, 0] + np.where(schemes[:, 1] == 1, 3.0, 0.0)
    controller = told((2, 2, 2), batch_of(schemes, rewards))
    assert controller.policy.probabilities.argmax(axis=1)[:2].tolist() == [1, 1]


def test_without_ranks_an_outlier_counts_as_much_as_it_is():
    """With ranks only the order of rewards matters; without, their values do."""
    batch = rewarded((2, 2, 2), 30)
    stretched = batch_of(batch.schemes, np.exp(batch.values[:, 0]))
    for ranks in (True, False):
        both = [told((2, 2, 2), b, ranks=ranks).policy.probabilities for b in (batch, stretched)]
        assert (both[0] == both[1]).all() == ranks
