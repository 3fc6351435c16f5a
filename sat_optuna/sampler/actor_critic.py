"""Policy gradients over categorical choices, in numpy alone; `sampler.py` brings them to Optuna.

A scheme x makes one of K_i choices in each of n slots. The policy is factorised, and what was
seen is never drawn again, until there is nothing else:

    pi(x) = prod_i p_i(x_i),   p_i = softmax(theta_i),   x ~ pi(. | x not seen)

Where there is a budget, the policy is tilted until it keeps it on average, and only what keeps it
is drawn (`Budget`).

`ActorCritic` (the default). The critic is a Bayesian regression of the rewards so far on a code
of the scheme: r_i(k), one of the K_i corners of a regular simplex, for choice k of slot i (-1 and
+1 for two choices), nothing for a slot left open. phi(x) is all slots' codes in a row:

    q(x) = b + w . phi(x) + phi(x)' Q phi(x)                                              (1)
    b ~ N(0, v),  w ~ N(0, v (1 - rho) / n),  Q ~ N(0, v rho / n^2),  y = q(x) + N(0, v s) (2)

w and Q have independent entries. With Phi the codes of the N trials in the critic's memory, the
covariance of their y is v A. A draw from the posterior of q is a draw b0, w0, Q0, e from the
prior (all in units of sqrt(v)), corrected (Matheron's rule); its spread is shrunk by z:

    A = 1 1' + (1 - rho) C + rho C * C + s I,   C = Phi Phi' / n                          (3)
    a = A^-1 (y - z (q0(X) + sqrt(s) e))                                                  (4)
    w = z w0 + (1 - rho) / n Phi' a,   Q = z Q0 + rho / n^2 Phi' diag(a) Phi              (5)
    z = min(1.5, 10 / sqrt(N)) / (1 + 3 s)                                                (6)

z = 1 is Thompson sampling. At first z is wider, since rho, s and v are guessed from a few trials;
later it is narrower, and the noisier the rewards, the less of its exploration do a few hundred
trials repay. y are normal scores of the rewards' ranks: no outlier can rule them. (rho, s) are
those of a small grid with the greatest evidence, v maximised over, and an s above 0.1 held less
likely beforehand, as the critic's own misfit looks like noise:

    -N/2 log v - 1/2 log |A| - 4 max(0, log(s / 0.1)),   v = y' A^-1 y / N                (7)

The actor climbs J(theta) = E_pi[q]. q is affine in each slot's code, as phi_i' Q_ii phi_i is one
number for each choice of slot i, which w and b can say too. So J and its gradient are exact, not
sampled:

    J = b + w . m + m' Q m,   m_i = sum_k p_i(k) r_i(k)                                   (8)
    A_i(k) = dJ / dp_i(k) = r_i(k) . (w + (Q + Q') m)_i                                   (9)

A_i(k) is the advantage of choice k, up to a constant of the slot that the softmax cancels. The
policy gradient is dJ/dtheta_i(k) = p_i(k) (A_i(k) - sum_l p_i(l) A_i(l)); the inverse of the
softmax's Fisher matrix makes A of it, up to such a constant. So the natural gradient of
J + tau H, H the policy's entropy, is A - tau theta, and a step along it

    theta <- theta + lr (A / tau - theta)                                                (10)

is taken 20 times from the uniform policy on, while tau falls from 1 to 0.15 times the root mean
square of A at the start. The policy it comes to is drawn from, 32 times; of these schemes and the
policy's mode, without those that were seen, the one of the greatest q is proposed. All this is
done anew for each proposal, from the trials' history and the proposal's generator alone.

`PaperController` is the published controller (arXiv:2207.07858, its public code), repaired; each
repair is named at its line.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotri, dtrtrs
from scipy.special import ndtri
from scipy.stats import rankdata

__all__ = [
    "ActorCritic",
    "Batch",
    "Budget",
    "Controller",
    "PaperController",
    "Policy",
    "scalarised",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NETWORKS = 2**32 - 1  # a place among the seeds that no trial's number takes
_TRIES = 8  # plain draws before the exact walk around what was seen
_HUGE = 1e100  # a value beyond is that of an objective that diverged; its square is no float


@dataclass(frozen=True, slots=True)
class Policy:
    """A product of categorical distributions.

    Attributes:
        probabilities: (n, K) one row a slot; a slot with fewer than K choices ends in zeros.
        sizes: number of choices of each slot.
    """

    probabilities: Floats
    sizes: tuple[int, ...]

    @classmethod
    def from_logits(cls, logits: Floats, sizes: tuple[int, ...]) -> "Policy":
        """Return the softmax of each row of (n, K) logits, over the choices its slot has."""
        real = _real(sizes)
        top = np.where(real, logits, -np.inf).max(axis=1, keepdims=True)
        weights = np.where(real, np.exp(np.where(real, logits - top, 0.0)), 0.0)
        return cls(weights / weights.sum(axis=1, keepdims=True), sizes)

    def floored(self, floor: float) -> "Policy":
        """Return the policy with each probability at least floor / K of its slot, summing to 1."""
        least = np.where(_real(self.sizes), floor / np.array(self.sizes)[:, None], 0.0)
        above = np.maximum(self.probabilities - least, 0.0)
        spread = (1.0 - floor) / above.sum(axis=1, keepdims=True)
        return Policy(least + above * spread, self.sizes)

    def log_prob(self, schemes: Ints) -> Floats:
        """Return (N,) log probabilities of (N, n) schemes; a slot with -1 was not chosen."""
        return np.asarray(self.slot_log_probs(schemes).sum(axis=1))

    def slot_log_probs(self, schemes: Ints) -> Floats:
        """Return (N, n) log probabilities of each choice alone; 0 where none was made."""
        slots = np.arange(len(self.sizes))
        with np.errstate(divide="ignore"):
            logs = np.log(self.probabilities)
        return np.asarray(np.where(schemes >= 0, logs[slots, schemes], 0.0))

    def mode(self) -> Ints:
        """Return the (n,) most probable scheme; the first of equals."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    def draw(
        self,
        rng: np.random.Generator,
        *,
        seen: Ints,
        fixed: Mapping[int, int] | None = None,
        budget: "Budget | None" = None,
    ) -> Ints:
        """Draw a scheme from the policy, given that it is none of `seen`: exactly.

        A few plain draws come first, the first unseen one being it. If all were seen, slot by slot
        a choice has the probability p_i(k) times the share of its subtree that is unseen. What is
        left is counted in whole numbers, so rounding never brings a repeat.

        Args:
            rng: gives the uniform numbers.
            seen: (N, n) schemes not to draw, repeats allowed; a row with -1 excludes nothing.
            fixed: choices made already, by slot. They hold even if that forces a repeat.
            budget: what the scheme must keep; `fixed` may force it not to.

        Returns:
            (n,) a scheme not in `seen`; one drawn freely where none is left.
        """
        p = self._held(fixed or {})
        known = {row.tobytes(): place for place, row in enumerate(seen)}
        if budget is not None:
            for excluded in (known, {}):
                kept = budget.drawn(rng, p, excluded)
                if kept is not None:
                    return kept
        for scheme in _draws(rng, p, _TRIES):
            if scheme.tobytes() not in known:
                return np.asarray(scheme)
        rows = seen[list(known.values())]
        return self._walked(rng, p, rows[(rows >= 0).all(axis=1)], fixed or {})

    def draws(
        self,
        rng: np.random.Generator,
        count: int,
        *,
        seen: Ints,
        fixed: Mapping[int, int] | None = None,
        budget: "Budget | None" = None,
    ) -> Ints:
        """Return the different ones of plain draws and the mode that may be proposed.

        Args:
            rng: gives the uniform numbers.
            count: of draws.
            seen: as in `draw`.
            fixed: as in `draw`.
            budget: as in `draw`.

        Returns:
            (C, n) schemes, 0 <= C <= count + 1.
        """
        p = self._held(fixed or {})
        schemes = np.concatenate([p.argmax(axis=1)[None], _draws(rng, p, count)])
        if budget is not None:
            schemes = schemes[budget.allows(schemes)]
        known = {row.tobytes() for row in seen}
        new = {row.tobytes(): place for place, row in enumerate(schemes)}
        return np.asarray(schemes[[place for row, place in new.items() if row not in known]])

    def _held(self, fixed: Mapping[int, int]) -> Floats:
        """Return (n, K) probabilities with the choices made already held."""
        p = self.probabilities.copy()
        for slot, choice in fixed.items():
            p[slot] = np.arange(p.shape[1]) == choice
        return p

    def _walked(
        self, rng: np.random.Generator, p: Floats, rows: Ints, fixed: Mapping[int, int]
    ) -> Ints:
        """Draw a scheme from (n, K) `p` slot by slot, around distinct (N, n) `rows`."""
        tails = _tail_probabilities(p, rows)
        left = math.prod(self.sizes)
        scheme = np.zeros(len(self.sizes), dtype=np.int64)
        for slot, size in enumerate(self.sizes):
            left //= size
            of = rows[:, slot]
            counts = np.bincount(of, minlength=size).tolist()
            free = np.array([count < left for count in counts])
            if slot in fixed:
                free &= np.arange(size) == fixed[slot]
            unseen = 1.0 - np.bincount(of, tails[:, slot + 1], minlength=size)
            weights = np.where(free, p[slot, :size] * np.maximum(unseen, 0.0), 0.0)
            if not weights.any():  # less is left than a float can tell, or nothing at all
                weights = np.where(free, p[slot, :size] + 1e-300, 0.0)
            if not free.any():
                weights = p[slot, :size]
            scheme[slot] = _pick(weights, rng.random())
            match = of == scheme[slot]
            rows, tails = rows[match], tails[match]
        return scheme


def _draws(rng: np.random.Generator, p: Floats, count: int) -> Ints:
    """Return (count, n) schemes drawn from (n, K) probabilities."""
    edges = np.cumsum(p, axis=1)
    uniform = rng.random((count, len(p), 1)) * edges[:, -1:]
    return np.asarray((uniform >= edges).sum(axis=2), dtype=np.int64)


def _real(sizes: Sequence[int]) -> NDArray[np.bool_]:
    """Return the (n, K) mask of the choices that exist."""
    return np.arange(max(sizes))[None, :] < np.array(sizes)[:, None]


def _tail_probabilities(probabilities: Floats, rows: Ints) -> Floats:
    """Return (N, n + 1) probabilities of each row's choices from a slot on, then ones."""
    chosen = probabilities[np.arange(rows.shape[1]), rows]
    tails = np.ones((len(rows), rows.shape[1] + 1))
    tails[:, :-1] = np.cumprod(chosen[:, ::-1], axis=1)[:, ::-1]
    return tails


def _pick(weights: Floats, uniform: float) -> int:
    """Return the index that a number in [0, 1) falls on; never one of weight 0."""
    edges = np.cumsum(weights / weights.max())
    index = int(np.searchsorted(edges, uniform * edges[-1], side="right"))
    return min(index, int(np.flatnonzero(weights)[-1]))


class Budget:
    """What the schemes to propose must keep: upper limits of costs that are affine in the choices.

        cost_c(x) = sum_i costs_c[i, x_i] + sum of the extras of c of which x makes a choice

    An extra is paid once, however many slots ask for it: a module that blocks share.

    A policy is tilted to keep them on average, p_i(k) exp(-lambda costs_c[i, k]), lambda >= 0 the
    smallest that does: of all policies that do, the closest to p in Kullback-Leibler divergence
    (extras left out). Several limits are taken in turn, some times. Draws that go over are
    dropped.

    Args:
        sizes: number of choices of each slot.
        at_most: (C,) limits.
        costs: (C, n, K) of each choice.
        extras: of each the limit c, the cost, not below 0, and the (n, K) mask of its choices.
    """

    rounds, draws, cooling = 8, 64, 1.6
    visits = 50_000  # beginnings of schemes, after which `first` gives up

    def __init__(
        self,
        sizes: Sequence[int],
        at_most: Floats,
        costs: Floats,
        extras: Sequence[tuple[int, float, NDArray[np.bool_]]] = (),
    ) -> None:
        self._at_most, self._costs, self._extras = at_most, costs, tuple(extras)
        real = _real(sizes)
        self._sizes = tuple(sizes)
        least = np.where(real, costs, np.inf).min(axis=2)  # (C, n)
        # The least that the slots from one on cost, (C, n + 1).
        self._tails = np.concatenate(
            [np.cumsum(least[:, ::-1], axis=1)[:, ::-1], np.zeros((len(costs), 1))], axis=1
        )
        # A partial sum may round otherwise than the whole one that decides.
        self._slack = 1e-9 * (np.abs(at_most) + np.abs(np.where(real, costs, 0.0)).sum((1, 2)))
        spread = np.where(real, costs - least[:, :, None], 0.0)
        self._spread = spread / np.maximum(spread.max(axis=(1, 2), keepdims=True), 1e-300)
        self._room = (at_most - self._tails[:, 0]) / np.maximum(spread.max(axis=(1, 2)), 1e-300)

    @property
    def least(self) -> Floats:
        """The (C,) costs that no scheme goes below."""
        return self._tails[:, 0]

    def allows(self, schemes: Ints) -> NDArray[np.bool_]:
        """Return whether (N, n) schemes, without open slots, keep all limits: (N,)."""
        slots = np.arange(schemes.shape[1])
        totals = self._costs[:, slots, schemes].sum(axis=2)  # (C, N)
        for limit, extra, mask in self._extras:
            totals[limit] += extra * mask[slots, schemes].any(axis=1)
        return np.asarray((totals <= self._at_most[:, None]).all(axis=0))

    def tilted(self, p: Floats) -> Floats:
        """Return the (n, K) policy that keeps the limits on average, `p` where it does."""
        for _ in range(self.rounds):
            before = p
            for spread, room in zip(self._spread, self._room, strict=True):
                p = _tilted(p, spread, room)
            if p is before:
                break
        return p

    def drawn(self, rng: np.random.Generator, p: Floats, known: Collection[bytes]) -> Ints | None:
        """Draw a scheme that keeps the limits and is not known; None where there is none.

        Where draws from the tilted policy find none, the policy is made flatter; at last all that
        keep the limits are gone through, the likelier choices first, as far as `first` goes.

        Raises:
            ValueError: nothing is known, and `first` gave up.
        """
        flat = p
        for _ in range(self.rounds):
            schemes = _draws(rng, self.tilted(flat), self.draws)
            for scheme in schemes[self.allows(schemes)]:
                if scheme.tobytes() not in known:
                    return np.asarray(scheme)
            flat = flat ** (1.0 / self.cooling)
            flat /= flat.sum(axis=1, keepdims=True)
        try:
            return self.first(p, known)
        except ValueError:
            if not known:
                raise
            return None

    def first(self, p: Floats, known: Collection[bytes]) -> Ints | None:
        """Return the first scheme that keeps the limits and is not known; choices by falling p.

        Raises:
            ValueError: too many schemes begin well and break a limit in the end, as they may
                where two limits work against each other.
        """
        visits = 0
        order = [
            [int(k) for k in np.argsort(-row, kind="stable")[:size] if row[k] > 0]
            for row, size in zip(p, self._sizes, strict=True)
        ]
        scheme = np.zeros(len(order), dtype=np.int64)
        open_choices = [iter(order[0])]
        while open_choices:
            slot = len(open_choices) - 1
            choice = next(open_choices[-1], None)
            if choice is None:
                open_choices.pop()
                continue
            scheme[slot] = choice
            visits += 1
            if visits > self.visits + sum(self._sizes) * len(known):
                raise ValueError(
                    f"none of the first {visits:,} beginnings of schemes keeps all limits of the "
                    "budget to its end, so it may be that no scheme does; raise one"
                )
            if not self._possible(scheme[: slot + 1]):
                continue
            if slot + 1 < len(order):
                open_choices.append(iter(order[slot + 1]))
            elif self.allows(scheme[None])[0] and scheme.tobytes() not in known:
                return scheme
        return None

    def _possible(self, begun: Ints) -> bool:
        """Say whether the first slots and the cheapest of the rest keep the limits."""
        slots = np.arange(len(begun))
        totals = self._costs[:, slots, begun].sum(axis=1) + self._tails[:, len(begun)]
        for limit, extra, mask in self._extras:
            totals[limit] += extra * mask[slots, begun].any()
        return bool((totals <= self._at_most + self._slack).all())


def _tilted(p: Floats, cost: Floats, room: float) -> Floats:
    """Return (n, K) p exp(-lambda cost), normalised, of mean cost at most `room`."""
    if (p * cost).sum() <= room:
        return p
    with np.errstate(divide="ignore"):
        logits = np.log(p)
    low, high = 0.0, 1.0
    while high < 1e6 and (_softmax(logits - high * cost) * cost).sum() > room:
        low, high = high, 2.0 * high
    for _ in range(30):
        middle = 0.5 * (low + high)
        if (_softmax(logits - middle * cost) * cost).sum() > room:
            low = middle
        else:
            high = middle
    return _softmax(logits - high * cost)


@dataclass(frozen=True, slots=True)
class Batch:
    """Trials to learn from at once.

    Attributes:
        schemes: (B, n) choices; -1 where a trial left a slot open.
        values: (B, M) objective values, greater is better; a row with NaN, or beyond +-1e100, has
            no reward.
        log_probs: (B,) under the policy that drew them, before the rule against repeats; NaN
            where they were not drawn: the present policy then stands in.
    """

    schemes: Ints
    values: Floats
    log_probs: Floats

    def has_reward(self) -> NDArray[np.bool_]:
        """Return whether each trial has a reward, (B,)."""
        return np.asarray((np.abs(self.values) <= _HUGE).all(axis=1))  # not so for NaN

    def rewarded(self) -> "Batch":
        """Return the trials that have a reward."""
        keep = self.has_reward()
        return Batch(self.schemes[keep], self.values[keep], self.log_probs[keep])


class Controller(Protocol):
    """A policy and how it learns; all its state comes from the batches told, in order."""

    @property
    def policy(self) -> Policy:
        """What has been learned, as one policy."""

    def tell(self, batch: Batch) -> None:
        """Learn from a batch."""

    def propose(
        self,
        rng: np.random.Generator,
        *,
        seen: Ints,
        fixed: Mapping[int, int] | None = None,
        budget: Budget | None = None,
    ) -> tuple[Ints, float]:
        """Draw a scheme that is none of `seen`; what was told, `rng` and these determine it.

        Args:
            rng: of this proposal alone.
            seen: (N, n) schemes not to propose, as in `Policy.draw`.
            fixed: choices made already, by slot; they hold.
            budget: what the scheme must keep, as in `Policy.draw`.

        Returns:
            (n,) the scheme, and its log probability under the policy it was drawn from, before
            the rules against repeats and on the budget, and before a critic's choice of draws.
        """

    def merits(self) -> tuple[Ints, Floats]:
        """Return (S, n) schemes told, each once, and how good each is by all told, (S,)."""


def scalarised(values: Floats, weights: Sequence[float] | None = None) -> Floats:
    """Turn (N, M) objective values, greater is better, into (N,) rewards.

    One objective is its own reward. Of several it is the weighted mean of the values standardised
    over the N trials, so that units do not matter.

    Args:
        values: of each trial.
        weights: of the objectives, (M,); None for equal ones.
    """
    if values.shape[1] == 1:
        return values[:, 0]
    spread = values.std(axis=0)
    centred = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return np.asarray(np.average(centred, axis=1, weights=weights))


def _each_once(schemes: Ints, numbers: Floats) -> tuple[Ints, Floats, Floats]:
    """Return the distinct of (N, n) schemes, the mean of their (N,) numbers, and how many."""
    distinct, places = np.unique(schemes, axis=0, return_inverse=True)
    counts = np.bincount(places.ravel(), minlength=len(distinct)).astype(np.float64)
    sums = np.bincount(places.ravel(), numbers, minlength=len(distinct))
    return distinct, sums / counts, counts


def _standardised(rewards: Floats) -> Floats:
    """Return the (N,) rewards with mean 0 and standard deviation 1; all 0 where they are equal."""
    centred = rewards - rewards.mean()
    spread = float(centred.std())
    return np.asarray(centred / spread if spread > 0 else centred)


def _normal_scores(rewards: Floats) -> Floats:
    """Return the (N,) standard normal quantiles of the rewards' ranks; equal ones share a rank."""
    return np.asarray(ndtri((rankdata(rewards) - 0.5) / len(rewards)))


class ActorCritic:
    """The default controller; the module's docstring has its equations.

    Args:
        sizes: number of choices of each slot.
        learning_rate: lr of (10), at most 1.
        warmup: trials with a reward before the first that is not drawn uniformly.
        thrift: the 3 of (6).
        breadth: the 1.5 of (6); 0 for the critic's mean in place of draws.
        temperature: the last tau.
        draws: schemes drawn from the policy, of which the critic picks one; 1 for a plain draw.
        caution: the 4 of (7).
        pairs: False for a critic without Q; so it is anyhow where Q has over 2 million entries.
        ranks: False to learn from the rewards standardised, as they are.
        distinct: False to draw without the rule against repeats, for comparison.
        weights: of several objectives; see `scalarised`.
    """

    steps = 20
    trust = 0.1  # how much of what the critic does not explain of a reward is the scheme's own

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        learning_rate: float = 0.6,
        warmup: int = 10,
        thrift: float = 3.0,
        breadth: float = 1.5,
        temperature: float = 0.15,
        draws: int = 32,
        caution: float = 4.0,
        pairs: bool = True,
        ranks: bool = True,
        distinct: bool = True,
        weights: Sequence[float] | None = None,
    ) -> None:
        self._sizes = tuple(sizes)
        self._learning_rate = learning_rate
        self._warmup = warmup
        self._thrift, self._breadth, self._draws = thrift, breadth, draws
        self._distinct, self._weights = distinct, weights
        self._temperatures = np.geomspace(1.0, temperature, self.steps)
        self._scored = _normal_scores if ranks else _standardised
        self._code = _Code(self._sizes)
        pairs = pairs and self._code.length**2 <= 2_000_000
        self._critic = _Critic(self._code, warmup=warmup, caution=caution, pairs=pairs)
        self._schemes = np.zeros((0, len(sizes)), dtype=np.int64)
        self._values: Floats = np.zeros((0, 1))

    @property
    def policy(self) -> Policy:
        """The policy of the critic's mean; a proposal's is that of a draw from the critic."""
        return self._improved(self._drawn_values(None), {}, None)

    def tell(self, batch: Batch) -> None:
        """Remember the trials that have a reward."""
        batch = batch.rewarded()
        old = self._values if len(self._values) else batch.values[:0]
        self._values = np.concatenate([old, batch.values])
        self._schemes = np.concatenate([self._schemes, batch.schemes])

    def propose(
        self,
        rng: np.random.Generator,
        *,
        seen: Ints,
        fixed: Mapping[int, int] | None = None,
        budget: Budget | None = None,
    ) -> tuple[Ints, float]:
        """Draw a scheme from a policy of its own, as `Controller.propose` says."""
        values = self._drawn_values(rng)
        policy = self._improved(values, fixed or {}, budget)
        seen = seen if self._distinct else seen[:0]
        scheme = None
        if values is not None and self._draws > 1:
            several = policy.draws(rng, self._draws, seen=seen, fixed=fixed, budget=budget)
            if len(several):
                scheme = several[int(values.of(self._code.of(several)).argmax())]
        if scheme is None:
            scheme = policy.draw(rng, seen=seen, fixed=fixed, budget=budget)
        return scheme, float(policy.log_prob(scheme[None])[0])

    def merits(self) -> tuple[Ints, Floats]:
        """Return schemes and merits as `Controller.merits` says; after warm-up the critic's.

        Of a scheme's mean score y over its c trials the critic's mean q explains a part. Of the
        rest, t = c trust / (1 + (c - 1) trust) is the scheme's own and the other part noise:
        q + t (y - q). Only schemes in the critic's memory are ranked.
        """
        if len(self._schemes) < self._warmup:
            rewards = scalarised(self._values, self._weights)
            return _each_once(self._schemes, rewards)[:2]
        y = self._learned()
        rows = self._critic.rows
        means = self._critic.means(y)
        schemes, explained, counts = _each_once(self._schemes[rows], means)
        unexplained = _each_once(self._schemes[rows], y[rows] - means)[1]
        own = counts * self.trust / (1.0 + (counts - 1.0) * self.trust)
        return schemes, explained + own * unexplained

    def _learned(self) -> Floats:
        """Bring the critic up to date; return the (N,) scores y of all trials."""
        self._critic.read(self._schemes, self._scores)
        return self._scores(len(self._schemes))

    def _scores(self, count: int) -> Floats:
        """Return the (count,) scores y of the first trials among themselves."""
        return _standardised(self._scored(scalarised(self._values[:count], self._weights)))

    def _drawn_values(self, rng: np.random.Generator | None) -> "_Values | None":
        """Return a draw from the critic, without a generator its mean; None while warming up."""
        if len(self._schemes) < self._warmup:
            return None
        y = self._learned()
        wide = min(self._breadth, 10.0 / math.sqrt(len(self._schemes)))
        spread = wide / (1.0 + self._thrift * self._critic.noise)  # (6)
        return _Values(*self._code.apart(*self._critic.draw(y, rng, spread)))

    def _improved(
        self, values: "_Values | None", fixed: Mapping[int, int], budget: Budget | None
    ) -> Policy:
        """Return the actor's policy for some values; the uniform one for none."""
        free = _real(self._sizes)
        for slot, choice in fixed.items():
            free[slot] &= np.arange(free.shape[1]) == choice
        if values is None:
            return Policy.from_logits(np.where(free, 0.0, -np.inf), self._sizes)
        theta, unit = np.zeros(free.shape), 0.0
        p = _softmax(np.where(free, theta, -np.inf))
        for temperature in self._temperatures:
            advantages = self._code.products(values.slopes(self._code.mean(p)))  # (9)
            unit = unit or float(np.sqrt((advantages[free] ** 2).mean())) + 1e-12
            theta += self._learning_rate * (advantages / (unit * temperature) - theta)  # (10)
            p = _softmax(np.where(free, theta, -np.inf))
            if budget is not None:
                p = budget.tilted(p)
        # A probability of 0 would have no logarithm to store.
        return Policy(p, self._sizes).floored(1e-6)


@dataclass(frozen=True, slots=True)
class _Values:
    """A function q of schemes, up to a constant: (D,) w, and (D, D) Q + Q' with nothing in a slot.

    (1), where `_Code.apart` has brought what is in Q within a slot into w.
    """

    linear: Floats
    pairs: Floats

    def of(self, codes: Floats) -> Floats:
        """Return (N,) values of (N, D) codes."""
        return np.asarray(codes @ self.linear + 0.5 * ((codes @ self.pairs) * codes).sum(axis=1))

    def slopes(self, mean: Floats) -> Floats:
        """Return the (D,) gradient of J in the mean code."""
        return np.asarray(self.linear + self.pairs @ mean)


class _Code:
    """The code phi of schemes: (D,) a scheme, all slots' simplex corners in a row."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        width = max(sizes)
        # The row after a slot's last is for no choice; -1 finds it.
        self.corners = np.zeros((len(sizes), width + 1, width - 1))
        for slot, size in enumerate(sizes):
            self.corners[slot, :size, : size - 1] = _simplex(size)
        self.sizes = np.array(sizes)
        self.slots = len(sizes)
        self.length = len(sizes) * (width - 1)

    def of(self, schemes: Ints) -> Floats:
        """Return (N, D) codes of (N, n) schemes."""
        return self.corners[np.arange(self.slots), schemes].reshape(len(schemes), self.length)

    def mean(self, p: Floats) -> Floats:
        """Return the (D,) mean code m under (n, K) probabilities."""
        return np.asarray(np.einsum("ik,ikc->ic", p, self.corners[:, :-1]).reshape(-1))

    def products(self, slopes: Floats) -> Floats:
        """Return (n, K) products of each choice's code with its slot's part of (D,) slopes."""
        parts = slopes.reshape(self.slots, -1)
        return np.asarray(np.einsum("ikc,ic->ik", self.corners[:, :-1], parts))

    def apart(self, linear: Floats, pairs: Floats) -> tuple[Floats, Floats]:
        """Return w and Q + Q' of (8), from w and Q of (1).

        r_i(k)' Q_ii r_i(k), less its mean over the choices k, goes from Q into w.
        """
        corners, place = self.corners[:, :-1], np.arange(self.slots)
        both = pairs + pairs.T
        blocks = both.reshape(self.slots, corners.shape[2], self.slots, corners.shape[2])
        within = 0.5 * np.einsum("ikc,icd,ikd->ik", corners, blocks[place, :, place], corners)
        blocks[place, :, place] = 0.0
        share = (self.sizes - 1) / self.sizes
        return linear + np.einsum("i,ik,ikc->ic", share, within, corners).reshape(-1), both


class _Critic:
    """The regression of (1) to (7): which trials it remembers, rho, s, v and the inverse of A.

    At the 10th trial with a reward, the 12th, and so on, about every tenth more and at least every
    64th, it chooses its memory and (rho, s) anew; between, the inverse is bordered by a row a
    trial. All this depends on the trials alone, not on when they were told.
    """

    memory = 320
    rhos = (0.0, 0.1, 0.3, 0.6)
    noises = (0.03, 0.1, 0.3, 1.0)

    def __init__(self, code: _Code, *, warmup: int, caution: float, pairs: bool) -> None:
        self._code = code
        self._rhos = self.rhos if pairs else (0.0,)
        self._caution = caution
        self._next = warmup  # the number of trials at which to choose anew
        self._count = 0  # trials read
        self._size = 0  # trials remembered

    @property
    def rows(self) -> Ints:
        """The places of the remembered trials, (m,)."""
        return self._rows[: self._size]

    @property
    def inverse(self) -> Floats:
        """The inverse of A, (m, m)."""
        return self._inverse[: self._size, : self._size]

    def read(self, schemes: Ints, scores: Callable[[int], Floats]) -> None:
        """Read on until all (N, n) schemes are known; `scores` gives y of the first trials."""
        begin = 0
        while self._next <= len(schemes):
            begin = self._next
            self._next += min(begin // 10 + 1, 64)
        if begin:
            self._begin(schemes[:begin], scores(begin))
        for place in range(self._count, len(schemes)):
            self._append(place, self._code.of(schemes[place : place + 1]))
        self._count = len(schemes)

    def _begin(self, schemes: Ints, y: Floats) -> None:
        """Choose what to remember, rho and s; invert A."""
        count, half = len(y), self.memory // 2
        rows = np.arange(count)
        if count > self.memory:
            good = np.argsort(-y[:-half], kind="stable")[:half]
            rows = np.sort(np.concatenate([good, rows[-half:]]))
        codes = self._code.of(schemes[rows])
        some = np.linspace(0, len(rows) - 1, min(len(rows), half)).astype(np.int64)
        self.rho, self.noise, self.scale = self._fitted(codes[some], y[rows][some])
        size = len(rows)
        factor, _ = dpotrf(self._covariance(codes, codes) + self.noise * np.eye(size), lower=1)
        lower, _ = dpotri(factor, lower=1)
        room = size + 64
        self._inverse = np.zeros((room, room))
        self._inverse[:size, :size] = np.tril(lower) + np.tril(lower, -1).T
        self._codes = np.zeros((room, codes.shape[1]))
        self._codes[:size] = codes
        self._rows = np.zeros(room, dtype=np.int64)
        self._rows[:size] = rows
        self._size, self._count = size, count

    def _fitted(self, codes: Floats, y: Floats) -> tuple[float, float, float]:
        """Return the (rho, s, v) of the greatest evidence (7)."""
        best, found = -math.inf, (0.0, 1.0, 1.0)
        for rho in self._rhos:
            covariance = self._covariance(codes, codes, rho)
            for noise in self.noises:
                factor, _ = dpotrf(covariance + noise * np.eye(len(y)), lower=1)
                white, _ = dtrtrs(factor, y, lower=1)
                scale = max(float(white @ white) / len(y), 1e-12)
                evidence = -0.5 * len(y) * math.log(scale) - float(np.log(np.diag(factor)).sum())
                evidence -= self._caution * max(0.0, math.log(noise / 0.1))
                if evidence > best:
                    best, found = evidence, (rho, noise, scale)
        return found

    def _covariance(self, one: Floats, other: Floats, rho: float | None = None) -> Floats:
        """Return A of (3) without the noise, between (N, D) and (M, D) codes."""
        rho = self.rho if rho is None else rho
        c = one @ other.T / self._code.slots
        return np.asarray(1.0 + (1.0 - rho) * c + rho * c * c)

    def _append(self, place: int, code: Floats) -> None:
        """Border the inverse by a trial."""
        size, inverse = self._size, self.inverse
        row = self._covariance(self._codes[:size], code)[:, 0]
        solved = inverse @ row
        own = float(self._covariance(code, code)[0, 0]) + self.noise
        pivot = 1.0 / (own - float(row @ solved))
        inverse += pivot * np.outer(solved, solved)
        self._inverse[size, :size] = self._inverse[:size, size] = -pivot * solved
        self._inverse[size, size] = pivot
        self._codes[size] = code
        self._rows[size] = place
        self._size += 1

    def means(self, y: Floats) -> Floats:
        """Return the posterior means of q at the remembered trials, (m,), given all (N,) y."""
        mine = y[self.rows]
        return np.asarray(mine - self.noise * (self.inverse @ mine))

    def draw(
        self, y: Floats, rng: np.random.Generator | None, spread: float
    ) -> tuple[Floats, Floats]:
        """Draw w (D,) and Q (D, D) from their posterior given (N,) y; no generator: its mean."""
        codes = self._codes[: self._size]
        length, slots = self._code.length, self._code.slots
        each, both = (1.0 - self.rho) / slots, self.rho / slots**2
        linear, pairs = np.zeros(length), np.zeros((length, length))
        rest = y[self.rows] / math.sqrt(self.scale)
        if rng is not None:
            linear = spread * math.sqrt(each) * rng.normal(size=length)
            error = spread * math.sqrt(self.noise) * rng.normal(size=self._size)
            rest -= spread * rng.normal() + codes @ linear + error
        if rng is not None and self.rho:
            pairs = spread * math.sqrt(both) * rng.normal(size=pairs.shape)
            rest -= ((codes @ pairs) * codes).sum(axis=1)
        a = self.inverse @ rest  # (4)
        if self.rho:
            pairs += both * ((codes.T * a) @ codes)  # (5)
        return linear + each * (a @ codes), pairs


def _simplex(size: int) -> Floats:
    """Return the corners of a regular simplex around 0, at distance 1: (K, K - 1)."""
    axes = np.zeros((size, size - 1))  # Helmert's: orthonormal, and to the ones
    for k in range(1, size):
        axes[:k, k - 1] = 1.0
        axes[k, k - 1] = -k
        axes[:, k - 1] /= math.sqrt(k * (k + 1))
    return axes * math.sqrt(size / (size - 1))


def _softmax(logits: Floats) -> Floats:
    """Return the softmax over the last axis."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


class PaperController:
    """The controller of arXiv:2207.07858's public code, each repair named at its line.

    A constant input makes the published network (20, 50 ReLU, n x K outputs) a function of its
    first layer's bias alone; the rest is as published: logits / 5, REINFORCE with a moving
    baseline, Adam, a curiosity bonus by random network distillation, clipped replay. Off unless
    asked for: the tanh bound on the logits, which never ran. With adv_b = R_b - baseline the
    losses are

        online: -mean_b adv_b log pi(x_b)
        replay: -0.1 mean_b min(rho_b adv_b, clip(rho_b, 0.9, 1.1) adv_b)

    rho_b = min(pi(x_b) / pi_old(x_b), 10), the ratio of whole schemes.

    Args:
        sizes: number of choices of each slot.
        seed: seeds the networks' weights and which stored step is replayed.
        learning_rate: Adam's, for the policy and for the curiosity alike.
        rnd: False to leave the curiosity bonus out.
        replay: False to leave the stored steps out.
        tanh_c: bounds the logits: tanh_c * tanh(logits); None for no bound.
        temperature: the 5 that divides the logits, before the bound.
        ema_decay: of the moving baseline.
        weights: of several objectives; see `scalarised`.
        repaired: False for the published defects: the step's mean curiosity for each scheme, none
            of it in the stored rewards; stored choices flattened slot by slot and cut scheme by
            scheme; a ratio a slot, without gradient, and the smaller of two sums over all.
    """

    replay_steps, replay_from, replay_weight, clip = 30, 10, 0.1, 0.1

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        seed: int,
        learning_rate: float = 0.05,
        rnd: bool = True,
        replay: bool = True,
        tanh_c: float | None = None,
        temperature: float = 5.0,
        ema_decay: float = 0.95,
        repaired: bool = True,
        weights: Sequence[float] | None = None,
    ) -> None:
        self._weights = weights
        self._rnd, self._replay, self._repaired = rnd, replay, repaired
        self._tanh_c, self._temperature, self._ema_decay = tanh_c, temperature, ema_decay
        self._sizes = tuple(sizes)
        self._seed = seed
        rng = np.random.default_rng([seed, _NETWORKS, 1])
        width = len(self._sizes) * max(self._sizes)
        hidden = _layer(rng, 20, 50)[1]  # the constant input is 0: the bias is all there is
        self.parameters = [hidden, *_layer(rng, 50, width)]
        self._adam = _Adam(self.parameters, learning_rate)
        self._curiosity = _Curiosity(self._sizes, seed=seed, learning_rate=learning_rate)
        self._baseline: float | None = None
        self._buffer: list[tuple[Ints, Floats, Floats]] = []
        self._steps = 0
        self._schemes = np.zeros((0, len(self._sizes)), dtype=np.int64)
        self._values: Floats | None = None

    @property
    def policy(self) -> Policy:
        """The policy to draw from next."""
        logits = self._logits()
        if self._tanh_c is not None:
            logits = self._tanh_c * np.tanh(logits)
        policy = Policy.from_logits(logits.reshape(len(self._sizes), -1), self._sizes)
        return policy.floored(1e-6)  # a probability of 0 would have no logarithm to store

    def _logits(self) -> Floats:
        """Return the network's output over the temperature, (n * K,), before the bound."""
        bias, weight, offset = self.parameters
        return np.asarray((np.maximum(bias, 0.0) @ weight + offset) / self._temperature)

    def propose(
        self,
        rng: np.random.Generator,
        *,
        seen: Ints,
        fixed: Mapping[int, int] | None = None,
        budget: Budget | None = None,
    ) -> tuple[Ints, float]:
        """Draw a scheme from the policy, as `Controller.propose` says."""
        policy = self.policy
        scheme = policy.draw(rng, seen=seen, fixed=fixed, budget=budget)
        return scheme, float(policy.log_prob(scheme[None])[0])

    def tell(self, batch: Batch) -> None:
        """Take the on-line step and, from the tenth step on, one step on a stored batch."""
        batch = batch.rewarded()
        if not len(batch.schemes):
            return
        old = self._values if self._values is not None else batch.values[:0]
        self._values = np.concatenate([old, batch.values])
        self._schemes = np.concatenate([self._schemes, batch.schemes])
        rewards = scalarised(self._values, self._weights)[-len(batch.schemes) :]
        plain = rewards
        if self._rnd:
            # Repairs: curiosity is each scheme's own, not one number for the step; and it is part
            # of R everywhere: in the baseline, on line, in the buffer. The base is the baseline.
            bonus = self._curiosity.bonus(batch.schemes)
            rewards = rewards + (bonus if self._repaired else bonus.mean())
        if self._baseline is None:
            self._baseline = float(rewards.mean())
        unknown = np.isnan(batch.log_probs)
        behaviour = np.where(unknown, self.policy.log_prob(batch.schemes), batch.log_probs)
        stored = (batch.schemes, rewards, behaviour)
        if not self._repaired:
            # Repair: whole schemes are stored, one a row, so that replay cannot scramble them.
            flat = batch.schemes.T.reshape(batch.schemes.shape)
            mixed = np.where(flat >= 0, flat % np.array(self._sizes), -1)
            stored = (mixed, plain, self.policy.slot_log_probs(mixed))
        self._adam.step(self.gradient(batch.schemes, rewards - self._baseline))
        self._baseline += (1.0 - self._ema_decay) * (float(rewards.mean()) - self._baseline)
        self._buffer = [*self._buffer, stored][-self.replay_steps :]
        self._steps += 1
        if self._replay and self._steps >= self.replay_from:
            chosen = np.random.default_rng([self._seed, _NETWORKS, 2, self._steps]).integers(
                len(self._buffer)
            )
            schemes, rewards, behaviour = self._buffer[chosen]
            self._adam.step(self.gradient(schemes, rewards - self._baseline, behaviour))

    def merits(self) -> tuple[Ints, Floats]:
        """Return schemes and mean rewards as `Controller.merits` says: it has no model of them."""
        values = np.zeros((0, 1)) if self._values is None else self._values
        return _each_once(self._schemes, scalarised(values, self._weights))[:2]

    def gradient(
        self, schemes: Ints, advantages: Floats, behaviour: Floats | None = None
    ) -> list[Floats]:
        """Return the gradient of the loss in each of `parameters`.

        Args:
            schemes: (B, n) choices.
            advantages: (B,) rewards above the baseline.
            behaviour: (B,) log probabilities when the schemes were drawn, for the replay loss,
                or (B, n) of each slot for the published one; None for the on-line loss.
        """
        policy = self.policy
        slopes = -advantages[:, None] / len(schemes)  # of the loss in each log p, (B, 1) or (B, n)
        if behaviour is not None and behaviour.ndim == 2:
            logs = policy.slot_log_probs(schemes)
            ratios = np.exp(logs - behaviour)
            cut = np.clip(ratios, 1.0 - self.clip, 1.0 + self.clip)
            sums = [float((r * logs * advantages[:, None]).sum()) for r in (ratios, cut)]
            slopes = self.replay_weight * slopes * (ratios if sums[0] <= sums[1] else cut)
        elif behaviour is not None:
            # Repair: the ratio is the scheme's, with its gradient, clipped and min'ed per scheme.
            # Over many slots it can grow without bound where the advantage is negative: cut at 10.
            drift = policy.log_prob(schemes) - behaviour
            ratio = np.exp(np.minimum(drift, math.log(10.0)))
            clipped = np.clip(ratio, 1.0 - self.clip, 1.0 + self.clip)
            active = (ratio * advantages <= clipped * advantages) & (drift < math.log(10.0))
            slopes = self.replay_weight * slopes * (ratio * active)[:, None]
        hits = schemes[:, :, None] == np.arange(policy.probabilities.shape[1])
        chosen = (schemes >= 0)[:, :, None]
        logits = (slopes[:, :, None] * (hits - chosen * policy.probabilities)).sum(axis=0)
        output = logits.reshape(-1) / self._temperature
        if self._tanh_c is not None:
            output = output * self._tanh_c / np.cosh(self._logits()) ** 2
        bias, weight, _ = self.parameters
        return [
            (weight @ output) * (bias > 0),
            np.outer(np.maximum(bias, 0.0), output),
            output,
        ]


class _Curiosity:
    """Random network distillation over schemes: m-32-32-4m is fixed, m-32-4m learns it.

    A slot of K choices is K - 1 indicators, so with two choices m is the number of slots and the
    input is the published bit vector.
    """

    def __init__(self, sizes: tuple[int, ...], *, seed: int, learning_rate: float) -> None:
        self._codes = [np.eye(size)[:, 1:] for size in sizes]
        inputs = sum(size - 1 for size in sizes)
        rng = np.random.default_rng([seed, _NETWORKS, 3])
        widths = (inputs, 32, 32, 4 * inputs)
        self._fixed = [_layer(rng, *pair) for pair in pairwise(widths)]
        self._learned = [*_layer(rng, inputs, 32), *_layer(rng, 32, 4 * inputs)]
        self._adam = _Adam(self._learned, learning_rate)

    def bonus(self, schemes: Ints) -> Floats:
        """Return each scheme's squared error of the learner, (B,), then train on their mean."""
        x = np.concatenate(
            [
                np.where(s[:, None] >= 0, c[s], 0.0)
                for s, c in zip(schemes.T, self._codes, strict=True)
            ],
            axis=1,
        )
        target = x
        for place, (weight, bias) in enumerate(self._fixed):
            target = (np.maximum(target, 0.0) if place else target) @ weight + bias
        first, first_bias, second, second_bias = self._learned
        inner = x @ first + first_bias
        hidden = np.maximum(inner, 0.0)
        error = hidden @ second + second_bias - target
        outer = 2.0 * error / len(schemes)
        back = (outer @ second.T) * (inner > 0)
        self._adam.step([x.T @ back, back.sum(axis=0), hidden.T @ outer, outer.sum(axis=0)])
        return np.asarray((error**2).sum(axis=1))


class _Adam:
    """Adam (Kingma and Ba, ICLR 2015, arXiv:1412.6980) with its usual constants, in place."""

    def __init__(self, parameters: list[Floats], learning_rate: float) -> None:
        self._parameters = parameters
        self._learning_rate = learning_rate
        self._first = [np.zeros_like(p) for p in parameters]
        self._second = [np.zeros_like(p) for p in parameters]
        self._steps = 0

    def step(self, gradients: list[Floats]) -> None:
        """Go one step down."""
        self._steps += 1
        rows = zip(self._parameters, gradients, self._first, self._second, strict=True)
        for parameter, gradient, first, second in rows:
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient**2 - second)
            mean = first / (1.0 - 0.9**self._steps)
            scale = np.sqrt(second / (1.0 - 0.999**self._steps)) + 1e-8
            parameter -= self._learning_rate * mean / scale


def _layer(rng: np.random.Generator, inputs: int, outputs: int) -> tuple[Floats, Floats]:
    """Draw a weight (inputs, outputs) and a bias, uniform in +-1 / sqrt(inputs)."""
    bound = 1.0 / math.sqrt(inputs)
    return rng.uniform(-bound, bound, (inputs, outputs)), rng.uniform(-bound, bound, outputs)
