"""The kind `own`: the attention that a network's blocks carry themselves.

It is taken out of the network, so that a scheme may connect or drop it like any other module.
"""

from typing import ClassVar

from torch import Tensor, nn

from sat_optuna.attention.contract import Attention, State
from sat_optuna.attention.foreign_gates import gate_in, gate_of

__all__ = ["OwnAttention"]


class OwnAttention(Attention):
    """A module that was taken out of a block of a network; it has no settings."""

    paper: ClassVar[str] = "the network's own"
    sharings: ClassVar[tuple[str, ...]] = ("block",)

    def __init__(self, module: nn.Module) -> None:
        """Wrap a module; it is not copied.

        Args:
            module: called with (N, C, H, W) features, it returns attended features of that shape.
        """
        super().__init__()
        self.module = module
        self.gated = gate_of(module) is not None

    def gate(self, features: Tensor) -> Tensor:
        """Return the (N, C) factor of each channel.

        Args:
            features: (N, C, H, W).

        Raises:
            AttentionError: the module is none that multiplies each channel by a number.
        """
        return gate_in(self.module, features)

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Run the module.

        Args:
            features: (N, C, H, W).
            state: returned as it is.

        Returns:
            (N, C, H, W) attended features, and the state.
        """
        return self.module(features), state
