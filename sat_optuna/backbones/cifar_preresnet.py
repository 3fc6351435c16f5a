"""Pre-activation CIFAR residual networks (He et al., ECCV 2016, arXiv:1603.05027).

    x_{l+1} = h(x_l) + F(x_l),   F = ... conv(relu(bn(x)))          (eq. 1, figure 4 e)

BatchNorm and ReLU come before each convolution, and nothing comes after the addition. So the head
begins with the BatchNorm and ReLU that the last block lacks. In the first block of each stage, the
branch and the shortcut both start from the activated input (the paper says so for the first stage;
the authors' code does it wherever the width changes). preresnet110 has basic blocks with shortcuts
without parameters (every second pixel, zero channels added). preresnet164 has bottlenecks; the
first block of each stage has a projection, which is a single 1x1 convolution, and its stride is in
the first 1x1 convolution of the branch, both as in the authors' code.

Differs from the paper: half of the zero channels are added on each side, as in `cifar_resnet`;
input channels, width, stem stride and the number of blocks of each stage can be chosen, and
for maps of an image's size another head and dilation.
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

__all__ = ["PreActBasic", "PreActBottleneck", "basic_preresnet", "bottleneck_preresnet"]

_EXPANSION = 4

torch.fx.wrap("option_a")  # it looks at the memory format, which has no value while fx traces


class PreActBasic(Block):
    """Two pre-activated 3x3 convolutions beside a shortcut without parameters."""

    def __init__(
        self, in_channels: int, channels: int, *, stride: int, first: bool, dilation: int = 1
    ) -> None:
        super().__init__()
        self.channels = channels
        self.stride = stride
        self.first = first
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(
            in_channels, channels, 3, stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(
            channels, channels, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.padding = option_a_padding(in_channels, channels)

    @property
    def last(self) -> nn.Module:
        """The second convolution."""
        return self.conv2

    def branch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, C, H, W) features and the shortcut of the same shape.

        Args:
            x: (N, C_in, H_in, W_in).
        """
        active = F.relu(self.bn1(x), inplace=True)
        features = F.relu(self.bn2(self.conv1(active)), inplace=True)
        begin = active if self.first else x
        shortcut = option_a(begin, stride=self.stride, padding=self.padding)
        return self.conv2(features), shortcut

    def merge(self, features: Tensor, shortcut: Tensor) -> Tensor:
        """Return features + shortcut, (N, C, H, W)."""
        return features + shortcut


class PreActBottleneck(Block):
    """A 3x3 convolution between two of 1x1, all pre-activated, beside a shortcut."""

    def __init__(
        self, in_channels: int, channels: int, *, stride: int, first: bool, dilation: int = 1
    ) -> None:
        super().__init__()
        self.channels = channels
        inner = channels // _EXPANSION
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, stride, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn3 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=False)
        self.projection = (
            nn.Conv2d(in_channels, channels, 1, stride, bias=False) if first else None
        )

    @property
    def last(self) -> nn.Module:
        """The third convolution."""
        return self.conv3

    def branch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, C, H, W) features and the shortcut of the same shape.

        Args:
            x: (N, C_in, H_in, W_in).
        """
        active = F.relu(self.bn1(x), inplace=True)
        features = F.relu(self.bn2(self.conv1(active)), inplace=True)
        features = F.relu(self.bn3(self.conv2(features)), inplace=True)
        shortcut = x if self.projection is None else self.projection(active)
        return self.conv3(features), shortcut

    def merge(self, features: Tensor, shortcut: Tensor) -> Tensor:
        """Return features + shortcut, (N, C, H, W)."""
        return features + shortcut


def _preresnet(
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
    stages = cifar_stages(
        partial(block, first=True),
        partial(block, first=False),
        inputs=width,
        channels=expansion * width,
        blocks=blocks,
        dilated_stages=dilated_stages,
    )
    last = stages[-1][-1].channels
    out = output_stride(stem_stride, dilated_stages)
    end = HEADS.get(head)(last, classes, out)
    end = nn.Sequential(nn.BatchNorm2d(last), nn.ReLU(inplace=True), *end)
    stem = nn.Conv2d(in_channels, width, 3, stem_stride, padding=1, bias=False)
    map_stride = out if pads(head) else 1
    backbone = Backbone(stem=stem, stages=stages, head=end, map_stride=map_stride)
    for part in (backbone.stem, backbone.stages):
        he_normal(part)
    return backbone


basic_preresnet = partial(_preresnet, PreActBasic, 1)
bottleneck_preresnet = partial(_preresnet, PreActBottleneck, _EXPANSION)
