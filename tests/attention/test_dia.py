"""The DIA cell against its equations in numpy, and against published counts."""

import numpy as np
import pytest
import torch

from sat_optuna.attention.contract import AttentionError
from sat_optuna.attention.dia import DIA
from tests.attention.formulas import sigmoid, two_layers
from tests.networks import images, ramp_init


@pytest.mark.golden
def test_three_blocks_of_the_cell():
    module = DIA(8, reduction=2).double()
    ramp_init(module)
    blocks = [images(2, seed=seed, shape=(8, 3, 4)).double() for seed in range(3)]
    state = None
    h, c = np.zeros((2, 8)), np.zeros((2, 8))
    for x in blocks:
        y, state = module(x, state)
        for n, image in enumerate(x.numpy()):
            (a1, _, a2), (b1, _, b2) = module.from_features, module.from_state
            gates = two_layers(a1, a2, image.mean(axis=(1, 2))) + two_layers(b1, b2, h[n])
            i, f, g, o = gates[:8], gates[8:16], gates[16:24], gates[24:]
            c[n] = sigmoid(f) * c[n] + sigmoid(i) * np.tanh(g)
            h[n] = sigmoid(o) * sigmoid(c[n])
            expected = h[n][:, None, None] * image
            np.testing.assert_allclose(y[n].detach().numpy(), expected, rtol=1e-12)
        np.testing.assert_allclose(state[0].detach().numpy(), h, rtol=1e-12)
        np.testing.assert_allclose(state[1].detach().numpy(), c, rtol=1e-12)


def test_no_state_is_a_state_of_zeros():
    module = DIA(8)
    x = images(2, shape=(8, 3, 3))
    zeros = (torch.zeros(2, 8), torch.zeros(2, 8))
    torch.testing.assert_close(module(x)[0], module(x, zeros)[0], rtol=0, atol=0)


@pytest.mark.golden
def test_published_parameter_count():
    modules = [DIA(channels, reduction=4) for channels in (64, 128, 256)]
    assert sum(p.numel() for m in modules for p in m.parameters()) == 218_848  # +0.2188 M


@pytest.mark.golden
@pytest.mark.parametrize(("channels", "hidden"), [(256, 12), (512, 25), (1024, 51), (2048, 102)])
def test_hidden_units_are_rounded_down(channels, hidden):
    with torch.device("meta"):
        assert DIA(channels, reduction=20).from_state[0].out_features == hidden


def test_the_state_stays_in_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        y, state = DIA(8)(images(2, shape=(8, 3, 3)).bfloat16())
    assert y.dtype == torch.bfloat16
    assert [part.dtype for part in state] == [torch.float32, torch.float32]


def test_the_identitys_cell_puts_out_a_quarter_at_every_block():
    module = DIA(8, identity=True)
    state = None
    for seed in range(3):
        _, state = module(images(2, seed=seed, shape=(8, 3, 3)), state)
        assert torch.equal(state[0], torch.full((2, 8), 0.25))
        assert torch.equal(state[1], torch.zeros(2, 8))


def test_a_reduction_that_leaves_no_unit_is_refused():
    with pytest.raises(AttentionError, match=r"reduction = 9 for 8 channels.*choose at most 8"):
        DIA(8, reduction=9)
