"""No point of a ball is moved further than its bound says; norms against dense matrices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP

from sat_optuna.attention import ATTENTION, build_attention
from sat_optuna.backbones.contract import cropped, padded
from sat_optuna.backbones.heads import density, fcn
from sat_optuna.evidence.lipschitz import Ball, LipschitzError, kernel_norm
from sat_optuna.seeds import seeded
from tests.networks import OURS, images, stirred_module

GATED = [name for name in OURS if ATTENTION.get(name).gated]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("inputs", "outputs", "side", "groups"),
    [(3, 5, 3, 1), (4, 6, 1, 2), (4, 4, 2, 4), (2, 3, 5, 1)],
)
def test_a_kernels_norm_is_that_of_its_matrix_and_not_much_more(
    inputs, outputs, side, groups, stride
):
    with seeded("kernel"):
        layer = nn.Conv2d(
            inputs, outputs, side, stride, side // 2, groups=groups, bias=False
        ).double()
    single = torch.eye(inputs * 14 * 14, dtype=torch.float64).reshape(-1, inputs, 14, 14)
    with torch.no_grad():
        true = float(torch.linalg.matrix_norm(layer(single).flatten(1), 2))
        bound = kernel_norm(layer.weight, groups=groups)
    assert true <= bound
    assert stride > 1 or bound < 1.15 * true


def summed(x):
    y = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
    y += 2 * y
    return y


def attended(kind, x):
    with seeded("gate", kind):
        module = stirred_module(build_attention(kind, channels=3)).double().eval()
    return module(x)[0]


def made(build):
    with seeded("made"):
        return stirred_module(build()).double().eval()


def enlarged(x, **how):
    return F.interpolate(x, mode="bilinear", **how)


GIVEN: dict[str, Callable[[Any], Any]] = {
    "slices, zeros and sums": summed,
    "mean and spread": lambda x: torch.stack((x.mean((2, 3)), x.std((2, 3), correction=0)), 2),
    "sum": lambda x: x.sum(2),
    "pyramid": lambda x: torch.cat([F.adaptive_avg_pool2d(x, g).flatten(1) for g in (1, 2, 4)], 1),
    "averages": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "sigmoid": torch.sigmoid,
    "product of two": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "product of alike": lambda x: x.relu() * x,
    "spread out": lambda x: x + x.mean((2, 3), keepdim=True),
    "convolution and norm": nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), stirred_module(nn.BatchNorm2d(4)), nn.ReLU(inplace=True)
    ),
    "head": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7)),
    "enlarged": nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False),
    "enlarged to a size": lambda x: enlarged(x[:, :, :1, :], size=(5, 13)),
    "made smaller": lambda x: enlarged(x, scale_factor=0.4, antialias=True),
    "corners aligned": lambda x: enlarged(x, size=(9, 7), align_corners=True),
    "padded and cropped": lambda x: cropped(2 * padded(x, 4), (6, 6)),
    "fcn": made(lambda: nn.Sequential(nn.Conv2d(3, 8, 1), fcn(8, 4, 4))),
    "density": made(lambda: density(3, 1, 4)),
    "branches of deeplabv3": made(lambda: ASPP(3, (1, 2, 3), 4)),
    **{kind: partial(attended, kind) for kind in GATED},
}


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("name", GIVEN)
def test_no_point_of_a_ball_goes_further_than_its_radius(name, size):
    function = GIVEN[name]
    if isinstance(function, nn.Module):
        function = function.double().eval()
    chance = torch.Generator().manual_seed(0)
    x = images(4, shape=(3, 6, 6)).double()
    radius = size * torch.rand(4, generator=chance, dtype=torch.float64)
    with torch.no_grad():
        ball = function(Ball.of(x.clone(), radius))
        assert torch.equal(ball.centre, function(x.clone()))
        for _ in range(50):
            step = torch.randn(x.shape, generator=chance, dtype=torch.float64)
            # One channel alone, or one pixel, is where a bound over all is tightest.
            step *= torch.rand(step.shape, generator=chance) < torch.rand(1, generator=chance)
            step *= (radius / step.flatten(1).norm(dim=1).clamp_min(1e-9))[:, None, None, None]
            moved = (function(x + step) - ball.centre).flatten(1).norm(dim=1)
            assert (moved <= ball.radius * (1 + 1e-9)).all()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (torch.tanh, "no bound is known for the operation 'tanh' of this network; bound one of"),
        (lambda x: x.flatten(), "no bound is known for the operation 'flatten' of this network"),
        (lambda x: x[:, [0, 0, 0]], "no bound is known for 'getitem' by a list"),
        (
            lambda x: F.pad(x, (1, 1, 1, 1), "reflect"),
            "no bound is known for 'pad' with other values",
        ),
        (nn.BatchNorm2d(3).double(), "no bound is known for 'batch_norm' in train mode"),
        (nn.Dropout(0.1), "no bound is known for 'dropout' in train mode"),
        (
            nn.Upsample(scale_factor=2),
            "no bound is known for 'interpolate' in another mode than '",
        ),
    ],
)
def test_an_operation_without_a_bound_is_refused(function, said):
    ball = Ball.of(images(2, shape=(3, 6, 6)).double(), torch.ones(2, dtype=torch.float64))
    with pytest.raises(LipschitzError) as caught:
        function(ball)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(("size", "factor"), [((6, 6), 4), ((3, 8), 2), ((1, 5), 8)])
def test_an_enlargements_bound_is_what_power_iteration_finds(size, factor):
    layer = nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False)
    ball = Ball.of(torch.zeros(1, 1, *size).double(), torch.ones(1, dtype=torch.float64))
    bound = float(layer(ball).radius)
    x = images(1, shape=(1, *size)).double().abs().requires_grad_()
    for _ in range(200):
        y = layer(x)
        (after,) = torch.autograd.grad(0.5 * y.square().sum(), x)  # A^T A x
        x = (after / after.norm()).requires_grad_()
    true = float(layer(x.detach()).norm())
    assert true <= bound * (1 + 1e-9)
    assert bound == pytest.approx(true, rel=1e-6)
    # Weights of a row add up to 1, those of a column to the two factors at most.
    assert factor * 0.8 < bound <= factor * (1 + 1e-9)
