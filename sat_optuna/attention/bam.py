"""Bottleneck Attention Module (Park et al., BMVC 2018, arXiv:1807.06514).

    u = BatchNorm(MLP(mean over H, W of x))       MLP: C to C/r to C       (eq. 3)
    s = BatchNorm(K4 K3 K2 K1 x)                                           (eq. 4)
    y = x + sigmoid(u + s) * x                                             (eq. 1, 2)

K1: 1 x 1, C to C/r; K2 and K3: 3 x 3 with dilation 4; K4: 1 x 1, C/r to 1; all with biases.

Differs from the paper: ReLU after K1, K2 and K3 as in the authors' code, but without the BatchNorm
that their code has before each of these ReLUs and in the MLP; never fewer than 4 hidden units. The
module acts on a residual branch; the paper puts it between stages. Each block that shares the
module keeps its own running statistics.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.attention.contract import Attention, State, true_or_false, whole_number
from sat_optuna.attention.gates import blend, hidden_units
from sat_optuna.attention.norm import SharedBatchNorm

__all__ = ["BAM"]


class BAM(Attention):
    """A factor in (1, 2) for each pixel of each channel."""

    paper: ClassVar[str] = "Park et al., BMVC 2018, arXiv:1807.06514"
    per_block_statistics: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        dilation: int = 4,
        identity: bool = False,
        blocks: Sequence[str] = ("0",),
    ) -> None:
        """Build the MLP, the convolutions and their BatchNorms.

        Args:
            channels: C of the features.
            reduction: number of channels for each hidden unit; there are at least 4 hidden units.
            dilation: of K2 and K3.
            identity: start as the identity: x + strength (y - x), one strength that starts at 0.
            blocks: names of the blocks that share the module.

        Raises:
            AttentionError: a setting has a value that it cannot take.
        """
        super().__init__()
        hidden = hidden_units("bam", channels, reduction)
        reach = whole_number("bam", "dilation", dilation)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        self.channel_norm = SharedBatchNorm(channels, blocks=blocks, kind=nn.BatchNorm1d)
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, padding=reach, dilation=reach),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, padding=reach, dilation=reach),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, 1, 1),
        )
        self.spatial_norm = SharedBatchNorm(1, blocks=blocks, kind=nn.BatchNorm2d)
        blends = true_or_false("bam", "identity", identity)
        self.strength = nn.Parameter(torch.zeros(1)) if blends else None

    def forward(
        self, features: Tensor, state: State | None = None, block: str = "0"
    ) -> tuple[Tensor, State | None]:
        """Rescale each pixel of each channel by a factor in (1, 2).

        Args:
            features: (N, C, H, W).
            state: returned as it is; BAM carries none.
            block: name of the block that it runs for.

        Returns:
            (N, C, H, W) features plus their gated selves, and the state.
        """
        excited = self.excite(F.relu(self.squeeze(features.mean((2, 3)))))
        by_channel = self.channel_norm(excited, block)[:, :, None, None]  # eq. 3
        by_pixel = self.spatial_norm(self.spatial(features), block)  # eq. 4
        gate = (by_channel + by_pixel).sigmoid()  # eq. 2
        attended = features + features * gate.to(features.dtype)  # eq. 1
        if self.strength is not None:
            attended = blend(features, attended, self.strength)
        return attended, state
