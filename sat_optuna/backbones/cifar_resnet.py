"""CIFAR residual networks (He et al., CVPR 2016, arXiv:1512.03385, section 4.2).

Each network has three stages of n blocks with w, 2w and 4w channels; w is 16 in the paper.
resnet20/32/44/56/110 have n = 3/5/7/9/18 basic blocks and shortcuts without parameters (option A:
every second pixel, zero channels added). resnet164 has n = 18 post-activation bottlenecks with 4w,
8w and 16w channels and projection shortcuts (option B).

Differs from the paper: option A adds half of the zero channels on each side, as the common
re-implementations do (the paper does not say where); resnet164 comes from the sequel
(arXiv:1603.05027) and is post-activation here; input channels, width, stem stride and the number
of blocks of each stage can be chosen, and for maps of an image's size another head and dilation.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.backbones.cifar_stages import (
    cifar_stages,
    he_normal,
    option_a,
    option_a_padding,
    output_stride,
)
from sat_optuna.backbones.contract import Backbone, Block, check_counts
from sat_optuna.backbones.heads import HEADS, pads

__all__ = ["BasicBlock", "Bottleneck", "basic_resnet", "bottleneck_resnet"]

_EXPANSION = 4

torch.fx.wrap("option_a")  # it looks at the memory format, which has no value while fx traces


class BasicBlock(Block):
    """Two 3x3 convolutions beside a shortcut without parameters."""

    def __init__(self, in_channels: int, channels: int, *, stride: int, dilation: int = 1) -> None:
        super().__init__()
        self.channels = channels
        self.stride = stride
        self.conv1 = nn.Conv2d(
            in_channels, channels, 3, stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(
            channels, channels, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(channels)
        self.padding = option_a_padding(in_channels, channels)

    @property
    def last(self) -> nn.Module:
        """The second normalisation."""
        return self.bn2

    def branch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, C, H, W) features and the shortcut of the same shape.

        Args:
            x: (N, C_in, H_in, W_in).
        """
        features = F.relu(self.bn1(self.conv1(x)), inplace=True)
        features = self.bn2(self.conv2(features))
        return features, option_a(x, stride=self.stride, padding=self.padding)

    def merge(self, features: Tensor, shortcut: Tensor) -> Tensor:
        """Return relu(features + shortcut), (N, C, H, W)."""
        return F.relu(features + shortcut, inplace=True)


class Bottleneck(Block):
    """A 3x3 convolution between two of 1x1, and a shortcut, projected if the shapes differ."""

    def __init__(self, in_channels: int, channels: int, *, stride: int, dilation: int = 1) -> None:
        super().__init__()
        self.channels = channels
        inner = channels // _EXPANSION
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(
            inner, inner, 3, stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.projection: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.projection = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    @property
    def last(self) -> nn.Module:
        """The third normalisation."""
        return self.bn3

    def branch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, C, H, W) features and the shortcut of the same shape.

        Args:
            x: (N, C_in, H_in, W_in).
        """
        features = F.relu(self.bn1(self.conv1(x)), inplace=True)
        features = F.relu(self.bn2(self.conv2(features)), inplace=True)
        return self.bn3(self.conv3(features)), self.projection(x)

    def merge(self, features: Tensor, shortcut: Tensor) -> Tensor:
        """Return relu(features + shortcut), (N, C, H, W)."""
        return F.relu(features + shortcut, inplace=True)


def _resnet(
    block: Callable[..., Block],
    expansion: int,
    *,
    in_channels: int,
    classes: int,
    width: int = 16,
    stem_stride: int = 1,
    blocks: Sequence[int],
    head: str = "linear",
    dilated_stages: int = 0,
) -> Backbone:
    check_counts(in_channels=in_channels, classes=classes, width=width, stem_stride=stem_stride)
    stem = nn.Sequential(
        nn.Conv2d(in_channels, width, 3, stem_stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
    stages = cifar_stages(
        block,
        block,
        inputs=width,
        channels=expansion * width,
        blocks=blocks,
        dilated_stages=dilated_stages,
    )
    last = stages[-1][-1].channels
    out = output_stride(stem_stride, dilated_stages)
    end = HEADS.get(head)(last, classes, out)
    map_stride = out if pads(head) else 1
    backbone = Backbone(stem=stem, stages=stages, head=end, map_stride=map_stride)
    for part in (backbone.stem, backbone.stages):
        he_normal(part)
    return backbone


basic_resnet = partial(_resnet, BasicBlock, 1)
bottleneck_resnet = partial(_resnet, Bottleneck, _EXPANSION)
