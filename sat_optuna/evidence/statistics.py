"""Means with their intervals, paired differences, and what a test set can resolve at all."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["Comparison", "Summary", "compare", "holm", "resolvable", "summarise"]


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean of n values with the 95 % interval of Student's t.

    Attributes:
        mean, low, high: in the values' unit; low and high are NaN for one value.
        sd: standard deviation, n - 1 in the denominator.
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
        p: two-sided paired t test, corrected by Holm over the controls; NaN where the two are
            the same network.
    """

    control: str
    difference: Summary
    p: float

    @property
    def within_noise(self) -> bool:
        """Whether the corrected test cannot tell the two apart at 5 %."""
        return not self.p < 0.05


def summarise(values: Sequence[float], *, confidence: float = 0.95) -> Summary:
    """Return mean and interval of independent values."""
    array = np.asarray(values, dtype=np.float64)
    n = array.size
    mean = float(array.mean())
    if n < 2:
        return Summary(mean, math.nan, math.nan, math.nan, n)
    sd = float(array.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / math.sqrt(n)
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
        controls: by role, an accuracy a seed.
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
    if not any(differences):
        return math.nan
    spread = summarise(differences)
    if spread.sd == 0.0:  # every seed differs by the same amount: no noise to weigh it against
        return 0.0
    return float(2 * stats.t.sf(abs(spread.mean) / (spread.sd / math.sqrt(spread.n)), spread.n - 1))


def resolvable(comparisons: Sequence[Comparison], *, accuracy: float, images: int) -> tuple[float, float]:
    """Return the smallest differences, in points, that seeds and test set can resolve.

    Args:
        comparisons: their spread over seeds is pooled.
        accuracy: a typical accuracy, per cent.
        images: in the test set.

    Returns:
        (by the seeds: half the 95 % interval of a mean paired difference, NaN where all compared
        networks are the same; by the test set: 1.96 binomial standard errors of the difference
        between two independent networks, an upper bound for networks that err on the same images).
    """
    spreads = [c.difference for c in comparisons if not math.isnan(c.p)]
    by_seeds = math.nan
    if spreads:
        n = spreads[0].n
        pooled = math.sqrt(sum(s.sd**2 for s in spreads) / len(spreads))
        by_seeds = float(stats.t.ppf(0.975, n - 1)) * pooled / math.sqrt(n)
    share = accuracy / 100
    by_images = 196.0 * math.sqrt(2 * share * (1 - share) / images)
    return by_seeds, by_images
