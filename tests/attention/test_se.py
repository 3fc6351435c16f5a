"""Squeeze-and-Excitation against its equations in numpy, and against published counts."""

import numpy as np
import pytest
import torch
from torchvision.ops import SqueezeExcitation

from sat_optuna.attention.contract import AttentionError
from sat_optuna.attention.se import SE
from tests.attention.formulas import sigmoid
from tests.networks import images, ramp_init


@pytest.mark.golden
def test_equations_2_to_4():
    module = SE(12, reduction=2).double()
    ramp_init(module)
    x = images(3, shape=(12, 4, 5)).double()
    w1, b1, w2, b2 = (
        p.detach().numpy()
        for layer in (module.squeeze, module.excite)
        for p in (layer.weight, layer.bias)
    )
    assert w1.shape == (6, 12)
    expected = np.empty(x.shape)
    for n, image in enumerate(x.numpy()):
        z = image.mean(axis=(1, 2))
        gate = sigmoid(w2 @ np.maximum(w1 @ z + b1, 0) + b2)
        for c in range(12):
            expected[n, c] = gate[c] * image[c]
    np.testing.assert_allclose(module(x)[0].detach().numpy(), expected, rtol=1e-12)


@pytest.mark.golden
def test_a_table_of_gates():
    module = SE(4, reduction=1)
    ramp_init(module)
    x = torch.arange(1.0, 5.0).reshape(1, 4, 1, 1).expand(1, 4, 2, 2)
    gates = (module(x)[0] / x)[0, :, 0, 0]
    # By hand: W1 = W2 = ramp of 16 from -0.5 to 0.75, b = ramp of 4, z = (1, 2, 3, 4).
    ramp16 = [[-0.5 + (4 * i + j) / 12 for j in range(4)] for i in range(4)]
    ramp4 = [-0.5 + 1.25 * i / 3 for i in range(4)]
    hidden = [
        max(sum(w * z for w, z in zip(row, (1, 2, 3, 4), strict=True)) + b, 0)
        for row, b in zip(ramp16, ramp4, strict=True)
    ]
    outs = [
        sum(w * h for w, h in zip(row, hidden, strict=True)) + b
        for row, b in zip(ramp16, ramp4, strict=True)
    ]
    torch.testing.assert_close(gates, torch.tensor(outs).sigmoid(), rtol=1e-4, atol=1e-5)


@pytest.mark.golden
@pytest.mark.parametrize(("channels", "count"), [(64, 580), (128, 2184), (256, 8464)])
def test_published_parameter_counts(channels, count):
    assert sum(p.numel() for p in SE(channels, reduction=16).parameters()) == count


@pytest.mark.golden
def test_it_is_torchvisions_squeeze_excitation():
    ours, theirs = SE(64), SqueezeExcitation(64, 4)
    with torch.no_grad():
        for one, other in zip(theirs.parameters(), ours.parameters(), strict=True):
            one.copy_(other.reshape(one.shape))
    x = images(3, shape=(64, 5, 5))
    torch.testing.assert_close(ours(x)[0], theirs(x))


def test_a_reduction_of_zero_is_refused():
    with pytest.raises(AttentionError, match="se has reduction = 0; give a whole number"):
        SE(8, reduction=0)
