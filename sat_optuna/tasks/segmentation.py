"""Semantic segmentation: a class a pixel. Cross-entropy; IoU and pixel accuracy, in per cent.

Targets are masks, (N, H, W) whole numbers; a pixel of 255 has no class and is neither learnt nor
scored. What is kept of each image are its confusion counts, (N, classes, classes), a row for the
true class, a column for the network's answer. A metric is of their sum over all images, so it is
that of the whole set and no mean over images.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sat_optuna.config.config import IGNORED
from sat_optuna.errors import UnknownName
from sat_optuna.tasks.contract import Metric, MetricError, Task, Values

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MIOU", "PIXEL_ACCURACY", "SEGMENTATION", "class_iou", "class_ious"]

_OF = ("segmentation",)


def _pixel_cross_entropy(
    outputs: "Tensor", targets: "Tensor", *, reduction: str, weight: "Tensor | None" = None
) -> "Tensor":
    """Return the mean over a batch's pixels, or the sum of each image's mean over its own.

    The first, which trains, is torch's, by the weights of the classes; 0 where no pixel has a
    class.
    """
    import torch
    from torch.nn import functional as F

    known = targets != IGNORED
    each = F.cross_entropy(outputs, targets, weight=weight, ignore_index=IGNORED, reduction="none")
    if reduction == "sum":
        return (each.sum((1, 2)) / known.sum((1, 2)).clamp_min(1)).sum()
    weights = known if weight is None else weight[torch.where(known, targets, 0)] * known
    total = weights.sum()
    mean: Tensor = each.sum() / torch.where(total > 0, total, 1)
    return mean


def _confusion(outputs: "Tensor", targets: "Tensor") -> "Tensor":
    """Return each image's pixels by true class and answer, (N, classes, classes) float32."""
    import torch

    classes = outputs.shape[1]
    cells = targets * classes + outputs.argmax(1)
    cells = torch.where(targets != IGNORED, cells, classes * classes).flatten(1)
    counts = torch.zeros(len(cells), classes * classes + 1, device=cells.device)
    counts.scatter_add_(1, cells, torch.ones_like(cells, dtype=counts.dtype))  # exact to 2**24
    made: Tensor = counts[:, :-1].reshape(-1, classes, classes)
    return made


SEGMENTATION = Task(
    name="segmentation",
    targets="masks",
    metric="miou",
    loss=_pixel_cross_entropy,
    state=_confusion,
)


def class_ious(pixels: Values) -> NDArray[np.float64]:
    """Return the intersection over union of each class, per cent.

    >>> class_ious(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    array([75., 80., nan])

    Args:
        pixels: (classes, classes), by true class and answer.

    Returns:
        (classes,), NaN for a class in no mask and no answer.
    """
    hits = np.diag(pixels)
    union = pixels.sum(axis=0) + pixels.sum(axis=1) - hits
    shares = np.full(len(hits), np.nan)
    np.divide(100.0 * hits, union, out=shares, where=union > 0)
    return shares


def _ious(confusions: Values) -> NDArray[np.float64]:
    return class_ious(confusions.sum(axis=0, dtype=np.float64))


def _miou(confusions: Values, _masks: Values) -> float:
    # A class that is in no mask and no answer does not count.
    ious = _ious(confusions)
    if np.isnan(ious).all():
        raise _no_pixel("miou", confusions)
    return float(np.nanmean(ious))


def _pixel_accuracy(confusions: Values, _masks: Values) -> float:
    pixels = confusions.sum(axis=0, dtype=np.float64)
    if not pixels.any():
        raise _no_pixel("pixel_accuracy", confusions)
    return float(100 * np.diag(pixels).sum() / pixels.sum())


def _no_pixel(metric: str, confusions: Values) -> MetricError:
    return MetricError(
        f"{metric} needs pixels with a class, and the masks of these {len(confusions)} images "
        f"have none but {IGNORED}; give others"
    )


MIOU = Metric(name="miou", unit="%", better="higher", tasks=_OF, of=_miou)
PIXEL_ACCURACY = Metric(
    name="pixel_accuracy", unit="%", better="higher", tasks=_OF, of=_pixel_accuracy
)


def class_iou(number: str) -> Metric:
    """Return the metric `iou_NUMBER`: the intersection over union of one class.

    Raises:
        UnknownName: that is no class's number.
    """
    if not number.isdecimal():
        raise UnknownName(
            f"no metric 'iou_{number}'; write the class by its number, from 0, for example iou_2"
        )

    def of(confusions: Values, _masks: Values) -> float:
        ious, asked = _ious(confusions), int(number)
        if asked >= len(ious) or np.isnan(ious[asked]):
            raise MetricError(
                f"iou_{number} needs pixels of class {number}, and these {len(confusions)} images "
                "have none, nor has the network named it; search for another metric"
            )
        return float(ious[asked])

    return Metric(name=f"iou_{number}", unit="%", better="higher", tasks=_OF, of=of)
