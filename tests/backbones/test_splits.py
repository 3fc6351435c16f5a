"""Attention acts on the residual branch and never on the shortcut: proved for every adapter.

The table of blocks says how each type is split. What the block should give is computed by its own
forward, its branch silenced by zeros in its last layer's weights.
"""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from timm.layers.blur_pool import BlurPool2d
from timm.layers.eca import EcaModule
from timm.layers.norm_act import BatchNormAct2d, GroupNormAct
from timm.layers.squeeze_excite import SEModule
from timm.models import _efficientnet_blocks as mobile
from timm.models import convnext, regnet, resnet, resnetv2
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet as tv

# Importing the adapters fills the table.
import sat_optuna.backbones.timm
import sat_optuna.backbones.torchvision  # noqa: F401
from sat_optuna.backbones import cifar_resnet
from sat_optuna.backbones.cifar_preresnet import PreActBasic, PreActBottleneck
from sat_optuna.backbones.contract import Block
from sat_optuna.backbones.tables import BlockEntry, BlockSplit, block_entry, registered_blocks
from sat_optuna.seeds import seeded
from tests.backbones.walking import same
from tests.networks import images, stirred_module


@dataclass(frozen=True)
class Case:
    """A block with a shortcut: how it is made, where it ends.

    Attributes:
        label: what is special about it.
        make: builds it; its input has 8 channels.
        end: what ends its branch, silenced where its parameters are zero.
        last: the layer whose output the features are, where the table must name one.
    """

    label: str
    make: Callable[[], nn.Module]
    end: str
    last: str | None = None

    def block(self) -> nn.Module:
        with seeded("placement", self.label):
            return stirred_module(self.make())

    def entry(self, block: nn.Module) -> BlockEntry:
        entry = block_entry(block, block)
        assert entry is not None
        assert entry.has_shortcut is None or entry.has_shortcut(block)
        return entry

    def silenced(self, block: nn.Module) -> nn.Module:
        silent = copy.deepcopy(block)
        with torch.no_grad():
            for name, value in silent.named_parameters():
                if name == self.end or name.startswith(f"{self.end}."):
                    value.zero_()
        return silent


def projection() -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))


def conv(ins: int, outs: int, size: int, *, stride: int = 1, **_: Any) -> nn.Module:
    return nn.Conv2d(ins, outs, size, stride, padding=size // 2, bias=False)


def group_norm(channels: int, **_: Any) -> Any:
    return nn.GroupNorm(2, channels)


def group_norm_act(channels: int, **_: Any) -> nn.Module:
    return GroupNormAct(channels, 2)


V2: dict[str, Any] = {"conv_layer": conv, "norm_layer": BatchNormAct2d}
V2_DOWN: dict[str, Any] = V2 | {"stride": 2, "proj_layer": resnetv2.DownsampleConv}
GROUPS: dict[str, Any] = {"norm_layer": group_norm}
SE: dict[str, Any] = {"se_layer": mobile.SqueezeExcite}

CASES: dict[type[nn.Module], list[Case]] = {
    Block: [
        Case("cifar", partial(cifar_resnet.BasicBlock, 8, 8, stride=1), "bn2", "bn2"),
        Case("cifar down", partial(cifar_resnet.BasicBlock, 8, 16, stride=2), "bn2", "bn2"),
        Case("cifar 3", partial(cifar_resnet.Bottleneck, 8, 16, stride=2), "bn3", "bn3"),
        Case("pre", partial(PreActBasic, 8, 8, stride=1, first=False), "conv2", "conv2"),
        Case("pre down", partial(PreActBasic, 8, 16, stride=2, first=True), "conv2", "conv2"),
        Case("pre 3", partial(PreActBottleneck, 8, 8, stride=1, first=False), "conv3", "conv3"),
        Case("pre 3 d", partial(PreActBottleneck, 8, 16, stride=2, first=True), "conv3", "conv3"),
    ],
    tv.BasicBlock: [
        Case("tv", partial(tv.BasicBlock, 8, 8), "bn2", "bn2"),
        Case("tv down", lambda: tv.BasicBlock(8, 16, 2, projection()), "bn2", "bn2"),
    ],
    tv.Bottleneck: [
        Case("tv 3", partial(tv.Bottleneck, 8, 2), "bn3", "bn3"),
        Case("tv 3 down", lambda: tv.Bottleneck(8, 4, 2, projection()), "bn3", "bn3"),
        Case("tv 3 groups", partial(tv.Bottleneck, 8, 2, groups=2), "bn3", "bn3"),
    ],
    resnet.BasicBlock: [
        Case("timm", partial(resnet.BasicBlock, 8, 8), "bn2", "bn2"),
        Case(
            "timm aa down",
            lambda: resnet.BasicBlock(8, 16, 2, projection(), aa_layer=BlurPool2d),
            "bn2",
            "bn2",
        ),
        Case("timm se", partial(resnet.BasicBlock, 8, 8, attn_layer=SEModule), "bn2"),
    ],
    resnet.Bottleneck: [
        Case("timm 3", partial(resnet.Bottleneck, 8, 2), "bn3", "bn3"),
        Case("timm 3 down", lambda: resnet.Bottleneck(8, 4, 2, projection()), "bn3", "bn3"),
        Case("timm 3 eca", partial(resnet.Bottleneck, 8, 2, attn_layer=EcaModule), "bn3"),
        Case("timm 3 groups", partial(resnet.Bottleneck, 8, 2, **GROUPS), "bn3"),
    ],
    resnetv2.PreActBasic: [
        Case("v2", partial(resnetv2.PreActBasic, 8, **V2), "conv2", "conv2"),
        Case("v2 down", partial(resnetv2.PreActBasic, 8, 16, **V2_DOWN), "conv2", "conv2"),
    ],
    resnetv2.PreActBottleneck: [
        Case("v2 3", partial(resnetv2.PreActBottleneck, 8, **V2), "conv3", "conv3"),
        Case("v2 3 down", partial(resnetv2.PreActBottleneck, 8, 16, **V2_DOWN), "conv3", "conv3"),
        Case("bit", partial(resnetv2.PreActBottleneck, 8, norm_layer=group_norm_act), "conv3"),
    ],
    resnetv2.Bottleneck: [
        Case("v2 post", partial(resnetv2.Bottleneck, 8, **V2), "norm3", "norm3"),
        Case("v2 post down", partial(resnetv2.Bottleneck, 8, 16, **V2_DOWN), "norm3", "norm3"),
    ],
    regnet.Bottleneck: [
        Case("regnet", partial(regnet.Bottleneck, 8, 8, se_ratio=0), "conv3.bn", "conv3.bn"),
        Case("regnet se", partial(regnet.Bottleneck, 8, 16, stride=2), "conv3.bn", "conv3.bn"),
        Case(
            "regnet z", partial(regnet.Bottleneck, 8, 8, linear_out=True), "conv3.bn", "conv3.bn"
        ),
    ],
    regnet.PreBottleneck: [
        Case("regnet v", partial(regnet.PreBottleneck, 8, 8, se_ratio=0), "conv3", "conv3"),
        Case("regnet v se", partial(regnet.PreBottleneck, 8, 16, stride=2), "conv3", "conv3"),
    ],
    convnext.ConvNeXtBlock: [
        Case("next", partial(convnext.ConvNeXtBlock, 8, ls_init_value=1.0), "gamma"),
        Case(
            "next conv",
            partial(convnext.ConvNeXtBlock, 8, conv_mlp=True, ls_init_value=1.0),
            "gamma",
        ),
        Case(
            "next v2 down",
            partial(convnext.ConvNeXtBlock, 8, 16, stride=2, use_grn=True, ls_init_value=None),
            "mlp.fc2",
        ),
    ],
    mobile.InvertedResidual: [
        Case("mb", partial(mobile.InvertedResidual, 8, 8, exp_ratio=2), "bn3", "bn3"),
        Case("mb se", partial(mobile.InvertedResidual, 8, 8, exp_ratio=2, **SE), "bn3", "bn3"),
    ],
    mobile.DepthwiseSeparableConv: [
        Case("ds", partial(mobile.DepthwiseSeparableConv, 8, 8), "bn2", "bn2"),
        Case("ds se act", partial(mobile.DepthwiseSeparableConv, 8, 8, pw_act=True, **SE), "bn2"),
    ],
    mobile.ConvBnAct: [
        Case("cn", partial(mobile.ConvBnAct, 8, 8, 3, skip=True), "bn1"),
        Case(
            "cn linear",
            partial(mobile.ConvBnAct, 8, 8, 3, skip=True, act_layer=nn.Identity),
            "bn1",
            "bn1",
        ),
    ],
}
ALL = [pytest.param(case, id=case.label) for cases in CASES.values() for case in cases]
X = images(3, shape=(8, 6, 6))


def with_own() -> list[Case]:
    return [
        case
        for cases in CASES.values()
        for case in cases
        if (own := case.entry(block := case.block()).own) and own.module_of(block) is not None
    ]


OWN = [pytest.param(case, id=case.label) for case in with_own()]


@pytest.mark.parametrize("kind", registered_blocks(), ids=lambda kind: kind.__qualname__)
def test_every_registered_block_has_its_case_here(kind):
    cases = CASES[kind]
    blocks = [case.block() for case in cases]
    if kind is not Block:
        assert {type(block) for block in blocks} == {kind}
    entries = [case.entry(block) for case, block in zip(cases, blocks, strict=True)]
    if entries[0].own is not None:
        assert any(entries[0].own.module_of(block) is not None for block in blocks)


@pytest.mark.parametrize("kind", registered_blocks(), ids=lambda kind: kind.__qualname__)
def test_how_it_is_split_is_told_by_plain_functions(kind):
    """What captured a module would stay with the original where a network is copied."""
    case = CASES[kind][0]
    entry = case.entry(case.block())
    assert pickle.loads(pickle.dumps(entry)) == entry
    assert copy.deepcopy(entry) == entry


def test_every_block_of_our_own_has_its_case_here():
    ours = {kind for kind in Block.__subclasses__() if kind.__module__.startswith("sat_optuna.")}
    assert {type(case.block()) for case in CASES[Block]} == ours


def proof(case: Case, split: BlockSplit, block: nn.Module) -> None:
    """With the attention's output zeroed, the block gives its shortcut path alone."""
    features, shortcut = split.branch(block, X)
    assert bool(features.abs().sum() > 0)
    alone = case.silenced(block)(X)
    same(split.merge(block, torch.zeros_like(features), shortcut), alone)
    whole = split.merge(block, features, shortcut)
    same(whole, block(X))
    assert not torch.equal(whole, alone)


@pytest.mark.parametrize("case", ALL)
def test_attention_acts_on_the_residual_branch_and_never_on_the_shortcut(case):
    block = case.block().eval()
    with torch.no_grad():
        proof(case, case.entry(block).split, block)


@pytest.mark.parametrize("case", ALL)
def test_in_train_mode_too(case):
    block = case.block().train()
    with torch.no_grad():
        proof(case, case.entry(block).split, block)


def _after_addition(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x))))) + x, x


def _on_the_shortcut(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return x, block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))


@pytest.mark.parametrize(
    ("branch", "merge"),
    [
        (_after_addition, lambda block, features, shortcut: F.relu(features)),
        (_on_the_shortcut, lambda block, features, shortcut: F.relu(features + shortcut)),
    ],
    ids=["after the addition", "on the shortcut"],
)
def test_the_proof_finds_attention_in_a_wrong_place(branch, merge):
    case = CASES[tv.BasicBlock][0]
    block = case.block().eval()
    wrong = BlockSplit(branch, merge, lambda block: 8)
    same(merge(block, *branch(block, X)), block(X))  # the right function, split wrongly
    with torch.no_grad(), pytest.raises(AssertionError, match="Tensor-likes are not equal"):
        proof(case, wrong, block)


@pytest.mark.parametrize("case", ALL)
def test_channels_are_those_of_the_features(case):
    block = case.block().eval()
    split = case.entry(block).split
    features, _ = split.branch(block, X)
    assert features.ndim == 4
    assert split.channels(block) == features.shape[1]


@pytest.mark.parametrize("case", ALL)
def test_the_last_layers_output_is_the_features(case):
    block = case.block().eval()
    split = case.entry(block).split
    last = None if split.last is None else split.last(block)
    assert last is (None if case.last is None else block.get_submodule(case.last))
    if last is not None:
        features, shortcut = split.branch(block, X)
        doubled(last)
        other, unmoved = split.branch(block, X)
        same(other, 2 * features)
        same(unmoved, shortcut)


def doubled(layer: nn.Module) -> None:
    with torch.no_grad():
        for value in layer.parameters(recurse=False):
            value.mul_(2)


@pytest.mark.parametrize("case", ALL)
def test_what_is_given_is_not_changed(case):
    """A search goes on from the same features with several schemes."""
    block = case.block().eval()
    split = case.entry(block).split
    x = X.clone()
    features, shortcut = split.branch(block, x)
    kept = features.clone(), shortcut.clone()
    split.merge(block, features, shortcut)
    same(x, X)
    same(features, kept[0])
    same(shortcut, kept[1])


# --- Attention that a block carries itself, taken as the slot --------------------------------


@pytest.mark.parametrize("case", OWN)
def test_the_own_slot_is_where_the_own_attention_is(case):
    block = case.block().eval()
    own = case.entry(block).own
    assert own is not None
    module = own.module_of(block)
    assert module is not None
    given: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, args: given.append(args[0].clone()))
    with torch.no_grad():
        whole = block(X)
        features, shortcut = own.split.branch(block, X)
        same(features, given[0])
        assert own.split.channels(block) == features.shape[1]
        same(own.split.merge(block, module(features), shortcut), whole)
        setattr(block, own.name, nn.Identity())
        assert own.module_of(block) is None
        bare = block(X)
        same(own.split.merge(block, features, shortcut), bare)
        assert not torch.equal(bare, whole)


@pytest.mark.parametrize("case", OWN)
def test_the_own_slot_leaves_the_shortcut_alone(case):
    """A module that gives zeros leaves the shortcut and what its branch makes of zeros."""
    block = case.block().eval()
    own = case.entry(block).own
    assert own is not None
    module = own.module_of(block)
    assert module is not None
    with torch.no_grad():
        features, shortcut = own.split.branch(block, X)
        nothing = own.split.merge(block, torch.zeros_like(features), shortcut)
        module.register_forward_hook(lambda *_: torch.zeros_like(features))
        same(nothing, block(X))
        if own.split.last is not None and (last := own.split.last(block)) is not None:
            doubled(last)
            same(own.split.branch(block, X)[0], 2 * features)


# --- Blocks that are not residual ------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: mobile.InvertedResidual(8, 16),
        lambda: mobile.InvertedResidual(8, 8, stride=2),
        lambda: mobile.InvertedResidual(8, 8, noskip=True),
        lambda: mobile.DepthwiseSeparableConv(8, 16),
        lambda: mobile.ConvBnAct(8, 8, 1),
        lambda: regnet.Bottleneck(8, 16, stride=2, downsample=""),
        lambda: regnet.PreBottleneck(8, 16, stride=2, downsample=""),
    ],
)
def test_a_block_without_a_shortcut_has_no_slot(make):
    entry = block_entry(make(), nn.Module())
    assert entry is not None
    assert entry.has_shortcut is not None
    assert not entry.has_shortcut(make())


@pytest.mark.parametrize(
    "make",
    [
        lambda: mobile.InvertedResidual(8, 16, exp_ratio=2, **SE),
        lambda: mobile.InvertedResidual(8, 16, s2d=1, **SE),
        lambda: mobile.DepthwiseSeparableConv(8, 16, s2d=1, **SE),
        lambda: regnet.Bottleneck(8, 16, stride=2, downsample=""),
        lambda: regnet.PreBottleneck(8, 16, stride=2, downsample=""),
    ],
)
def test_a_block_without_a_shortcut_may_carry_attention_of_its_own(make):
    with seeded("no shortcut", 0):
        block = stirred_module(make()).eval()
    entry = block_entry(block, block)
    assert entry is not None
    assert entry.own is not None
    module = entry.own.module_of(block)
    assert module is not None
    with torch.no_grad():
        features, shortcut = entry.own.split.branch(block, X)
        same(entry.own.split.merge(block, module(features), shortcut), block(X))
