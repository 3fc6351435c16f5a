"""The constant control of a kind of attention: the kind `constant:se` stands where SE would.

    y_c = f_c x_c        one learnt factor f_c a channel, the same for all images
    y_c = x_c + b_c      where the kind adds a number to each channel (GC, timm's gca)

It looks at nothing. What a network reaches with it is rescaling, not attention; a kind pays as
attention only where it beats this. `supernet.constants` starts the factors where the kind itself
would start; here they start at 1, and the numbers that are added at 0.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from sat_optuna.attention import ATTENTION, CONSTANT, OWN
from sat_optuna.attention.contract import Attention, State
from sat_optuna.attention.gates import ChannelGate
from sat_optuna.errors import UnknownName

__all__ = ["Constant", "ConstantShift", "build"]


class Constant(ChannelGate):
    """A learnt factor for each channel, the same for all images."""

    paper: ClassVar[str] = "this project's control, a gate that looks at nothing"
    sharings: ClassVar[tuple[str, ...]] = ("block",)

    def __init__(self, channels: int) -> None:
        """Build the (C,) factors, which start at 1.

        Args:
            channels: C of the features.
        """
        super().__init__()
        self.factor = nn.Parameter(torch.ones(channels))

    def gate(self, features: Tensor) -> Tensor:
        """Return the factor of each channel, the same for all images.

        Args:
            features: (N, C, H, W), of which nothing is looked at but N.

        Returns:
            (N, C) factors.
        """
        return self.factor.expand(features.shape[0], -1)


class ConstantShift(Attention):
    """A learnt number added to each channel, the same for all images."""

    paper: ClassVar[str] = Constant.paper
    sharings: ClassVar[tuple[str, ...]] = ("block",)

    def __init__(self, channels: int) -> None:
        """Build the (C,) numbers, which start at 0.

        Args:
            channels: C of the features.
        """
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Add to each channel its number.

        Args:
            features: (N, C, H, W).
            state: returned as it is.

        Returns:
            (N, C, H, W) features plus the number of their channel, and the state.
        """
        return features + self.bias.to(features.dtype)[:, None, None], state


def build(kind: str) -> type[Attention]:
    """Return the class of the kind `constant:<kind>`.

    Args:
        kind: a name of `ATTENTION`, or "own".

    Raises:
        UnknownName: there is no such kind, or it is a constant itself.
        AttentionError: the kind cannot be used here.
    """
    if kind.startswith(CONSTANT):
        raise UnknownName(
            f"no attention module {CONSTANT + kind!r}: {kind} is constant already; name it alone"
        )
    adds = kind != OWN and ATTENTION.get(kind).adds
    return ConstantShift if adds else Constant
