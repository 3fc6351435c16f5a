"""The contract of all backbones: a stem, stages of residual blocks, a head.

Each block is split at the point where attention acts.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.errors import SatOptunaError

__all__ = ["Backbone", "BackboneError", "Block", "check_counts", "cropped", "padded"]


class BackboneError(SatOptunaError, ValueError):
    """A backbone that cannot be built, or a network that is not what its tables say."""


def check_counts(**settings: object) -> None:
    """Make sure that settings are whole numbers, at least 1.

    Raises:
        BackboneError: a setting is something else.
    """
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BackboneError(
                f"{name} = {value!r} given; give a whole number that is at least 1"
            )


def padded(x: Tensor, stride: int) -> Tensor:
    """Return images whose sides are multiples of a stride, zeros added below and at the right.

    >>> padded(torch.zeros(1, 3, 9, 12), 4).shape
    torch.Size([1, 3, 12, 12])

    Args:
        x: (N, C, H, W) normalised images, in which 0 is the mean.
        stride: in pixels.
    """
    if stride == 1:
        return x
    below, right = -x.shape[2] % stride, -x.shape[3] % stride
    return F.pad(x, (0, right, 0, below)) if below or right else x


def cropped(outputs: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps without what `padded` added; other outputs as they are.

    >>> cropped(torch.zeros(1, 4, 12, 12), (9, 12)).shape
    torch.Size([1, 4, 9, 12])

    Args:
        outputs: (N, outputs), or maps (N, outputs, H, W).
        size: height and width of the images.
    """
    if outputs.ndim != 4 or outputs.shape[2:] == tuple(size):
        return outputs
    return outputs[:, :, : size[0], : size[1]]


# They look at sizes, which have no value while torch.fx traces.
torch.fx.wrap("cropped")
torch.fx.wrap("padded")


class Block(nn.Module):
    """A residual block in two halves; attention may act on the features between them.

    >>> import torch
    >>> from sat_optuna.backbones.cifar_resnet import BasicBlock
    >>> block = BasicBlock(8, 16, stride=2)
    >>> features, shortcut = block.branch(torch.zeros(1, 8, 6, 6))
    >>> features.shape, block.merge(features, shortcut).shape
    (torch.Size([1, 16, 3, 3]), torch.Size([1, 16, 3, 3]))

    Attributes:
        channels: C of the features that `branch` returns.
    """

    channels: int

    @property
    def last(self) -> nn.Module | None:
        """The BatchNorm2d or Conv2d whose output is the features; None if there is none."""
        return None

    def branch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of the residual branch, and the shortcut; `x` is not changed.

        Args:
            x: (N, C_in, H_in, W_in).

        Returns:
            (N, C, H, W) features after the branch's last normalisation, and the shortcut.
        """
        raise NotImplementedError

    def merge(self, features: Tensor, shortcut: Tensor) -> Tensor:
        """Return the block's output; features and shortcut are not changed.

        Args:
            features: (N, C, H, W), attended or not.
            shortcut: what `branch` returned with them.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Run the block without attention."""
        return self.merge(*self.branch(x))


class Backbone(nn.Module):
    """A network whose forward is its stem, then each block of its stages, then its head.

    Attributes:
        stem: called with the images, it returns the first block's input.
        stages: a ModuleList of ModuleLists of blocks, from shallow to deep.
        head: called with the last block's output, it returns the logits.
        map_stride: of a head that makes maps, how many pixels of an image a pixel of the last
            block's output is, a side: images are padded to multiples of it, and the maps cropped
            to the images' size. 1 pads nothing.
    """

    def __init__(
        self,
        *,
        stem: nn.Module,
        stages: Sequence[Sequence[Block]],
        head: nn.Module,
        map_stride: int = 1,
    ) -> None:
        super().__init__()
        self.map_stride = map_stride
        self.stem = stem
        self.stages = nn.ModuleList(nn.ModuleList(blocks) for blocks in stages)
        self.head = head

    @property
    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """The blocks, one tuple for each stage."""
        stages = cast("Iterable[Iterable[Block]]", self.stages)
        return tuple(tuple(blocks) for blocks in stages)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits without any attention.

        Args:
            x: (N, C, H, W) images.

        Returns:
            (N, classes) logits; of a head that makes maps (N, classes, H, W).
        """
        size = x.shape[2:]
        if self.map_stride > 1:
            x = padded(x, self.map_stride)
        x = self.stem(x)
        for blocks in self.blocks:
            for block in blocks:
                x = block(x)
        logits: Tensor = self.head(x)
        return cropped(logits, size) if self.map_stride > 1 else logits
