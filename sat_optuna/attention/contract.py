"""What every attention module is: features and state in, features and state out."""

from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from sat_optuna.errors import SatOptunaError

__all__ = ["Attention", "AttentionError", "State", "full_precision", "whole_number"]

State: TypeAlias = tuple[Tensor, ...]


class AttentionError(SatOptunaError, ValueError):
    """A setting that an attention module cannot be built with."""


class Attention(nn.Module):
    """A module that reweights the features of a residual branch.

    The first argument of a subclass is the number of channels; its settings follow, keyword-only
    and each with a default. Row n of the result depends on row n of the features alone, and the
    result keeps their shape, dtype, device and memory format.

    Attributes:
        sharings: how a stage may own it: one a "block", or one for the whole "stage".
        recurrent: whether it carries a state from one connected block of a stage to the next.
    """

    sharings: ClassVar[tuple[str, ...]] = ("block", "stage")
    recurrent: ClassVar[bool] = False

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Attend to the output of a residual branch.

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


def full_precision(features: Tensor) -> Tensor:
    """Return features in float32 at least: sums over half-precision pixels lose their digits."""
    return features.to(torch.promote_types(features.dtype, torch.float32))
