"""BatchNorm for a module that several blocks share: one weight and bias, statistics per block."""

from collections.abc import Collection, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["SharedBatchNorm", "unplaced_norms"]


class SharedBatchNorm(nn.Module):
    """A BatchNorm with running statistics for each place that it is used at.

    With one set for all places, what a block's features are normalised by would depend on the
    choices of later blocks.

    Attributes:
        weight: (C,) scale, one for all places.
        bias: (C,) shift, one for all places.
        statistics: place to the BatchNorm that holds its running mean and variance.
    """

    def __init__(
        self,
        channels: int,
        *,
        places: Sequence[str],
        kind: type[nn.BatchNorm1d] | type[nn.BatchNorm2d],
    ) -> None:
        """Build it with weight 1 and bias 0.

        Args:
            channels: C of what it normalises.
            places: the names that `forward` is called with.
            kind: `nn.BatchNorm1d` for (N, C), `nn.BatchNorm2d` for (N, C, H, W).
        """
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.statistics = nn.ModuleDict({place: kind(channels, affine=False) for place in places})

    def forward(self, x: Tensor, place: str) -> Tensor:
        """Normalise with the statistics of a place: the batch's own in train mode.

        A channel's single value has no spread; it is normalised by the running statistics in
        train mode too, and leaves them as they are.

        Args:
            x: (N, C) or (N, C, H, W).
            place: one of the places it was built for.
        """
        norm = cast("nn.BatchNorm1d | nn.BatchNorm2d", self.statistics[place])
        if norm.training and x.numel() == x.shape[1]:
            x = F.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)
        else:
            x = norm(x)
        shape = (-1,) + (1,) * (x.dim() - 2)
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)

    def keep(self, places: Collection[str]) -> None:
        """Drop the statistics of all other places."""
        for place in [*self.statistics]:
            if place not in places:
                del self.statistics[place]


def unplaced_norms(module: nn.Module) -> list[nn.Module]:
    """Return the BatchNorms of a module that keep one set of statistics for all its places."""
    placed = {
        inner
        for shared in module.modules()
        if isinstance(shared, SharedBatchNorm)
        for inner in shared.modules()
    }
    norms = (inner for inner in module.modules() if isinstance(inner, _BatchNorm))
    return [norm for norm in norms if norm not in placed]
