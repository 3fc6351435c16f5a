"""The pre-activation CIFAR ResNets: published counts, the units of the paper, a second network."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sat_optuna.backbones import build_backbone
from sat_optuna.backbones.contract import Backbone, BackboneError
from sat_optuna.backbones.view import view_of
from sat_optuna.seeds import seeded
from tests.backbones.walking import assert_walk_is_forward, same, slots
from tests.networks import images, stirred_module

NAMES = ("preresnet110", "preresnet164")


def built(name: str, **settings: Any) -> Backbone:
    with seeded("preresnet", name):
        net = build_backbone(name, **({"in_channels": 3, "classes": 10} | settings))
    assert isinstance(net, Backbone)
    stirred_module(net)
    return net


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "classes", "params", "published"),
    [
        ("preresnet164", 10, 1_703_258, "1.7033"),
        ("preresnet164", 100, 1_726_388, "1.7264"),
        ("preresnet110", 10, 1_727_962, None),
        ("preresnet110", 100, 1_733_812, None),
    ],
)
def test_anchor_published_parameter_counts(name, classes, params, published):
    with torch.device("meta"):
        net = build_backbone(name, in_channels=3, classes=classes)
    assert sum(p.numel() for p in net.parameters()) == params
    if published is not None:
        assert f"{params / 1e6:.4f}" == published


@pytest.mark.parametrize("name", NAMES)
def test_the_last_number_of_the_name_counts_layers(name):
    with torch.device("meta"):
        net = build_backbone(name, in_channels=3, classes=10)
    layers = [
        path
        for path, m in net.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear) and "projection" not in path
    ]
    assert len(layers) == int(name.removeprefix("preresnet"))
    assert view_of(net).stage_sizes == (18, 18, 18)


@pytest.mark.parametrize(("name", "expansion"), [("preresnet110", 1), ("preresnet164", 4)])
@pytest.mark.parametrize(("stem_stride", "sizes"), [(1, (13, 7, 4)), (2, (7, 4, 2))])
def test_features_and_shortcut_have_the_shape_they_say(name, expansion, stem_stride, sizes):
    net = built(name, width=8, stem_stride=stem_stride, blocks=(2, 2, 2)).eval()
    x = net.stem(images(2, shape=(3, 13, 13)))
    for blocks, size, factor in zip(net.blocks, sizes, (1, 2, 4), strict=True):
        for block in blocks:
            features, shortcut = block.branch(x)
            assert block.channels == 8 * expansion * factor
            assert features.shape == shortcut.shape == (2, block.channels, size, size)
            x = block(x)
            same(x, features + shortcut)  # no ReLU after the addition
            assert (x < 0).any()
    assert net.head(x).shape == (2, 10)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_block_of_a_stage_activates_before_the_paths_part_and_no_other(name):
    net = built(name, width=4, blocks=(2, 2, 2)).eval()
    x = net.stem(images(2, shape=(3, 8, 8)))
    for stage, blocks in enumerate(net.blocks):
        for index, block in enumerate(blocks):
            _, shortcut = block.branch(x)
            norm = block.get_submodule("bn1")
            active = F.relu(norm(x))
            if index:
                same(shortcut, x)
            elif name == "preresnet164":
                same(shortcut, block.get_submodule("projection")(active))
            else:
                stride = 2 if stage else 1
                extra = (block.channels - x.shape[1]) // 2
                same(shortcut[:, extra : block.channels - extra], active[..., ::stride, ::stride])
                assert shortcut.abs().sum() == shortcut[:, extra : block.channels - extra].sum()
            x = block(x)


@pytest.mark.parametrize("name", NAMES)
def test_neither_branch_nor_merge_changes_what_it_is_given(name):
    net = built(name, width=4, blocks=(2, 1, 1))
    x = net.stem(images(2, shape=(3, 8, 8)))
    for slot in slots(view_of(net)):
        before = x.clone()
        features, shortcut = slot.branch(x)
        kept = features.clone(), shortcut.clone()
        merged = slot.merge(features, shortcut)
        same(x, before)
        same(features, kept[0])
        same(shortcut, kept[1])
        x = merged


@pytest.mark.parametrize("name", NAMES)
def test_the_walk_is_the_forward(name):
    assert_walk_is_forward(built(name, width=4, blocks=(2, 2, 1)), images(3, shape=(3, 8, 8)))


class SecondUnit(nn.Module):
    """Figure 4 (e) of the paper, a bottleneck; the first of a stage activates both its paths."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(n) for n in (ins, outs // 4, outs // 4))
        self.conv1 = nn.Conv2d(ins, outs // 4, 1, stride=stride, bias=False)
        self.conv2 = nn.Conv2d(outs // 4, outs // 4, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(outs // 4, outs, 1, bias=False)
        if ins != outs:
            self.projection = nn.Conv2d(ins, outs, 1, stride=stride, bias=False)

    def forward(self, x):
        out = torch.relu(self.bn1(x))
        if hasattr(self, "projection"):
            x = self.projection(out)
        out = self.conv1(out)
        out = self.conv2(torch.relu(self.bn2(out)))
        out = self.conv3(torch.relu(self.bn3(out)))
        return x + out


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_preresnet164_is_a_second_network(mode):
    ours = built("preresnet164", width=4, blocks=(2, 1, 1)).train(mode)
    stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    units = [SecondUnit(4, 16, 1), SecondUnit(16, 16, 1), SecondUnit(16, 32, 2)]
    units.append(SecondUnit(32, 64, 2))
    second = nn.Sequential(stem, *units, nn.BatchNorm2d(64), nn.ReLU(), nn.Linear(64, 10))
    weights = dict(zip(second.state_dict(), _reordered(ours), strict=True))
    second.load_state_dict(weights)
    second.train(mode)
    x = images(4, shape=(3, 8, 8))
    pooled = F.adaptive_avg_pool2d(second[:-1](x), 1).flatten(1)
    same(second[-1](pooled), ours(x))
    for name, value in zip(weights, _reordered(ours), strict=True):
        same(second.state_dict()[name], value)


def _reordered(ours: Backbone) -> list[torch.Tensor]:
    """Our tensors in the order in which the second network lists its own."""
    units = [block for blocks in ours.blocks for block in blocks]
    order = ("bn1", "bn2", "bn3", "conv1", "conv2", "conv3", "projection")
    parts: list[nn.Module] = [ours.stem]
    for unit in units:
        parts += [m for name in order for own, m in unit.named_children() if own == name]
    parts.append(ours.head)
    return [value for part in parts for value in part.state_dict().values()]


@pytest.mark.parametrize("setting", ["in_channels", "classes", "width", "stem_stride"])
def test_settings_are_whole_numbers_from_one_up(setting):
    wrong: dict[str, Any] = {setting: 0}
    with pytest.raises(BackboneError, match=f"{setting} = 0 given; give a whole number"):
        built("preresnet110", **wrong)


@pytest.mark.parametrize("blocks", [(3, 3), (3, 3, 3, 3), (3, 0, 3)])
def test_each_of_the_three_stages_has_a_block(blocks):
    with pytest.raises(BackboneError, match="a CIFAR ResNet has 3 stages"):
        built("preresnet164", blocks=blocks)
