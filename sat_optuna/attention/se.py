"""Squeeze-and-Excitation (Hu et al., CVPR 2018, arXiv:1709.01507).

    z = mean over H, W of x                  (eq. 2)
    s = sigmoid(W2 relu(W1 z + b1) + b2)     (eq. 3)
    y = s * x                                (eq. 4)

Differs from the paper: biases, as in the authors' code, and never fewer than 4 hidden units.
"""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.attention.contract import true_or_false
from sat_optuna.attention.gates import ChannelGate, hidden_units, sigmoid_gate, zero_init

__all__ = ["SE"]


class SE(ChannelGate):
    """A gate in (0, 1) for each channel, from the means of all channels."""

    paper: ClassVar[str] = "Hu et al., CVPR 2018, arXiv:1709.01507"

    def __init__(self, channels: int, *, reduction: int = 16, identity: bool = False) -> None:
        """Build the two layers.

        Args:
            channels: C of the features.
            reduction: number of channels for each hidden unit; there are at least 4 hidden units.
            identity: start as the identity: W2 and b2 at zero, y = 2 s * x.

        Raises:
            AttentionError: a setting has a value that it cannot take.
        """
        super().__init__()
        hidden = hidden_units("se", channels, reduction)
        self.identity = true_or_false("se", "identity", identity)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        if identity:
            zero_init(self.excite)

    def gate(self, features: Tensor) -> Tensor:
        """Return a gate in (0, 1) for each channel; in (0, 2) from the identity.

        Args:
            features: (N, C, H, W).

        Returns:
            (N, C) gates.
        """
        means = features.mean((2, 3))  # eq. 2
        excited = self.excite(F.relu(self.squeeze(means)))
        return sigmoid_gate(excited, doubled=self.identity)  # eq. 3
