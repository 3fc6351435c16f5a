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

__all__ = ["Counting", "Share", "TrueMeans", "counting", "share_below"]

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
_NEIGHBOURS = 33
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
    """How many schemes of one density beat full, and how soon random draws find one (T2).

    Attributes:
        share: p_k, of the schemes with k connections.
        low, high: its 95 % interval.
        expected: C(m, k) K^k p_k, the number of such schemes, for K kinds of attention.
        expected_low, expected_high: its interval.
        chance: that a number of random draws without replacement find at least one.
    """

    share: float
    low: float
    high: float
    expected: float
    expected_low: float
    expected_high: float
    chance: float


def counting(truths: Values, at: Values, *, schemes: int, draws: int, seed: int = 0) -> Counting:
    """Return what draws of the true means of one density's schemes tell (T2).

    Where all schemes of the density are in the table, nothing is left but the noise of training.
    Schemes that the table lacks are taken to beat full as often as those that it has, within
    what so few tell: by Jeffreys' prior.

    >>> truths = np.array([[1.0, 2.0, 3.0, 9.0]] * 5)
    >>> found = counting(truths, np.full(5, 2.5), schemes=4, draws=2)
    >>> found.share, found.expected, round(found.chance, 3)
    (0.5, 2.0, 0.833)

    Args:
        truths: (D, rows), draws of `TrueMeans.drawn`, of the schemes of this density that the
            table has.
        at: (D,), draws of full's mean.
        schemes: how many of this density there are.
        draws: N, of the random search that is asked about; at most all schemes are drawn.
        seed: of what the schemes that the table lacks may be.
    """
    rows = truths.shape[1]
    beat = (truths > at[:, None]).sum(axis=1)
    if schemes > rows:
        rng = np.random.default_rng(seed_for("counting", seed))
        beat = beat + rng.binomial(schemes - rows, rng.beta(beat + 0.5, rows - beat + 0.5))
    chance = stats.hypergeom.sf(0, schemes, beat, min(draws, schemes))
    mean, (low, high) = float(beat.mean()), np.quantile(beat, [0.025, 0.975])
    # Few numbers are possible, so that the mean may lie beside the quantiles.
    low, high = min(float(low), mean), max(float(high), mean)
    share = (mean / schemes, low / schemes, high / schemes)
    return Counting(*share, mean, low, high, float(chance.mean()))


class TrueMeans:
    """The distribution of the true means of a table's schemes.

    >>> truth = TrueMeans(np.array([[0.0, 0.2], [4.9, 5.1], [9.0, 9.1], [9.3, 9.2]]))
    >>> round(truth.above([7.0, 7.1, 6.9]).share, 2)
    0.5

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
        self._noise = noise  # variances of a run, of those with a run
        self._of_seeds = seed_effects(there)
        self._common = np.isfinite(there).mean(axis=0) >= 0.5
        if self.freedom:
            means, errors = self.means[self.known], self.errors[self.known]
            self._grid, self._weights = _deconvolved(means, errors, _STEPS)
            self._smooth = _deconvolved(means, errors, _FIRST_STEPS)[1]
            self._prior = _spread_out(self._grid, self._weights, means, errors)

    def above(
        self,
        reference: Sequence[float],
        points: float = 0.0,
        *,
        paired: Sequence[float] = (),
        seed: int = 0,
    ) -> Share:
        """Return the share of schemes that are truly better than a reference by some points.

        Args:
            reference: the accuracies of its runs, one a seed, best many more than a scheme has.
            points: how much better.
            paired: those of its runs that have the table's seeds, one for each column of the
                table, NaN where there is none; they are not in `reference` then. What these seeds
                add to all networks alike cancels, which otherwise widens the interval.
            seed: of the interval's simulation.
        """
        means = self.means[self.known]
        runs = np.array([*reference, *paired], dtype=float)
        runs = runs[np.isfinite(runs)]
        if not self.freedom or len(runs) < 2:
            counted = float((means > np.mean(runs) + points).mean()) if len(runs) else math.nan
            why = "one run a network does not tell noise from difference"
            return Share(math.nan, 0.0, 1.0, counted, why)
        at, error, freedom = self.placed(reference, paired=paired)
        at += points
        counted = float((means > at).mean())
        noise = math.sqrt(float(np.mean(self.errors[self.known][self._nearest(at)] ** 2)))
        reach = max(noise, error, self._step)
        if why := self._blurred(at, reach, noise):
            reach *= _NEAR
            ends = (self._beyond(at + reach), self._beyond(at - reach))
            return Share(math.nan, *ends, counted, why)
        share = self._beyond(at)
        low, high = self._interval(share, at, error, 2 * reach, freedom, seed)
        return Share(share, low, high, counted)

    def placed(
        self, reference: Sequence[float], *, paired: Sequence[float] = ()
    ) -> tuple[float, float, float]:
        """Return where a reference lies among the schemes' means.

        The runs with the table's seeds differ from it by their noise alone. The others, and the
        table, had seeds that may be lucky ones for all networks: by how much is told by the spread
        of the reference's runs, of which there are many, and by the table's few seeds, whichever
        says more. The two are weighed by their variances.

        Args:
            reference: as of `above`.
            paired: as of `above`; with `reference` two runs at least.

        Returns:
            Its place, the standard error and the degrees of freedom (Satterthwaite).

        Raises:
            ValueError: no scheme has two runs, or the reference has fewer.
        """
        own = np.array(paired, dtype=float)
        with_own = np.isfinite(own) & self._common[: len(own)]
        others = np.concatenate([np.array(reference, dtype=float), own[~with_own]])
        others = others[np.isfinite(others)]
        off = own[with_own] - self._of_seeds[: len(own)][with_own]
        runs = np.concatenate([others, off])
        if not self.freedom or len(runs) < 2:
            raise ValueError("a reference needs two runs, and so do schemes; train a second seed")
        noise = float(np.mean(self._noise[self._nearest(float(runs.mean()))]))
        parts = []  # estimate, variance and degrees of freedom
        if len(off):
            parts.append((float(off.mean()), noise / len(off), self.freedom))
        if len(others):
            seeds = np.concatenate([others, own[with_own]])
            spread = float(seeds.var(ddof=1))
            common = self._of_seeds[self._common]
            of_table = float(common.var(ddof=1)) if len(common) > 1 else 0.0
            luck = max(spread - noise, of_table - noise / len(self._noise), 0.0)
            variance = spread / len(others) + luck / max(len(common), 1)
            parts.append((float(others.mean()), variance, len(seeds) - 1))
        # Where no runs differ at all, both say the same.
        weights = np.array([1 / max(variance, 1e-18) for _, variance, _ in parts])
        weights /= weights.sum()
        terms = weights**2 * [variance for _, variance, _ in parts]
        total = float(terms.sum())
        known = float((terms**2 / [freedom for *_, freedom in parts]).sum())
        freedom = total**2 / known if known else math.inf
        return float(weights @ [place for place, *_ in parts]), math.sqrt(total), freedom

    def _nearest(self, at: float) -> NDArray[np.intp]:
        """Return which of the schemes with a run have the means that lie nearest to a value."""
        return np.argsort(np.abs(self.means[self.known] - at), kind="stable")[:_NEIGHBOURS]

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
        self, share: float, at: float, error: float, reach: float, freedom: float, seed: int
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


def share_below(
    values: Values,
    reference: Sequence[float],
    points: float = 0.0,
    *,
    paired: Sequence[float] = (),
    seed: int = 0,
) -> Share:
    """Return the share of schemes truly worse than a reference by some points.

    Arguments and errors as of `TrueMeans` and its `above`.
    """
    upside_down = ([-value for value in given] for given in (reference, paired))
    return TrueMeans(-values).above(next(upside_down), points, paired=next(upside_down), seed=seed)


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
