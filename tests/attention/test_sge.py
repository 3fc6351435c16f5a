"""Spatial Group-wise Enhance against its equations in numpy."""

import numpy as np
import pytest
import torch

from sat_optuna.attention.contract import AttentionError
from sat_optuna.attention.sge import SGE
from tests.networks import images, ramp_init


@pytest.mark.golden
def test_equations_1_to_5():
    module = SGE(12, groups=4).double()
    ramp_init(module)
    x = images(2, shape=(12, 3, 5)).double()
    gamma, beta = module.gamma.detach().numpy(), module.beta.detach().numpy()
    expected = np.empty(x.shape)
    for n, image in enumerate(x.numpy()):
        for group in range(4):
            part = image[3 * group : 3 * group + 3].reshape(3, 15)
            g = part.sum(axis=1) / 15
            c = np.array([part[:, p] @ g for p in range(15)])
            normed = (c - c.mean()) / (np.sqrt(((c - c.mean()) ** 2).sum() / 14) + 1e-5)
            gate = 1 / (1 + np.exp(-(gamma[group] * normed + beta[group])))
            expected[n, 3 * group : 3 * group + 3] = (part * gate).reshape(3, 3, 5)
    np.testing.assert_allclose(module(x)[0].detach().numpy(), expected, rtol=1e-12)


@pytest.mark.golden
def test_it_starts_as_the_gate_of_one():
    x = images(2, shape=(16, 4, 4))
    torch.testing.assert_close(SGE(16)(x)[0], 0.7310586 * x)  # sigmoid(1): gamma 0, beta 1


@pytest.mark.golden
def test_two_parameters_a_group():
    assert sum(p.numel() for p in SGE(64, groups=8).parameters()) == 16


def test_half_precision_features_lose_nothing_but_their_own_digits():
    module = SGE(16)
    ramp_init(module)
    x = images(2, shape=(16, 8, 8)).bfloat16() + 3  # a mean that would swamp bfloat16 sums
    torch.testing.assert_close(module(x)[0].float(), module(x.float())[0], rtol=0.01, atol=0.01)


@pytest.mark.parametrize("groups", [3, 32])
def test_groups_divide_the_channels(groups):
    with pytest.raises(
        AttentionError, match=f"groups = {groups}, which does not divide 16 channels"
    ):
        SGE(16, groups=groups)
