"""Means with their intervals, paired differences, and what a test set can resolve at all."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["Comparison", "Summary", "compare", "holm", "resolvable", "summarise"]

# Accuracy points: more than what floats round off, less than one image of any test set.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean of n values with the 95 % interval of Student's t.

    Attributes:
        mean: of the values, in their unit.
        low: lower end of the interval; NaN for one value.
        high: upper end of the interval; NaN for one value.
        sd: standard deviation, n - 1 in the denominator; NaN for one value.
        n: number of values.
    """

    mean: float
    low: float
    high: float
    sd: float
    n: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A ticket against a control, paired by seed.

    Attributes:
        control: its role.
        difference: ticket minus control, seed by seed.
        p: of the two-sided paired t test, corrected by Holm over the controls; NaN for one seed.
    """

    control: str
    difference: Summary
    p: float

    @property
    def within_noise(self) -> bool:
        """Whether the corrected test cannot tell the two apart at 5 %."""
        return not self.p < 0.05


def summarise(values: Sequence[float]) -> Summary:
    """Return mean and interval of independent values.

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
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return Summary(mean, mean - half, mean + half, sd, n)


def holm(pvalues: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979); NaN stays NaN and does not count."""
    order = sorted((p, i) for i, p in enumerate(pvalues) if not math.isnan(p))
    corrected = [math.nan] * len(pvalues)
    running = 0.0
    for rank, (p, index) in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p))
        corrected[index] = running
    return corrected


def compare(ticket: Sequence[float], controls: Mapping[str, Sequence[float]]) -> list[Comparison]:
    """Compare a ticket with each control, the same seeds in the same order.

    Args:
        ticket: an accuracy a seed.
        controls: by role, an accuracy a seed; networks other than the ticket's, for a comparison
            with itself would still count in Holm's correction.

    Raises:
        ValueError: two of them have not the same number of seeds.
    """
    differences = {
        role: [a - b for a, b in zip(ticket, values, strict=True)]
        for role, values in controls.items()
    }
    raw = [_paired_p(values) for values in differences.values()]
    return [
        Comparison(role, summarise(values), p)
        for (role, values), p in zip(differences.items(), holm(raw), strict=True)
    ]


def _paired_p(differences: Sequence[float]) -> float:
    spread = summarise(differences)
    if spread.sd < _ROUNDING:
        # Accuracies come in steps of one image, so equal differences happen by chance; Student's
        # t would call them certain. The exact sign test asks nothing of their spread.
        return 1.0 if abs(spread.mean) < _ROUNDING else 2.0 ** (1 - spread.n)
    t = abs(spread.mean) / (spread.sd / math.sqrt(spread.n))
    return float(2 * stats.t.sf(t, spread.n - 1))


def resolvable(
    comparisons: Sequence[Comparison], *, accuracy: float, images: int
) -> tuple[float, float]:
    """Return the smallest differences, in points, that seeds and test set can resolve.

    Args:
        comparisons: at least one; their spread over seeds is pooled.
        accuracy: a typical accuracy, per cent.
        images: in the test set.

    Returns:
        (by the seeds: half the 95 % interval of a mean paired difference, NaN for one seed; by the
        test set: 1.96 binomial standard errors of the difference between two independent networks,
        an upper bound for networks that err on the same images).
    """
    n = comparisons[0].difference.n
    pooled = math.sqrt(sum(c.difference.sd**2 for c in comparisons) / len(comparisons))
    # n - 1 degrees of freedom, not more: all differences share the ticket's runs.
    by_seeds = float(stats.t.ppf(0.975, n - 1)) * pooled / math.sqrt(n) if n > 1 else math.nan
    share = accuracy / 100
    by_images = 196.0 * math.sqrt(2 * share * (1 - share) / images)
    return by_seeds, by_images
