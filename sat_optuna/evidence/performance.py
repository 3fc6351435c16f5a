"""How good one trained network is on images: every metric of its task with an interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sat_optuna.device import memory_for
from sat_optuna.errors import DataError
from sat_optuna.evidence.statistics import wilson
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.tasks import METRICS, Metric, MetricError, Task, as_task, metrics_of
from sat_optuna.tasks.segmentation import SEGMENTATION, class_ious

if TYPE_CHECKING:
    from sat_optuna.data.images import Images

__all__ = ["Measured", "Performance", "largest_confusions", "performance"]

RESAMPLES = 200
_LOST = 0.05  # share of the resamples on which a metric may have no value


@dataclass(frozen=True, slots=True)
class Measured:
    """A number with its 95 % interval over the images.

    Attributes:
        name: of the metric, or of a class.
        value: in the metric's unit.
        low, high: the interval; NaN where there is none.
        unit: of the value; empty for none.
        n: number of images.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """How good a network is.

    Attributes:
        metrics: of its task, the usual one first.
        classes: the accuracy on the images of each class, of a segmentation the intersection over
            union of each class; of these two alone.
        confusion: (K, K) images by class, a row for the true one, a column for the network's
            answer; of a classification alone.
        remarks: why a metric is missing, a sentence each.
    """

    metrics: tuple[Measured, ...]
    classes: tuple[Measured, ...] = ()
    confusion: NDArray[np.int64] | None = None
    remarks: tuple[str, ...] = ()


def performance(
    network: nn.Module,
    images: "Images",
    *,
    class_names: Sequence[str],
    task: Task | str = "classification",
    seed: int = 0,
    batch: int = 500,
) -> Performance:
    """Measure a network in eval mode with every metric of its task.

    Intervals of accuracies are Wilson's over the images; those of other metrics are the
    percentiles of a bootstrap over the images. Neither holds what another training would change.

    Args:
        network: called with (N, C, H, W), as normalised as `images` yields them.
        images: all of them are used.
        class_names: one an output.
        task: what the network does, or its name.
        seed: draws the resamples.
        batch: images a pass.

    Raises:
        DataError: there are no images, or they cannot be read.
        DeviceMemoryError: the device has too little memory for such batches.
    """
    task = as_task(task)
    if not len(images):
        raise DataError("no image given to evaluate on; give at least one")
    task.check_targets(images.targets)
    kept: dict[str, NDArray[Any]] = {}
    labels, kept["state"], answers = _seen(network, images, task, batch)
    if task.targets == "labels":
        kept["right"] = answers == labels
    metrics: list[Measured] = []
    remarks: list[str] = []
    names = sorted(metrics_of(task.name), key=lambda name: name != task.metric)
    for metric in map(METRICS.get, names):
        try:
            metrics.append(_measured(metric, kept[metric.keeps], labels, seed=seed))
        except MetricError as error:
            remarks.append(str(error))
    if task.targets != "labels":
        by_confusion = task.state is SEGMENTATION.state
        ious = _class_ious(kept["state"], class_names, seed=seed) if by_confusion else ()
        return Performance(metrics=tuple(metrics), classes=ious, remarks=tuple(remarks))
    count = len(class_names)
    pairs = np.bincount(labels * count + answers, minlength=count * count)
    confusion = pairs.reshape(count, count).astype(np.int64)
    return Performance(
        metrics=tuple(metrics),
        classes=tuple(
            _share(name, int(row[k]), int(row.sum()))
            for k, (name, row) in enumerate(zip(class_names, confusion, strict=True))
            if row.sum()
        ),
        confusion=confusion,
        remarks=tuple(remarks),
    )


def _seen(
    network: nn.Module, images: "Images", task: Task, batch: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the targets of all images, what the task keeps of them, and the largest output."""
    room = memory_for(f"scoring in batches of {batch} images", "give a smaller batch")
    seen: list[tuple[torch.Tensor, ...]] = []
    with room, evaluating(network), torch.inference_mode():
        for x, targets in images.batches(None, batch):
            outputs = network(x).float()
            answers = outputs.argmax(1) if task.targets == "labels" else targets.new_empty(0)
            seen.append((targets, task.state(outputs, targets), answers))
    labels, state, named = (torch.cat(each).cpu().numpy() for each in zip(*seen, strict=True))
    return labels, state, named


def _measured(metric: Metric, kept: NDArray[Any], targets: NDArray[Any], *, seed: int) -> Measured:
    value, n = metric.value(kept, targets), len(targets)
    if metric.name == "accuracy":
        return Measured(metric.name, value, *wilson(value, n), metric.unit, n)
    return Measured(metric.name, value, *_bootstrap(metric, kept, targets, seed), metric.unit, n)


def _bootstrap(
    metric: Metric, kept: NDArray[Any], targets: NDArray[Any], seed: int
) -> tuple[float, float]:
    """Return the percentiles 2.5 and 97.5 over resampled images; NaN where too many have none."""
    rng = np.random.default_rng([seed, len(targets)])
    values = []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(targets), len(targets))
        try:
            values.append(metric.value(kept[rows], targets[rows]))
        except MetricError:  # a class without an image in it, for one
            continue
    if len(values) < (1 - _LOST) * RESAMPLES:
        return math.nan, math.nan
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _class_ious(
    confusions: NDArray[Any], class_names: Sequence[str], *, seed: int
) -> tuple[Measured, ...]:
    """Return the IoU of each class that has one, with percentiles over resampled images."""
    n, rng = len(confusions), np.random.default_rng([seed, len(confusions)])
    values = class_ious(confusions.sum(axis=0, dtype=np.float64))
    # How often an image is drawn times its counts: nothing is copied.
    drawn = (np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(RESAMPLES))
    flat = confusions.reshape(n, -1).astype(np.float64)
    resampled = np.array(
        [class_ious((times @ flat).reshape(confusions.shape[1:])) for times in drawn]
    )
    ious = []
    for k, name in enumerate(class_names):
        known = resampled[~np.isnan(resampled[:, k]), k]
        low, high = (
            np.percentile(known, [2.5, 97.5])
            if len(known) >= (1 - _LOST) * RESAMPLES
            else (math.nan, math.nan)
        )
        if not math.isnan(values[k]):
            ious.append(Measured(name, float(values[k]), float(low), float(high), "%", n))
    return tuple(ious)


def _share(name: str, hits: int, n: int) -> Measured:
    value = 100 * hits / n
    return Measured(name, value, *wilson(value, n), "%", n)


def largest_confusions(
    confusion: NDArray[np.int64], class_names: Sequence[str], *, most: int = 3
) -> list[tuple[str, str, int]]:
    """Return the most frequent mistakes: the true class, the answer, and how many images."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    places = [divmod(int(place), len(class_names)) for place in order]
    return [(class_names[t], class_names[a], int(wrong[t, a])) for t, a in places if wrong[t, a]]
