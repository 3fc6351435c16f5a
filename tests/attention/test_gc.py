"""Global Context against its equations in numpy, and against timm's."""

import numpy as np
import pytest
import torch
from timm.layers.global_context import GlobalContext

from sat_optuna.attention.gc import GC
from tests.attention.formulas import numbers
from tests.networks import images, ramp_init


@pytest.mark.golden
def test_the_equations():
    module = GC(12, reduction=2).double()
    ramp_init(module)
    w, b, w1, b1, scale, shift, w2, b2 = numbers(module)
    x = images(3, shape=(12, 4, 5)).double()
    y, _ = module(x)
    for image, attended in zip(x.numpy(), y.detach().numpy(), strict=True):
        logits = np.array([w.ravel() @ image[:, i, j] + b[0] for i in range(4) for j in range(5)])
        weights = np.exp(logits) / np.exp(logits).sum()
        context = sum(p * image[:, k // 5, k % 5] for k, p in enumerate(weights))
        hidden = w1 @ context + b1
        hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5) * scale + shift
        added = w2 @ np.maximum(hidden, 0) + b2
        np.testing.assert_allclose(attended, image + added[:, None, None], rtol=1e-10)


@pytest.mark.golden
def test_it_is_timms_global_context_that_adds():
    ours = GC(32)
    theirs = GlobalContext(32, fuse_add=True, fuse_scale=False, rd_channels=4)
    given = ours.state_dict()
    names = {"conv_attn": "focus", "mlp_add.fc1": "squeeze", "mlp_add.norm": "norm"}
    names["mlp_add.fc2"] = "excite"
    for name, value in theirs.named_parameters():
        layer, _, part = name.rpartition(".")
        value.data = given[f"{names[layer]}.{part}"].reshape(value.shape)
    # timm's LayerNorm adds 1e-6 to the variance.
    theirs.get_submodule("mlp_add.norm").eps = ours.norm.eps  # type: ignore[assignment]
    x = images(3, shape=(32, 5, 5))
    torch.testing.assert_close(ours(x)[0], theirs(x))


@pytest.mark.golden
def test_parameter_count():
    # The weights 64 + 1, the layers 580 as SE's, LayerNorm of 4 hidden units.
    assert sum(p.numel() for p in GC(64).parameters()) == 65 + 580 + 8
