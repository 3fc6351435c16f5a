"""What share of all schemes is truly better than a reference: the noise of training taken out.

Counting noisy means is biased: where all schemes are equal, half of them lie above one more of
their kind. Here the distribution of the true means is estimated (deconvolution: a normal mixed
model, then a number of steps of EM on a grid, which let the data change its shape), and the share
is read off that. Where the schemes near the reference lie closer together than the noise of a
scheme's mean, no method can tell on which side they are; then the share is *not identifiable*, and
only its bounds are given. Accuracies here stand for any metric, the higher the better.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sat_optuna.evidence.effects import noise_of, seed_effects
from sat_optuna.seeds import seed_for

__all__ = ["Counting", "Share", "TrueMeans", "counting", "share_above", "share_below"]

_GRID, _MOST = 96, 1000  # points of the grid, at least and at most
_STEP = 0.4  # noises of a mean between two of them
_STEPS = 20  # of EM: fewer keep the normal's shape, more make lumps of noise
_FIRST_STEPS = 10  # for the question whether what is near the reference is one lump
_WIDTH = 2.0  # noises of a mean by which a scheme that lies alone is spread
_SPREAD = 2.4  # times the noise of a mean that the true means must vary by
_NEAR = 3.0  # noises of a mean: what is so near the reference may be on either side
_APART = 1.2  # noises of a mean that what is near must vary by
_FEW = 0.04  # share of schemes near the reference that are too few to matter
_DRAWS = 100
_WIDER = 1.2  # tables simulated after a table vary less than fresh ones: without, 90 to 93 % hold

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Share:
    """The share of schemes on one side of a reference.

    Attributes:
        share: in 0..1; NaN where it is not identifiable.
        low, high: the 95 % interval (in simulations it held the share of 93 to 99 % of the
            tables); where it is not identifiable, the bounds that the schemes near the reference
            leave.
        counted: the share of noisy means on that side, which is biased; for comparison.
        why: why it is not identifiable, a sentence without its full stop; empty where it is.
    """

    share: float
    low: float
    high: float
    counted: float
    why: str = ""

    @property
    def identifiable(self) -> bool:
        """Whether there is an estimate."""
        return not self.why


@dataclass(frozen=True, slots=True)
class Counting:
    """How many tickets there are at a density, and what a search is worth over random draws (T2).

    Attributes:
        share: p_k, of the schemes with k connections that beat full.
        low, high: the 95 % interval of Clopper and Pearson.
        expected: C(m, k) p_k, the number of such schemes.
        expected_low, expected_high: its interval.
        chance: that a number of random draws find at least one: 1 - (1 - p_k)^N.
        chance_low, chance_high: its interval.
    """

    share: float
    low: float
    high: float
    expected: float
    expected_low: float
    expected_high: float
    chance: float
    chance_low: float
    chance_high: float


def counting(blocks: int, connections: int, *, beat: int, drawn: int, draws: int) -> Counting:
    """Return what a sample of random schemes of one density tells (T2).

    >>> found = counting(8, 1, beat=2, drawn=8, draws=4)
    >>> found.share, found.expected, round(found.chance, 3)
    (0.25, 2.0, 0.684)

    Args:
        blocks: m.
        connections: k.
        beat: how many of the drawn schemes beat full.
        drawn: how many were drawn, at least one.
        draws: N, of the random search that is asked about.
    """
    found = stats.binomtest(beat, drawn).proportion_ci(0.95, method="exact")
    low, high = float(found.low), float(found.high)
    ways = math.comb(blocks, connections)
    shares = (beat / drawn, low, high)
    return Counting(
        *shares,
        *(ways * share for share in shares),
        *(1 - (1 - share) ** draws for share in shares),
    )


class TrueMeans:
    """The distribution of the true means of a table's schemes.

    Args:
        values: (S, seeds), NaN where a run is missing; two runs of some schemes at least. What a
            seed adds to all schemes alike is taken out.

    Attributes:
        known: (S,), which schemes have a run.
        means: (S,), of the runs; NaN where there is none.
        errors: (S,), their standard errors; NaN where no scheme has two runs.

    Raises:
        ValueError: no scheme has a run.
    """

    def __init__(self, values: Values) -> None:
        counts = np.isfinite(values).sum(axis=1)
        self.known = counts > 0
        if not self.known.any():
            raise ValueError("no scheme of the table has a run; train some")
        there = values[self.known]
        noise, self.freedom = noise_of(there)
        self.means, self.errors = np.full((2, len(values)), np.nan)
        self.means[self.known] = np.nanmean(there - seed_effects(there), axis=1)
        self.errors[self.known] = np.sqrt(noise / counts[self.known])
        # The seeds of the table may be lucky ones for all schemes: no part of a scheme's error.
        of_seeds = seed_effects(there)[np.isfinite(there).mean(axis=0) >= 0.5]
        self.shift = 0.0
        if len(of_seeds) > 1 and self.freedom:
            own = float(of_seeds.var(ddof=1)) - float(noise.mean()) / len(there)
            self.shift = math.sqrt(max(own, 0.0) / len(of_seeds))
        if self.freedom:
            means, errors = self.means[self.known], self.errors[self.known]
            self._grid, self._weights = _deconvolved(means, errors, _STEPS)
            self._smooth = _deconvolved(means, errors, _FIRST_STEPS)[1]
            self._prior = _spread_out(self._grid, self._weights, means, errors)

    def above(self, reference: Sequence[float], points: float = 0.0, *, seed: int = 0) -> Share:
        """Return the share of schemes that are truly better than a reference by some points.

        Args:
            reference: the accuracies of its runs, one a seed, best many more than a scheme has.
            points: how much better.
            seed: of the interval's simulation.
        """
        at = float(np.mean(reference)) + points
        means = self.means[self.known]
        counted = float((means > at).mean())
        if not self.freedom or len(reference) < 2:
            why = "one run a network does not tell noise from difference"
            return Share(math.nan, 0.0, 1.0, counted, why)
        own = float(np.std(reference, ddof=1)) / math.sqrt(len(reference))
        error = math.hypot(own, self.shift)
        nearest = np.argsort(np.abs(means - at), kind="stable")[:33]
        noise = float(np.sqrt(np.mean(self.errors[self.known][nearest] ** 2)))
        reach = max(noise, error, self._step)
        if why := self._blurred(at, reach, noise):
            reach *= _NEAR
            ends = (self._beyond(at + reach), self._beyond(at - reach))
            return Share(math.nan, *ends, counted, why)
        share = self._beyond(at)
        low, high = self._interval(share, at, error, 2 * reach, len(reference) - 1, seed)
        return Share(share, low, high, counted)

    def drawn(self, count: int, *, seed: int) -> Values:
        """Return true means of all schemes that the runs allow, (count, S), at random.

        Each is drawn from what the table and its own runs tell of it; NaN where it has none.

        Args:
            count: of draws.
            seed: of them.

        Raises:
            ValueError: no scheme has two runs.
        """
        if not self.freedom:
            raise ValueError("no scheme of the table has two runs; train a second seed")
        rng = np.random.default_rng(seed_for("true-means", seed))
        found = np.full((count, len(self.means)), np.nan)
        chances = _likelihood(self.means[self.known], self.errors[self.known], self._grid)
        chances *= self._prior
        cumulated = np.cumsum(chances / chances.sum(axis=1, keepdims=True), axis=1)
        for row in found:
            cells = (
                (cumulated < rng.random((len(cumulated), 1)))
                .sum(axis=1)
                .clip(max=len(self._grid) - 1)
            )
            row[self.known] = self._grid[cells] + self._step * (rng.random(len(cells)) - 0.5)
        return found

    @property
    def _step(self) -> float:
        return float(self._grid[1] - self._grid[0])

    def _beyond(self, at: float, weights: Values | None = None) -> float:
        return _beyond(self._grid, self._weights if weights is None else weights, at)

    def _blurred(self, at: float, reach: float, noise: float) -> str:
        """Return why the share beyond a value cannot be told; empty where it can."""
        near = np.abs(self._grid - at) <= _NEAR * reach
        mass = float(self._smooth[near].sum())
        # Where nothing is near, it is plain on which side the schemes are.
        if mass <= _FEW:
            return ""
        if _sd(self._grid, self._smooth) < _SPREAD * noise:
            return "the true means differ less than the noise of a scheme's mean allows to tell"
        if _sd(self._grid[near], self._smooth[near]) < _APART * reach:
            return (
                f"{mass:.0%} of the schemes lie too near the reference to tell on which side"
            ).replace("%", " %")
        return ""

    def _interval(
        self, share: float, at: float, error: float, reach: float, freedom: int, seed: int
    ) -> tuple[float, float]:
        """Return the 95 % interval: the noise of the table, and the error of the reference.

        The first is told by estimating tables that are simulated after this one, the second by the
        share of schemes about the reference.
        """
        rng = np.random.default_rng(seed_for("share", seed))
        errors = self.errors[self.known]
        off = []
        for truth in self.drawn(_DRAWS, seed=seed)[:, self.known]:
            means = truth + errors * rng.normal(size=len(errors))
            told = _beyond(*_deconvolved(means, errors, _STEPS), at)
            off.append(told - float((truth > at).mean()))
        about = self._beyond(at - reach, self._smooth) - self._beyond(at + reach, self._smooth)
        half = (
            _WIDER
            * float(stats.t.ppf(0.975, freedom))
            * math.hypot(float(np.std(off)), error * about / (2 * reach))
        )
        return max(share - half, 0.0), min(share + half, 1.0)


def share_above(
    values: Values, reference: Sequence[float], points: float = 0.0, *, seed: int = 0
) -> Share:
    """Return the share of schemes truly better than a reference, as of `TrueMeans.above`."""
    return TrueMeans(values).above(reference, points, seed=seed)


def share_below(
    values: Values, reference: Sequence[float], points: float = 0.0, *, seed: int = 0
) -> Share:
    """Return the share of schemes truly worse than a reference by some points."""
    return TrueMeans(-values).above([-value for value in reference], points, seed=seed)


def _likelihood(means: Values, errors: Values, grid: Values) -> Values:
    """Return how likely each mean is for each true one, (S, grid), up to a factor a scheme."""
    # Where no runs differ at all, a scheme's mean is known as well as the grid shows it.
    known = np.maximum(errors, grid[1] - grid[0])
    apart = ((means[:, None] - grid) / known[:, None]) ** 2
    likely: Values = np.exp(-0.5 * (apart - apart.min(axis=1, keepdims=True)))
    return likely


def _deconvolved(means: Values, errors: Values, steps: int) -> tuple[Values, Values]:
    """Return a grid and the share of true means at each of its points."""
    noise = math.sqrt(float(np.mean(errors**2)))
    first, last = np.argmin(means), np.argmax(means)
    ends = means[first] - 2 * errors[first], means[last] + 2 * errors[last]
    span = max(float(ends[1] - ends[0]), 1e-9)
    fine = span / max(_STEP * float(np.quantile(errors, 0.1)), span / _MOST)
    grid = np.linspace(ends[0], ends[0] + span, max(_GRID, math.ceil(fine)))
    spread = math.sqrt(max(float(means.var()) - noise**2, (grid[1] - grid[0]) ** 2))
    weights = np.exp(-0.5 * ((grid - means.mean()) / spread) ** 2) + 1e-12
    weights /= weights.sum()
    likely = _likelihood(means, errors, grid)
    for _ in range(steps):
        weights = weights * (likely.T @ (1 / (likely @ weights))) / len(means)
    return grid, weights


def _spread_out(grid: Values, weights: Values, means: Values, errors: Values) -> Values:
    """Return the shares of the grid's points, spread wider the fewer schemes they stand for.

    EM takes a scheme that lies alone for one that is known exactly. What one scheme tells of the
    distribution is uncertain by its noise, what n tell by the n-th part of that in variance.
    """
    order = np.argsort(means, kind="stable")
    noise = np.interp(grid, means[order], errors[order])
    total = np.concatenate([[0.0], np.cumsum(weights)])
    first, last = (np.searchsorted(grid, grid + side * noise) for side in (-1, 1))
    schemes = np.maximum(len(means) * (total[last] - total[first]), 1.0)
    width = _WIDTH * noise / np.sqrt(schemes) + 1e-12
    kernel = np.exp(-0.5 * ((grid - grid[:, None]) / width[:, None]) ** 2)
    spread: Values = (weights / kernel.sum(axis=1)) @ kernel
    return spread


def _beyond(grid: Values, weights: Values, at: float) -> float:
    """Return the share above a value; what a point of the grid stands for is spread evenly."""
    step = grid[1] - grid[0]
    return float(weights @ np.clip((grid - at) / step + 0.5, 0, 1))


def _sd(grid: Values, weights: Values) -> float:
    mean = np.average(grid, weights=weights)
    return math.sqrt(float(np.average((grid - mean) ** 2, weights=weights)))
