"""Spatial Pyramid Attention (Guo et al., IEEE TMM 2020, doi:10.1109/TMM.2021.3068576).

    z = (P1 x, P2 x, P4 x)        Pk: adaptive mean over a k x k grid, flattened; 21 C numbers
    v = sigmoid(W2 relu(W1 z))    W1: 21 C to C/r, W2: C/r to C, without biases
    y = v * x

Differs from the paper: never fewer than 4 hidden units.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.attention.contract import true_or_false
from sat_optuna.attention.gates import ChannelGate, hidden_units, sigmoid_gate, zero_init

__all__ = ["SPA"]

_GRIDS = (1, 2, 4)
_CELLS = sum(grid * grid for grid in _GRIDS)


class SPA(ChannelGate):
    """A gate in (0, 1) for each channel, from the means over a pyramid of grids."""

    paper: ClassVar[str] = "Guo et al., IEEE TMM 2020, doi:10.1109/TMM.2021.3068576"
    least_side: ClassVar[int] = max(_GRIDS)

    def __init__(self, channels: int, *, reduction: int = 16, identity: bool = False) -> None:
        """Build the two layers.

        Args:
            channels: C of the features.
            reduction: number of channels for each hidden unit; there are at least 4 hidden units.
            identity: start as the identity: W2 at zero, y = 2 v * x.

        Raises:
            AttentionError: a setting has a value that it cannot take.
        """
        super().__init__()
        hidden = hidden_units("spa", channels, reduction)
        self.identity = true_or_false("spa", "identity", identity)
        self.squeeze = nn.Linear(_CELLS * channels, hidden, bias=False)
        self.excite = nn.Linear(hidden, channels, bias=False)
        if identity:
            zero_init(self.excite)

    def gate(self, features: Tensor) -> Tensor:
        """Return a gate in (0, 1) for each channel; in (0, 2) from the identity.

        Args:
            features: (N, C, H, W); cells of the grids overlap where H or W is less than 4.

        Returns:
            (N, C) gates.
        """
        pyramid = [F.adaptive_avg_pool2d(features, grid).flatten(1) for grid in _GRIDS]
        excited = self.excite(F.relu(self.squeeze(torch.cat(pyramid, dim=1))))
        return sigmoid_gate(excited, doubled=self.identity)
