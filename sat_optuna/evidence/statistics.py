"""Means with intervals, paired differences, and how small a difference can be detected."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sat_optuna.ticket import ACCURACY, Measure

__all__ = [
    "Comparison",
    "Summary",
    "compare",
    "detectable_by_seeds",
    "detectable_differences",
    "holm",
    "one_sided_p",
    "paired",
    "paired_by_image",
    "summarise",
    "summarise_accuracies",
    "summarise_scores",
    "wilson",
]

# Accuracy points: more than rounding errors of floats, less than one image of any test set.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Summary:
    """The mean of n values with the interval of Student's t, of 95 % where no other is named.

    Attributes:
        mean: of the values, in their unit.
        low: lower end of the interval; NaN for one value.
        high: upper end of the interval; NaN for one value.
        sd: standard deviation, with n - 1 in the denominator; NaN for one value.
        n: number of values.
    """

    mean: float
    low: float
    high: float
    sd: float
    n: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference between a ticket and a control, paired by seed.

    Attributes:
        control: role of the control.
        difference: ticket minus control, seed by seed.
        p: p-value of the two-sided paired t test, corrected by Holm's method for the number of
            controls; NaN for one seed.
    """

    control: str
    difference: Summary
    p: float

    @property
    def within_noise(self) -> bool:
        """Whether the corrected test cannot tell the two apart at 5 %."""
        return not self.p < 0.05


def summarise(values: Sequence[float], *, level: float = 0.95) -> Summary:
    """Return the mean of independent values with its interval.

    >>> summary = summarise([1.0, 2.0, 3.0])
    >>> summary.mean, round(summary.low, 2), round(summary.high, 2), summary.n
    (2.0, -0.48, 4.48, 3)

    Args:
        values: at least one.
        level: of the interval.

    Raises:
        ValueError: there is no value.
    """
    array = np.asarray(values, dtype=np.float64)
    n = array.size
    if n == 0:
        raise ValueError("no value given; a mean needs one")
    mean = float(array.mean())
    if n == 1:
        return Summary(mean, math.nan, math.nan, math.nan, n)
    sd = float(array.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * sd / math.sqrt(n)
    return Summary(mean, mean - half, mean + half, sd, n)


def wilson(accuracy: float, images: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the score interval of an accuracy that images were drawn for (Wilson 1927).

    >>> low, high = wilson(100.0, 100)
    >>> round(low, 2), high
    (96.3, 100.0)

    Args:
        accuracy: per cent of the images.
        images: how many.
        level: of the interval.
    """
    z = float(stats.norm.ppf((1 + level) / 2))
    share, z2 = accuracy / 100, z**2
    centre = share + z2 / (2 * images)
    half = z * math.sqrt(share * (1 - share) / images + z2 / (4 * images**2))
    low, high = ((centre + side * half) / (1 + z2 / images) for side in (-1, 1))
    # Rounding must not leave the accuracy outside.
    return min(100 * max(low, 0.0), accuracy), max(100 * min(high, 1.0), accuracy)


def _newcombe(
    first: float, second: float, images: int, level: float = 0.95
) -> tuple[float, float]:
    """Return how far the interval of first - second lies below and above it, in points.

    Newcombe's interval (1998, method 10), of Wilson's for networks that err independently; for
    networks that err on the same images it is an upper bound.
    """
    (low1, high1), (low2, high2) = (wilson(a, images, level=level) for a in (first, second))
    return math.hypot(first - low1, high2 - second), math.hypot(high1 - first, second - low2)


def summarise_accuracies(values: Sequence[float], *, images: int) -> Summary:
    """Return the mean of accuracies over seeds with an interval that lies in 0..100 per cent.

    It is Student's over the seeds. Where the seeds do not differ at all, which is no certainty, it
    is Wilson's over the images.

    >>> spread = summarise_accuracies([90.0, 90.0, 90.0], images=100)
    >>> round(spread.low, 2), round(spread.high, 2)
    (82.56, 94.48)

    Args:
        values: one a seed, per cent.
        images: number of images of the test set.
    """
    spread = summarise(values)
    if spread.sd < _ROUNDING:
        low, high = wilson(spread.mean, images)
        return replace(spread, low=low, high=high)
    return replace(spread, low=max(spread.low, 0.0), high=min(spread.high, 100.0))


def paired_by_image(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Summary:
    """Return the difference of two accuracies on the same images, in points, with its interval.

    It is Student's over each image's own difference. Where no image differs at all, which is no
    certainty, it is what so many images can tell: Wilson's of none of them.

    >>> right = np.array([True, True, True, False])
    >>> paired_by_image(right, np.array([True, False, False, False])).mean
    50.0

    Args:
        first: (N,), whether a network classifies each image right.
        second: (N,), the same of the network that is subtracted.
    """
    spread = summarise((100.0 * (first.astype(np.float64) - second)).tolist())
    if spread.sd < _ROUNDING:
        half = wilson(0.0, spread.n)[1]
        spread = replace(spread, low=spread.mean - half, high=spread.mean + half)
    return replace(spread, low=max(spread.low, -100.0), high=min(spread.high, 100.0))


def summarise_scores(values: Sequence[float], *, images: int, measure: Measure) -> Summary:
    """Return the mean of a metric over seeds with its interval; of accuracies as they have it.

    Of another metric it is Student's over the seeds alone, one in per cent cut at 0 and 100.

    >>> summarise_scores([0.2, 0.2], images=9, measure=Measure("log_loss", "nats", "lower")).high
    0.2

    Args:
        values: one a seed.
        images: number of images of the test set.
        measure: what they are in.
    """
    if measure == ACCURACY:
        return summarise_accuracies(values, images=images)
    spread = summarise(values)
    if measure.unit == "%":
        return replace(spread, low=max(spread.low, 0.0), high=min(spread.high, 100.0))
    return spread


def holm(pvalues: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979); NaN stays NaN and does not count.

    >>> holm([0.01, 0.04, math.nan, 0.03])
    [0.03, 0.06, nan, 0.06]
    """
    order = sorted((p, i) for i, p in enumerate(pvalues) if not math.isnan(p))
    corrected = [math.nan] * len(pvalues)
    running = 0.0
    for rank, (p, index) in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p))
        corrected[index] = running
    return corrected


def compare(
    ticket: Sequence[float],
    controls: Mapping[str, Sequence[float]],
    *,
    images: int | None = None,
    measure: Measure = ACCURACY,
) -> list[Comparison]:
    """Compare a ticket with each control, seed by seed.

    Where every seed has the same difference, which is no certainty, the interval is that of the
    test set (Newcombe's), or NaN where its size is not given, and for metrics but the accuracy.

    >>> found = compare([91.0, 92.0, 93.0], {"plain": [90.0, 90.5, 92.5]})
    >>> found[0].difference.mean, found[0].within_noise
    (1.0, True)

    Args:
        ticket: one accuracy for each seed, per cent; or values of another metric.
        controls: by role, the same of each, with the seeds in the same order. Leave out a control
            that is the ticket's own network: it would still count in Holm's correction.
        images: number of images of the test set.
        measure: what the values are in.

    Raises:
        ValueError: the numbers of seeds differ.
    """
    differences = {
        role: [a - b for a, b in zip(ticket, values, strict=True)]
        for role, values in controls.items()
    }
    raw = [_two_sided_p(values) for values in differences.values()]
    return [
        Comparison(role, paired(ticket, controls[role], images=images, measure=measure), p)
        for role, p in zip(differences, holm(raw), strict=True)
    ]


def paired(
    first: Sequence[float],
    second: Sequence[float],
    *,
    images: int | None = None,
    measure: Measure = ACCURACY,
    level: float = 0.95,
) -> Summary:
    """Return the mean difference of two networks over the same seeds, with its interval.

    Args:
        first: one value a seed.
        second: the same of the network that is subtracted, in the same order.
        images: number of images of the test set, as of `compare`.
        measure: what the values are in.
        level: of the interval.

    Raises:
        ValueError: the numbers of seeds differ, or there is none.
    """
    spread = summarise([a - b for a, b in zip(first, second, strict=True)], level=level)
    low, high = spread.low, spread.high
    if spread.sd < _ROUNDING:
        below, above = math.nan, math.nan
        if images and measure == ACCURACY:
            mean = summarise(second).mean
            below, above = _newcombe(mean + spread.mean, mean, images, level)
        low, high = spread.mean - below, spread.mean + above
    most = 100.0 if measure.unit == "%" else math.inf
    # In this order of arguments NaN stays NaN.
    return replace(spread, low=max(low, -most), high=min(high, most))


def one_sided_p(differences: Sequence[float], *, above: float = 0.0) -> float:
    """Return the p-value of Student's paired test that the true mean difference is not above.

    >>> round(one_sided_p([1.0, 2.0, 3.0]), 4), round(one_sided_p([1.0, 2.0, 3.0], above=4.0), 4)
    (0.0371, 0.9629)

    Where all differences are equal it is the exact sign test's. NaN for one seed.

    Args:
        differences: one a seed.
        above: what the mean is held against.
    """
    spread = summarise(differences)
    if spread.sd < _ROUNDING:
        # Accuracies come in steps of one image, so differences may be equal by chance. Student's t
        # would take that for certainty. The exact sign test does not use their spread.
        return 2.0**-spread.n if spread.mean - above > _ROUNDING else 1.0
    if spread.n == 1:
        return math.nan
    return float(stats.ttest_1samp(differences, above, alternative="greater").pvalue)


def _two_sided_p(differences: Sequence[float]) -> float:
    both = (one_sided_p(differences), one_sided_p([-value for value in differences]))
    return math.nan if math.isnan(both[0]) else min(1.0, 2 * min(both))


def detectable_differences(
    differences: Sequence[Summary], *, accuracy: float, images: int
) -> tuple[float, float]:
    """Return the smallest differences, in accuracy points, that can be told from noise.

    Args:
        differences: of `paired`, at least one; their standard deviations over seeds are pooled.
        accuracy: a typical accuracy, per cent.
        images: number of images of the test set.

    Returns:
        Two numbers. With this number of seeds: half the 95 % interval of a mean paired difference,
        NaN for one seed and where the differences of no control differ. With this test set: half
        the 95 % score interval (Newcombe) of the difference between two independent networks; for
        networks that err on the same images it is an upper bound.
    """
    return detectable_by_seeds(differences), _newcombe(accuracy, accuracy, images)[0]


def detectable_by_seeds(differences: Sequence[Summary]) -> float:
    """Return the first number of `detectable_differences`, which any metric has."""
    n = differences[0].n
    pooled = math.sqrt(sum(spread.sd**2 for spread in differences) / len(differences))
    # All differences share the ticket's runs, so there are no more than n - 1 degrees of freedom.
    by_seeds = float(stats.t.ppf(0.975, n - 1)) * pooled / math.sqrt(n) if n > 1 else math.nan
    return by_seeds if pooled > _ROUNDING else math.nan
