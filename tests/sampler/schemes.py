"""Schemes and rewards that the tests of the sampler's numpy core share."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sat_optuna.sampler.actor_critic import ActorCritic
from sat_optuna.sampler.budget import Constraints
from sat_optuna.sampler.controller import Batch
from sat_optuna.sampler.critic import Code, Critic, normal_scores, standardised
from sat_optuna.sampler.policy import Policy

__all__ = [
    "Array",
    "all_schemes",
    "batch_of",
    "nothing_seen",
    "policy_of",
    "read",
    "rewarded",
    "told",
]

Array = NDArray[Any]


def all_schemes(sizes: Sequence[int]) -> Array:
    return np.array(list(itertools.product(*(range(size) for size in sizes))))


def nothing_seen(sizes: Sequence[int]) -> Constraints:
    return Constraints(np.zeros((0, len(sizes)), dtype=np.int64))


def policy_of(sizes: Sequence[int], seed: int, spread: float = 1.0) -> Policy:
    logits = np.random.default_rng(seed).normal(scale=spread, size=(len(sizes), max(sizes)))
    return Policy.from_logits(logits, tuple(sizes))


def batch_of(schemes: Any, rewards: Any, log_probs: Any = None) -> Batch:
    logs = np.full(len(schemes), np.nan) if log_probs is None else np.asarray(log_probs)
    return Batch(np.asarray(schemes), np.asarray(rewards, dtype=float).reshape(-1, 1), logs)


def rewarded(sizes: Sequence[int], count: int, seed: int = 0, noise: float = 0.1) -> Batch:
    """Schemes with rewards of single choices and of one pair."""
    rng = np.random.default_rng([seed, count])
    schemes = np.stack([rng.integers(size, size=count) for size in sizes], axis=1)
    weights = rng.normal(size=len(sizes))
    rewards = schemes @ weights + 0.5 * schemes[:, 0] * schemes[:, -1]
    return batch_of(schemes, rewards + noise * rng.normal(size=count))


def told(sizes: Sequence[int], batch: Batch, **options: Any) -> ActorCritic:
    controller = ActorCritic(sizes, **options)
    controller.tell(batch)
    return controller


def read(
    sizes: Sequence[int], batch: Batch, *, warmup: int = 10, pairs: bool = True
) -> tuple[Critic, Array]:
    """A critic that has read a batch, and the batch's scores as it takes them."""
    critic = Critic(Code(tuple(sizes)), warmup=warmup, caution=4.0, pairs=pairs)

    def scores(count: int) -> Array:
        return standardised(normal_scores(batch.values[:count, 0]))

    critic.read(batch.schemes, scores)
    return critic, scores(len(batch.schemes))
