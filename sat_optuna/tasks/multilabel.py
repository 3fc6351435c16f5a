"""Multi-label classification: any number of classes an image. Binary cross-entropy.

Targets are multi-hot, (N, classes) of 0 and 1; what is kept of each image are its logits. Metrics
are scikit-learn's, in per cent.
"""

from typing import TYPE_CHECKING

import numpy as np

from sat_optuna.tasks.contract import Metric, MetricError, Task, Values, no_image_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MACRO_AUROC", "MEAN_AVERAGE_PRECISION", "MULTI_LABEL"]

_OF = ("multi-label",)


def _binary_cross_entropy(outputs: "Tensor", targets: "Tensor", *, reduction: str) -> "Tensor":
    """Return each image's mean over the classes, and of these the mean or the sum."""
    from torch.nn import functional as F

    each = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(1)
    return each.mean() if reduction == "mean" else each.sum()


MULTI_LABEL = Task(
    name="multi-label", targets="multi-hot", metric="map", loss=_binary_cross_entropy
)


def _mean_average_precision(logits: Values, targets: Values) -> float:
    from sklearn.metrics import average_precision_score

    # Of a class without an image scikit-learn says 0, which is no score of the network.
    for number in np.flatnonzero(targets.sum(axis=0) == 0):
        raise no_image_of("map", int(number), len(targets))
    return 100 * float(average_precision_score(targets, logits, average="macro"))


def _macro_auroc(logits: Values, targets: Values) -> float:
    from sklearn.metrics import roc_auc_score

    counts = targets.sum(axis=0)
    for number in np.flatnonzero(counts == 0):
        raise no_image_of("macro_auroc", int(number), len(targets))
    for number in np.flatnonzero(counts == len(targets)):
        raise MetricError(
            f"macro_auroc needs images with and without each class, and all {len(targets)} have "
            f"class {number}; leave the class out, or search for another metric"
        )
    return 100 * float(roc_auc_score(targets, logits, average="macro"))


MEAN_AVERAGE_PRECISION = Metric(
    name="map", unit="%", better="higher", tasks=_OF, of=_mean_average_precision
)
MACRO_AUROC = Metric(name="macro_auroc", unit="%", better="higher", tasks=_OF, of=_macro_auroc)
