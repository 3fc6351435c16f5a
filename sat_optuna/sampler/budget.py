"""What a proposed scheme must respect: limits of its cost, schemes seen, choices made already."""

from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from .policy import existing
from .policy import Floats
from .policy import Ints
from .policy import plain_draws
from .policy import Policy
from .policy import softmax


__all__ = ["Budget", "Constraints"]


class Budget:
    """Upper limits of costs that are affine in the choices.

        cost_c(x) = sum_i costs_c[i, x_i] + the extras of c of which x makes a choice

    An extra is paid once, however many slots make a choice of it: a module that blocks share.

    To draw within the limits, a policy p is tilted until it keeps them on average. Its choices
    get the weights p_i(k) exp(-lambda costs_c[i, k]), where lambda >= 0 is the smallest number
    with which the mean cost is within the limit. Of all policies that keep the limit on average
    this is the closest to p in Kullback-Leibler divergence (extras are left out here). Several
    limits are applied in turn, several times. Draws that still exceed a limit are dropped.

    >>> costs = np.array([[[0.0, 3.0], [0.0, 2.0]]])  # one cost, two slots of two choices
    >>> budget = Budget((2, 2), np.array([4.0]), costs)
    >>> budget.allows(np.array([[0, 0], [1, 0], [1, 1]])).tolist()
    [True, True, False]

    Args:
        sizes: number of choices of each slot.
        at_most: (C,) limits.
        costs: (C, n, K) cost of each choice.
        extras: for each the index c of its limit, its cost (0 or more), and the (n, K) mask of
            its choices.
        fixed: by slot the choices that every scheme makes.
    """

    rounds = 8  # rounds over the limits, and policies that `draw` tries, each flatter
    draws = 64  # draws from each of these policies
    cooling = 1.6  # flattens a policy: p ** (1 / cooling), normalised
    visits = 50_000  # partial schemes after which `first` gives up

    def __init__(
        self,
        sizes: Sequence[int],
        at_most: Floats,
        costs: Floats,
        extras: Sequence[tuple[int, float, NDArray[np.bool_]]] = (),
        fixed: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self._at_most, self._costs, self._extras = at_most, costs, tuple(extras)
        self._sizes, self._fixed = tuple(sizes), dict(fixed)
        real = existing(sizes)
        for slot, choice in fixed.items():
            real[slot] &= np.arange(real.shape[1]) == choice
        self._real = real
        least = np.where(real, costs, np.inf).min(axis=2)  # (C, n)
        # Column i holds the least that the slots from i on cost together, (C, n + 1).
        self._tails = np.concatenate(
            [np.cumsum(least[:, ::-1], axis=1)[:, ::-1], np.zeros((len(costs), 1))], axis=1
        )
        # A partial sum may round otherwise than the whole sum, which decides.
        self._slack = 1e-9 * (np.abs(at_most) + np.abs(np.where(real, costs, 0.0)).sum((1, 2)))
        spread = np.where(real, costs - least[:, :, None], 0.0)
        self._spread = spread / np.maximum(spread.max(axis=(1, 2), keepdims=True), 1e-300)
        # Extras that a fixed choice pays for in every scheme.
        self._paid = [any(mask[i, k] for i, k in fixed.items()) for _, _, mask in self._extras]
        self._room = (at_most - self.least) / np.maximum(spread.max(axis=(1, 2)), 1e-300)

    @property
    def least(self) -> Floats:
        """The (C,) costs below which no scheme can be; only extras of fixed choices count."""
        least = self._tails[:, 0].copy()
        for (limit, extra, _), paid in zip(self._extras, self._paid, strict=True):
            least[limit] += extra * paid
        return least

    def holding(self, fixed: Mapping[int, int]) -> "Budget":
        """Return the same limits over the schemes that make these choices too."""
        if not fixed:
            return self
        both = {**self._fixed, **fixed}
        return Budget(self._sizes, self._at_most, self._costs, self._extras, both)

    def raised(self) -> "Budget":
        """Return it with each limit that the fixed choices break raised to the least they cost."""
        at_most = np.maximum(self._at_most, self.least + self._slack)
        return Budget(self._sizes, at_most, self._costs, self._extras, self._fixed)

    def is_possible(self) -> bool:
        """Say whether a scheme that keeps all limits was found.

        Raises:
            ValueError: the search for one gave up.
        """
        return self.first(self._real.astype(np.float64), ()) is not None

    def allows(self, schemes: Ints) -> NDArray[np.bool_]:
        """Return (N,) whether each of (N, n) schemes without open slots keeps all limits."""
        return np.asarray((self._totals(schemes) <= self._at_most[:, None]).all(axis=0))

    def _totals(self, schemes: Ints) -> Floats:
        """Return (C, N) costs of the first slots of schemes, (N, j)."""
        slots = np.arange(schemes.shape[1])
        totals = self._costs[:, slots, schemes].sum(axis=2)
        for (limit, extra, mask), paid in zip(self._extras, self._paid, strict=True):
            totals[limit] += extra * (mask[slots, schemes].any(axis=1) | paid)
        return np.asarray(totals)

    def tilted(self, p: Floats) -> Floats:
        """Return the (n, K) policy that keeps the limits on average; `p` itself if it does."""
        for _ in range(self.rounds):
            before = p
            for spread, room in zip(self._spread, self._room, strict=True):
                p = _tilted(p, spread, room)
            if p is before:
                break
        return p

    def drawn(self, rng: np.random.Generator, p: Floats, known: Collection[bytes]) -> Ints | None:
        """Draw a scheme from (n, K) p that keeps the limits and is not known; None if none is.

        Where draws from the tilted policy find none, the policy is made flatter. At last `first`
        goes through the schemes that keep the limits.

        Raises:
            ValueError: `first` gave up, and nothing is known to keep the limits.
        """
        flat = p
        for _ in range(self.rounds):
            schemes = plain_draws(rng, self.tilted(flat), self.draws)
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
        """Return the first scheme that keeps the limits and is not known; None if there is none.

        Each slot tries its likelier choices under (n, K) `p` first.

        Raises:
            ValueError: too many schemes begin within the limits and break one in the end, which
                happens where two limits work against each other.
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
                    f"none of the first {visits:,} partial schemes keeps all limits of the "
                    "budget to its end, so it may be that no scheme does; raise one of them"
                )
            if not self._possible(scheme[: slot + 1]):
                continue
            if slot + 1 < len(order):
                open_choices.append(iter(order[slot + 1]))
            elif self.allows(scheme[None])[0] and scheme.tobytes() not in known:
                return scheme
        return None

    def _possible(self, begun: Ints) -> bool:
        """Say whether the first choices and the cheapest ones after them keep the limits."""
        totals = self._totals(begun[None])[:, 0] + self._tails[:, len(begun)]
        return bool((totals <= self._at_most + self._slack).all())


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a proposed scheme must respect.

    Attributes:
        seen: (N, n) schemes that it does not repeat until there are no others; a row with -1
            excludes nothing.
        fixed: by slot the choices that are made already. They hold even where the scheme is then
            a repeat or breaks a limit.
        budget: limits of its cost, over the schemes that make the fixed choices.
    """

    seen: Ints
    fixed: Mapping[int, int] = field(default_factory=dict)
    budget: Budget | None = None

    def draw(self, policy: Policy, rng: np.random.Generator) -> Ints:
        """Draw an (n,) scheme from a policy.

        Raises:
            ValueError: the budget gave up before it found any scheme within its limits.
        """
        if self.budget is not None:
            p = policy.held(self.fixed)
            for known in ({row.tobytes() for row in self.seen}, set()):
                scheme = self.budget.drawn(rng, p, known)
                if scheme is not None:
                    return scheme
        return policy.draw(rng, self.seen, self.fixed)

    def candidates(self, policy: Policy, rng: np.random.Generator, count: int) -> Ints:
        """Return (C, n) new schemes, each once, out of `count` plain draws and the mode."""
        p = policy.held(self.fixed)
        schemes = np.concatenate([p.argmax(axis=1)[None], plain_draws(rng, p, count)])
        if self.budget is not None:
            schemes = schemes[self.budget.allows(schemes)]
        known = {row.tobytes() for row in self.seen}
        distinct = {row.tobytes(): index for index, row in enumerate(schemes)}
        return schemes[[index for row, index in distinct.items() if row not in known]]


def _tilted(p: Floats, cost: Floats, room: float) -> Floats:
    """Return (n, K) p exp(-lambda cost), normalised, whose mean cost is at most `room`."""
    if (p * cost).sum() <= room:
        return p
    with np.errstate(divide="ignore"):
        logits = np.log(p)
    low, high = 0.0, 1.0
    while high < 1e6 and (softmax(logits - high * cost) * cost).sum() > room:
        low, high = high, 2.0 * high
    for _ in range(30):
        middle = 0.5 * (low + high)
        if (softmax(logits - middle * cost) * cost).sum() > room:
            low = middle
        else:
            high = middle
    return softmax(logits - high * cost)
