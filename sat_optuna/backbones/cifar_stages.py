"""What CIFAR residual networks have in common: three stages, and how their convolutions start."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.backbones.contract import BackboneError, Block

__all__ = ["cifar_stages", "every_nth", "he_normal"]

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


def every_nth(x: Tensor, stride: int) -> Tensor:
    """Return each `stride`-th row and column, the first included: a shortcut of option A.

    Args:
        x: (N, C, H, W).
        stride: 1 returns `x` itself.
    """
    if stride == 1:
        return x
    if x.is_contiguous(memory_format=torch.channels_last):
        # The same pixels; a slice's gradient would be contiguous, and slow down all that it meets.
        return F.avg_pool2d(x, 1, stride)
    return x[:, :, ::stride, ::stride]
