"""Instance Enhancement against its equations in numpy."""

import numpy as np
import pytest
import torch

from sat_optuna.attention.ie import IE
from tests.attention.formulas import numbers, sigmoid
from tests.networks import images, ramp_init


@pytest.mark.golden
def test_the_equations():
    module = IE(6).double()
    ramp_init(module)
    gamma, beta = numbers(module)
    x = images(3, shape=(6, 4, 5)).double()
    expected = np.empty(x.shape)
    for n, image in enumerate(x.numpy()):
        for c in range(6):
            expected[n, c] = sigmoid(gamma[c] * image[c].sum() / 20 + beta[c]) * image[c]
    np.testing.assert_allclose(module(x)[0].detach().numpy(), expected, rtol=1e-12)


@pytest.mark.golden
def test_it_starts_at_gamma_0_and_beta_minus_1():
    x = images(2, shape=(8, 4, 4))
    torch.testing.assert_close(IE(8)(x)[0], 0.26894143 * x)  # sigmoid(-1)


@pytest.mark.golden
@pytest.mark.parametrize("channels", [64, 256])
def test_two_parameters_a_channel(channels):
    assert sum(p.numel() for p in IE(channels).parameters()) == 2 * channels
