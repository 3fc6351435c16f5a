"""The contract of all attention modules: features and state in, features and state out."""

import math
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from sat_optuna.errors import SatOptunaError

__all__ = [
    "Attention",
    "AttentionError",
    "State",
    "full_precision",
    "odd_number",
    "positive_number",
    "true_or_false",
    "whole_number",
]

State: TypeAlias = tuple[Tensor, ...]


class AttentionError(SatOptunaError, ValueError):
    """An attention module that cannot be built as asked."""


class Attention(nn.Module):
    """A module that reweights the features of a residual branch.

    >>> class ChannelScale(Attention):
    ...     def __init__(self, channels, *, start=1.0):
    ...         super().__init__()
    ...         self.scale = nn.Parameter(torch.full((channels, 1, 1), start))
    ...
    ...     def forward(self, features, state=None):
    ...         return features * self.scale.to(features.dtype), state
    >>> attended, state = ChannelScale(4, start=2.0)(torch.ones(1, 4, 3, 3))
    >>> attended.unique().tolist(), state
    ([2.0], None)

    The first argument of a subclass is the number of channels. Its settings follow as keyword-only
    arguments; the default of each is a number, a text, true or false. Row n of the result depends
    on row n of the features alone (only BatchNorm in train mode may mix rows). The result has the
    shape, dtype, device and memory format of the features.

    Attributes:
        paper: where the module was published.
        sharings: how a stage may own it: "block" gives each block a module, "stage" gives one
            module to all blocks of the stage. The first one is the default.
        recurrent: whether it carries a state from one connected block of a stage to the next.
        least_side: smallest H and W of the maps that it is made for. On smaller maps its result is
            finite all the same.
        per_block_statistics: whether it has BatchNorm inside and keeps running statistics for each
            block that shares it. Then its constructor takes the names of these blocks as `blocks`
            (no user sets it), and its `forward` takes the name of the block that it runs for as
            its third argument, `block`.
        gated: whether it multiplies each channel by a number, has no state, and has a method
            `gate` that returns these numbers, (N, C). Of a wrapped module the instance says it.
        adds: whether it adds numbers to the features, and multiplies them by nothing.
    """

    paper: ClassVar[str] = ""
    sharings: ClassVar[tuple[str, ...]] = ("block", "stage")
    recurrent: ClassVar[bool] = False
    least_side: ClassVar[int] = 1
    per_block_statistics: ClassVar[bool] = False
    gated: bool = False
    adds: ClassVar[bool] = False

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Return the attended features of a residual branch; the features are not changed.

        Args:
            features: (N, C, H, W).
            state: what the connected block before this one returned; None at the first connected
                block of a stage. A module that is not recurrent returns it as it is.

        Returns:
            (N, C, H, W) attended features, and the state for the next connected block.
        """
        raise NotImplementedError


def whole_number(kind: str, name: str, value: object) -> int:
    """Return a setting that must be a whole number, at least 1.

    Raises:
        AttentionError: the value is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise AttentionError(
            f"{kind} has {name} = {value!r}; give a whole number that is at least 1"
        )
    return value


def odd_number(kind: str, name: str, value: object) -> int:
    """Return a setting that must be an odd whole number, at least 1: the side of a kernel.

    Raises:
        AttentionError: the value is something else.
    """
    number = whole_number(kind, name, value)
    if number % 2 == 0:
        raise AttentionError(
            f"{kind} has {name} = {number}, and an even kernel has no centre; give an odd number"
        )
    return number


def positive_number(kind: str, name: str, value: object) -> float:
    """Return a setting that must be a finite number above 0.

    Raises:
        AttentionError: the value is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise AttentionError(f"{kind} has {name} = {value!r}; give a number above 0")
    return float(value)


def true_or_false(kind: str, name: str, value: object) -> bool:
    """Return a setting that must be true or false.

    Raises:
        AttentionError: the value is something else.
    """
    if not isinstance(value, bool):
        raise AttentionError(f"{kind} has {name} = {value!r}; write true or false")
    return value


def full_precision(features: Tensor) -> Tensor:
    """Return features in float32 at least; a sum over pixels in half precision loses digits."""
    return features.to(torch.promote_types(features.dtype, torch.float32))
