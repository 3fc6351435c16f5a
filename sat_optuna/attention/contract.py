"""What every attention module is: features and state in, features and state out."""

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
    "switch",
    "whole_number",
]

State: TypeAlias = tuple[Tensor, ...]


class AttentionError(SatOptunaError, ValueError):
    """An attention module that cannot be built as asked."""


class Attention(nn.Module):
    """A module that reweights the features of a residual branch.

    The first argument of a subclass is the number of channels; its settings follow, keyword-only
    and each with a default that is a number, a text, true or false. Row n of the result depends on
    row n of the features alone (but for BatchNorm in train mode), and the result keeps their
    shape, dtype, device and memory format.

    Attributes:
        paper: where the module was published.
        sharings: how a stage may own it: one a "block", or one for the whole "stage"; the first
            is the default.
        recurrent: whether it carries a state from one connected block of a stage to the next.
        least_side: smallest H and W of the maps it is made for; it is finite on smaller ones too.
        placed: whether it has BatchNorm inside and may be shared: its constructor then takes the
            keyword `places`, no setting of a user's, and its forward a third argument `place`,
            one of them: the block whose BatchNorm statistics count.
        gated: whether it is a gate for each channel without a state, which `gate` returns.
    """

    paper: ClassVar[str] = ""
    sharings: ClassVar[tuple[str, ...]] = ("block", "stage")
    recurrent: ClassVar[bool] = False
    least_side: ClassVar[int] = 1
    placed: ClassVar[bool] = False
    gated: ClassVar[bool] = False

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Attend to the output of a residual branch, which is left as it is.

        Args:
            features: (N, C, H, W).
            state: what the last connected block of this stage returned, None at the first;
                a module that is not recurrent hands it on untouched.

        Returns:
            (N, C, H, W) attended features, and the state for the next connected block.
        """
        raise NotImplementedError


def whole_number(kind: str, name: str, value: object) -> int:
    """Return a setting that has to be a whole number, at least 1.

    Raises:
        AttentionError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise AttentionError(
            f"{kind} has {name} = {value!r}; give a whole number that is at least 1"
        )
    return value


def odd_number(kind: str, name: str, value: object) -> int:
    """Return a setting that has to be an odd whole number, at least 1: the side of a kernel.

    Raises:
        AttentionError: it is something else.
    """
    number = whole_number(kind, name, value)
    if number % 2 == 0:
        raise AttentionError(
            f"{kind} has {name} = {number}, and an even kernel has no centre; give an odd number"
        )
    return number


def positive_number(kind: str, name: str, value: object) -> float:
    """Return a setting that has to be a finite number above 0.

    Raises:
        AttentionError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise AttentionError(f"{kind} has {name} = {value!r}; give a number above 0")
    return float(value)


def switch(kind: str, name: str, value: object) -> bool:
    """Return a setting that has to be true or false.

    Raises:
        AttentionError: it is something else.
    """
    if not isinstance(value, bool):
        raise AttentionError(f"{kind} has {name} = {value!r}; write true or false")
    return value


def full_precision(features: Tensor) -> Tensor:
    """Return features in float32 at least: sums over half-precision pixels lose their digits."""
    return features.to(torch.promote_types(features.dtype, torch.float32))
