"""Squeeze-and-Excitation (Hu et al., CVPR 2018, arXiv:1709.01507).

    z = mean over H, W of x                  (eq. 2)
    s = sigmoid(W2 relu(W1 z + b1) + b2)     (eq. 3)
    y = s * x                                (eq. 4)

Differs from the paper: biases, as in the authors' code, and never fewer than 4 hidden units.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.attention.contract import Attention, State, whole_number

__all__ = ["SE"]

_LEAST_HIDDEN = 4


class SE(Attention):
    """A gate in (0, 1) for each channel, from the means of all channels."""

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        """Build the two layers.

        Args:
            channels: C of the features.
            reduction: channels to each hidden unit; there are at least 4 hidden units.

        Raises:
            AttentionError: `reduction` is no whole number from 1 up.
        """
        super().__init__()
        hidden = max(channels // whole_number("se", "reduction", reduction), _LEAST_HIDDEN)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Rescale each channel by a gate in (0, 1).

        Args:
            features: (N, C, H, W).
            state: handed on untouched; SE carries none.

        Returns:
            (N, C, H, W) features times the gate of their channel, and the state.
        """
        means = features.mean((2, 3))  # eq. 2
        gate = F.sigmoid(self.excite(F.relu(self.squeeze(means))))  # eq. 3
        return features * gate.to(features.dtype)[:, :, None, None], state  # eq. 4
