"""Regression: a number an image. Mean squared error; metrics are scikit-learn's.

The network has one output; it is what is kept of each image. MAE and RMSE are in the unit of the
targets, which is not known here.
"""

from typing import TYPE_CHECKING

from sat_optuna.tasks.contract import Metric, Task, Values

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MAE", "R2", "REGRESSION", "RMSE"]

_OF = ("regression",)


def _squared_error(outputs: "Tensor", targets: "Tensor", *, reduction: str) -> "Tensor":
    from torch.nn import functional as F

    return F.mse_loss(outputs[:, 0], targets, reduction=reduction)


def _first(outputs: "Tensor", _targets: "Tensor") -> "Tensor":
    return outputs[:, 0]


REGRESSION = Task(
    name="regression", targets="numbers", metric="mae", loss=_squared_error, state=_first
)


def _mae(predicted: Values, targets: Values) -> float:
    from sklearn.metrics import mean_absolute_error

    return float(mean_absolute_error(targets, predicted))


def _rmse(predicted: Values, targets: Values) -> float:
    from sklearn.metrics import root_mean_squared_error

    return float(root_mean_squared_error(targets, predicted))


def _r2(predicted: Values, targets: Values) -> float:
    from sklearn.metrics import r2_score

    return float(r2_score(targets, predicted))


MAE = Metric(name="mae", unit="", better="lower", tasks=_OF, of=_mae)
RMSE = Metric(name="rmse", unit="", better="lower", tasks=_OF, of=_rmse)
R2 = Metric(name="r2", unit="", better="higher", tasks=_OF, of=_r2)
