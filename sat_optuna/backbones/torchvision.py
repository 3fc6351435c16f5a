"""torchvision's ResNet, ResNeXt and Wide ResNet: their entries in the tables, and builders.

    build_backbone("resnet18", in_channels=3, classes=5, head="fcn", dilated_stages=2)

With a head for maps the output stride is 32, 16 or 8, with 0, 1 or 2 dilated stages. In these the
stride of the first block becomes 1 and the 3x3 convolutions after it are dilated, so that with the
same weights each pixel of the strided network's features is one of the dilated network's. Of
bottlenecks this is torchvision's `replace_stride_with_dilation`; torchvision's basic blocks (of
resnet18 and resnet34) have no dilation to ask for, and get theirs here as timm's do.

The networks are torchvision's, with torchvision's names of weights. Branch and merge compute what
the forward of its blocks computes. Only the addition is not done in place, because a search uses
the same features for several schemes. Attention acts after the last BatchNorm of the branch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from torch import Tensor, nn
from torchvision.models import resnet

from sat_optuna.backbones.contract import check_counts
from sat_optuna.backbones.heads import HEADS, pads
from sat_optuna.backbones.maps import check_dilated, with_map_head
from sat_optuna.backbones.tables import BlockSplit, add_block, add_network

__all__ = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "wide_resnet50_2",
]

_RGB = 3
_STRIDE = 32  # how many pixels of an image a pixel of the last features is, a side


def _shortcut(block: Any, x: Tensor) -> Tensor:
    shortcut: Tensor = x if block.downsample is None else block.downsample(x)
    return shortcut


def _merge(block: Any, features: Tensor, shortcut: Tensor) -> Tensor:
    merged: Tensor = block.relu(features + shortcut)
    return merged


def _batch_norm(norm: nn.Module) -> nn.Module | None:
    """Return a normalisation if a factor for each channel can be multiplied into its weights."""
    return norm if type(norm) is nn.BatchNorm2d and norm.affine else None


def _basic_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    features = block.relu(block.bn1(block.conv1(x)))
    return block.bn2(block.conv2(features)), _shortcut(block, x)


def _basic_channels(block: Any) -> int:
    return int(block.conv2.out_channels)


def _basic_last(block: Any) -> nn.Module | None:
    return _batch_norm(block.bn2)


def _bottleneck_branch(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    features = block.relu(block.bn1(block.conv1(x)))
    features = block.relu(block.bn2(block.conv2(features)))
    return block.bn3(block.conv3(features)), _shortcut(block, x)


def _bottleneck_channels(block: Any) -> int:
    return int(block.conv3.out_channels)


def _bottleneck_last(block: Any) -> nn.Module | None:
    return _batch_norm(block.bn3)


def _stem(model: Any, x: Tensor) -> Tensor:
    stemmed: Tensor = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    return stemmed


def _stages(model: Any) -> tuple[nn.Sequential, ...]:
    return model.layer1, model.layer2, model.layer3, model.layer4


def _head(model: Any, x: Tensor) -> Tensor:
    logits: Tensor = model.fc(model.avgpool(x).flatten(1))
    return logits


add_block(resnet.BasicBlock, BlockSplit(_basic_branch, _merge, _basic_channels, _basic_last))
add_block(
    resnet.Bottleneck,
    BlockSplit(_bottleneck_branch, _merge, _bottleneck_channels, _bottleneck_last),
)
add_network(resnet.ResNet, stem=_stem, stages=_stages, head=_head)


def _last_features(_model: Any, x: Tensor) -> Tensor:
    return x


def _dilate(model: resnet.ResNet, dilated_stages: int) -> None:
    """Let the last stages keep the side of the one before."""
    dilation = 1
    for stage in _stages(model)[-dilated_stages:]:
        for block in stage.children():
            kernels = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
            for kernel in kernels:
                if kernel.stride != (1, 1):  # reads what the stage before makes
                    kernel.stride, wide = (1, 1), dilation
                else:
                    wide = 2 * dilation
                if kernel.kernel_size != (1, 1):
                    kernel.padding = kernel.dilation = (wide, wide)
            block.stride = 1  # type: ignore[assignment]
        dilation *= 2


def _network(
    make: Callable[..., resnet.ResNet],
    *,
    in_channels: int,
    classes: int,
    head: str = "linear",
    dilated_stages: int = 0,
) -> nn.Module:
    check_counts(in_channels=in_channels, classes=classes)
    check_dilated(dilated_stages)
    HEADS.check(head)
    model = make(num_classes=classes)
    if in_channels != _RGB:
        old = model.conv1
        model.conv1 = nn.Conv2d(
            in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=False
        )
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    if dilated_stages:
        _dilate(model, dilated_stages)
    if not pads(head):
        return cast("nn.Module", model)
    channels = model.fc.in_features
    del model.fc, model.avgpool
    return with_map_head(
        model,
        _last_features,
        head=head,
        channels=channels,
        classes=classes,
        stride=_STRIDE // 2**dilated_stages,
    )


resnet18 = partial(_network, resnet.resnet18)
resnet34 = partial(_network, resnet.resnet34)
resnet50 = partial(_network, resnet.resnet50)
resnet101 = partial(_network, resnet.resnet101)
resnext50_32x4d = partial(_network, resnet.resnext50_32x4d)
wide_resnet50_2 = partial(_network, resnet.wide_resnet50_2)
