"""The result of one scheme: which images it classifies right, its loss and its score."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sat_optuna.evaluate.network import Evaluation
from sat_optuna.scheme import Scheme

__all__ = ["SchemeResult"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeResult:
    """The result of one scheme.

    Attributes:
        scheme: the scheme.
        right: one bit for each image, in their order: 1 where it is classified right. The bits
            are packed into bytes, the highest bit first; the last byte is filled with zeros. Empty
            in a task without labels.
        loss: sum of the task's losses: cross-entropies, nats, of a classification.
        n: number of images.
        metric: the value of the metric that was asked for; None where that is the accuracy.
    """

    scheme: Scheme
    right: bytes
    loss: float
    n: int
    metric: float | None = None

    @property
    def score(self) -> float:
        """The value of the metric that was asked for; of the accuracy, per cent."""
        return 100 * self.hits / self.n if self.metric is None else self.metric

    @property
    def hits(self) -> int:
        """Number of images classified right."""
        return int.from_bytes(self.right, "big").bit_count()

    @property
    def evaluation(self) -> Evaluation:
        """Accuracy and mean loss."""
        return Evaluation(accuracy=100 * self.hits / self.n, loss=self.loss / self.n, n=self.n)

    def mask(self) -> NDArray[np.bool_]:
        """Return (n,), whether each image is classified right."""
        bits = np.unpackbits(np.frombuffer(self.right, dtype=np.uint8), count=self.n)
        return bits.astype(np.bool_)
