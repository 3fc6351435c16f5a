"""torchvision's networks: its weights by its names, walked block by block to the same bits."""

import math

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from sat_optuna.backbones import backbone_stages, build_backbone
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.view import view_of
from sat_optuna.seeds import seeded
from tests.backbones.walking import assert_walk_is_forward, same, slots
from tests.networks import images, stirred_module

# Those that have no part of their own are slow.
NAMES = (
    "resnet18",
    pytest.param("resnet34", marks=pytest.mark.slow),
    "resnet50",
    pytest.param("resnet101", marks=pytest.mark.slow),
    "resnext50_32x4d",
    pytest.param("wide_resnet50_2", marks=pytest.mark.slow),
)
RGB = (3, 64, 64)


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_torchvision_load_and_the_walk_gives_its_logits(name):
    with seeded("torchvision", 0):
        original = torchvision.models.get_model(name, num_classes=7)
    ours = build_backbone(name, in_channels=3, classes=7)
    assert ours.state_dict().keys() == original.state_dict().keys()
    ours.load_state_dict(original.state_dict())
    x = images(2, shape=RGB)
    with torch.no_grad():
        same(ours.eval()(x), original.eval()(x))
    assert view_of(ours).stage_sizes == backbone_stages(name)
    assert_walk_is_forward(stirred_module(ours), x)


def test_the_stem_takes_any_number_of_channels_and_keeps_its_geometry():
    with seeded("stem", 0):
        net = build_backbone("resnet18", in_channels=2, classes=3)
    (conv,) = (m for path, m in net.named_modules() if path == "conv1")
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.shape == (64, 2, 7, 7)
    assert (conv.stride, conv.padding, conv.bias) == ((2, 2), (3, 3), None)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 7 * 7)), rel=0.05)
    assert_walk_is_forward(net, images(2, shape=(2, 48, 48)))


def test_each_slot_says_its_channels_and_names_its_last_batchnorm():
    for name, last, widths in (
        ("resnet18", "bn2", (64, 128, 256, 512)),
        ("resnet50", "bn3", (256, 512, 1024, 2048)),
    ):
        with torch.device("meta"):
            view = view_of(build_backbone(name, in_channels=3, classes=2))
        assert [set(stage) for stage in view.stage_channels] == [{wide} for wide in widths]
        for slot in slots(view):
            assert slot.last is getattr(slot.module, last)


def test_a_frozen_batchnorm_is_no_layer_to_fold_into():
    net = torchvision.models.resnet18(norm_layer=FrozenBatchNorm2d)
    assert all(slot.last is None for slot in slots(view_of(net)))
    x = images(1, shape=RGB)
    net.eval()
    slot = next(slots(view_of(net)))
    same(slot.merge(*slot.branch(net.conv1(x))), net.layer1[0](net.conv1(x)))


@pytest.mark.golden
def test_anchor_plain_resnet50_has_25_557_million_parameters_and_25_58_with_biases():
    """Published with 25.58 M: their convolutions carry biases, one an output channel."""
    with torch.device("meta"):
        net = build_backbone("resnet50", in_channels=3, classes=1000)
    params = sum(p.numel() for p in net.parameters())
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert all(conv.bias is None for conv in convolutions)
    biases = sum(conv.out_channels for conv in convolutions)
    assert (params, biases) == (25_557_032, 26_560)
    assert f"{(params + biases) / 1e6:.2f}" == "25.58"


@pytest.mark.parametrize("wrong", [{"in_channels": 0}, {"classes": 2.5}, {"classes": True}])
def test_channels_and_classes_are_whole_numbers_from_one_up(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(BackboneError, match=rf"^{name} = {value} given; give a whole number"):
        build_backbone("resnet18", **({"in_channels": 3, "classes": 2} | wrong))


def test_another_network_of_torchvision_is_named_with_the_way_to_register_it():
    with torch.device("meta"):
        net = torchvision.models.vgg11(num_classes=2)
    with pytest.raises(BackboneError, match=r"torchvision\.models\.vgg\.VGG is in no.*add_netw"):
        view_of(net)
