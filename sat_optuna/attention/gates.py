"""What the modules with sigmoid gates share: sizes, applying a gate, starting as the identity.

A module that starts as the identity sets its last layer to zero, where the sigmoid is exactly 1/2,
and uses twice the sigmoid as its gate. A factor of two loses no digit, so the output equals the
input to the bit. A module without such a layer blends: x + strength (attended - x), strength 0.
"""

from torch import Tensor, nn

from sat_optuna.attention.contract import Attention, AttentionError, State, whole_number

__all__ = ["ChannelGate", "apply_gate", "blend", "hidden_units", "sigmoid_gate", "zero_init"]

_LEAST_HIDDEN = 4
_PUBLISHED_REDUCTION = 16


class ChannelGate(Attention):
    """A module without a state that multiplies each channel by a number.

    A subclass defines `gate`.
    """

    gated = True

    def gate(self, features: Tensor) -> Tensor:
        """Return the factor of each channel.

        Args:
            features: (N, C, H, W).

        Returns:
            (N, C) gates.
        """
        raise NotImplementedError

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Multiply each channel by its gate.

        Args:
            features: (N, C, H, W).
            state: returned as it is; a channel gate carries none.

        Returns:
            (N, C, H, W) features times the gate of their channel, and the state.
        """
        return apply_gate(features, self.gate(features)), state


def hidden_units(kind: str, channels: int, reduction: object) -> int:
    """Return the hidden units of a bottleneck: channels / reduction, never fewer than 4.

    >>> hidden_units("se", 128, 16), hidden_units("se", 8, 16)
    (8, 4)

    Raises:
        AttentionError: the reduction is no whole number from 1 to the number of channels. The
            published reduction, 16, is allowed for fewer channels as well, so that one setting
            suits small networks.
    """
    reduction = whole_number(kind, "reduction", reduction)
    most = max(channels, _PUBLISHED_REDUCTION)
    if reduction > most:
        raise AttentionError(
            f"{kind} has reduction = {reduction} for {channels} channels; choose at most {most}"
        )
    return max(channels // reduction, _LEAST_HIDDEN)


def sigmoid_gate(logits: Tensor, *, doubled: bool) -> Tensor:
    """Return the sigmoid of the logits; doubled, it is exactly 1 where the logits are 0."""
    gate = logits.sigmoid()
    return 2 * gate if doubled else gate


def apply_gate(features: Tensor, gate: Tensor) -> Tensor:
    """Multiply each channel by its gate, in the features' dtype.

    Args:
        features: (N, C, H, W).
        gate: (N, C).
    """
    return features * gate.to(features.dtype)[:, :, None, None]


def blend(features: Tensor, attended: Tensor, strength: Tensor) -> Tensor:
    """Return features + strength (attended - features); strength 0 gives the features."""
    return features + strength.to(features.dtype) * (attended - features)


def zero_init(layer: nn.Module) -> None:
    """Set all parameters of a layer to zero."""
    for value in layer.parameters():
        nn.init.zeros_(value)
