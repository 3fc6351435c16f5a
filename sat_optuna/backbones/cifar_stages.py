"""What CIFAR residual networks have in common: three stages, and how their convolutions start."""

from collections.abc import Callable, Sequence

from torch import nn

from sat_optuna.backbones.contract import BackboneError, Block

__all__ = ["cifar_stages", "he_normal"]

_STAGES = 3


def cifar_stages(
    first: Callable[..., Block],
    other: Callable[..., Block],
    *,
    inputs: int,
    channels: int,
    blocks: Sequence[int],
) -> list[list[Block]]:
    """Build three stages, each with twice the channels of the one before and half its side.

    Args:
        first: makes the first block of a stage from its input channels, its channels and stride.
        other: makes the others.
        inputs: channels that the first stage is given.
        channels: of the features of the first stage's blocks.
        blocks: blocks of each stage.

    Raises:
        BackboneError: there are not three stages of a block or more.
    """
    if len(blocks) != _STAGES or min(blocks) < 1:
        raise BackboneError(
            f"blocks = {tuple(blocks)} given; a CIFAR ResNet has {_STAGES} stages, "
            "give each at least one block"
        )
    stages: list[list[Block]] = []
    for stage, size in enumerate(blocks):
        wide = channels * 2**stage
        begin = first(inputs, wide, stride=1 if stage == 0 else 2)
        stages.append([begin, *(other(wide, wide, stride=1) for _ in range(size - 1))])
        inputs = wide
    return stages


def he_normal(network: nn.Module) -> None:
    """Draw the convolutions anew: normal, by fan out (He et al., ICCV 2015, arXiv:1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
