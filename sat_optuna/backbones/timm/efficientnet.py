"""timm's mobilenetv3 and efficientnet families: inverted residual blocks.

The class MobileNetV3 is also that of fbnetv3 and hardcorenas; the class EfficientNet is also that
of mobilenetv2, mnasnet, mixnet, tinynet and others. Two networks of these classes are refused:
mobilenetv4, whose UniversalInvertedResidual is in no table, and lcnet, which has no residual
block. A block has a slot if it has a shortcut. The SE that a block carries itself is in the middle
of its branch; drop-path is part of merge.
"""

from typing import Any

from timm.models import _efficientnet_blocks as blocks
from timm.models import efficientnet, mobilenetv3
from torch import Tensor, nn

from sat_optuna.backbones.tables import BlockSplit, OwnSlot, add_block, add_network
from sat_optuna.backbones.timm.layers import foldable, refuse_checkpointing

__all__: list[str] = []


def _has_skip(block: Any) -> bool:
    return bool(block.has_skip)


def _merge(block: Any, features: Tensor, shortcut: Tensor) -> Tensor:
    return block.drop_path(features) + shortcut if block.has_skip else features


def _to_depth(block: Any, x: Tensor) -> Tensor:
    """Move space to depth where the block begins with that."""
    deep: Tensor = x if block.conv_s2d is None else block.bn_s2d(block.conv_s2d(x))
    return deep


def _inverted_own_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    wide = block.bn1(block.conv_pw(_to_depth(block, x)))
    return block.aa(block.bn2(block.conv_dw(wide))), x


def _inverted_rest(block: Any, features: Tensor) -> Tensor:
    narrow: Tensor = block.bn3(block.conv_pwl(features))
    return narrow


def _inverted_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    features, shortcut = _inverted_own_branch(block, x)
    return _inverted_rest(block, block.se(features)), shortcut


def _inverted_own_merge(block: Any, features: Tensor, shortcut: Tensor) -> Tensor:
    return _merge(block, _inverted_rest(block, features), shortcut)


def _inverted_channels(block: Any) -> int:
    return int(block.conv_pwl.out_channels)


def _inverted_own_channels(block: Any) -> int:
    return int(block.conv_pwl.in_channels)


def _inverted_last(block: Any) -> nn.Module | None:
    return foldable(block.bn3)


def _inverted_own_after(block: Any) -> nn.Module | None:
    return foldable(block.conv_pwl)


def _separable_own_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return block.aa(block.bn1(block.conv_dw(_to_depth(block, x)))), x


def _separable_rest(block: Any, features: Tensor) -> Tensor:
    narrow: Tensor = block.bn2(block.conv_pw(features))
    return narrow


def _separable_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    features, shortcut = _separable_own_branch(block, x)
    return _separable_rest(block, block.se(features)), shortcut


def _separable_own_merge(block: Any, features: Tensor, shortcut: Tensor) -> Tensor:
    return _merge(block, _separable_rest(block, features), shortcut)


def _separable_channels(block: Any) -> int:
    return int(block.conv_pw.out_channels)


def _separable_own_channels(block: Any) -> int:
    return int(block.conv_pw.in_channels)


def _separable_last(block: Any) -> nn.Module | None:
    return foldable(block.bn2)


def _separable_own_after(block: Any) -> nn.Module | None:
    return foldable(block.conv_pw)


def _conv_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return block.aa(block.bn1(block.conv(x))), x


def _conv_channels(block: Any) -> int:
    return int(block.conv.out_channels)


def _conv_last(block: Any) -> nn.Module | None:
    return foldable(block.bn1) if isinstance(block.aa, nn.Identity) else None


def _stem(model: Any, x: Tensor) -> Tensor:
    stemmed: Tensor = model.bn1(model.conv_stem(x))
    return stemmed


def _stages(model: Any) -> list[nn.Sequential]:
    refuse_checkpointing(model)
    return list(model.blocks)


def _efficientnet_head(model: Any, x: Tensor) -> Tensor:
    logits: Tensor = model.forward_head(model.bn2(model.conv_head(x)))
    return logits


def _mobilenetv3_head(model: Any, x: Tensor) -> Tensor:
    logits: Tensor = model.forward_head(x)
    return logits


add_block(
    blocks.InvertedResidual,
    BlockSplit(_inverted_branch, _merge, _inverted_channels, _inverted_last),
    has_shortcut=_has_skip,
    own=OwnSlot(
        BlockSplit(
            _inverted_own_branch,
            _inverted_own_merge,
            _inverted_own_channels,
            after=_inverted_own_after,
        ),
        "se",
    ),
)
add_block(
    blocks.DepthwiseSeparableConv,
    BlockSplit(_separable_branch, _merge, _separable_channels, _separable_last),
    has_shortcut=_has_skip,
    own=OwnSlot(
        BlockSplit(
            _separable_own_branch,
            _separable_own_merge,
            _separable_own_channels,
            after=_separable_own_after,
        ),
        "se",
    ),
)
add_block(
    blocks.ConvBnAct,
    BlockSplit(_conv_branch, _merge, _conv_channels, _conv_last),
    has_shortcut=_has_skip,
)
add_network(efficientnet.EfficientNet, stem=_stem, stages=_stages, head=_efficientnet_head)
add_network(mobilenetv3.MobileNetV3, stem=_stem, stages=_stages, head=_mobilenetv3_head)
