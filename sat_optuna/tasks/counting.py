"""Counting: a density map an image, whose sum is the count. Mean squared error of the maps.

Targets are densities, (N, H, W) floats in dots a pixel, as `data.density.density_map` makes them
of dots. What is kept of each image are its estimated and its true count, (N, 2), the sums of the
two maps; metrics are those of regression, on counts: mae and rmse. Papers on counting write "MSE"
for the latter, the root.
"""

from typing import TYPE_CHECKING

from sat_optuna.tasks.contract import Task

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["COUNTING"]

_SCALE = 100  # densities are far below 1 dot a pixel: the loss is of hundredths


def _squared_error_of_maps(outputs: "Tensor", targets: "Tensor", *, reduction: str) -> "Tensor":
    """Return each image's mean over the pixels of (100 x error)**2, and of these mean or sum."""
    each = (_SCALE * (outputs[:, 0] - targets)).square().mean((1, 2))
    return each.mean() if reduction == "mean" else each.sum()


def _counts(outputs: "Tensor", targets: "Tensor") -> "Tensor":
    import torch

    return torch.stack([outputs[:, 0].sum((1, 2)), targets.sum((1, 2))], dim=1)


COUNTING = Task(
    name="counting", targets="density", metric="mae", loss=_squared_error_of_maps, state=_counts
)
