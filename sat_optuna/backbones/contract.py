"""What every backbone is: a stem, stages of residual blocks split where attention goes, a head."""

from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor, nn

from sat_optuna.errors import SatOptunaError

__all__ = ["Backbone", "BackboneError", "Block"]


class BackboneError(SatOptunaError, ValueError):
    """A setting that a backbone cannot be built with."""


class Block(nn.Module):
    """A residual block in two halves; attention may act on the features in between.

    Attributes:
        channels: C of the features that `branch` returns.
    """

    channels: int

    @property
    def last(self) -> nn.Module | None:
        """The BatchNorm2d or Conv2d whose output the features are; None where there is none."""
        return None

    def branch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of the residual branch and the shortcut, before they meet.

        `x` is left as it is.

        Args:
            x: (N, C_in, H_in, W_in).

        Returns:
            (N, C, H, W) features after the branch's last normalisation, and the shortcut.
        """
        raise NotImplementedError

    def merge(self, features: Tensor, shortcut: Tensor) -> Tensor:
        """Return the block's output; features and shortcut are left as they are.

        Args:
            features: (N, C, H, W), attended or not.
            shortcut: what `branch` returned with them.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Run the block without attention."""
        return self.merge(*self.branch(x))


class Backbone(nn.Module):
    """A network that can be walked block by block.

    Attributes:
        stem: images to the first block's input.
        stages: a ModuleList of ModuleLists of blocks, shallow to deep.
        head: the last block's output to logits.
    """

    def __init__(
        self, *, stem: nn.Module, stages: Sequence[Sequence[Block]], head: nn.Module
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(nn.ModuleList(blocks) for blocks in stages)
        self.head = head

    @property
    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """The blocks, a tuple a stage."""
        stages = cast("Iterable[Iterable[Block]]", self.stages)
        return tuple(tuple(blocks) for blocks in stages)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits without any attention.

        Args:
            x: (N, C, H, W) images.

        Returns:
            (N, classes) logits.
        """
        x = self.stem(x)
        for blocks in self.blocks:
            for block in blocks:
                x = block(x)
        logits: Tensor = self.head(x)
        return logits
