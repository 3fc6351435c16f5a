"""What modules have in common whose weights are sigmoids: sizes, application, identity.

A module that starts as the identity has its last layer at zero, where each sigmoid is 1/2 exactly,
and twice the sigmoid as its gate: powers of two lose no digit, so its output is its input to the
bit. A module that has no such layer blends: x + strength (attended - x) with strength 0.
"""

from typing import ClassVar

from torch import Tensor, nn

from sat_optuna.attention.contract import Attention, AttentionError, State, whole_number

__all__ = ["ChannelGate", "blended", "hidden_units", "reweighted", "sigmoid_gate", "zeroed"]

_LEAST_HIDDEN = 4
_PUBLISHED_REDUCTION = 16


class ChannelGate(Attention):
    """A module without state that multiplies each channel by a number."""

    gated: ClassVar[bool] = True

    def gate(self, features: Tensor) -> Tensor:
        """Return the number for each channel.

        Args:
            features: (N, C, H, W).

        Returns:
            (N, C) gates.
        """
        raise NotImplementedError

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Rescale each channel by its gate.

        Args:
            features: (N, C, H, W).
            state: handed on untouched; a channel gate carries none.

        Returns:
            (N, C, H, W) features times the gate of their channel, and the state.
        """
        return reweighted(features, self.gate(features)), state


def hidden_units(kind: str, channels: int, reduction: object) -> int:
    """Return the hidden units of a bottleneck: channels / reduction, never fewer than 4.

    Raises:
        AttentionError: the reduction is no whole number from 1 to the channels; the published one,
            16, is taken at fewer channels too, so that one setting suits small networks.
    """
    reduction = whole_number(kind, "reduction", reduction)
    most = max(channels, _PUBLISHED_REDUCTION)
    if reduction > most:
        raise AttentionError(
            f"{kind} has reduction = {reduction} for {channels} channels; choose at most {most}"
        )
    return max(channels // reduction, _LEAST_HIDDEN)


def sigmoid_gate(logits: Tensor, *, doubled: bool) -> Tensor:
    """Return the sigmoid, or twice of it, which is exactly 1 at logits of 0."""
    gate = logits.sigmoid()
    return 2 * gate if doubled else gate


def reweighted(features: Tensor, gate: Tensor) -> Tensor:
    """Multiply each channel by its gate, in the features' dtype.

    Args:
        features: (N, C, H, W).
        gate: (N, C).
    """
    return features * gate.to(features.dtype)[:, :, None, None]


def blended(features: Tensor, attended: Tensor, strength: Tensor) -> Tensor:
    """Return features + strength (attended - features): the features themselves at strength 0."""
    return features + strength.to(features.dtype) * (attended - features)


def zeroed(layer: nn.Module) -> None:
    """Set all parameters of a layer to zero."""
    for value in layer.parameters():
        nn.init.zeros_(value)
