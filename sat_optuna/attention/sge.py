"""Spatial Group-wise Enhance (Li, Hu and Yang, 2019, arXiv:1905.09646).

For each of G groups of C/G channels, with x_p the group's vector at pixel p:

    g = mean over p of x_p                        (eq. 1)
    c_p = <x_p, g>                                (eq. 2)
    n_p = (c_p - mean(c)) / (std(c) + 1e-5)       (eq. 3)
    a_p = gamma n_p + beta                        (eq. 4)
    y_p = x_p sigmoid(a_p)                        (eq. 5)

gamma starts at 0 and beta at 1; each group has one of each. std is the unbiased one, as in the
authors' code.

Differs from the paper: the default is 8 groups, which suits small networks (64 in the paper); the
std of a single pixel is taken as 0 (it would be 0/0); statistics are computed in float32 at least.
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
from sat_optuna.attention.gates import sigmoid_gate

__all__ = ["SGE"]

torch.fx.wrap("full_precision")  # it looks at the dtype, which has no value while fx traces

_EPSILON = 1e-5


@torch.fx.wrap
def _spread(likeness: Tensor) -> Tensor:
    """Return the std over the pixels of (N, G, H, W), (N, G, 1, 1)."""
    # A single pixel has no unbiased std. The biased one is 0, and so is its gradient.
    several = int(likeness.shape[2] * likeness.shape[3] > 1)
    return likeness.std((2, 3), correction=several, keepdim=True)


class SGE(Attention):
    """A gate in (0, 1) for each pixel of each group, by its likeness to the group's mean."""

    paper: ClassVar[str] = "Li, Hu and Yang, 2019, arXiv:1905.09646"

    def __init__(self, channels: int, *, groups: int = 8, identity: bool = False) -> None:
        """Build gamma and beta.

        Args:
            channels: C of the features.
            groups: G, a divisor of C.
            identity: start as the identity: beta at 0 as well, y_p = 2 x_p sigmoid(a_p).

        Raises:
            AttentionError: a setting has a value that it cannot take.
        """
        super().__init__()
        self.groups = whole_number("sge", "groups", groups)
        if channels % groups:
            raise AttentionError(
                f"sge has groups = {groups}, which does not divide {channels} channels; "
                "choose a divisor of the channels of every stage"
            )
        self.identity = true_or_false("sge", "identity", identity)
        self.gamma = nn.Parameter(torch.zeros(groups))
        self.beta = nn.Parameter(torch.zeros(groups) if identity else torch.ones(groups))

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Rescale each pixel of each group by a gate in (0, 1).

        Args:
            features: (N, C, H, W).
            state: returned as it is; SGE carries none.

        Returns:
            (N, C, H, W) features times the gate of their group and pixel, and the state.
        """
        # Splitting a dimension makes a view in every memory format, so nothing is copied.
        grouped = torch.unflatten(features, 1, (self.groups, -1))  # (N, G, C/G, H, W)
        exact = full_precision(grouped)
        likeness = (exact * exact.mean((3, 4), keepdim=True)).sum(2)  # eq. 1, 2: (N, G, H, W)
        spread = _spread(likeness)
        centred = likeness - likeness.mean((2, 3), keepdim=True)
        gamma, beta = self.gamma[:, None, None], self.beta[:, None, None]
        logits = gamma * (centred / (spread + _EPSILON)) + beta  # eq. 3, 4
        gate = sigmoid_gate(logits, doubled=self.identity)
        attended = grouped * gate.to(features.dtype)[:, :, None]  # eq. 5
        return attended.flatten(1, 2), state
