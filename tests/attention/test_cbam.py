"""CBAM against its equations in numpy, in both modes, and against timm's."""

import numpy as np
import pytest
import torch
from timm.layers.cbam import CbamModule

from sat_optuna.attention.cbam import CBAM
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


@pytest.mark.golden
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kernel", [7, 3])
def test_equations_1_to_3(mode, kernel):
    module = CBAM(12, reduction=2, kernel=kernel).double().train(mode)
    ramp_init(module)
    set_running(module.norm, 0.3, 1.7)
    kept = {"mean": np.array([0.3]), "var": np.array([1.7])}
    x = images(2, shape=(12, 5, 4)).double()
    by_channel, maps = np.empty(x.shape), np.empty((2, 1, 5, 4))
    for n, image in enumerate(x.numpy()):
        pooled = image.mean(axis=(1, 2)), image.max(axis=(1, 2))
        gate = sigmoid(sum(two_layers(module.squeeze, module.excite, p) for p in pooled))
        by_channel[n] = gate[:, None, None] * image
        both = np.stack([by_channel[n].max(axis=0), by_channel[n].mean(axis=0)])
        maps[n] = convolved(both, *numbers(module.mix))
    weight, bias = module.norm.weight.item(), module.norm.bias.item()
    gates = sigmoid(weight * batch_normed(maps, **({} if mode else kept)) + bias)
    np.testing.assert_allclose(module(x)[0].detach().numpy(), gates * by_channel, rtol=1e-10)


@pytest.mark.golden
def test_it_is_timms_cbam_module():
    ours, theirs = CBAM(32), CbamModule(32, rd_channels=4, mlp_bias=True)
    given = ours.state_dict()
    pairs = {
        "channel.fc1.weight": given["squeeze.weight"][:, :, None, None],
        "channel.fc1.bias": given["squeeze.bias"],
        "channel.fc2.weight": given["excite.weight"][:, :, None, None],
        "channel.fc2.bias": given["excite.bias"],
        # timm has the mean before the maximum.
        "spatial.conv.conv.weight": given["mix.weight"].flip(1),
        "spatial.conv.bn.weight": given["norm.weight"],
        "spatial.conv.bn.bias": given["norm.bias"],
    }
    theirs.load_state_dict(theirs.state_dict() | pairs)
    x = images(3, shape=(32, 5, 5))
    torch.testing.assert_close(ours(x)[0], theirs(x))


@pytest.mark.golden
def test_parameter_count():
    # The layers 580 as SE's, a convolution of 2 * 7 * 7, BatchNorm of one map.
    assert sum(p.numel() for p in CBAM(64).parameters()) == 580 + 98 + 2


def test_an_even_kernel_is_refused():
    with pytest.raises(AttentionError, match=r"^cbam has kernel = 6, and an even kernel has no"):
        CBAM(8, kernel=6)
