"""Policy gradients over categorical choices, in numpy alone; `sampler.py` brings them to Optuna.

A scheme x makes one of K_i choices in each of n slots. The policy is factorised, and what was
seen is never drawn again:

    pi(x) = prod_i p_i(x_i),   p_i = softmax(theta_i),   x ~ pi(. | x not seen)

`NaturalGradient` (the default). S are the schemes scored in earlier batches, b_1..b_B the new
batch, S_j = S and b_1..b_{j-1}. As nothing is drawn twice, the gradient of J = E_pi[R] has a part
that is known exactly and a part that is sampled (memory-augmented policy optimisation, Liang et
al., NeurIPS 2018, arXiv:1807.02322), averaged over the places in the batch (Des Raj's estimator;
Kool et al., ICLR 2020, arXiv:2002.06043):

    w(s)   = pi(s)                                              s in S                   (1)
    w(b_j) = [1 - pi(S_j) + (B - j) pi(b_j)] / B                                         (2)
    V_-j   = sum_S pi R + (1 - pi(S)) * mean of the batch's other rewards                (3)
    A(b_j) = R(b_j) - V_-j,   A(s) = R(s) - mean_j V_-j                                  (4)
    g_i(k) = sum_x w(x) A(x) (1[x_i = k] - p_i(k))                                       (5)
    theta_i(k) <- log p_i(k) + lr * g_i(k) / (p_i(k) + damping)                          (6)

(3) is the leave-one-out baseline. (6) is the natural gradient: the Fisher matrix of a softmax in
its logits is diag(p) - p p', so up to a constant a slot its inverse divides by p, and damping
bounds the step where p is small. R are normal scores of the ranks over all trials so far: no
outlier can rule a step, and good schemes stay apart when all the new ones are good. Without (1)
the rule against repeats would bias the update away from the best scheme once it has been seen.
Trials drawn from an older policy, by one of many workers, count as the others: importance weights
for them learned more slowly than none.

`PaperController` is the published controller (arXiv:2207.07858, its public code), repaired; each
repair is named at its line.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

__all__ = ["Batch", "Controller", "NaturalGradient", "PaperController", "Policy", "scalarised"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NETWORKS = 2**32 - 1  # a place among the seeds that no trial's number takes


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
        slots = np.arange(len(self.sizes))
        with np.errstate(divide="ignore"):
            logs = np.log(self.probabilities)
        return np.asarray(np.where(schemes >= 0, logs[slots, schemes], 0.0).sum(axis=1))

    def mode(self) -> Ints:
        """Return the (n,) most probable scheme; the first of equals."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    def draw(
        self, rng: np.random.Generator, *, seen: Ints, fixed: Mapping[int, int] | None = None
    ) -> Ints:
        """Draw a scheme from the policy, given that it is none of `seen`: exactly, no rejection.

        Slot by slot a choice has the probability p_i(k) times the share of its subtree that is
        unseen. What is left is counted in whole numbers, so rounding never brings a repeat.

        Args:
            rng: gives one uniform number a slot.
            seen: (N, n) schemes not to draw, repeats allowed; a row with -1 excludes nothing.
            fixed: choices made already, by slot. They hold even if that forces a repeat.

        Returns:
            (n,) a scheme not in `seen`; one drawn freely where none is left.
        """
        p = self.probabilities.copy()
        for slot, choice in (fixed or {}).items():
            p[slot] = np.arange(p.shape[1]) == choice
        complete = seen[(seen >= 0).all(axis=1)]
        rows = complete[
            list({row.tobytes(): place for place, row in enumerate(complete)}.values())
        ]
        tails = _tail_probabilities(p, rows)
        left = math.prod(self.sizes)
        scheme = np.zeros(len(self.sizes), dtype=np.int64)
        for slot, size in enumerate(self.sizes):
            left //= size
            of = rows[:, slot]
            counts = np.bincount(of, minlength=size).tolist()
            free = np.array([count < left for count in counts])
            if fixed and slot in fixed:
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


@dataclass(frozen=True, slots=True)
class Batch:
    """Trials to learn from at once.

    Attributes:
        schemes: (B, n) choices; -1 where a trial left a slot open.
        values: (B, M) objective values, greater is better; a row with NaN or inf has no reward.
        log_probs: (B,) under the policy that drew them, before the rule against repeats; NaN
            where they were not drawn: the present policy then stands in.
    """

    schemes: Ints
    values: Floats
    log_probs: Floats

    def rewarded(self) -> "Batch":
        """Return the trials that have a reward."""
        keep = np.isfinite(self.values).all(axis=1)
        return Batch(self.schemes[keep], self.values[keep], self.log_probs[keep])


class Controller(Protocol):
    """A policy and how it learns; all its state comes from the batches told, in order."""

    @property
    def policy(self) -> Policy:
        """The policy to draw from next."""

    def tell(self, batch: Batch) -> None:
        """Learn from a batch."""


def scalarised(values: Floats) -> Floats:
    """Turn (N, M) objective values, greater is better, into (N,) rewards.

    One objective is its own reward. Of several it is the mean of the values standardised over
    the N trials, so each objective weighs the same whatever its unit.
    """
    if values.shape[1] == 1:
        return values[:, 0]
    spread = values.std(axis=0)
    centred = values - values.mean(axis=0)
    return np.asarray((centred / np.where(spread > 0, spread, 1.0)).mean(axis=1))


def _normal_scores(rewards: Floats) -> Floats:
    """Return the (N,) standard normal quantiles of the rewards' ranks; equal ones share a rank."""
    return np.asarray(ndtri((rankdata(rewards) - 0.5) / len(rewards)))


class NaturalGradient:
    """The default controller; the module's docstring has its equations.

    Args:
        sizes: number of choices of each slot.
        learning_rate: the step of (6); a reward one standard deviation above the baseline that
            every scheme with a choice gets moves that choice's logit by as much.
        damping: added to the Fisher matrix's p.
        floor: probability of a slot that is spread over its choices whatever was learned.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        learning_rate: float = 1.0,
        damping: float = 0.05,
        floor: float = 0.04,
    ) -> None:
        self._learning_rate = learning_rate
        self._damping = damping
        self._floor = floor
        self._policy = Policy.from_logits(np.zeros((len(sizes), max(sizes))), tuple(sizes))
        self._schemes = np.zeros((0, len(sizes)), dtype=np.int64)
        self._values: Floats | None = None

    @property
    def policy(self) -> Policy:
        """The policy to draw from next."""
        return self._policy

    def tell(self, batch: Batch) -> None:
        """Take one step; fewer than two rewards are remembered but teach nothing by themselves."""
        batch = batch.rewarded()
        old = self._values if self._values is not None else batch.values[:0]
        self._values = np.concatenate([old, batch.values])
        self._schemes = np.concatenate([self._schemes, batch.schemes])
        if len(batch.schemes) < 2:
            return
        masses = self._masses()
        scores = _normal_scores(scalarised(self._values))
        size = len(batch.schemes)
        terms = _weights(masses, size) * _advantages(masses, scores, size)
        p = self._policy.probabilities
        hits = self._schemes[:, :, None] == np.arange(p.shape[1])
        chosen = (self._schemes >= 0)[:, :, None]
        gradient = np.einsum("t,tik->ik", terms, hits - chosen * p)  # (5)
        with np.errstate(divide="ignore", invalid="ignore"):
            logits = np.log(p) + self._learning_rate * gradient / (p + self._damping)  # (6)
        self._policy = Policy.from_logits(logits, self._policy.sizes).floored(self._floor)

    def _masses(self) -> Floats:
        """Return the (N,) probabilities of the schemes so far; equal ones share theirs.

        Sharing averages the rewards of equal schemes. A scheme with open choices stands for many
        and has no reward of its own: 0.
        """
        rows = self._schemes
        keys = [row.tobytes() for row in rows]
        counts = Counter(keys)
        masses = np.exp(self._policy.log_prob(rows)) / [counts[key] for key in keys]
        return np.asarray(np.where((rows >= 0).all(axis=1), masses, 0.0))


def _weights(masses: Floats, size: int) -> Floats:
    """Return the (N,) weights (1) and (2), the batch last."""
    new = masses[-size:]
    before = np.minimum(np.cumsum(masses)[-size:] - new, 1.0)
    sampled = (1.0 - before + new * np.arange(size - 1, -1, -1)) / size
    return np.concatenate([masses[:-size], sampled])


def _advantages(masses: Floats, scores: Floats, size: int) -> Floats:
    """Return the (N,) advantages (4) over the leave-one-out baselines (3), the batch last."""
    old, new = scores[:-size], scores[-size:]
    exact = float(masses[:-size] @ old)
    unseen = 1.0 - min(float(masses[:-size].sum()), 1.0)
    others = (new.sum() - new) / (size - 1)
    return np.concatenate([old - exact - unseen * new.mean(), new - exact - unseen * others])


class PaperController:
    """The controller of arXiv:2207.07858's public code, each repair named at its line.

    A constant input makes the published network (20, 50 ReLU, n x K outputs) a function of its
    first layer's bias alone; the rest is as published: logits / 5, REINFORCE with a moving
    baseline, Adam, a curiosity bonus by random network distillation, clipped replay. Left out:
    the tanh bound on the logits, which never ran. With adv_b = R_b - baseline the losses are

        online: -mean_b adv_b log pi(x_b)
        replay: -0.1 mean_b min(rho_b adv_b, clip(rho_b, 0.9, 1.1) adv_b)

    rho_b = min(pi(x_b) / pi_old(x_b), 10), the ratio of whole schemes.

    Args:
        sizes: number of choices of each slot.
        seed: seeds the networks' weights and which stored step is replayed.
        learning_rate: Adam's, for the policy and for the curiosity alike.
    """

    temperature = 5.0
    decay = 0.95
    replay_steps, replay_from, replay_weight, clip = 30, 10, 0.1, 0.1

    def __init__(self, sizes: Sequence[int], *, seed: int, learning_rate: float = 0.05) -> None:
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
        self._values: Floats | None = None

    @property
    def policy(self) -> Policy:
        """The policy to draw from next."""
        bias, weight, offset = self.parameters
        logits = (np.maximum(bias, 0.0) @ weight + offset) / self.temperature
        policy = Policy.from_logits(logits.reshape(len(self._sizes), -1), self._sizes)
        return policy.floored(1e-6)  # a probability of 0 would have no logarithm to store

    def tell(self, batch: Batch) -> None:
        """Take the on-line step and, from the tenth step on, one step on a stored batch."""
        batch = batch.rewarded()
        if not len(batch.schemes):
            return
        old = self._values if self._values is not None else batch.values[:0]
        self._values = np.concatenate([old, batch.values])
        rewards = scalarised(self._values)[-len(batch.schemes) :]
        # Repairs: curiosity is each scheme's own, not one number for the step; and it is part of
        # R everywhere: in the baseline, on line, in the buffer. The literal base is the baseline.
        rewards = rewards + self._curiosity.bonus(batch.schemes)
        if self._baseline is None:
            self._baseline = float(rewards.mean())
        unknown = np.isnan(batch.log_probs)
        behaviour = np.where(unknown, self.policy.log_prob(batch.schemes), batch.log_probs)
        self._adam.step(self.gradient(batch.schemes, rewards - self._baseline))
        self._baseline += (1.0 - self.decay) * (float(rewards.mean()) - self._baseline)
        # Repair: whole schemes are stored, one a row, so that replay cannot scramble them.
        self._buffer = [*self._buffer, (batch.schemes, rewards, behaviour)][-self.replay_steps :]
        self._steps += 1
        if self._steps >= self.replay_from:
            chosen = np.random.default_rng([self._seed, _NETWORKS, 2, self._steps]).integers(
                len(self._buffer)
            )
            schemes, rewards, behaviour = self._buffer[chosen]
            self._adam.step(self.gradient(schemes, rewards - self._baseline, behaviour))

    def gradient(
        self, schemes: Ints, advantages: Floats, behaviour: Floats | None = None
    ) -> list[Floats]:
        """Return the gradient of the loss in each of `parameters`.

        Args:
            schemes: (B, n) choices.
            advantages: (B,) rewards above the baseline.
            behaviour: (B,) log probabilities when the schemes were drawn, for the replay loss;
                None for the on-line loss.
        """
        policy = self.policy
        slopes = -advantages / len(schemes)  # of the loss in log pi, (B,)
        if behaviour is not None:
            # Repair: the ratio is the scheme's, with its gradient, clipped and min'ed per scheme.
            # Over many slots it can grow without bound where the advantage is negative: cut at 10.
            drift = policy.log_prob(schemes) - behaviour
            ratio = np.exp(np.minimum(drift, math.log(10.0)))
            clipped = np.clip(ratio, 1.0 - self.clip, 1.0 + self.clip)
            active = (ratio * advantages <= clipped * advantages) & (drift < math.log(10.0))
            slopes = self.replay_weight * slopes * ratio * active
        hits = schemes[:, :, None] == np.arange(policy.probabilities.shape[1])
        chosen = (schemes >= 0)[:, :, None]
        logits = np.einsum("t,tik->ik", slopes, hits - chosen * policy.probabilities)
        output = logits.reshape(-1) / self.temperature
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
