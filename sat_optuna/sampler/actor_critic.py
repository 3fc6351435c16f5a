"""The default controller: an actor climbs what the critic says, by a natural policy gradient.

A proposal begins with a draw of q from the critic's posterior (critic.py, (1) to (6)). Its spread

    z = min(1.5, 10 / sqrt(N)) / (1 + 3 s)                                                (7)

is wide at first, for rho, s and v are then guessed from a few trials. It becomes narrower with
the number N of trials, and it is narrower where rewards are noisy, for some hundred trials do not
repay more exploration there. The scores y are normal scores of the rewards' ranks, so that no
outlier can dominate them.

The actor then maximises J(theta) = E_pi[q] over policies pi. Within a slot q is affine in the
code, so J and its gradient are exact and need no samples. m is the mean code:

    J = b + w . m + m' Q m,   m_i = sum_k p_i(k) r_i(k)                                   (8)
    A_i(k) = dJ / dp_i(k) = r_i(k) . (w + (Q + Q') m)_i                                   (9)

A_i(k) is the advantage of choice k, up to a constant of the slot, which the softmax cancels. The
policy gradient is dJ/dtheta_i(k) = p_i(k) (A_i(k) - sum_l p_i(l) A_i(l)). Multiplied by the
inverse of the softmax's Fisher matrix it becomes A, again up to such a constant. With the
policy's entropy H the natural gradient of J + tau H is therefore A - tau theta, and a step is

    theta <- theta + lr (A / tau - theta)                                                (10)

There are 20 steps, from the uniform policy on, while tau falls from 1 to 0.15 times the root mean
square of A at the first step. From the resulting policy 32 schemes are drawn. Of these and the
policy's mode, without the schemes that were seen, the one with the greatest q is proposed.

All this is computed anew for each proposal, from the trials' history and the proposal's generator
alone.
"""

from collections.abc import Sequence
from dataclasses import replace
import math

import numpy as np

from .budget import Constraints
from .controller import Batch
from .controller import mean_by_scheme
from .controller import scalarised
from .critic import Code
from .critic import Critic
from .critic import normal_scores
from .critic import Quadratic
from .critic import standardised
from .policy import existing
from .policy import Floats
from .policy import Ints
from .policy import Policy
from .policy import softmax


__all__ = ["ActorCritic"]


class ActorCritic:
    """The default controller.

    >>> controller = ActorCritic((2, 2), warmup=3)
    >>> schemes = np.array([[0, 0], [1, 0], [0, 1]])
    >>> values = np.array([[0.0], [2.0], [1.0]])
    >>> controller.tell(Batch(schemes, values, np.full(3, np.nan)))
    >>> controller.propose(np.random.default_rng(0), Constraints(seen=schemes))[0].tolist()
    [1, 1]

    Args:
        sizes: number of choices of each slot.
        learning_rate: lr of (10), at most 1.
        warmup: number of trials with a reward up to which schemes are drawn uniformly.
        thrift: how much noise narrows the critic's draws, the 3 of (7).
        breadth: the greatest spread of the critic's draws, the 1.5 of (7); with 0 they are its
            mean.
        temperature: tau of the last step, the 0.15 of (10).
        draws: schemes drawn from the policy, of which the critic picks one; with 1 it picks none.
        caution: how much evidence the critic asks for before it assumes much noise, the 4 of (6).
        pairs: whether the critic learns pairs of choices, the Q of (1). It does not in any case
            where Q would have over 2 million entries.
        ranks: whether the critic learns from normal scores of ranks; from the standardised
            rewards otherwise.
        distinct: whether seen schemes are left out; False is for comparison.
        weights: of several objectives; see `scalarised`.
    """

    # To be raised with any change of a proposal, for then a study begun before is refused.
    version = 4
    batch = 1  # trials told at once, where the sampler is given no other number
    rate = 0.6
    steps = 20
    trust = 0.1  # how much of what the critic does not explain in one trial is the scheme's own

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        learning_rate: float = rate,
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
        self._learning_rate = learning_rate
        self._warmup = warmup
        self._thrift, self._breadth, self._draws = thrift, breadth, draws
        self._distinct, self._weights = distinct, weights
        self._temperatures = np.geomspace(1.0, temperature, self.steps)
        self._scored = normal_scores if ranks else standardised
        self._code = Code(tuple(sizes))
        pairs = pairs and self._code.length**2 <= 2_000_000
        self._critic = Critic(self._code, warmup=warmup, caution=caution, pairs=pairs)
        self._schemes = np.zeros((0, len(sizes)), dtype=np.int64)
        self._values: Floats = np.zeros((0, 1))

    @property
    def policy(self) -> Policy:
        """The policy of the critic's mean; a proposal has its own, of a draw from the critic."""
        return self._climbed(self._quadratic(None), Constraints(self._schemes[:0]))

    def tell(self, batch: Batch) -> None:
        """Remember the trials that have a reward."""
        batch = batch.rewarded()
        old = self._values if len(self._values) else batch.values[:0]
        self._values = np.concatenate([old, batch.values])
        self._schemes = np.concatenate([self._schemes, batch.schemes])

    def propose(self, rng: np.random.Generator, constraints: Constraints) -> tuple[Ints, float]:
        """Draw a scheme as `Controller.propose` says, from a policy made for this proposal."""
        if not self._distinct:
            constraints = replace(constraints, seen=constraints.seen[:0])
        q = self._quadratic(rng)
        policy = self._climbed(q, constraints)
        scheme = None
        if q is not None and self._draws > 1:
            several = constraints.candidates(policy, rng, self._draws)
            if len(several):
                scheme = several[int(q.of(self._code.of(several)).argmax())]
        if scheme is None:
            scheme = constraints.draw(policy, rng)
        return scheme, float(policy.log_prob(scheme[None])[0])

    def merits(self) -> tuple[Ints, Floats]:
        """Return schemes and merits as `Controller.merits` says.

        During warm-up the merit of a scheme is its mean reward. Later it is made of its mean
        score y over its c trials and of the critic's mean q: of what the critic does not explain,
        y - q, the part t = c trust / (1 + (c - 1) trust) is the scheme's own and the rest is
        noise. The merit is q + t (y - q). Only schemes that the critic remembers have one.
        """
        if len(self._schemes) < self._warmup:
            rewards = scalarised(self._values, self._weights)
            return mean_by_scheme(self._schemes, rewards)[:2]
        y = self._learned()
        rows = self._critic.rows
        means = self._critic.means(y)
        schemes, explained, counts = mean_by_scheme(self._schemes[rows], means)
        unexplained = mean_by_scheme(self._schemes[rows], y[rows] - means)[1]
        own = counts * self.trust / (1.0 + (counts - 1.0) * self.trust)
        return schemes, explained + own * unexplained

    def _learned(self) -> Floats:
        """Let the critic read all trials; return their (N,) scores y."""
        self._critic.read(self._schemes, self._scores)
        return self._scores(len(self._schemes))

    def _scores(self, count: int) -> Floats:
        """Return the (count,) scores y that the first trials have among themselves."""
        return standardised(self._scored(scalarised(self._values[:count], self._weights)))

    def _quadratic(self, rng: np.random.Generator | None) -> Quadratic | None:
        """Return a draw of q, or its mean without a generator; None during warm-up."""
        if len(self._schemes) < self._warmup:
            return None
        y = self._learned()
        wide = min(self._breadth, 10.0 / math.sqrt(len(self._schemes)))
        spread = wide / (1.0 + self._thrift * self._critic.noise)  # (7)
        return self._critic.draw(y, rng, spread)

    def _climbed(self, q: Quadratic | None, constraints: Constraints) -> Policy:
        """Return the policy that the actor comes to on q; the uniform one where there is no q.

        Fixed choices are certain in it, and it keeps the budget on average.
        """
        sizes = self._code.sizes
        free = existing(sizes)
        for slot, choice in constraints.fixed.items():
            free[slot] &= np.arange(free.shape[1]) == choice
        if q is None:
            return Policy.from_logits(np.where(free, 0.0, -np.inf), sizes)
        theta, unit = np.zeros(free.shape), 0.0
        p = softmax(np.where(free, theta, -np.inf))
        for temperature in self._temperatures:
            advantages = self._code.products(q.slopes(self._code.mean(p)))  # (9)
            unit = unit or float(np.sqrt((advantages[free] ** 2).mean())) + 1e-12
            theta += self._learning_rate * (advantages / (unit * temperature) - theta)  # (10)
            p = softmax(np.where(free, theta, -np.inf))
            if constraints.budget is not None:
                p = constraints.budget.tilted(p)
        return Policy(p, sizes).floored(
            1e-6
        )  # a probability of 0 would have no logarithm to store
