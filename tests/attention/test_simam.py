"""SimAM against its energy function in numpy."""

import math

import numpy as np
import pytest
import torch

from sat_optuna.attention.contract import AttentionError
from sat_optuna.attention.simam import SimAM
from tests.attention.formulas import sigmoid
from tests.networks import images


@pytest.mark.golden
@pytest.mark.parametrize("damping", [1e-4, 0.1])
def test_the_least_energy(damping):
    x = images(2, shape=(3, 4, 5)).double()
    expected = np.empty(x.shape)
    for n, image in enumerate(x.numpy()):
        for c in range(3):
            mean = image[c].sum() / 20
            variance = ((image[c] - mean) ** 2).sum() / 19
            for i in range(4):
                for j in range(5):
                    t = image[c, i, j]
                    energy = 4 * (variance + damping)  # eq. 5
                    energy /= (t - mean) ** 2 + 2 * variance + 2 * damping
                    expected[n, c, i, j] = sigmoid(1 / energy) * t  # eq. 6
    y, _ = SimAM(3, damping=damping)(x)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12)


@pytest.mark.golden
def test_no_parameters():
    assert list(SimAM(64).parameters()) == []


def test_a_single_pixel_has_no_spread():
    x = images(2, shape=(3, 1, 1))
    torch.testing.assert_close(SimAM(3)(x)[0], 0.62245933 * x)  # sigmoid(1 / 2)


@pytest.mark.parametrize("damping", [0, -1e-4, math.inf, math.nan, "1", True])
def test_damping_is_a_number_above_0(damping):
    with pytest.raises(AttentionError, match=r"^simam has damping = .*; give a number above 0$"):
        SimAM(3, damping=damping)
