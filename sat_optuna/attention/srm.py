"""Style-based Recalibration (Lee et al., ICCV 2019, arXiv:1903.10829).

    t_c = (mean, std) over H, W of x_c       (eq. 1, 2)
    z_c = <w_c, t_c>
    v = sigmoid(BatchNorm(z))
    y = v * x

std is the biased one, as in the paper: 0 for a single pixel.

Differs from the paper: w starts at random, as a linear layer of two inputs does; the authors' code
starts it at 0. Statistics are computed in float32 at least. Each block that shares the module
keeps its own running statistics.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from sat_optuna.attention.contract import Attention, State, full_precision, true_or_false
from sat_optuna.attention.gates import apply_gate, sigmoid_gate
from sat_optuna.attention.norm import SharedBatchNorm

__all__ = ["SRM"]

torch.fx.wrap("full_precision")  # it looks at the dtype, which has no value while fx traces


class SRM(Attention):
    """A gate in (0, 1) for each channel, from its own mean and spread."""

    paper: ClassVar[str] = "Lee et al., ICCV 2019, arXiv:1903.10829"
    per_block_statistics: ClassVar[bool] = True
    gated = True

    def __init__(
        self, channels: int, *, identity: bool = False, blocks: Sequence[str] = ("0",)
    ) -> None:
        """Build w and BatchNorm.

        Args:
            channels: C of the features.
            identity: start as the identity: BatchNorm's weight at zero, y = 2 v * x.
            blocks: names of the blocks that share the module.

        Raises:
            AttentionError: a setting has a value that it cannot take.
        """
        super().__init__()
        self.identity = true_or_false("srm", "identity", identity)
        self.mix = nn.Parameter(torch.empty(channels, 2))
        nn.init.uniform_(self.mix, -math.sqrt(1 / 2), math.sqrt(1 / 2))
        self.norm = SharedBatchNorm(channels, blocks=blocks, kind=nn.BatchNorm1d)
        if identity:
            nn.init.zeros_(self.norm.weight)

    def gate(self, features: Tensor, block: str = "0") -> Tensor:
        """Return a gate in (0, 1) for each channel; in (0, 2) from the identity.

        Args:
            features: (N, C, H, W).
            block: name of the block that it runs for.

        Returns:
            (N, C) gates.
        """
        exact = full_precision(features)
        # Where std is 0, PyTorch's gradient of it is 0; that of a square root would be infinite.
        style = torch.stack((exact.mean((2, 3)), exact.std((2, 3), correction=0)), dim=2)
        integrated = (style * self.mix).sum(2).to(self.mix.dtype)
        return sigmoid_gate(self.norm(integrated, block), doubled=self.identity)

    def forward(
        self, features: Tensor, state: State | None = None, block: str = "0"
    ) -> tuple[Tensor, State | None]:
        """Rescale each channel by its gate.

        Args:
            features: (N, C, H, W).
            state: returned as it is; SRM carries none.
            block: name of the block that it runs for.

        Returns:
            (N, C, H, W) features times the gate of their channel, and the state.
        """
        return apply_gate(features, self.gate(features, block)), state
