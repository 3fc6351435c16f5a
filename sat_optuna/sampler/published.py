"""The published controller (arXiv:2207.07858 and its public code), its defects repaired.

The published network (20 inputs, 50 hidden ReLU units, n x K outputs) has a constant input, so it
is a function of its first layer's bias alone. Published are also: logits divided by 5, REINFORCE
with a moving baseline, Adam, a curiosity bonus by random network distillation, and clipped replay
of stored steps. With the advantage adv_b = R_b - baseline the losses are

    online: -mean_b adv_b log pi(x_b)
    replay: -0.1 mean_b min(rho_b adv_b, clip(rho_b, 0.9, 1.1) adv_b)

where rho_b = min(pi(x_b) / pi_old(x_b), 10) is the ratio of whole schemes.

Differs from the paper: each repair is named at its line, and `repaired=False` takes them all
back. The published tanh bound on the logits never ran, so it is off unless `tanh_c` is given.
"""

from collections.abc import Sequence
from itertools import pairwise
import math

import numpy as np

from .budget import Constraints
from .controller import Batch
from .controller import mean_by_scheme
from .controller import scalarised
from .policy import Floats
from .policy import Ints
from .policy import Policy


__all__ = ["Adam", "Curiosity", "PaperController"]

_NETWORKS = 2**32 - 1  # in the key of a generator, where a proposal's has its trial's number


class PaperController:
    """The controller of preset "paper".

    >>> controller = PaperController((2, 2), seed=0)
    >>> schemes = np.array([[0, 0], [1, 1]])
    >>> before = controller.policy.log_prob(schemes)
    >>> controller.tell(Batch(schemes, np.array([[0.0], [9.0]]), before))
    >>> (controller.policy.log_prob(schemes) > before).tolist()
    [False, True]

    Args:
        sizes: number of choices of each slot.
        seed: seeds the networks' weights and the choice of the stored step that is replayed.
        learning_rate: Adam's, for the policy and for the curiosity alike.
        rnd: whether rewards have a curiosity bonus.
        replay: whether stored steps are replayed.
        tanh_c: bounds the logits: tanh_c * tanh(logits); None for no bound.
        temperature: divides the logits, before the bound.
        ema_decay: of the moving baseline.
        weights: of several objectives; see `scalarised`.
        repaired: False for the published defects. Then each scheme gets the step's mean
            curiosity, and stored rewards get none of it. Stored choices are flattened slot by
            slot and cut scheme by scheme. A ratio belongs to a slot and has no gradient, and the
            smaller of two sums over all ratios is the loss.

    Attributes:
        parameters: the hidden layer's bias, the weights and the offset of the output.
        baseline: the moving mean of the rewards; None before the first.
        stored: of each stored step the schemes, the rewards and their log probabilities then.
    """

    # To be raised with any change of a proposal, for then a study begun before is refused.
    version = 3
    batch = 3  # trials told at once, where the sampler is given no other number
    rate = 0.05
    replay_steps = 30  # steps that are stored
    replay_from = 10  # the first step that replays one
    replay_weight = 0.1
    clip = 0.1

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        seed: int,
        learning_rate: float = rate,
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
        hidden = _layer(rng, 20, 50)[1]  # the constant input is 0, which leaves the bias alone
        self.parameters = [hidden, *_layer(rng, 50, width)]
        self._adam = Adam(self.parameters, learning_rate)
        self._curiosity = Curiosity(self._sizes, seed=seed, learning_rate=learning_rate)
        self.baseline: float | None = None
        self.stored: list[tuple[Ints, Floats, Floats]] = []
        self._steps = 0
        self._schemes = np.zeros((0, len(self._sizes)), dtype=np.int64)
        self._values: Floats = np.zeros((0, 1))

    @property
    def policy(self) -> Policy:
        """The policy that the next scheme is drawn from."""
        logits = self._logits()
        if self._tanh_c is not None:
            logits = self._tanh_c * np.tanh(logits)
        policy = Policy.from_logits(logits.reshape(len(self._sizes), -1), self._sizes)
        return policy.floored(1e-6)  # a probability of 0 would have no logarithm to store

    def _logits(self) -> Floats:
        """Return the (n * K,) output of the network over the temperature, before the bound."""
        bias, weight, offset = self.parameters
        return np.asarray((np.maximum(bias, 0.0) @ weight + offset) / self._temperature)

    def propose(self, rng: np.random.Generator, constraints: Constraints) -> tuple[Ints, float]:
        """Draw a scheme from the policy, as `Controller.propose` says."""
        policy = self.policy
        scheme = constraints.draw(policy, rng)
        return scheme, float(policy.log_prob(scheme[None])[0])

    def tell(self, batch: Batch) -> None:
        """Take the online step and, from the tenth step on, a step on a stored one as well."""
        batch = batch.rewarded()
        if not len(batch.schemes):
            return
        old = self._values if len(self._values) else batch.values[:0]
        self._values = np.concatenate([old, batch.values])
        self._schemes = np.concatenate([self._schemes, batch.schemes])
        rewards = scalarised(self._values, self._weights)[-len(batch.schemes) :]
        plain = rewards
        if self._rnd:
            # Repairs: curiosity belongs to each scheme, not to the step as a whole; and it is part
            # of the reward everywhere: in the baseline, in the online loss and in what is stored.
            bonus = self._curiosity.bonus(batch.schemes)
            rewards = rewards + (bonus if self._repaired else bonus.mean())
        if self.baseline is None:
            self.baseline = float(rewards.mean())
        unknown = np.isnan(batch.log_probs)
        behaviour = np.where(unknown, self.policy.log_prob(batch.schemes), batch.log_probs)
        stored = (batch.schemes, rewards, behaviour)
        if not self._repaired:
            # Repair: whole schemes are stored, one in a row, so that replay cannot mix them up.
            flat = batch.schemes.T.reshape(batch.schemes.shape)
            mixed = np.where(flat >= 0, flat % np.array(self._sizes), -1)
            stored = (mixed, plain, self.policy.slot_log_probs(mixed))
        self._adam.step(self.gradient(batch.schemes, rewards - self.baseline))
        self.baseline += (1.0 - self._ema_decay) * (float(rewards.mean()) - self.baseline)
        self.stored = [*self.stored, stored][-self.replay_steps :]
        self._steps += 1
        if self._replay and self._steps >= self.replay_from:
            key = [self._seed, _NETWORKS, 2, self._steps]
            chosen = np.random.default_rng(key).integers(len(self.stored))
            schemes, rewards, behaviour = self.stored[chosen]
            self._adam.step(self.gradient(schemes, rewards - self.baseline, behaviour))

    def merits(self) -> tuple[Ints, Floats]:
        """Return schemes and their mean rewards, for this controller has no model of rewards."""
        return mean_by_scheme(self._schemes, scalarised(self._values, self._weights))[:2]

    def gradient(
        self, schemes: Ints, advantages: Floats, behaviour: Floats | None = None
    ) -> list[Floats]:
        """Return the gradient of the loss in each of `parameters`.

        Args:
            schemes: (B, n) choices.
            advantages: (B,) rewards above the baseline.
            behaviour: None for the online loss. For the replay loss (B,) log probabilities of the
                schemes when they were drawn; for the published one (B, n) of the single choices.
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
            # Repair: the ratio is that of the whole scheme and has a gradient; clip and minimum
            # are taken for each scheme. Over many slots the ratio can grow without bound where
            # the advantage is negative, so it is cut at 10.
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


class Curiosity:
    """Random network distillation (Burda et al., ICLR 2019, arXiv:1810.12894) over schemes.

    A network m-32-4m learns the outputs of a fixed one, m-32-32-4m. Its error is large at schemes
    unlike those seen. A slot of K choices is K - 1 inputs, one for each choice but the first; so
    with two choices a slot the input is the published bit vector.

    Attributes:
        parameters: weights and biases of the network that learns.
    """

    def __init__(self, sizes: Sequence[int], *, seed: int, learning_rate: float) -> None:
        self._codes = [np.eye(size)[:, 1:] for size in sizes]
        inputs = sum(size - 1 for size in sizes)
        rng = np.random.default_rng([seed, _NETWORKS, 3])
        widths = (inputs, 32, 32, 4 * inputs)
        self._fixed = [_layer(rng, *pair) for pair in pairwise(widths)]
        self.parameters = [*_layer(rng, inputs, 32), *_layer(rng, 32, 4 * inputs)]
        self._adam = Adam(self.parameters, learning_rate)

    def bonus(self, schemes: Ints) -> Floats:
        """Return the (B,) squared error at each scheme, then take a step on their mean."""
        x = np.concatenate(
            [
                np.where(s[:, None] >= 0, c[s], 0.0)
                for s, c in zip(schemes.T, self._codes, strict=True)
            ],
            axis=1,
        )
        target = x
        for depth, (weight, bias) in enumerate(self._fixed):
            target = (np.maximum(target, 0.0) if depth else target) @ weight + bias
        first, first_bias, second, second_bias = self.parameters
        inner = x @ first + first_bias
        hidden = np.maximum(inner, 0.0)
        error = hidden @ second + second_bias - target
        outer = 2.0 * error / len(schemes)
        back = (outer @ second.T) * (inner > 0)
        self._adam.step([x.T @ back, back.sum(axis=0), hidden.T @ outer, outer.sum(axis=0)])
        return np.asarray((error**2).sum(axis=1))


class Adam:
    """Adam (Kingma and Ba, ICLR 2015, arXiv:1412.6980) with its usual constants, in place."""

    def __init__(self, parameters: list[Floats], learning_rate: float) -> None:
        self._parameters = parameters
        self._learning_rate = learning_rate
        self._first = [np.zeros_like(p) for p in parameters]
        self._second = [np.zeros_like(p) for p in parameters]
        self._steps = 0

    def step(self, gradients: list[Floats]) -> None:
        """Move the parameters one step against these gradients."""
        self._steps += 1
        rows = zip(self._parameters, gradients, self._first, self._second, strict=True)
        for parameter, gradient, first, second in rows:
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient**2 - second)
            mean = first / (1.0 - 0.9**self._steps)
            scale = np.sqrt(second / (1.0 - 0.999**self._steps)) + 1e-8
            parameter -= self._learning_rate * mean / scale


def _layer(rng: np.random.Generator, inputs: int, outputs: int) -> tuple[Floats, Floats]:
    """Draw weights (inputs, outputs) and a bias, uniform in +-1 / sqrt(inputs)."""
    bound = 1.0 / math.sqrt(inputs)
    return rng.uniform(-bound, bound, (inputs, outputs)), rng.uniform(-bound, bound, outputs)
