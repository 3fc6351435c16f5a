"""What the CIFAR residual networks end in: one answer an image, or a map of its size.

A head is a builder, called with the channels of the last block's output, the number of outputs and
the output stride: how many pixels of the image a pixel of that output stands for, a side. Maps
come at the images' own size, so their sides must be multiples of the stride.

This file imports no torch: study.toml is checked without.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from sat_optuna.registry import Registry

if TYPE_CHECKING:
    from torch import nn

__all__ = ["HEADS", "density", "fcn", "linear"]

DENSITY_UNIT = 0.01  # what an output of 1 stands for before it is scaled, in dots a pixel


def linear(channels: int, classes: int, stride: int) -> "nn.Sequential":
    """Return global average pooling and a linear layer, for (N, classes)."""
    from torch import nn

    del stride
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def fcn(channels: int, classes: int, stride: int) -> "nn.Sequential":
    """Return torchvision's FCN head and a bilinear enlargement, for (N, classes, H, W).

    Long, Shelhamer and Darrell, CVPR 2015 (arXiv:1411.4038), as in
    torchvision.models.segmentation: a 3x3 convolution to a quarter of the channels, BatchNorm,
    ReLU, dropout of a tenth, a 1x1 convolution.
    """
    from torch import nn
    from torchvision.models.segmentation.fcn import FCNHead

    return nn.Sequential(FCNHead(channels, classes), _enlarged(stride))


def density(channels: int, classes: int, stride: int) -> "nn.Sequential":
    """Return two dilated 3x3 convolutions and a 1x1, for densities (N, classes, H, W).

    The end of CSRNet (Li, Zhang and Chen, CVPR 2018, arXiv:1802.10062), whose six dilated
    convolutions are on VGG's 512 channels. Differs from the paper: two of them, each with half of
    the channels before it and BatchNorm; the map is enlarged to the image's size, bilinearly, in
    the place of a reduced truth; and an output of 1 is a hundredth of a dot a pixel, so that the
    network learns numbers of about 1.
    """
    from torch import nn

    from sat_optuna.backbones.scaled import Scaled

    half, quarter = max(1, channels // 2), max(1, channels // 4)
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, half), (half, quarter)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=2, dilation=2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    layers.append(nn.Conv2d(quarter, classes, 1))
    return nn.Sequential(*layers, _enlarged(stride), Scaled(DENSITY_UNIT))


def _enlarged(stride: int) -> "nn.Module":
    from torch import nn

    if stride == 1:
        return nn.Identity()
    return nn.Upsample(scale_factor=stride, mode="bilinear", align_corners=False)


HEADS: Registry[Callable[[int, int, int], "nn.Sequential"]] = Registry("head")
HEADS.add("linear", linear)
HEADS.add("fcn", fcn)
HEADS.add("density", density)
