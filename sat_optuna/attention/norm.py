"""BatchNorm for a module that several blocks share: one weight and bias, statistics per block.

With common statistics, what normalises the features of one block would depend on the choices of
later blocks, so two schemes that begin alike would differ in their first blocks.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["SharedBatchNorm", "mixes_blocks"]


@torch.fx.wrap
def _normalised(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    count: Tensor,
    *,
    training: bool,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """Do what BatchNorm does, and with a single value for each channel what it does in eval.

    torch.fx takes this as one step, for it looks at the shape of x.
    """
    factor = momentum or 0.0
    if training and x.numel() == x.shape[1]:
        training = False
    elif training:
        count.add_(1)
        if momentum is None:  # a plain average over the batches
            factor = 1.0 / float(count)
    return F.batch_norm(x, mean, variance, training=training, momentum=factor, eps=eps)


class _Statistics(_BatchNorm):
    """The running statistics of one block, and the normalisation by them."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return _normalised(
            x,
            self.get_buffer("running_mean"),
            self.get_buffer("running_var"),
            self.get_buffer("num_batches_tracked"),
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
        )


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
        self.statistics = nn.ModuleDict({block: _Statistics(channels) for block in blocks})
        pixels = 0 if kind is nn.BatchNorm1d else 2  # dimensions of x after C
        self._shape = (-1,) + (1,) * pixels

    def forward(self, x: Tensor, block: str) -> Tensor:
        """Normalise with the running statistics of a block, or in train mode with the batch's.

        Where each channel has a single value, it has no spread. Then the running statistics
        normalise it in train mode as well, and they are not updated.

        Args:
            x: (N, C) or (N, C, H, W).
            block: name of one of the blocks that share the norm.
        """
        normalised: Tensor = self.statistics[block](x)
        return normalised * self.weight.reshape(self._shape) + self.bias.reshape(self._shape)

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
