"""BatchNorm for a module that several blocks share: one weight and bias, statistics per block.

With common statistics, what normalises the features of one block would depend on the choices of
later blocks, so two schemes that begin alike would differ in their first blocks.
"""

from collections.abc import Collection, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["SharedBatchNorm", "mixes_blocks"]


class SharedBatchNorm(nn.Module):
    """A BatchNorm with running statistics for each block that shares it.

    >>> norm = SharedBatchNorm(8, blocks=("0", "1"), kind=nn.BatchNorm2d)
    >>> norm(torch.zeros(2, 8, 4, 4), "1").shape
    torch.Size([2, 8, 4, 4])

    Attributes:
        weight: (C,) scale, the same for all blocks.
        bias: (C,) shift, the same for all blocks.
        statistics: by the name of a block, the BatchNorm that holds its running mean and variance.
    """

    def __init__(
        self,
        channels: int,
        *,
        blocks: Sequence[str],
        kind: type[nn.BatchNorm1d] | type[nn.BatchNorm2d],
    ) -> None:
        """Build the norm with weight 1 and bias 0.

        Args:
            channels: C of what it normalises.
            blocks: names of the blocks that share it; `forward` is called with one of them.
            kind: `nn.BatchNorm1d` for (N, C), `nn.BatchNorm2d` for (N, C, H, W).
        """
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.statistics = nn.ModuleDict({block: kind(channels, affine=False) for block in blocks})

    def forward(self, x: Tensor, block: str) -> Tensor:
        """Normalise with the running statistics of a block, or in train mode with the batch's.

        Where each channel has a single value, it has no spread. Then the running statistics
        normalise it in train mode as well, and they are not updated.

        Args:
            x: (N, C) or (N, C, H, W).
            block: name of one of the blocks that share the norm.
        """
        norm = cast("nn.BatchNorm1d | nn.BatchNorm2d", self.statistics[block])
        if norm.training and x.numel() == x.shape[1]:
            x = F.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)
        else:
            x = norm(x)
        shape = (-1,) + (1,) * (x.dim() - 2)
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)

    def keep(self, blocks: Collection[str]) -> None:
        """Delete the statistics of all blocks but these."""
        for block in [*self.statistics]:
            if block not in blocks:
                del self.statistics[block]


def mixes_blocks(module: nn.Module) -> bool:
    """Return whether a BatchNorm of a module has common statistics for all its blocks."""
    per_block = {
        inner
        for shared in module.modules()
        if isinstance(shared, SharedBatchNorm)
        for inner in shared.modules()
    }
    norms = (inner for inner in module.modules() if isinstance(inner, _BatchNorm))
    return any(norm not in per_block for norm in norms)
