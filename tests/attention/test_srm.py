"""Style-based Recalibration against its equations in numpy, in both modes."""

import numpy as np
import pytest
import torch

from sat_optuna.attention.srm import SRM
from tests.attention.formulas import batch_normed, numbers, set_running, sigmoid
from tests.networks import images, ramp_init


@pytest.mark.golden
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_the_equations(mode):
    module = SRM(6).double().train(mode)
    ramp_init(module)
    mean, var = np.linspace(-1, 1, 6), np.linspace(0.5, 2, 6)
    set_running(module.norm, mean, var)
    kept = {} if mode else {"mean": mean, "var": var}
    w, weight, bias = numbers(module)
    x = images(4, shape=(6, 3, 5)).double()
    z = np.empty((4, 6))
    for n, image in enumerate(x.numpy()):
        for c in range(6):
            mu = image[c].sum() / 15  # eq. 1
            std = np.sqrt(((image[c] - mu) ** 2).sum() / 15)  # eq. 2
            z[n, c] = w[c, 0] * mu + w[c, 1] * std
    gates = sigmoid(weight * batch_normed(z, **kept) + bias)
    y = module(x)[0].detach().numpy()
    np.testing.assert_allclose(y, gates[:, :, None, None] * x.numpy(), rtol=1e-10)


@pytest.mark.golden
@pytest.mark.parametrize("channels", [64, 256])
def test_four_parameters_a_channel(channels):
    assert sum(p.numel() for p in SRM(channels).parameters()) == 4 * channels


def test_the_spread_of_one_pixel_is_0():
    module = SRM(4).eval()
    ramp_init(module)
    x = images(3, shape=(4, 1, 1))
    wide = x.expand(-1, -1, 3, 3)  # no spread either
    torch.testing.assert_close(module(x)[0], module(wide)[0][:, :, :1, :1])
