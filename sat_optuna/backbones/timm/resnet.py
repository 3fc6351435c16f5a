"""timm's resnet family: resnet, resnext, wide_resnet, seresnet, ecaresnet, resnetrs and others.

Branch and merge compute what the forward of timm's blocks computes. Only the addition is not done
in place, because a search uses the same features for several schemes. Anti-aliasing and DropBlock
are part of the branch, and drop-path is part of merge. Attention that a block carries itself acts
after its last normalisation and is part of the branch.
"""

from typing import Any, cast

from timm.models import resnet
from torch import Tensor, nn

from sat_optuna.backbones.tables import BlockSplit, OwnSlot, add_block, add_network
from sat_optuna.backbones.timm.layers import foldable, refuse_checkpointing

__all__: list[str] = []


def _is_bottleneck(block: Any) -> bool:
    return isinstance(block, resnet.Bottleneck)


def _last(block: Any, kind: str) -> nn.Module:
    """Return a block's last layer of a kind: "conv", "bn" or "act"."""
    layer: nn.Module = getattr(block, f"{kind}{3 if _is_bottleneck(block) else 2}")
    return layer


def _normed(block: Any, x: Tensor) -> Tensor:
    """Run the branch up to its last normalisation."""
    if _is_bottleneck(block):
        x = block.act1(block.bn1(block.conv1(x)))
        x = block.aa(block.act2(block.drop_block(block.bn2(block.conv2(x)))))
    else:
        x = block.aa(block.act1(block.drop_block(block.bn1(block.conv1(x)))))
    normed: Tensor = _last(block, "bn")(_last(block, "conv")(x))
    return normed


def _shortcut(block: Any, x: Tensor) -> Tensor:
    shortcut: Tensor = x if block.downsample is None else block.downsample(x)
    return shortcut


def _own_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return _normed(block, x), _shortcut(block, x)


def _branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    features = _normed(block, x)
    return features if block.se is None else block.se(features), _shortcut(block, x)


def _merge(block: Any, features: Tensor, shortcut: Tensor) -> Tensor:
    kept = features if block.drop_path is None else block.drop_path(features)
    merged: Tensor = _last(block, "act")(kept + shortcut)
    return merged


def _channels(block: Any) -> int:
    return int(cast("nn.Conv2d", _last(block, "conv")).out_channels)


def _own_last_layer(block: Any) -> nn.Module | None:
    return foldable(_last(block, "bn"))


def _last_layer(block: Any) -> nn.Module | None:
    attended = block.se is not None and not isinstance(block.se, nn.Identity)
    return None if attended else _own_last_layer(block)


def _stem(model: Any, x: Tensor) -> Tensor:
    stemmed: Tensor = model.maxpool(model.act1(model.bn1(model.conv1(x))))
    return stemmed


def _stages(model: Any) -> tuple[nn.Sequential, ...]:
    refuse_checkpointing(model)
    return model.layer1, model.layer2, model.layer3, model.layer4


def _head(model: Any, x: Tensor) -> Tensor:
    logits: Tensor = model.forward_head(x)
    return logits


for _block in (resnet.BasicBlock, resnet.Bottleneck):
    add_block(
        _block,
        BlockSplit(_branch, _merge, _channels, _last_layer),
        own=OwnSlot(BlockSplit(_own_branch, _merge, _channels, _own_last_layer), "se"),
    )
add_network(resnet.ResNet, stem=_stem, stages=_stages, head=_head)
