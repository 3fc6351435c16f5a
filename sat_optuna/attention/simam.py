"""SimAM, a parameter-free attention (Yang et al., ICML 2021).

For each channel, with mean m over its H W pixels:

    d = (x - m)^2
    v = sum of d / (H W - 1)
    y = x sigmoid(d / (4 (v + lambda)) + 1/2)       (eq. 5, 6: the sigmoid of 1 over the energy)

Differs from the paper: for a single pixel, H W - 1 is taken as 1; statistics are computed in
float32 at least.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from sat_optuna.attention.contract import (
    Attention,
    State,
    full_precision,
    positive_number,
    true_or_false,
)
from sat_optuna.attention.gates import blend

__all__ = ["SimAM"]

torch.fx.wrap("full_precision")  # it looks at the dtype, which has no value while fx traces


@torch.fx.wrap
def _variance(distance: Tensor) -> Tensor:
    """Return v of (N, C, H, W) squared distances, (N, C, 1, 1)."""
    others = max(distance.shape[2] * distance.shape[3] - 1, 1)
    return distance.sum((2, 3), keepdim=True) / others


class SimAM(Attention):
    """A gate in (0, 1) for each pixel of each channel: the farther from the mean, the larger."""

    paper: ClassVar[str] = "Yang et al., ICML 2021, PMLR 139"

    def __init__(
        self,
        channels: int,  # noqa: ARG002  each module takes channels
        *,
        damping: float = 1e-4,
        identity: bool = False,
    ) -> None:
        """Build the module; it has no parameters unless it starts as the identity.

        Args:
            channels: C of the features; not used.
            damping: the paper's lambda.
            identity: start as the identity: x + strength (y - x), one strength that starts at 0.

        Raises:
            AttentionError: a setting has a value that it cannot take.
        """
        super().__init__()
        self.damping = positive_number("simam", "damping", damping)
        blends = true_or_false("simam", "identity", identity)
        self.strength = nn.Parameter(torch.zeros(1)) if blends else None

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Rescale each pixel of each channel by a gate in (0, 1).

        Args:
            features: (N, C, H, W).
            state: returned as it is; SimAM carries none.

        Returns:
            (N, C, H, W) features times their gates, and the state.
        """
        exact = full_precision(features)
        distance = (exact - exact.mean((2, 3), keepdim=True)).square()
        variance = _variance(distance)
        gate = (distance / (4 * (variance + self.damping)) + 0.5).sigmoid()
        attended = features * gate.to(features.dtype)
        if self.strength is not None:
            attended = blend(features, attended, self.strength)
        return attended, state
