"""Classification: one class an image. Cross-entropy; metrics are scikit-learn's, in per cent.

What is kept of each image for a metric that needs more than which images are right are its
logits. torch and scikit-learn are imported where they are needed: see contract.py.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sat_optuna.errors import UnknownName
from sat_optuna.tasks.contract import Metric, Task, Values, no_image_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ACCURACY",
    "AUROC",
    "BALANCED_ACCURACY",
    "CLASSIFICATION",
    "LOG_LOSS",
    "MACRO_F1",
    "class_accuracy",
]

_OF = ("classification",)


def _cross_entropy(outputs: "Tensor", targets: "Tensor", **more: Any) -> "Tensor":
    from torch.nn import functional as F

    return F.cross_entropy(outputs, targets, **more)


CLASSIFICATION = Task(
    name="classification", targets="labels", metric="accuracy", loss=_cross_entropy
)


def _accuracy(right: Values, _labels: Values) -> float:
    return 100 * int(right.sum()) / len(right)


def _balanced_accuracy(right: Values, labels: Values) -> float:
    # As scikit-learn's: a class without an image does not count.
    counts, hits = np.bincount(labels), np.bincount(labels[right], minlength=labels.max() + 1)
    return float(sum((100 * hits[counts > 0] / counts[counts > 0]).tolist()) / (counts > 0).sum())


def _macro_f1(logits: Values, labels: Values) -> float:
    from sklearn.metrics import f1_score

    return 100 * float(f1_score(labels, logits.argmax(1), average="macro"))


def _auroc(logits: Values, labels: Values) -> float:
    from sklearn.metrics import roc_auc_score

    classes = logits.shape[1]
    missing = np.flatnonzero(np.bincount(labels, minlength=classes) == 0)
    if len(missing):
        raise no_image_of("auroc", int(missing[0]), len(labels))
    shares = _softmax(logits)
    if classes == 2:
        return 100 * float(roc_auc_score(labels, shares[:, 1]))
    return 100 * float(roc_auc_score(labels, shares, multi_class="ovr", average="macro"))


def _log_loss(logits: Values, labels: Values) -> float:
    from sklearn.metrics import log_loss

    return float(log_loss(labels, _softmax(logits), labels=range(logits.shape[1])))


def _softmax(logits: Values) -> NDArray[np.float64]:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


ACCURACY = Metric(
    name="accuracy", unit="%", better="higher", tasks=_OF, of=_accuracy, keeps="right"
)
BALANCED_ACCURACY = Metric(
    name="balanced_accuracy",
    unit="%",
    better="higher",
    tasks=_OF,
    of=_balanced_accuracy,
    keeps="right",
)
MACRO_F1 = Metric(name="macro_f1", unit="%", better="higher", tasks=_OF, of=_macro_f1)
# One class against the rest, the mean over the classes.
AUROC = Metric(name="auroc", unit="%", better="higher", tasks=_OF, of=_auroc)
LOG_LOSS = Metric(name="log_loss", unit="nats", better="lower", tasks=_OF, of=_log_loss)


def class_accuracy(number: str) -> Metric:
    """Return the metric `class_accuracy_NUMBER`: the accuracy on the images of one class.

    Raises:
        UnknownName: that is no class's number.
    """
    if not number.isdecimal():
        raise UnknownName(
            f"no metric 'class_accuracy_{number}'; write the class by its number, from 0, for "
            "example class_accuracy_2"
        )

    name = f"class_accuracy_{number}"

    def of(right: Values, labels: Values) -> float:
        asked = labels == int(number)
        if not asked.any():
            raise no_image_of(name, int(number), len(labels))
        return 100 * int(right[asked].sum()) / int(asked.sum())

    return Metric(name=name, unit="%", better="higher", tasks=_OF, of=of, keeps="right")
