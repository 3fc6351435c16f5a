"""What the numpy computations of several modules have in common, in float64 and loops."""

from typing import Any

import numpy as np
import torch
from torch import nn

from sat_optuna.attention.norm import SharedBatchNorm


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def numbers(module: nn.Module) -> list[Any]:
    """A module's parameters, in their order."""
    return [value.detach().numpy() for value in module.parameters()]


def set_running(norm: SharedBatchNorm, mean: Any, var: Any) -> None:
    """Set the running statistics of the only block."""
    norm.get_buffer("statistics.0.running_mean").copy_(torch.as_tensor(mean, dtype=torch.float64))
    norm.get_buffer("statistics.0.running_var").copy_(torch.as_tensor(var, dtype=torch.float64))


def two_layers(first: nn.Module, second: nn.Module, x: Any) -> Any:
    """Linear, ReLU, Linear with biases, of one vector."""
    (w1, b1), (w2, b2) = numbers(first), numbers(second)
    return w2 @ np.maximum(w1 @ x + b1, 0) + b2


def convolved(image: Any, weight: Any, bias: Any = 0.0, *, dilation: int = 1) -> Any:
    """A convolution that keeps H and W, zeros around the image: (C, H, W) to (D, H, W)."""
    outs, _, side, _ = weight.shape
    _, height, width = image.shape
    reach = dilation * (side // 2)
    result = np.zeros((outs, height, width)) + np.reshape(bias, (-1, 1, 1))
    for y in range(height):
        for x in range(width):
            for i in range(side):
                for j in range(side):
                    row, column = y + dilation * i - reach, x + dilation * j - reach
                    if 0 <= row < height and 0 <= column < width:
                        result[:, y, x] += weight[:, :, i, j] @ image[:, row, column]
    return result


def batch_normed(x: Any, *, mean: Any = None, var: Any = None) -> Any:
    """BatchNorm before weight and bias: (N, C, ...), with the batch's own statistics if none."""
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    shape = tuple(-1 if axis == 1 else 1 for axis in range(x.ndim))
    if mean is None:
        mean, var = x.mean(axis=axes), x.var(axis=axes)
    return (x - np.reshape(mean, shape)) / np.sqrt(np.reshape(var, shape) + 1e-5)
