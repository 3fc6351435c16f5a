"""Efficient Channel Attention (Wang et al., CVPR 2020, arXiv:1910.03151).

    z = mean over H, W of x
    v = sigmoid(w convolved with z along the channels)    w: k numbers, no bias, z padded with 0
    y = v * x
    k = t where t is odd, else t + 1; at least 3; t = floor((log2 C + 1) / 2)

Differs from the paper: k is at least 3, as in the authors' code.
"""

import math
from typing import ClassVar

from torch import Tensor, nn

from sat_optuna.attention.contract import AttentionError, odd_number, true_or_false
from sat_optuna.attention.gates import ChannelGate, sigmoid_gate, zero_init

__all__ = ["ECA"]

_LEAST_KERNEL = 3


class ECA(ChannelGate):
    """A gate in (0, 1) for each channel, from the means of the k channels around it."""

    paper: ClassVar[str] = "Wang et al., CVPR 2020, arXiv:1910.03151"

    def __init__(self, channels: int, *, kernel: int = 0, identity: bool = False) -> None:
        """Build the convolution.

        Args:
            channels: C of the features.
            kernel: k, odd and at most C; 0 for the k of the paper's formula.
            identity: start as the identity: w at zero, y = 2 v * x.

        Raises:
            AttentionError: a setting has a value that it cannot take.
        """
        super().__init__()
        self.identity = true_or_false("eca", "identity", identity)
        size = _kernel_of(channels, kernel)
        self.mix = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)
        if identity:
            zero_init(self.mix)

    def gate(self, features: Tensor) -> Tensor:
        """Return a gate in (0, 1) for each channel; in (0, 2) from the identity.

        Args:
            features: (N, C, H, W).

        Returns:
            (N, C) gates.
        """
        mixed = self.mix(features.mean((2, 3))[:, None])[:, 0]
        return sigmoid_gate(mixed, doubled=self.identity)


def _kernel_of(channels: int, kernel: object) -> int:
    if kernel == 0 and type(kernel) is int:
        t = math.floor((math.log2(channels) + 1) / 2)
        return max(t if t % 2 else t + 1, _LEAST_KERNEL)
    size = odd_number("eca", "kernel", kernel)
    if size > channels:
        raise AttentionError(
            f"eca has kernel = {size} for {channels} channels; choose an odd number up to them, "
            "or 0 for the paper's formula"
        )
    return size
