"""What needs no network: rules that a segmentation or a counting should be above.

They are made of the images that networks are trained on and scored on the same test images with
the same metric. This file knows NumPy alone.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sat_optuna.config.config import IGNORED
from sat_optuna.tasks import Metric, MetricError
from sat_optuna.ticket import Measure

__all__ = ["Masked", "TrivialRule", "count_rules", "mask_rules"]

Masked: TypeAlias = Callable[[], Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]]
"""Goes through images and masks, uint8 (n, C, H, W) and (n, H, W), batch by batch."""

_BINS, _MOST_BINS = 32, 32**3
_VALUES = 511  # of a feature: a byte, or a difference of two
_FEW = 3  # classes up to which a threshold between two of them is sought
_COLOURS = ("red", "green", "blue")
_Pixels: TypeAlias = NDArray[np.uint8]  # (P, C)
_Answer: TypeAlias = Callable[[_Pixels], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class TrivialRule:
    """A rule, and how good it is on the test images.

    Attributes:
        name: what it answers, in words.
        scores: by metric; without those that have no value for it.
    """

    name: str
    scores: dict[Measure, float]


def count_rules(
    train: NDArray[Any], test: NDArray[Any], metrics: Sequence[Metric]
) -> list[TrivialRule]:
    """Return how good the mean and the median count are as the answer for each image.

    >>> from sat_optuna.tasks import METRICS
    >>> mean, _ = count_rules(np.array([1, 3]), np.array([2, 5]), [METRICS.get("mae")])
    >>> mean.name, list(mean.scores.values())
    ('mean count of the training images, 2.00', [1.5])

    Args:
        train: (N,) counts of the images that networks are trained on.
        test: (M,) those of the test images.
        metrics: of counting.
    """
    rules = []
    for name, of in (("mean", np.mean), ("median", np.median)):
        answer = float(of(train))
        state = np.stack([np.full(len(test), answer), np.asarray(test, np.float64)], axis=1)
        said = f"{name} count of the training images, {answer:.2f}"
        rules.append(TrivialRule(said, _scores(metrics, state, test)))
    return rules


def mask_rules(
    train: Masked, test: Masked, *, class_names: Sequence[str], metrics: Sequence[Metric]
) -> list[TrivialRule]:
    """Return how good rules are that look at a pixel's own colour alone.

    The most frequent class everywhere; the class whose mean colour is nearest; the most frequent
    class of the pixel's bin of colour, 32 bins a channel, of more than three channels fewer so
    that there are 32,768 at most (13 a channel of four), and of a bin without a training pixel the
    most frequent class of all; of two or three classes also the best threshold between two of
    them, of one channel or, of colour pictures, of the difference of two. Pixels of 255 do not
    count.

    Args:
        train: what networks are trained on.
        test: the test images.
        class_names: one a class.
        metrics: of the segmentation, of confusion counts.
    """
    seen = _seen(train, len(class_names))
    rules = []
    for name, answer in _answers(seen, class_names, metrics[0]):
        states, masks = zip(
            *((_confusions(answer, x, y, len(class_names)), y) for x, y in test()), strict=True
        )
        scores = _scores(metrics, np.concatenate(states), np.concatenate(masks))
        rules.append(TrivialRule(name, scores))
    return rules


@dataclass
class _Seen:
    """Training pixels counted, by feature, value and class, and by bin of colour and class."""

    channels: int
    bins: int  # a channel
    values: NDArray[np.int64]  # (F, _VALUES, K), the channels first
    binned: NDArray[np.int64]  # (bins ** C, K)
    totals: NDArray[np.int64] = field(init=False)  # (K,)

    def __post_init__(self) -> None:
        self.totals = self.binned.sum(axis=0)


def _seen(train: Masked, classes: int) -> _Seen:
    values = binned = np.zeros(0, np.int64)
    bins = channels = 0
    for images, masks in train():
        pixels, known = _known(images, masks)
        features = _features(pixels)
        if not bins:
            channels = pixels.shape[1]
            bins = _bins(channels)
            values = np.zeros((len(features), _VALUES * classes), np.int64)
            binned = np.zeros(bins**channels * classes, np.int64)
        for number, feature in enumerate(features):
            cells = feature * classes + known
            values[number] += np.bincount(cells, minlength=_VALUES * classes)
        binned += np.bincount(_codes(pixels, bins) * classes + known, minlength=len(binned))
    by_value = values.reshape(-1, _VALUES, classes)
    return _Seen(channels, bins, by_value, binned.reshape(-1, classes))


def _features(pixels: _Pixels) -> list[NDArray[np.int64]]:
    """Return each channel, and of colours what one is more than another, + 255; (P,) each."""
    channels = list(pixels.T.astype(np.int64))
    pairs = combinations(channels, 2) if len(channels) == len(_COLOURS) else ()
    return channels + [second - first + 255 for first, second in pairs]


def _threshold_text(channels: int, feature: int, threshold: int) -> str:
    if channels != len(_COLOURS):
        return f"channel {feature + 1} is at most {threshold} of 255"
    if feature < channels:
        return f"{_COLOURS[feature]} is at most {threshold} of 255"
    first, second = list(combinations(_COLOURS, 2))[feature - channels]
    return f"{second} minus {first} is at most {threshold - 255} of 255"


def _known(images: _Pixels, masks: NDArray[np.uint8]) -> tuple[_Pixels, NDArray[np.int64]]:
    """Return the pixels that have a class, (P, C), and the class of each, (P,)."""
    has = masks != IGNORED
    return images.transpose(0, 2, 3, 1)[has], masks[has].astype(np.int64)


def _bins(channels: int) -> int:
    """Return how many bins a channel has."""
    bins = _BINS
    while bins > 1 and bins**channels > _MOST_BINS:
        bins -= 1
    return bins


def _codes(pixels: _Pixels, bins: int) -> NDArray[np.int64]:
    """Return the number of each pixel's bin of colour, (P,)."""
    codes = np.zeros(len(pixels), np.int64)
    for channel in pixels.T:
        codes = codes * bins + channel.astype(np.int64) * bins // 256
    return codes


def _answers(
    seen: _Seen, class_names: Sequence[str], metric: Metric
) -> Iterable[tuple[str, _Answer]]:
    most = int(seen.totals.argmax())
    yield (
        f"most frequent class everywhere, {class_names[most]}",
        lambda pixels: np.full(len(pixels), most),
    )
    there = np.flatnonzero(seen.totals)
    sums = np.einsum("cvk,v->kc", seen.values[: seen.channels], np.arange(_VALUES))
    means = sums[there] / seen.totals[there, None]
    yield "class of the nearest mean colour", lambda pixels: there[_nearest(pixels, means)]
    of_bin = np.where(seen.binned.any(axis=1), seen.binned.argmax(axis=1), most)
    yield (
        f"most frequent class of the colour's bin, {seen.bins} bins a channel",
        lambda pixels: of_bin[_codes(pixels, seen.bins)],
    )
    if len(class_names) <= _FEW and (best := _best_threshold(seen, metric)):
        feature, threshold, low, high = best
        yield (
            f"{class_names[low]} where {_threshold_text(seen.channels, feature, threshold)}, "
            f"{class_names[high]} elsewhere",
            lambda pixels: np.where(_features(pixels)[feature] <= threshold, low, high),
        )


def _nearest(pixels: _Pixels, means: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return which of the colours (K, C) is nearest to each pixel, (P,)."""
    # |p - m|^2 without |p|^2, which is the same for all m.
    return np.asarray(((means**2).sum(axis=1) - pixels @ (2 * means.T)).argmin(axis=1))


def _best_threshold(seen: _Seen, metric: Metric) -> tuple[int, int, int, int] | None:
    """Return feature, threshold, class up to it and above it; None where none has a value.

    Of each feature and two classes the threshold with the highest IoU of both, and of these the
    best by the metric.
    """
    below = seen.values.cumsum(axis=1)
    answers, classes = below.sum(axis=2), len(seen.totals)
    best, found = -math.inf, None
    for low, high in permutations(range(classes), 2):
        right = below[:, :, low], seen.totals[high] - below[:, :, high]
        named = answers, seen.totals.sum() - answers
        ious = sum(
            hits / np.maximum(1, seen.totals[one] + answered - hits)
            for one, hits, answered in zip((low, high), right, named, strict=True)
        )
        for feature, threshold in enumerate(np.argmax(ious, axis=1).tolist()):
            confusion = np.zeros((1, classes, classes))
            confusion[0, :, low] = below[feature, threshold]
            confusion[0, :, high] = seen.totals - below[feature, threshold]
            points = -math.inf
            with suppress(MetricError):
                points = metric.measure.points(metric.value(confusion, np.zeros((1, 0, 0))))
            if points > best:
                best, found = points, (feature, threshold, low, high)
    return found


def _confusions(
    answer: _Answer, images: _Pixels, masks: NDArray[np.uint8], classes: int
) -> NDArray[np.float32]:
    """Return each image's pixels by true class and answer, as the task keeps them."""
    pixels, known = _known(images, masks)
    image = np.nonzero(masks != IGNORED)[0]
    cells = (image * classes + known) * classes + answer(pixels)
    counts = np.bincount(cells, minlength=len(masks) * classes**2)
    return counts.reshape(-1, classes, classes).astype(np.float32)


def _scores(
    metrics: Sequence[Metric], state: NDArray[Any], targets: NDArray[Any]
) -> dict[Measure, float]:
    found = {}
    for metric in metrics:
        with suppress(MetricError):
            found[metric.measure] = metric.value(state, targets)
    return found
