"""The CIFAR ResNet family: published counts, shapes, shortcuts, a second bottleneck network."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sat_optuna.backbones import build_backbone
from sat_optuna.backbones.cifar_stages import option_a
from sat_optuna.backbones.contract import Backbone
from sat_optuna.seeds import generator_for, seeded
from tests.networks import images


def built(name: str = "resnet20", **settings: Any) -> Backbone:
    with seeded("resnet", name):
        backbone = build_backbone(name, **({"in_channels": 3, "classes": 10} | settings))
    assert isinstance(backbone, Backbone)
    return backbone


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "classes", "params"),
    [
        ("resnet20", 10, 269_722),
        ("resnet32", 10, 464_154),
        ("resnet44", 10, 658_586),
        ("resnet56", 10, 853_018),
        ("resnet110", 10, 1_727_962),
        ("resnet164", 10, 1_704_154),
        ("resnet164", 100, 1_727_284),
    ],
)
def test_published_parameter_counts(name, classes, params):
    with torch.device("meta"):
        backbone = build_backbone(name, in_channels=3, classes=classes)
    assert sum(p.numel() for p in backbone.parameters()) == params


@pytest.mark.parametrize(
    "name", ["resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet164"]
)
def test_the_last_number_of_the_name_counts_layers(name):
    with torch.device("meta"):
        backbone = build_backbone(name, in_channels=3, classes=10)
    layers = [
        path
        for path, m in backbone.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear) and "projection" not in path
    ]
    assert len(layers) == int(name.removeprefix("resnet"))


@pytest.mark.parametrize(("name", "expansion"), [("resnet20", 1), ("resnet164", 4)])
@pytest.mark.parametrize(("stem_stride", "sizes"), [(1, (13, 7, 4)), (2, (7, 4, 2))])
def test_features_and_shortcut_have_the_shape_they_say(name, expansion, stem_stride, sizes):
    width = 8
    backbone = built(name, width=width, stem_stride=stem_stride, blocks=(2, 2, 2)).eval()
    widths = tuple(expansion * width * k for k in (1, 2, 4))
    x = backbone.stem(images(2, shape=(3, 13, 13)))
    for blocks, size, wide in zip(backbone.blocks, sizes, widths, strict=True):
        for block in blocks:
            features, shortcut = block.branch(x)
            assert block.channels == wide
            assert features.shape == shortcut.shape == (2, wide, size, size)
            x = block(x)
            torch.testing.assert_close(x, F.relu(features + shortcut), rtol=0, atol=0)
    assert backbone.head(x).shape == (2, 10)


def test_the_free_shortcut_takes_every_second_pixel_between_zero_channels():
    block = built(width=4, blocks=(1, 1, 1)).blocks[1][0]
    x = images(2, shape=(4, 6, 6))
    _, shortcut = block.branch(x)
    torch.testing.assert_close(shortcut[:, 2:6], x[:, :, ::2, ::2], rtol=0, atol=0)
    assert not shortcut[:, :2].any()
    assert not shortcut[:, 6:].any()


def test_branch_does_not_change_its_input():
    for name in ("resnet20", "resnet164"):
        for blocks in built(name, width=4, blocks=(2, 1, 1)).blocks:
            x = images(2, shape=(blocks[0].get_parameter("conv1.weight").shape[1], 6, 6))
            before = x.clone()
            blocks[0](x)
            torch.testing.assert_close(x, before, rtol=0, atol=0)


def test_convolutions_start_he_normal_by_fan_out_and_batchnorm_as_identity():
    for module in built(width=16).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            wanted = math.sqrt(2 / (9 * module.out_channels))
            assert module.weight.std().item() == pytest.approx(wanted, rel=0.05)
            assert abs(module.weight.mean().item()) < 0.1 * wanted
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all())
            assert bool((module.bias == 0).all())


class SecondBottleneckNetwork(nn.Module):
    """Post-activation bottlenecks with projections, written from the paper alone; 1 block each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        ins = (width, 4 * width, 8 * width)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "conv1": nn.Conv2d(i, p, 1, bias=False),
                    "bn1": nn.BatchNorm2d(p),
                    "conv2": nn.Conv2d(p, p, 3, stride=s, padding=1, bias=False),
                    "bn2": nn.BatchNorm2d(p),
                    "conv3": nn.Conv2d(p, 4 * p, 1, bias=False),
                    "bn3": nn.BatchNorm2d(4 * p),
                    "projection": nn.Sequential(
                        nn.Conv2d(i, 4 * p, 1, stride=s, bias=False), nn.BatchNorm2d(4 * p)
                    ),
                }
            )
            for i, p, s in zip(ins, (width, 2 * width, 4 * width), (1, 2, 2), strict=True)
        )
        self.fc = nn.Linear(16 * width, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for m in self.layers:
            assert isinstance(m, nn.ModuleDict)
            out = F.relu(m["bn1"](m["conv1"](x)))
            out = F.relu(m["bn2"](m["conv2"](out)))
            out = m["bn3"](m["conv3"](out))
            x = F.relu(out + m["projection"](x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_resnet164_is_a_second_bottleneck_network(mode):
    ours = built("resnet164", width=4, blocks=(1, 1, 1)).train(mode)
    second = SecondBottleneckNetwork(4).train(mode)
    names = {"fc": "head.2", "stem": "stem"} | {f"layers.{k}": f"stages.{k}.0" for k in range(3)}
    weights = ours.state_dict()
    second.load_state_dict(
        {
            name: weights[name.replace(old, new)]
            for name in second.state_dict()
            for old, new in names.items()
            if name.startswith(old)
        }
    )
    x = images(4, shape=(3, 8, 8))
    torch.testing.assert_close(ours(x), second(x), rtol=0, atol=0)
    torch.testing.assert_close(
        list(ours.state_dict().values()), list(second.state_dict().values()), rtol=0, atol=0
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shortcut_of_every_second_pixel(layout, dtype):
    x = torch.randn(3, 5, 9, 8, generator=generator_for("shortcut")).to(dtype)
    x = x.contiguous(memory_format=layout).requires_grad_()
    halved = option_a(x, stride=2, padding=())
    assert torch.equal(halved, x[:, :, ::2, ::2])
    assert option_a(x, stride=1, padding=()) is x
    (gradient,) = torch.autograd.grad((halved * 3).sum(), x)
    wanted = torch.zeros_like(x)
    wanted[:, :, ::2, ::2] = 3
    assert torch.equal(gradient, wanted)
    assert gradient.is_contiguous(memory_format=layout)
