"""The attention that a network brings with it, taken as what a scheme may connect or drop."""

from typing import ClassVar

from torch import Tensor, nn

from sat_optuna.attention.contract import Attention, State

__all__ = ["OwnAttention"]


class OwnAttention(Attention):
    """A module out of a network, one a block; it is built with the network and has no settings."""

    paper: ClassVar[str] = "the network's own"
    sharings: ClassVar[tuple[str, ...]] = ("block",)

    def __init__(self, module: nn.Module) -> None:
        """Wrap a module; it is not copied.

        Args:
            module: from (N, C, H, W) features to attended features of the same shape.
        """
        super().__init__()
        self.module = module

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Run the module.

        Args:
            features: (N, C, H, W).
            state: handed on untouched.

        Returns:
            (N, C, H, W) attended features, and the state.
        """
        return self.module(features), state
