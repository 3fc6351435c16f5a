"""timm's resnet family: resnet, resnext, wide_resnet, seresnet, ecaresnet, resnetrs and others.

Branch and merge compute what the forward of timm's blocks computes. Only the addition is not done
in place, because a search uses the same features for several schemes. Anti-aliasing and DropBlock
are part of the branch, and drop-path is part of merge. Attention that a block carries itself acts
after its last normalisation and is part of the branch.
"""

from typing import Any

from timm.models import resnet
from torch import Tensor, nn

from sat_optuna.backbones.tables import BlockSplit, OwnSlot, add_block, add_network
from sat_optuna.backbones.timm.layers import foldable, refuse_checkpointing

__all__: list[str] = []


def _basic_normed(block: Any, x: Tensor) -> Tensor:
    x = block.aa(block.act1(block.drop_block(block.bn1(block.conv1(x)))))
    normed: Tensor = block.bn2(block.conv2(x))
    return normed


def _bottleneck_normed(block: Any, x: Tensor) -> Tensor:
    x = block.act1(block.bn1(block.conv1(x)))
    x = block.aa(block.act2(block.drop_block(block.bn2(block.conv2(x)))))
    normed: Tensor = block.bn3(block.conv3(x))
    return normed


def _attended(block: Any, features: Tensor) -> Tensor:
    attended: Tensor = features if block.se is None else block.se(features)
    return attended


def _shortcut(block: Any, x: Tensor) -> Tensor:
    shortcut: Tensor = x if block.downsample is None else block.downsample(x)
    return shortcut


def _added(block: Any, features: Tensor, shortcut: Tensor) -> Tensor:
    return (features if block.drop_path is None else block.drop_path(features)) + shortcut


def _unattended(block: Any) -> bool:
    return block.se is None or isinstance(block.se, nn.Identity)


def _basic_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return _attended(block, _basic_normed(block, x)), _shortcut(block, x)


def _basic_own_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return _basic_normed(block, x), _shortcut(block, x)


def _basic_merge(block: Any, features: Tensor, shortcut: Tensor) -> Tensor:
    merged: Tensor = block.act2(_added(block, features, shortcut))
    return merged


def _basic_channels(block: Any) -> int:
    return int(block.conv2.out_channels)


def _basic_last(block: Any) -> nn.Module | None:
    return foldable(block.bn2) if _unattended(block) else None


def _basic_own_last(block: Any) -> nn.Module | None:
    return foldable(block.bn2)


def _bottleneck_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return _attended(block, _bottleneck_normed(block, x)), _shortcut(block, x)


def _bottleneck_own_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return _bottleneck_normed(block, x), _shortcut(block, x)


def _bottleneck_merge(block: Any, features: Tensor, shortcut: Tensor) -> Tensor:
    merged: Tensor = block.act3(_added(block, features, shortcut))
    return merged


def _bottleneck_channels(block: Any) -> int:
    return int(block.conv3.out_channels)


def _bottleneck_last(block: Any) -> nn.Module | None:
    return foldable(block.bn3) if _unattended(block) else None


def _bottleneck_own_last(block: Any) -> nn.Module | None:
    return foldable(block.bn3)


def _stem(model: Any, x: Tensor) -> Tensor:
    stemmed: Tensor = model.maxpool(model.act1(model.bn1(model.conv1(x))))
    return stemmed


def _stages(model: Any) -> tuple[nn.Sequential, ...]:
    refuse_checkpointing(model)
    return model.layer1, model.layer2, model.layer3, model.layer4


def _head(model: Any, x: Tensor) -> Tensor:
    logits: Tensor = model.forward_head(x)
    return logits


add_block(
    resnet.BasicBlock,
    BlockSplit(_basic_branch, _basic_merge, _basic_channels, _basic_last),
    own=OwnSlot(
        BlockSplit(_basic_own_branch, _basic_merge, _basic_channels, _basic_own_last), "se"
    ),
)
add_block(
    resnet.Bottleneck,
    BlockSplit(_bottleneck_branch, _bottleneck_merge, _bottleneck_channels, _bottleneck_last),
    own=OwnSlot(
        BlockSplit(
            _bottleneck_own_branch, _bottleneck_merge, _bottleneck_channels, _bottleneck_own_last
        ),
        "se",
    ),
)
add_network(resnet.ResNet, stem=_stem, stages=_stages, head=_head)
