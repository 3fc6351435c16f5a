"""Dense-and-Implicit Attention (Huang et al., AAAI 2020, arXiv:1905.10671).

All blocks of a stage share one LSTM cell; it carries (h, c) from one connected block to the next:

    y = mean over H, W of x
    (i, f, g, o) = A(y) + B(h)        A, B: Linear(C, C/r), ReLU, Linear(C/r, 4C)
    c' = sigmoid(f) c + sigmoid(i) tanh(g)
    h' = sigmoid(o) sigmoid(c')
    out = h' * x

h and c are zeros at the first connected block of a stage. The paper draws the cell (fig. 3) and
numbers none of these equations. They follow the authors' code, whose last activation is a sigmoid;
an LSTM has tanh there.

Differs from the paper: the cell's state is kept in float32 at least.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from sat_optuna.attention.contract import (
    Attention,
    AttentionError,
    State,
    full_precision,
    true_or_false,
    whole_number,
)
from sat_optuna.attention.gates import apply_gate, zero_init

__all__ = ["DIA"]


class DIA(Attention):
    """A gate in (0, 1) for each channel, from an LSTM that runs along the blocks of a stage."""

    paper: ClassVar[str] = "Huang et al., AAAI 2020, arXiv:1905.10671"
    sharings: ClassVar[tuple[str, ...]] = ("stage",)
    recurrent: ClassVar[bool] = True

    def __init__(self, channels: int, *, reduction: int = 4, identity: bool = False) -> None:
        """Build the cell.

        Args:
            channels: C of the features.
            reduction: number of channels for each hidden unit of A and B, which have
                C // reduction hidden units.
            identity: start as the identity: the last layers of A and B at zero, out = 4 h' * x.

        Raises:
            AttentionError: a setting has a value that it cannot take.
        """
        super().__init__()
        hidden = channels // whole_number("dia", "reduction", reduction)
        if hidden < 1:
            raise AttentionError(
                f"dia has reduction = {reduction} for {channels} channels, which leaves no "
                f"hidden unit; choose at most {channels}"
            )
        self.identity = true_or_false("dia", "identity", identity)
        self.from_features = _two_layers(channels, hidden)
        self.from_state = _two_layers(channels, hidden)
        if identity:
            zero_init(self.from_features[-1])
            zero_init(self.from_state[-1])

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Rescale each channel by the cell's new output.

        Args:
            features: (N, C, H, W).
            state: (h, c), each (N, C), of the connected block before; None at the first one.

        Returns:
            (N, C, H, W) features times the gate of their channel, and the new (h, c).
        """
        means = features.mean((2, 3))
        if state is None:
            state = (torch.zeros_like(full_precision(means)),) * 2
        hidden, cell = state
        gates = self.from_features(means) + self.from_state(hidden.to(means.dtype))
        keep_in, forget, candidate, keep_out = full_precision(gates).chunk(4, dim=1)
        cell = forget.sigmoid() * cell + keep_in.sigmoid() * candidate.tanh()
        hidden = keep_out.sigmoid() * cell.sigmoid()
        gate = 4 * hidden if self.identity else hidden
        return apply_gate(features, gate), (hidden, cell)


def _two_layers(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 4 * channels)
    )
