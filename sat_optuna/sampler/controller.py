"""What the two controllers share: what they are told, what they answer, how rewards are made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .budget import Constraints
from .policy import Floats
from .policy import Ints
from .policy import Policy


__all__ = ["Batch", "Controller", "has_reward", "mean_by_scheme", "scalarised"]

_HUGE = 1e100  # an objective beyond it has diverged; the square of its value is no float


@dataclass(frozen=True, slots=True)
class Batch:
    """Trials to learn from at once.

    Attributes:
        schemes: (B, n) choices; -1 where a trial left a slot open.
        values: (B, M) objective values, greater is better. A row with NaN or with a value beyond
            +-1e100 has no reward.
        log_probs: (B,) log probabilities under the policy that each was drawn from, before the
            rule against repeats. NaN stands for a trial that was not drawn from a policy.
    """

    schemes: Ints
    values: Floats
    log_probs: Floats

    def rewarded(self) -> "Batch":
        """Return the trials that have a reward."""
        keep = has_reward(self.values)
        return Batch(self.schemes[keep], self.values[keep], self.log_probs[keep])


class Controller(Protocol):
    """A policy and how it learns; its state comes from the batches it was told, in their order."""

    @property
    def policy(self) -> Policy:
        """What was learned, as one policy."""

    def tell(self, batch: Batch) -> None:
        """Learn from a batch."""

    def propose(self, rng: np.random.Generator, constraints: Constraints) -> tuple[Ints, float]:
        """Draw a scheme; what was told and the arguments determine it.

        Returns:
            The (n,) scheme, and its log probability under the policy before anything was left
            out: by the constraints, or by a critic that picks one of several draws.
        """

    def merits(self) -> tuple[Ints, Floats]:
        """Return (S, n) schemes told, each once, and (S,) how good each is by all trials told."""


def has_reward(values: Floats) -> NDArray[np.bool_]:
    """Return (N,) whether all of a trial's (N, M) values are numbers within +-1e100."""
    return np.asarray((np.abs(values) <= _HUGE).all(axis=1))  # false for NaN too


def scalarised(values: Floats, weights: Sequence[float] | None = None) -> Floats:
    """Turn (N, M) objective values, greater is better, into (N,) rewards.

    A single objective is the reward. Of several the reward is the weighted mean of the values,
    each objective standardised over the N trials, so that units do not matter.

    >>> scalarised(np.array([[1.0, 100.0], [3.0, 300.0]])).tolist()
    [-1.0, 1.0]

    Args:
        values: of each trial.
        weights: (M,) of the objectives; None for equal ones.
    """
    if values.shape[1] == 1:
        return values[:, 0]
    spread = values.std(axis=0)
    centred = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return np.asarray(np.average(centred, axis=1, weights=weights))


def mean_by_scheme(schemes: Ints, numbers: Floats) -> tuple[Ints, Floats, Floats]:
    """Return the (S, n) distinct schemes of (N, n), the (S,) means of their (N,) numbers, counts.

    >>> _, means, counts = mean_by_scheme(np.array([[0], [1], [0]]), np.array([1.0, 5.0, 3.0]))
    >>> means.tolist(), counts.tolist()
    ([2.0, 5.0], [2.0, 1.0])
    """
    distinct, owners = np.unique(schemes, axis=0, return_inverse=True)
    counts = np.bincount(owners.ravel(), minlength=len(distinct)).astype(np.float64)
    sums = np.bincount(owners.ravel(), numbers, minlength=len(distinct))
    return distinct, sums / counts, counts
