"""A policy over schemes: one categorical distribution for each slot, and draws without repeats.

A scheme x makes one of K_i choices in each of n slots. It is written as n whole numbers: x_i = k
says that slot i makes its choice k, and -1 says that slot i was left open.

    pi(x) = prod_i p_i(x_i),   p_i = softmax(theta_i)

A scheme that was seen is not drawn again until all schemes were seen: of those that make the fixed
choices, where some are fixed.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray


__all__ = ["Floats", "Ints", "Policy", "existing", "plain_draws", "softmax"]

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

_TRIES = 8  # plain draws before the exact walk around the schemes that were seen


@dataclass(frozen=True, slots=True)
class Policy:
    """A product of categorical distributions, one for each slot.

    >>> policy = Policy.from_logits(np.zeros((2, 3)), sizes=(2, 3))
    >>> policy.probabilities.round(2).tolist()
    [[0.5, 0.5, 0.0], [0.33, 0.33, 0.33]]
    >>> seen = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 2]])
    >>> policy.draw(np.random.default_rng(0), seen, fixed={}).tolist()
    [1, 1]

    Attributes:
        probabilities: (n, K), one row a slot; the row of a slot with fewer choices ends in zeros.
        sizes: number of choices of each slot.
    """

    probabilities: Floats
    sizes: tuple[int, ...]

    @classmethod
    def from_logits(cls, logits: Floats, sizes: tuple[int, ...]) -> "Policy":
        """Return the softmax of each row of (n, K) logits, over the choices that its slot has."""
        return cls(softmax(np.where(existing(sizes), logits, -np.inf)), sizes)

    def floored(self, floor: float) -> "Policy":
        """Return the policy with each probability at least floor / K_i; rows still sum to 1."""
        least = np.where(existing(self.sizes), floor / np.array(self.sizes)[:, None], 0.0)
        above = np.maximum(self.probabilities - least, 0.0)
        spread = (1.0 - floor) / above.sum(axis=1, keepdims=True)
        return Policy(least + above * spread, self.sizes)

    def log_prob(self, schemes: Ints) -> Floats:
        """Return (N,) log probabilities of (N, n) schemes; open slots are left out."""
        return np.asarray(self.slot_log_probs(schemes).sum(axis=1))

    def slot_log_probs(self, schemes: Ints) -> Floats:
        """Return (N, n) log probabilities of the single choices; 0 for an open slot."""
        slots = np.arange(len(self.sizes))
        with np.errstate(divide="ignore"):
            logs = np.log(self.probabilities)
        return np.asarray(np.where(schemes >= 0, logs[slots, schemes], 0.0))

    def held(self, fixed: Mapping[int, int]) -> Floats:
        """Return (n, K) probabilities in which each fixed slot takes its choice for certain."""
        p = self.probabilities.copy()
        for slot, choice in fixed.items():
            p[slot] = np.arange(p.shape[1]) == choice
        return p

    def draw(self, rng: np.random.Generator, seen: Ints, fixed: Mapping[int, int]) -> Ints:
        """Draw a scheme that was not seen, with its probability under that condition.

        Some plain draws come first; the first of them that was not seen is returned. If all were
        seen, the exact walk follows: slot by slot, choice k has the probability p_i(k) times the
        unseen share of the schemes below it. The walk counts the unseen schemes in whole numbers,
        so that rounding cannot bring a repeat.

        Args:
            rng: gives the uniform numbers.
            seen: (N, n) schemes, repeats allowed; a row with -1 excludes nothing.
            fixed: by slot the choices that are made already; they hold even for a repeat.

        Returns:
            (n,) a scheme; where all were seen, one drawn as if none had been.
        """
        p = self.held(fixed)
        known = {row.tobytes(): index for index, row in enumerate(seen)}
        for scheme in plain_draws(rng, p, _TRIES):
            if scheme.tobytes() not in known:
                return np.asarray(scheme)
        rows = seen[list(known.values())]
        slots = list(fixed)
        counted = (rows >= 0).all(axis=1) & (rows[:, slots] == list(fixed.values())).all(axis=1)
        return self._walked(rng, p, rows[counted], fixed)

    def _walked(
        self, rng: np.random.Generator, p: Floats, rows: Ints, fixed: Mapping[int, int]
    ) -> Ints:
        """Draw a scheme from (n, K) `p` slot by slot, around distinct (N, n) seen `rows`.

        All rows make the fixed choices, as the scheme does.
        """
        # Column i is the probability of a row's choices from slot i on, (N, n + 1).
        tails = np.ones((len(rows), rows.shape[1] + 1))
        chosen = p[np.arange(rows.shape[1]), rows]
        tails[:, :-1] = np.cumprod(chosen[:, ::-1], axis=1)[:, ::-1]
        free_sizes = [1 if i in fixed else size for i, size in enumerate(self.sizes)]
        below = math.prod(free_sizes)  # how many schemes share the choices made so far
        scheme = np.zeros(len(self.sizes), dtype=np.int64)
        for slot, size in enumerate(self.sizes):
            below //= free_sizes[slot]
            column = rows[:, slot]
            counts = np.bincount(column, minlength=size).tolist()
            free = np.array([count < below for count in counts])
            if slot in fixed:
                free &= np.arange(size) == fixed[slot]
            unseen = 1.0 - np.bincount(column, tails[:, slot + 1], minlength=size)
            weights = np.where(free, p[slot, :size] * np.maximum(unseen, 0.0), 0.0)
            if not weights.any():  # what is unseen is less than a float can tell, or nothing
                weights = np.where(free, p[slot, :size] + 1e-300, 0.0)
            if not free.any():
                weights = p[slot, :size]
            scheme[slot] = _pick(weights, rng.random())
            match = column == scheme[slot]
            rows, tails = rows[match], tails[match]
        return scheme


def existing(sizes: Sequence[int]) -> NDArray[np.bool_]:
    """Return the (n, K) mask of the choices that exist."""
    return np.arange(max(sizes))[None, :] < np.array(sizes)[:, None]


def softmax(logits: Floats) -> Floats:
    """Return the softmax over the last axis; a logit of -inf gives the probability 0."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def plain_draws(rng: np.random.Generator, p: Floats, count: int) -> Ints:
    """Return (count, n) independent schemes drawn from (n, K) probabilities."""
    edges = np.cumsum(p, axis=1)
    uniform = rng.random((count, len(p), 1)) * edges[:, -1:]
    return np.asarray((uniform >= edges).sum(axis=2), dtype=np.int64)


def _pick(weights: Floats, uniform: float) -> int:
    """Return the index on which a number in [0, 1) falls; an index of weight 0 is never it."""
    edges = np.cumsum(weights / weights.max())
    index = int(np.searchsorted(edges, uniform * edges[-1], side="right"))
    return min(index, int(np.flatnonzero(weights)[-1]))
