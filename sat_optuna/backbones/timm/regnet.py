"""timm's regnet family: regnetx, regnety, regnetz and the pre-activation regnetv.

The SE that a block may carry is between the second and the third convolution, inside the branch;
drop-path is part of merge. A block of regnetz that changes the shape has no shortcut, so it has no
slot.
"""

from typing import Any

from timm.models import regnet
from torch import Tensor, nn

from sat_optuna.backbones.tables import BlockSplit, OwnSlot, add_block, add_network
from sat_optuna.backbones.timm.layers import foldable, refuse_checkpointing

__all__: list[str] = []


def _shortcut(block: Any, x: Tensor) -> Tensor | None:
    return None if block.downsample is None else block.downsample(x)


def _has_shortcut(block: Any) -> bool:
    return block.downsample is not None


def _added(block: Any, features: Tensor, shortcut: Tensor | None) -> Tensor:
    return features if shortcut is None else block.drop_path(features) + shortcut


def _own_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    return block.conv2(block.conv1(x)), _shortcut(block, x)


def _branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    features, shortcut = _own_branch(block, x)
    return block.conv3(block.se(features)), shortcut


def _merge(block: Any, features: Tensor, shortcut: Tensor | None) -> Tensor:
    merged: Tensor = block.act3(_added(block, features, shortcut))
    return merged


def _own_merge(block: Any, features: Tensor, shortcut: Tensor | None) -> Tensor:
    return _merge(block, block.conv3(features), shortcut)


def _channels(block: Any) -> int:
    return int(block.conv3.out_channels)


def _own_channels(block: Any) -> int:
    return int(block.conv3.in_channels)


def _last(block: Any) -> nn.Module | None:
    return foldable(block.conv3.bn) if block.conv3.aa is None else None


def _own_after(block: Any) -> nn.Module | None:
    return foldable(block.conv3.conv)


def _pre_own_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    active = block.norm1(x)
    features = block.conv2(block.norm2(block.conv1(active)))
    return features, _shortcut(block, active)


def _pre_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    features, shortcut = _pre_own_branch(block, x)
    return block.conv3(block.norm3(block.se(features))), shortcut


def _pre_own_merge(block: Any, features: Tensor, shortcut: Tensor | None) -> Tensor:
    return _added(block, block.conv3(block.norm3(features)), shortcut)


def _pre_last(block: Any) -> nn.Module | None:
    return foldable(block.conv3)


def _pre_own_last(block: Any) -> nn.Module | None:
    return foldable(block.conv2)


def _stem(model: Any, x: Tensor) -> Tensor:
    stemmed: Tensor = model.stem(x)
    return stemmed


def _stages(model: Any) -> list[list[nn.Module]]:
    stages = (model.s1, model.s2, model.s3, model.s4)
    refuse_checkpointing(*stages)
    return [list(stage.children()) for stage in stages]


def _head(model: Any, x: Tensor) -> Tensor:
    logits: Tensor = model.forward_head(model.final_conv(x))
    return logits


add_block(
    regnet.Bottleneck,
    BlockSplit(_branch, _merge, _channels, _last),
    has_shortcut=_has_shortcut,
    own=OwnSlot(BlockSplit(_own_branch, _own_merge, _own_channels, after=_own_after), "se"),
)
add_block(
    regnet.PreBottleneck,
    BlockSplit(_pre_branch, _added, _channels, _pre_last),
    has_shortcut=_has_shortcut,
    own=OwnSlot(BlockSplit(_pre_own_branch, _pre_own_merge, _own_channels, _pre_own_last), "se"),
)
add_network(regnet.RegNet, stem=_stem, stages=_stages, head=_head)
