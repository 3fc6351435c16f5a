"""timm's resnetv2 family: pre-activation ResNets and BiT.

The features are the output of the last convolution; in the blocks that are not pre-activation,
they are the output of the last normalisation. Drop-path is part of merge. The network's last
normalisation is part of its head.
"""

from typing import Any

from timm.models import resnetv2
from torch import Tensor, nn

from sat_optuna.backbones.tables import BlockSplit, add_block, add_network
from sat_optuna.backbones.timm.layers import foldable, refuse_checkpointing

__all__: list[str] = []


def _basic_channels(block: Any) -> int:
    return int(block.conv2.out_channels)


def _bottleneck_channels(block: Any) -> int:
    return int(block.conv3.out_channels)


def _basic_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    active = block.norm1(x)
    shortcut = x if block.downsample is None else block.downsample(active)
    return block.conv2(block.norm2(block.conv1(active))), shortcut


def _basic_last(block: Any) -> nn.Module | None:
    return foldable(block.conv2)


def _bottleneck_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    active = block.norm1(x)
    shortcut = x if block.downsample is None else block.downsample(active)
    features = block.conv2(block.norm2(block.conv1(active)))
    return block.conv3(block.norm3(features)), shortcut


def _bottleneck_last(block: Any) -> nn.Module | None:
    return foldable(block.conv3)


def _pre_merge(block: Any, features: Tensor, shortcut: Tensor) -> Tensor:
    merged: Tensor = block.drop_path(features) + shortcut
    return merged


def _post_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    shortcut = x if block.downsample is None else block.downsample(x)
    features = block.norm2(block.conv2(block.norm1(block.conv1(x))))
    return block.norm3(block.conv3(features)), shortcut


def _post_merge(block: Any, features: Tensor, shortcut: Tensor) -> Tensor:
    merged: Tensor = block.act3(_pre_merge(block, features, shortcut))
    return merged


def _post_last(block: Any) -> nn.Module | None:
    return foldable(block.norm3)


def _stem(model: Any, x: Tensor) -> Tensor:
    stemmed: Tensor = model.stem(x)
    return stemmed


def _stages(model: Any) -> list[nn.Sequential]:
    refuse_checkpointing(*model.stages)
    return [stage.blocks for stage in model.stages]


def _head(model: Any, x: Tensor) -> Tensor:
    logits: Tensor = model.forward_head(model.norm(x))
    return logits


add_block(
    resnetv2.PreActBasic, BlockSplit(_basic_branch, _pre_merge, _basic_channels, _basic_last)
)
add_block(
    resnetv2.PreActBottleneck,
    BlockSplit(_bottleneck_branch, _pre_merge, _bottleneck_channels, _bottleneck_last),
)
add_block(
    resnetv2.Bottleneck, BlockSplit(_post_branch, _post_merge, _bottleneck_channels, _post_last)
)
add_network(resnetv2.ResNetV2, stem=_stem, stages=_stages, head=_head)
