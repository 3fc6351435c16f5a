"""What a kind of attention does at a block: its main effect, with an interval.

Accuracy, or another metric, is regressed on the choices, a column for each kind at each block
(none is the base). On all schemes the coefficient is the plain mean difference with and without
the kind; on some of them it is what least squares tells of it. Its error has two parts, of which
each source has its own:

    images    the validation images are a sample: Student's t over each image's own effect
    schemes   not all schemes are there: the residual of the regression
    runs      all schemes are there, trained with several seeds: what the seeds of a scheme differ
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sat_optuna.evidence.statistics import holm, wilson
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import ACCURACY, Measure

__all__ = [
    "UNTOLD",
    "Effect",
    "block_effects",
    "image_counts",
    "in_words",
    "is_complete",
    "noise_of",
    "readings",
    "seed_effects",
    "signed",
]

UNTOLD = "not told from 0"

_DASH, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
_NEIGHBOURS = 33
_SLICE = 256  # schemes whose images are unpacked at a time
_ROUNDING = 1e-9  # accuracy points


@dataclass(frozen=True, slots=True)
class Effect:
    """What a kind does at a block.

    Attributes:
        block: Optuna's name of it.
        kind: of attention.
        points: what it adds in the mean, in the metric's unit, for the better: accuracy points.
        low, high: the 95 % interval.
        p: two-sided, that it adds nothing; NaN where nothing differs, which is no certainty.
    """

    block: str
    kind: str
    points: float
    low: float
    high: float
    p: float


def block_effects(
    schemes: NDArray[np.uint8],
    points_of: NDArray[np.float64],
    *,
    stages: Sequence[int],
    kinds: Sequence[str],
    images: int,
    right: NDArray[np.uint8] | None = None,
    counts: NDArray[np.float64] | None = None,
    runs: NDArray[np.float64] | None = None,
    measure: Measure = ACCURACY,
) -> list[Effect]:
    """Return the effect of each kind at each block; none where the schemes are too few.

    Where nothing differs at all, the interval is what so many images can tell, Wilson's of no
    image in all, and there is no p.

    Args:
        schemes: (S, blocks) choices, drawn without looking at a score, or all there are.
        points_of: (S,), accuracies, per cent; or values of another metric, the higher the better.
        stages: number of blocks of each stage.
        kinds: names of the kinds.
        images: number of images; 0 where it is not known.
        right: (S, bytes), a packed bit an image, as of `SchemeResult`; None where it is not known
            which images were right: the intervals then are of the schemes alone.
        counts: (images,), what each image counts where they do not count the same, of mean 1.
        runs: (S, seeds), the values whose means `points_of` are, NaN where one is missing; None
            for none. They count where all schemes are there, of which the residual tells nothing.
        measure: what the values are in.
    """
    count = len(schemes)
    choices = len(kinds) + 1
    taken = schemes[:, :, None] == np.arange(1, choices)  # (S, blocks, K)
    design = np.column_stack([np.ones(count), taken.reshape(count, -1)])
    terms = design.shape[1]
    # Trained networks differ from seed to seed: of them there is never all, but for several seeds.
    complete = (right is not None or runs is not None) and is_complete(schemes, len(kinds))
    if np.linalg.matrix_rank(design) < terms or (count == terms and not complete):
        return []
    inverse = np.linalg.inv(design.T @ design)
    points = inverse @ (design.T @ points_of)
    variance, freedom = np.zeros(terms), math.inf
    if not complete:
        freedom = count - terms
        residual = points_of - design @ points
        variance += np.diag(inverse) * float(residual @ residual) / freedom
    elif runs is not None:
        noise, freedom = noise_of(runs)
        variance += (inverse @ design.T) ** 2 @ (noise / np.isfinite(runs).sum(axis=1))
    if right is not None:
        each = np.zeros((terms, images))
        for start in range(0, count, _SLICE):
            rows = slice(start, start + _SLICE)
            bits = np.unpackbits(right[rows], axis=1, count=images).astype(np.float64)
            each += design[rows].T @ (bits if counts is None else bits * counts)
        variance += (100 * inverse @ each).var(axis=1, ddof=1) / images
        freedom = min(freedom, images - 1)
    errors = np.sqrt(variance)
    names = [(block, kind) for block in Scheme.parameter_names(stages) for kind in kinds]
    share = measure.unit == "%"  # between 0 and 100
    least = (wilson(0.0, images)[1] if images else 100.0) if share else math.nan
    effects = []
    for (block, kind), mean, error in zip(names, points[1:], errors[1:], strict=True):
        exact = error < _ROUNDING  # the same in all schemes and images
        half = least if exact else float(stats.t.ppf(0.975, freedom)) * error
        if exact:  # there is no spread to hold a difference against
            p = 1.0 if abs(mean) < _ROUNDING else math.nan
        else:
            p = 2 * float(stats.t.sf(abs(mean) / error, freedom))
        most = 100.0 if share else math.inf
        # In this order of arguments NaN stays NaN.
        low, high = max(mean - half, -most), min(mean + half, most)
        effects.append(Effect(block, kind, float(mean), float(low), float(high), p))
    return effects


def image_counts(measure: Measure, labels: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return what each image counts in an accuracy of classes, (N,) of mean 1.

    Args:
        measure: the metric.
        labels: of the images, (N,); empty where they are not known.

    Returns:
        None for the accuracy, in which all count the same, and for other metrics.
    """
    name = measure.name
    if name == "balanced_accuracy" and len(labels):
        counts = np.bincount(labels)
        return np.asarray(len(labels) / (np.count_nonzero(counts) * counts[labels]))
    if name.startswith("class_accuracy_") and len(labels):
        asked = labels == int(name.rpartition("_")[2])
        return np.asarray(asked / asked.mean())
    return None


def is_complete(schemes: NDArray[np.uint8], kinds: int) -> bool:
    """Tell whether all schemes of some blocks and a number of kinds are there."""
    return bool(len(np.unique(schemes, axis=0)) == (kinds + 1) ** schemes.shape[1])


def noise_of(runs: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Return the variance of each scheme's runs about its mean, and the degrees of freedom.

    A scheme's own runs are few, and noise may differ with the accuracy: its variance is that of
    the 33 schemes whose means rank nearest. What a seed adds to all schemes alike does not count.

    Args:
        runs: (S, seeds), NaN where one is missing.

    Returns:
        (S,) variances, and the degrees of freedom of all; NaN and 0 where no scheme has two runs.
    """
    count = len(runs)
    there = np.isfinite(runs)
    residual = runs - seed_effects(runs)
    means = np.nanmean(residual, axis=1)
    squares = np.nansum((residual - means[:, None]) ** 2, axis=1)
    own = there.sum(axis=1) - 1
    estimated = int((there.mean(axis=0) >= 0.5).sum()) - 1
    freedom = int(own.sum()) - max(estimated, 0)
    if freedom < 1:
        return np.full(count, math.nan), 0
    order = np.argsort(means, kind="stable")
    width = min(_NEIGHBOURS, count)
    start = np.clip(np.arange(count) - width // 2, 0, count - width)
    sums = [np.concatenate([[0.0], np.cumsum(of[order])]) for of in (squares, own)]
    inside, freedoms = (total[start + width] - total[start] for total in sums)
    whole = squares.sum() / own.sum()
    local = np.divide(inside, freedoms, out=np.full(count, whole), where=freedoms > 0)
    variances = np.empty(count)
    variances[order] = local * own.sum() / freedom
    return variances, freedom


def seed_effects(runs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each seed adds to all schemes alike, (seeds,), of mean 0.

    It is told of the seeds that half of the schemes have, and 0 for the others.

    Args:
        runs: (S, seeds), NaN where one is missing.
    """
    there = np.isfinite(runs)
    common = there.mean(axis=0) >= 0.5
    rows = runs[:, common][there[:, common].all(axis=1)]
    effects = np.zeros(runs.shape[1])
    if rows.size:
        effects[common] = rows.mean(axis=0) - rows.mean()
    return effects


def readings(effects: Sequence[Effect]) -> list[str]:
    """Return what can be said of each effect, of all of them at once (Holm, 5 %)."""
    return [
        UNTOLD if not p < 0.05 else "pays" if effect.points > 0 else "hurts"
        for effect, p in zip(effects, holm([effect.p for effect in effects]), strict=True)
    ]


def in_words(
    effects: Sequence[Effect], *, schemes: int, terms: int, measure: Measure = ACCURACY
) -> list[str]:
    """Return what each kind does at each block, a plain sentence each.

    "SE hurts at s2.b01: -0.80 points (-1.30 to -0.30)", "SE pays at ...", "SE at s1.b00: not told
    from 0, ...".

    >>> in_words([], schemes=9, terms=9)
    ['nothing can be told: 9 schemes for 9 effects of a kind at a block']

    Args:
        effects: of `block_effects`.
        schemes: how many they were told of.
        terms: how many effects there are, told or not: kinds times blocks.
        measure: what they are in.
    """
    if not effects:
        return [f"nothing can be told: {schemes} schemes for {terms} effects of a kind at a block"]
    unit = "points" if measure.unit == "%" else f"{measure.title} {measure.unit}".rstrip()
    said = []
    for effect, reading in zip(effects, readings(effects), strict=True):
        kind, number = effect.kind.upper(), f"{signed(effect.points, measure)} {unit}"
        interval = f"({signed(effect.low, measure)} to {signed(effect.high, measure)})"
        first = f"{kind} at {effect.block}: {UNTOLD}," if reading == UNTOLD else ""
        first = first or f"{kind} {reading} at {effect.block}:"
        said.append(f"{first} {number} {interval}")
    return said


def signed(points: float, measure: Measure = ACCURACY) -> str:
    """Return a difference with its sign; a dash where it is not known."""
    if math.isnan(points):
        return _DASH
    text = f"{points:+z.2f}" if measure.unit == "%" else f"{points:+z.4f}"
    return text.replace("-", _MINUS)
