"""BAM against its equations in numpy, in both modes."""

import numpy as np
import pytest
import torch

from sat_optuna.attention.bam import BAM
from sat_optuna.attention.contract import AttentionError
from tests.attention.formulas import (
    batch_normed,
    convolved,
    numbers,
    set_running,
    sigmoid,
    two_layers,
)
from tests.networks import images, ramp_init


def branches(module, x, dilation):
    """Eq. 3 and 4 before BatchNorm: (N, C) and (N, 1, H, W)."""
    w1, b1, w2, b2, w3, b3, w4, b4 = numbers(module.spatial)
    by_channel, by_pixel = [], []
    for image in x.numpy():
        means = image.mean(axis=(1, 2))
        by_channel.append(two_layers(module.squeeze, module.excite, means))
        hidden = np.maximum(convolved(image, w1, b1), 0)
        for weight, bias in ((w2, b2), (w3, b3)):
            hidden = np.maximum(convolved(hidden, weight, bias, dilation=dilation), 0)
        by_pixel.append(convolved(hidden, w4, b4))
    return np.stack(by_channel), np.stack(by_pixel)


@pytest.mark.golden
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dilation", [4, 1])
def test_equations_1_to_4(mode, dilation):
    module = BAM(8, reduction=2, dilation=dilation).double().train(mode)
    ramp_init(module)
    norms, normed = (module.channel_norm, module.spatial_norm), []
    for norm in norms:
        set_running(norm, 0.3, 1.7)
    x = images(3, shape=(8, 6, 7)).double()
    for norm, branch in zip(norms, branches(module, x, dilation), strict=True):
        kept = {} if mode else {"mean": np.full(branch.shape[1], 0.3), "var": 1.7}
        shape = (-1,) + (1,) * (branch.ndim - 2)
        weight, bias = (value.reshape(shape) for value in numbers(norm))
        normed.append(weight * batch_normed(branch, **kept) + bias)
    gates = sigmoid(normed[0][:, :, None, None] + normed[1])
    y = module(x)[0].detach().numpy()
    np.testing.assert_allclose(y, x.numpy() + x.numpy() * gates, rtol=1e-9)


@pytest.mark.golden
def test_parameter_count():
    # The MLP 580 as SE's and BatchNorm; 64 -> 4, twice 4 -> 4 of 3 x 3, 4 -> 1, and BatchNorm.
    spatial = (64 * 4 + 4) + 2 * (4 * 4 * 9 + 4) + (4 + 1) + 2
    assert sum(p.numel() for p in BAM(64).parameters()) == 580 + 128 + spatial


def test_a_dilation_of_zero_is_refused():
    with pytest.raises(AttentionError, match=r"^bam has dilation = 0; give a whole number that"):
        BAM(8, dilation=0)


def test_the_factor_lies_between_1_and_2():
    x = torch.ones(4, 8, 5, 5)
    y = BAM(8)(x)[0]
    assert 1 < y.min() <= y.max() < 2
