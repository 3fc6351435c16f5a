"""Global Context (Cao et al., ICCV Workshops 2019, arXiv:1904.11492).

    a = softmax over pixels p of <w, x_p> + b
    g = sum over p of a_p x_p
    y = x + W2 relu(LayerNorm(W1 g + b1)) + b2       W1: C to C/r, W2: C/r to C

Differs from the paper: biases, as in the authors' code; never fewer than 4 hidden units; W2 starts
as PyTorch starts a linear layer, while the authors' code starts it at zero (see `identity`).
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.attention.contract import Attention, State, full_precision, true_or_false
from sat_optuna.attention.gates import hidden_units, zero_init

__all__ = ["GC"]

torch.fx.wrap("full_precision")  # it looks at the dtype, which has no value while fx traces


class GC(Attention):
    """A number added to each channel, from a weighted mean over the pixels."""

    paper: ClassVar[str] = "Cao et al., ICCV Workshops 2019, arXiv:1904.11492"
    adds: ClassVar[bool] = True

    def __init__(self, channels: int, *, reduction: int = 16, identity: bool = False) -> None:
        """Build the pixels' weights and the two layers.

        Args:
            channels: C of the features.
            reduction: number of channels for each hidden unit; there are at least 4 hidden units.
            identity: start as the identity: W2 and b2 at zero.

        Raises:
            AttentionError: a setting has a value that it cannot take.
        """
        super().__init__()
        hidden = hidden_units("gc", channels, reduction)
        self.focus = nn.Conv2d(channels, 1, 1)
        self.squeeze = nn.Linear(channels, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.excite = nn.Linear(hidden, channels)
        if true_or_false("gc", "identity", identity):
            zero_init(self.excite)

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Add the transformed context to each pixel.

        Args:
            features: (N, C, H, W).
            state: returned as it is; GC carries none.

        Returns:
            (N, C, H, W) features plus a number for each channel, and the state.
        """
        weights = full_precision(self.focus(features).flatten(1)).softmax(1)  # (N, HW)
        context = features.flatten(2) @ weights.to(features.dtype)[:, :, None]  # (N, C, 1)
        added = self.excite(F.relu(self.norm(self.squeeze(context.flatten(1)))))
        return features + added.to(features.dtype)[:, :, None, None], state
