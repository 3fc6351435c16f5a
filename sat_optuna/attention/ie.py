"""Instance Enhancement (Liang et al., AAAI 2020, arXiv:1908.04008).

    m_c = mean over H, W of x_c
    v_c = sigmoid(gamma_c m_c + beta_c)
    y_c = v_c * x_c

gamma starts at 0 and beta at -1; each channel has one of each.

Differs from the paper: there the gate is a part of BatchNorm; here it is a separate module, which
rescales the output of the residual branch.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from sat_optuna.attention.contract import true_or_false
from sat_optuna.attention.gates import ChannelGate, sigmoid_gate

__all__ = ["IE"]


class IE(ChannelGate):
    """A gate in (0, 1) for each channel, from its own mean."""

    paper: ClassVar[str] = "Liang et al., AAAI 2020, arXiv:1908.04008"

    def __init__(self, channels: int, *, identity: bool = False) -> None:
        """Build gamma and beta.

        Args:
            channels: C of the features.
            identity: start as the identity: beta at 0 as well, y = 2 v * x.

        Raises:
            AttentionError: a setting has a value that it cannot take.
        """
        super().__init__()
        self.identity = true_or_false("ie", "identity", identity)
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.full((channels,), 0.0 if identity else -1.0))

    def gate(self, features: Tensor) -> Tensor:
        """Return a gate in (0, 1) for each channel; in (0, 2) from the identity.

        Args:
            features: (N, C, H, W).

        Returns:
            (N, C) gates.
        """
        logits = self.gamma * features.mean((2, 3)) + self.beta
        return sigmoid_gate(logits, doubled=self.identity)
