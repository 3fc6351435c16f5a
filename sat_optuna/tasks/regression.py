"""Regression: a number an image. Mean squared error; metrics are scikit-learn's.

The network has one output; it is what is kept of each image. MAE and RMSE are in the unit of the
targets, which is not known here. They are counting's metrics too, of which the estimated and the
true count are kept: papers on counting call this RMSE, the root, "MSE".
"""

from typing import TYPE_CHECKING

import numpy as np

from sat_optuna.tasks.contract import Metric, Task, Values

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MAE", "R2", "REGRESSION", "RMSE"]

_OF = ("regression", "counting")


def _squared_error(outputs: "Tensor", targets: "Tensor", *, reduction: str) -> "Tensor":
    from torch.nn import functional as F

    return F.mse_loss(outputs[:, 0], targets, reduction=reduction)


def _first(outputs: "Tensor", _targets: "Tensor") -> "Tensor":
    return outputs[:, 0]


REGRESSION = Task(
    name="regression", targets="numbers", metric="mae", loss=_squared_error, state=_first
)


def _pairs(kept: Values, targets: Values) -> tuple[Values, Values]:
    """Return the true and the predicted numbers, (N,) each."""
    return (kept[:, 1], kept[:, 0]) if np.ndim(kept) == 2 else (targets, kept)


def _mae(kept: Values, targets: Values) -> float:
    from sklearn.metrics import mean_absolute_error

    return float(mean_absolute_error(*_pairs(kept, targets)))


def _rmse(kept: Values, targets: Values) -> float:
    from sklearn.metrics import root_mean_squared_error

    return float(root_mean_squared_error(*_pairs(kept, targets)))


def _r2(kept: Values, targets: Values) -> float:
    from sklearn.metrics import r2_score

    return float(r2_score(*_pairs(kept, targets)))


MAE = Metric(name="mae", unit="", better="lower", tasks=_OF, of=_mae)
RMSE = Metric(name="rmse", unit="", better="lower", tasks=_OF, of=_rmse)
R2 = Metric(name="r2", unit="", better="higher", tasks=_OF, of=_r2)
