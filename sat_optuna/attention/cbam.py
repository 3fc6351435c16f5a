"""Convolutional Block Attention Module (Woo et al., ECCV 2018, arXiv:1807.06521).

    u = sigmoid(MLP(mean over H, W of x) + MLP(max over H, W of x))      (eq. 2)
    x' = u * x                                                          (eq. 1)
    s = sigmoid(BatchNorm(K convolved with (max over C of x', mean over C of x')))   (eq. 3)
    y = s * x'                                                          (eq. 1)

MLP: C to C/r to C with ReLU between; K: 7 x 7 without a bias.

Differs from the paper: biases in the MLP, BatchNorm in eq. 3, and max before mean in eq. 3, all as
in the authors' code; never fewer than 4 hidden units. Each block that shares the module keeps
its own running statistics.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.attention.contract import Attention, State, odd_number, true_or_false
from sat_optuna.attention.gates import apply_gate, hidden_units, sigmoid_gate, zero_init
from sat_optuna.attention.norm import SharedBatchNorm

__all__ = ["CBAM"]


class CBAM(Attention):
    """A gate in (0, 1) for each channel, then one for each pixel."""

    paper: ClassVar[str] = "Woo et al., ECCV 2018, arXiv:1807.06521"
    per_block_statistics: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        kernel: int = 7,
        identity: bool = False,
        blocks: Sequence[str] = ("0",),
    ) -> None:
        """Build the MLP, the convolution and BatchNorm.

        Args:
            channels: C of the features.
            reduction: number of channels for each hidden unit; there are at least 4 hidden units.
            kernel: side of K, odd.
            identity: start as the identity: the MLP's last layer and BatchNorm's weight at zero,
                y = 4 s u * x.
            blocks: names of the blocks that share the module.

        Raises:
            AttentionError: a setting has a value that it cannot take.
        """
        super().__init__()
        hidden = hidden_units("cbam", channels, reduction)
        side = odd_number("cbam", "kernel", kernel)
        self.identity = true_or_false("cbam", "identity", identity)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        self.mix = nn.Conv2d(2, 1, side, padding=side // 2, bias=False)
        self.norm = SharedBatchNorm(1, blocks=blocks, kind=nn.BatchNorm2d)
        if identity:
            zero_init(self.excite)
            nn.init.zeros_(self.norm.weight)

    def forward(
        self, features: Tensor, state: State | None = None, block: str = "0"
    ) -> tuple[Tensor, State | None]:
        """Rescale each channel, then each pixel.

        Args:
            features: (N, C, H, W).
            state: returned as it is; CBAM carries none.
            block: name of the block that it runs for.

        Returns:
            (N, C, H, W) features times the gates of their channel and pixel, and the state.
        """
        excited = self._excited(features.mean((2, 3))) + self._excited(features.amax((2, 3)))
        by_channel = apply_gate(features, sigmoid_gate(excited, doubled=self.identity))  # eq. 2, 1
        highest, mean = by_channel.amax(1, keepdim=True), by_channel.mean(1, keepdim=True)
        mixed = self.norm(self.mix(torch.cat((highest, mean), dim=1)), block)
        gate = sigmoid_gate(mixed, doubled=self.identity)  # eq. 3
        return by_channel * gate.to(features.dtype), state

    def _excited(self, pooled: Tensor) -> Tensor:
        excited: Tensor = self.excite(F.relu(self.squeeze(pooled)))
        return excited
