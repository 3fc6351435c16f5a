"""timm's networks: its weights by its names, walked block by block to the same bits."""

import subprocess
import sys
from typing import Any

import pytest
import timm
import torch
from timm.models import resnetv2
from timm.models._efficientnet_blocks import EdgeResidual
from torch import Tensor, nn

from sat_optuna.backbones import build_backbone, tables
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.tables import BlockSplit, add_block
from sat_optuna.backbones.timm import resolve
from sat_optuna.backbones.view import view_of
from sat_optuna.errors import UnknownName
from sat_optuna.seeds import seeded
from tests.backbones.walking import (
    assert_walk_is_forward,
    same,
    slots,
    walked_plain,
    walked_with_own,
)
from tests.networks import images, stirred_module

# Small members of each family, among them every option of its blocks and stems. Those that have no
# part of their own are slow.
NAMES = (
    "test_resnet",  # resnet: basic and bottleneck blocks
    "resnet18",
    "resnet26t",  # three convolutions in the stem, average pooling in the shortcut
    pytest.param("resnext50_32x4d", marks=pytest.mark.slow),
    "resnet50_gn",
    "resnetblur18",
    "resnetrs50",  # convolution for pooling in the stem
    "seresnet18",
    "ecaresnet26t",
    "resnetv2_18",  # resnetv2
    pytest.param("resnetv2_50t", marks=pytest.mark.slow),
    "resnetv2_50x1_bit",  # standardised convolutions, group norm
    "regnetx_002",  # regnet
    "regnety_002",
    "regnetz_005",  # blocks without shortcut, no activation after the addition
    "regnetv_040",  # pre-activation
    "convnext_atto",  # convnext
    "convnext_atto_ols",
    "convnext_zepto_rms",
    pytest.param("convnext_tiny", marks=pytest.mark.slow),
    "convnextv2_atto",
    "test_convnext3",
    "mobilenetv3_small_050",  # mobilenetv3
    "mobilenetv3_large_100",
    "hardcorenas_a",
    "mobilenetv2_035",  # efficientnet
    "mnasnet_small",
    "mixnet_s",
    "tinynet_e",
    "efficientnet_b0",
    "efficientnet_b0_gn",
    "efficientnet_blur_b0",
    "tf_efficientnet_b0",
)
RATES = {"drop_rate": 0.2, "drop_path_rate": 0.3}
SHAPE = (3, 64, 64)


def made(name: str, **settings: Any) -> nn.Module:
    with seeded("timm", name):
        net: nn.Module = timm.create_model(name, **({"num_classes": 5} | settings))
    stirred_module(net)
    with torch.no_grad():
        for path, value in net.named_parameters():
            if path.endswith("gamma"):  # ConvNeXt's layer scale starts where a branch is unseen
                value.copy_(torch.linspace(0.5, 1.5, len(value)))
    return net


# --- The same weights, the same bits -----------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_timm_load_and_the_walk_gives_its_logits(name):
    original = made(name)
    ours = build_backbone(f"timm:{name}", in_channels=3, classes=5, **RATES)
    assert ours.state_dict().keys() == original.state_dict().keys()
    ours.load_state_dict(original.state_dict())
    x = images(2, shape=SHAPE)
    with torch.no_grad():
        same(ours.eval()(x), original.eval()(x))
    assert_walk_is_forward(ours, x)


def test_dropblock_is_walked_too():
    assert_walk_is_forward(made("resnet18", drop_block_rate=0.3), images(2, shape=(3, 96, 96)))


def test_resnetv2_blocks_that_are_not_preactivated_are_walked_too():
    with seeded("post", 0):
        net = resnetv2.ResNetV2(
            [1, 2, 1, 1], (128, 128, 256, 256), 5, preact=False, stem_type="same"
        )
    stirred_module(net)
    assert_walk_is_forward(net, images(2, shape=SHAPE))


@pytest.mark.parametrize("name", ["resnet26t", "convnext_atto", "regnety_002", "efficientnet_b0"])
def test_under_autocast_and_channels_last_too(name):
    net = made(name).eval().to(memory_format=torch.channels_last)
    x = images(2, shape=SHAPE).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                same(walked_plain(view_of(net), x), net(x))


def test_settings_reach_timm():
    net = build_backbone("timm:resnet18", in_channels=2, classes=7, **RATES)
    assert net.get_parameter("conv1.weight").shape[1] == 2
    assert net.get_parameter("fc.weight").shape[0] == 7
    assert net.get_submodule("layer4.1.drop_path").extra_repr() == "drop_prob=0.300"
    assert_walk_is_forward(net, images(2, shape=(2, 64, 64)))


def test_no_pretrained_weights_are_asked_for(monkeypatch):
    asked: list[Any] = []

    def create(name: str, *, pretrained: bool, **settings: Any) -> None:
        asked.append(pretrained)

    builder = resolve("resnet18")
    monkeypatch.setattr(timm, "create_model", create)
    builder(in_channels=3, classes=2)
    assert asked == [False]


def test_looking_a_name_up_draws_no_random_number():
    before = torch.get_rng_state()
    resolve("efficientnet_b0")
    assert torch.equal(torch.get_rng_state(), before)


# --- Where the slots are -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sizes", "widths"),
    [
        ("resnet50", (3, 4, 6, 3), (256, 512, 1024, 2048)),
        ("resnetv2_18", (2, 2, 2, 2), (64, 128, 256, 512)),
        ("regnetx_002", (1, 1, 4, 7), (24, 56, 152, 368)),
        ("regnetz_005", (3, 8, 6), (40, 104, 256)),
        ("convnext_tiny", (3, 3, 9, 3), (96, 192, 384, 768)),
        ("mobilenetv2_100", (1, 2, 3, 2, 2), (24, 32, 64, 96, 160)),
        ("mobilenetv3_large_100", (1, 1, 2, 3, 1, 2), (16, 24, 40, 80, 112, 160)),
        ("efficientnet_b0", (1, 1, 2, 2, 3), (24, 40, 80, 112, 192)),
    ],
)
def test_a_slot_in_each_block_that_has_a_shortcut(name, sizes, widths):
    with torch.device("meta"):
        view = view_of(timm.create_model(name))
    assert view.stage_sizes == sizes
    assert [set(stage) for stage in view.stage_channels] == [{wide} for wide in widths]


# --- Attention that the network carries itself -------------------------------------------------


@pytest.mark.parametrize(
    ("name", "slot_count"),
    [
        ("seresnet50", 16),
        ("regnety_002", 13),
        ("mobilenetv3_small_050", 9),
        ("mobilenetv3_large_100", 8),
        ("efficientnet_b0", 16),
        ("lcnet_050", 2),  # not one residual block
    ],
)
def test_own_attention_everywhere_is_the_original_and_nowhere_is_without_it(name, slot_count):
    net = made(name).eval()
    x = images(2, shape=SHAPE)
    view = view_of(net, own=True)
    assert sum(view.stage_sizes) == slot_count
    with torch.no_grad():
        whole = net(x)
        same(walked_with_own(view, x), whole)
        for slot in slots(view):
            setattr(slot.module, "se", nn.Identity())  # noqa: B010  its type is any block's
        bare = net(x)
        same(walked_plain(view, x), bare)
        assert not torch.equal(bare, whole)


# --- What no table holds -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("resnest14d", "timm.models.resnest.ResNestBottleneck"),
        ("skresnet18", "timm.models.sknet.SelectiveKernelBasic"),
        ("res2net50_14w_8s", "timm.models.res2net.Bottle2neck"),
        ("efficientnetv2_s", "timm.models._efficientnet_blocks.EdgeResidual"),
        ("efficientnet_cc_b0_4e", "timm.models._efficientnet_blocks.CondConvResidual"),
        (
            "mobilenetv4_conv_small_035",
            "timm.models._efficientnet_blocks.UniversalInvertedResidual",
        ),
    ],
)
def test_a_block_type_in_no_table_is_named_with_the_way_to_register_it(name, kind):
    pattern = rf"has a block of type {kind}, which is in no table.*tables\.add_block"
    with pytest.raises(BackboneError, match=pattern):
        resolve(name)
    with torch.device("meta"):
        net = timm.create_model(name)
    for own in (False, True):
        with pytest.raises(BackboneError, match=pattern):
            view_of(net, own=own)


def test_a_network_type_in_no_table_is_named_with_the_way_to_register_it():
    with pytest.raises(BackboneError, match=r"VisionTransformer is in no table.*add_network"):
        resolve("vit_tiny_patch16_224")


def test_a_network_without_residual_blocks_says_so():
    with torch.device("meta"):
        net = build_backbone("timm:lcnet_050", in_channels=3, classes=2)
    with pytest.raises(BackboneError, match=r"MobileNetV3 has no residual block with a bran"):
        view_of(net)


def _edge_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    features = block.se(block.aa(block.bn1(block.conv_exp(x))))
    return block.bn2(block.conv_pwl(features)), x


def _edge_merge(block: Any, features: Tensor, shortcut: Tensor) -> Tensor:
    merged: Tensor = block.drop_path(features) + shortcut
    return merged


def _edge_channels(block: Any) -> int:
    return int(block.conv_pwl.out_channels)


def _edge_has_shortcut(block: Any) -> bool:
    return bool(block.has_skip)


def test_a_user_registers_a_block_in_a_few_lines(monkeypatch):
    monkeypatch.setattr(tables, "_BLOCKS", dict(tables._BLOCKS))  # undone after the test
    with pytest.raises(BackboneError, match="EdgeResidual"):
        resolve("tf_efficientnetv2_b0")
    add_block(
        EdgeResidual,
        BlockSplit(_edge_branch, _edge_merge, _edge_channels),
        has_shortcut=_edge_has_shortcut,
    )
    net = build_backbone("timm:tf_efficientnetv2_b0", in_channels=3, classes=5, **RATES)
    stirred_module(net)
    assert view_of(net).stage_sizes == (1, 1, 2, 4, 7)
    assert_walk_is_forward(net, images(2, shape=SHAPE))
    with pytest.raises(BackboneError, match="EdgeResidual is registered already"):
        add_block(EdgeResidual, BlockSplit(_edge_branch, _edge_merge, _edge_channels))


# --- Bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet5O", "; did you mean one of 'timm:resnet50"),
        (
            "resnet50.a1_in1k",
            "; did you mean one of 'timm:resne",
        ),  # weights are not asked for by name
        ("hf-hub:timm/resnet50", "no backbone 'timm:hf-hub:timm/resnet50'"),
        ("§", "no backbone 'timm:§'; timm.list_models"),
    ],
)
def test_an_unknown_name_points_to_the_nearest_one_of_timm(name, near):
    with pytest.raises(UnknownName) as caught:
        build_backbone(f"timm:{name}", in_channels=3, classes=2)
    assert near in str(caught.value)


@pytest.mark.parametrize("rate", [-0.1, 1, "0.5", True])
@pytest.mark.parametrize("setting", ["drop_rate", "drop_path_rate"])
def test_rates_are_numbers_below_one(setting, rate):
    with pytest.raises(BackboneError, match=f"{setting} = {rate!r} given; give a number from 0"):
        build_backbone("timm:resnet18", in_channels=3, classes=2, **{setting: rate})


@pytest.mark.parametrize("wrong", [{"in_channels": 0}, {"classes": 0}])
def test_channels_and_classes_are_whole_numbers_from_one_up(wrong):
    ((name, _),) = wrong.items()
    with pytest.raises(BackboneError, match=f"{name} = 0 given; give a whole number"):
        build_backbone("timm:resnet18", **({"in_channels": 3, "classes": 2} | wrong))


@pytest.mark.parametrize(
    "name", ["resnet18", "resnetv2_18", "regnetx_002", "convnext_atto", "efficientnet_b0"]
)
def test_gradient_checkpointing_is_refused(name):
    with torch.device("meta"):
        net: Any = timm.create_model(name)
    net.set_grad_checkpointing(True)
    with pytest.raises(BackboneError, match=r"checkpointing on.*set_grad_checkpointing\(False\)"):
        view_of(net)
    net.set_grad_checkpointing(False)
    view_of(net)


def test_where_timm_is_missing_one_sentence_says_how_to_install_it():
    code = (
        "import sys; sys.modules['timm'] = None\n"
        "from sat_optuna.backbones import build_backbone\n"
        "try: build_backbone('timm:resnet50', in_channels=3, classes=2)\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, encoding="utf-8"
    )
    assert done.stdout.strip() == (
        "backbone 'timm:resnet50' needs timm; install it with: pip install 'sat_optuna[timm]'"
    )
