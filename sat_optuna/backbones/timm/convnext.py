"""timm's convnext family: ConvNeXt and ConvNeXt V2.

Layer scale is part of the branch and drop-path is part of merge. The layers that change the shape
between stages are plain steps.
"""

from typing import Any

from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm import LayerNorm2d, RmsNorm2d, SimpleNorm2d
from timm.models import convnext
from torch import Tensor, nn

from sat_optuna.backbones.tables import BlockSplit, add_block, add_network, add_plain_step
from sat_optuna.backbones.timm.layers import refuse_checkpointing

__all__: list[str] = []


def _branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    features = block.conv_dw(x)
    if block.use_conv_mlp:
        features = block.mlp(block.norm(features))
    else:
        features = features.permute(0, 2, 3, 1)
        features = block.mlp(block.norm(features))
        features = features.permute(0, 3, 1, 2)
    if block.gamma is not None:
        features = features.mul(block.gamma.reshape(1, -1, 1, 1))
    return features, block.shortcut(x)


def _merge(block: Any, features: Tensor, shortcut: Tensor) -> Tensor:
    merged: Tensor = block.drop_path(features) + shortcut
    return merged


def _channels(block: Any) -> int:
    return int(block.conv_dw.out_channels)


def _stem(model: Any, x: Tensor) -> Tensor:
    stemmed: Tensor = model.stem(x)
    return stemmed


def _stages(model: Any) -> list[list[nn.Module]]:
    refuse_checkpointing(*model.stages)
    return [[*stage.downsample.children(), *stage.blocks] for stage in model.stages]


def _head(model: Any, x: Tensor) -> Tensor:
    logits: Tensor = model.forward_head(model.norm_pre(x))
    return logits


add_block(convnext.ConvNeXtBlock, BlockSplit(_branch, _merge, _channels))
for _step in (nn.Conv2d, Conv2dSame, LayerNorm2d, RmsNorm2d, SimpleNorm2d):
    add_plain_step(_step)
add_network(convnext.ConvNeXt, stem=_stem, stages=_stages, head=_head)
