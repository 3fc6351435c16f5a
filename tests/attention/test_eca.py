"""Efficient Channel Attention against its equations in numpy, against timm's, and its kernel."""

import numpy as np
import pytest
import torch
from timm.layers.eca import EcaModule

from sat_optuna.attention.contract import AttentionError
from sat_optuna.attention.eca import ECA
from tests.attention.formulas import numbers, sigmoid
from tests.networks import images, ramp_init


@pytest.mark.golden
def test_the_equations():
    module = ECA(12, kernel=5).double()
    ramp_init(module)
    (weight,) = (value.ravel() for value in numbers(module))
    x = images(3, shape=(12, 4, 5)).double()
    expected = np.empty(x.shape)
    for n, image in enumerate(x.numpy()):
        z = image.mean(axis=(1, 2))
        for c in range(12):
            near = [(i, c + i - 2) for i in range(5) if 0 <= c + i - 2 < 12]
            expected[n, c] = sigmoid(sum(weight[i] * z[j] for i, j in near)) * image[c]
    np.testing.assert_allclose(module(x)[0].detach().numpy(), expected, rtol=1e-12)


@pytest.mark.golden
@pytest.mark.parametrize("channels", [8, 64, 128, 2048])
def test_it_is_timms_eca_module(channels):
    ours, theirs = ECA(channels), EcaModule(channels)
    theirs.conv.weight.data = ours.mix.weight.data
    x = images(2, shape=(channels, 3, 3))
    torch.testing.assert_close(ours(x)[0], theirs(x))


@pytest.mark.golden
@pytest.mark.parametrize(
    ("channels", "count"), [(4, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)]
)
def test_published_kernels_are_its_parameters(channels, count):
    assert sum(p.numel() for p in ECA(channels).parameters()) == count


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (4, "eca has kernel = 4, and an even kernel has no centre; give an odd number"),
        (-1, "eca has kernel = -1; give a whole number that is at least 1"),
        (3.0, "eca has kernel = 3.0; give a whole number that is at least 1"),
        (False, "eca has kernel = False; give a whole number that is at least 1"),
        (9, "eca has kernel = 9 for 8 channels; choose an odd number up to them, or 0 for the p"),
    ],
)
def test_kernels_that_do_not_fit(kernel, message):
    with pytest.raises(AttentionError) as caught:
        ECA(8, kernel=kernel)
    assert str(caught.value).startswith(message)
