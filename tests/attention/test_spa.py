"""Spatial Pyramid Attention against its equations in numpy, and against published counts."""

import math

import numpy as np
import pytest

from sat_optuna.attention.contract import AttentionError
from sat_optuna.attention.spa import SPA
from tests.attention.formulas import numbers, sigmoid
from tests.networks import images, ramp_init


def pyramid(image):
    """The 1 + 4 + 16 cell means of each channel, channel after channel within a grid."""
    channels, height, width = image.shape
    means = []
    for grid in (1, 2, 4):
        for c in range(channels):
            for i in range(grid):
                top, bottom = i * height // grid, math.ceil((i + 1) * height / grid)
                for j in range(grid):
                    left, right = j * width // grid, math.ceil((j + 1) * width / grid)
                    means.append(image[c, top:bottom, left:right].mean())
    return np.array(means)


@pytest.mark.golden
@pytest.mark.parametrize("size", [(8, 4), (7, 9), (3, 5), (1, 1)])
def test_the_equations(size):
    module = SPA(6, reduction=1).double()
    ramp_init(module)
    w1, w2 = numbers(module)
    assert w1.shape == (6, 21 * 6)
    x = images(2, shape=(6, *size)).double()
    y, _ = module(x)
    for image, attended in zip(x.numpy(), y.detach().numpy(), strict=True):
        gate = sigmoid(w2 @ np.maximum(w1 @ pyramid(image), 0))
        np.testing.assert_allclose(attended, gate[:, None, None] * image, rtol=1e-10)


@pytest.mark.golden
@pytest.mark.parametrize(("channels", "count"), [(64, 5632), (128, 22528), (256, 90112)])
def test_published_parameter_counts(channels, count):
    assert sum(p.numel() for p in SPA(channels, reduction=16).parameters()) == count


def test_a_reduction_above_the_channels_is_refused():
    with pytest.raises(AttentionError, match=r"^spa has reduction = 33 for 32 channels; choose "):
        SPA(32, reduction=33)
