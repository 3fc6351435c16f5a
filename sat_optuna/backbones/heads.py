"""What networks end in: one answer an image, or a map of its size.

A head is a builder, called with the channels of the last block's output, the number of outputs and
the output stride: how many pixels of the image a pixel of that output stands for, a side. Maps are
enlarged by that. So that they have the images' own size, whatever that is, a network with such a
head pads its images to multiples of the stride and crops its maps (`contract.padded`, `cropped`).

In training all heads for maps need more than one value a channel, for their BatchNorm: a batch of
one image whose maps are 1 x 1 is refused, and `deeplabv3`, which pools whole images, refuses any
batch of one.

This file imports no torch: study.toml is checked without.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from sat_optuna.registry import Registry

if TYPE_CHECKING:
    from torch import nn

__all__ = ["HEADS", "deeplabv3", "density", "fcn", "linear", "pads"]

_RATE, _RATE_STRIDE = 12, 8  # the first dilation of DeepLabV3, and at which output stride
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


def deeplabv3(channels: int, classes: int, stride: int) -> "nn.Sequential":
    """Return torchvision's DeepLabV3 head and a bilinear enlargement, for (N, classes, H, W).

    Chen et al., 2017 (arXiv:1706.05587), as in torchvision.models.segmentation: five branches of
    256 channels, of which three are dilated 3x3 convolutions and one pools the whole image, a 1x1
    convolution of all, a 3x3 convolution and a 1x1. It has more than a million parameters of its
    own, which is for trunks of ResNet-18 and more. The rates are the paper's: 12, 24 and 36 at an
    output stride of 8, half of it at 16, and in the same way a quarter at 32.
    """
    from torch import nn
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead

    rate = max(1, _RATE * _RATE_STRIDE // max(_RATE_STRIDE, stride))
    head = DeepLabHead(channels, classes, (rate, 2 * rate, 3 * rate))
    return nn.Sequential(head, _enlarged(stride))


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


def pads(head: str) -> bool:
    """Return whether images are padded for a head: for all that make maps."""
    return head != "linear"


def _enlarged(stride: int) -> "nn.Module":
    from torch import nn

    if stride == 1:
        return nn.Identity()
    return nn.Upsample(scale_factor=stride, mode="bilinear", align_corners=False)


HEADS: Registry[Callable[[int, int, int], "nn.Sequential"]] = Registry("head")
HEADS.add("linear", linear)
HEADS.add("fcn", fcn)
HEADS.add("deeplabv3", deeplabv3)
HEADS.add("density", density)
