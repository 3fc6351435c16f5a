"""What the CIFAR residual networks share: three stages, shortcuts of option A, initial weights."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.backbones.contract import BackboneError, Block

__all__ = ["cifar_stages", "he_normal", "option_a", "option_a_padding", "output_stride"]

_STAGES = 3


def cifar_stages(
    first: Callable[..., Block],
    other: Callable[..., Block],
    *,
    inputs: int,
    channels: int,
    blocks: Sequence[int],
    dilated_stages: int = 0,
) -> list[list[Block]]:
    """Build three stages, each with twice the channels and half the side of the one before.

    Args:
        first: called with (input channels, channels, stride, dilation), it makes the first block
            of a stage.
        other: makes the other blocks in the same way.
        inputs: channels of the first stage's input.
        channels: channels of the features of the first stage's blocks.
        blocks: number of blocks of each stage.
        dilated_stages: how many of the last stages keep the side of the one before. As in
            torchvision, their convolutions are dilated by 2, then 4, those of a stage's first
            block as in the stage before.

    Raises:
        BackboneError: `blocks` does not give three stages of at least one block each, or other
            stages than the last two are to be dilated.
    """
    if dilated_stages not in range(_STAGES):
        raise BackboneError(
            f"dilated_stages = {dilated_stages!r} given; write 0, 1 or 2: the first stage has no "
            "stride to replace"
        )
    if len(blocks) != _STAGES or min(blocks) < 1:
        raise BackboneError(
            f"blocks = {tuple(blocks)} given; a CIFAR ResNet has {_STAGES} stages, "
            "give each at least one block"
        )
    stages: list[list[Block]] = []
    for stage, size in enumerate(blocks):
        wide = channels * 2**stage
        dilated = max(0, stage - (_STAGES - 1 - dilated_stages))
        stride = 1 if stage == 0 or dilated else 2
        begin = first(inputs, wide, stride=stride, dilation=2 ** max(0, dilated - 1))
        more = (other(wide, wide, stride=1, dilation=2**dilated) for _ in range(size - 1))
        stages.append([begin, *more])
        inputs = wide
    return stages


def output_stride(stem_stride: int, dilated_stages: int) -> int:
    """Return how many pixels of an image a pixel of the last block's output is, a side."""
    return int(stem_stride * 2 ** (_STAGES - 1 - dilated_stages))


def he_normal(network: nn.Module) -> None:
    """Draw the convolutions' weights: normal, by fan out (He et al., 2015, arXiv:1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def option_a_padding(in_channels: int, channels: int) -> tuple[int, ...]:
    """Return the zero channels of a shortcut of option A, half on each side, for `F.pad`."""
    missing = channels - in_channels
    return (0, 0, 0, 0, missing // 2, missing - missing // 2)


def option_a(x: Tensor, *, stride: int, padding: Sequence[int]) -> Tensor:
    """Return the shortcut without parameters: every `stride`-th pixel, zero channels added.

    Args:
        x: (N, C_in, H_in, W_in).
        stride: of rows and columns; the first row and column are kept.
        padding: of `option_a_padding`.

    Returns:
        (N, C, H, W).
    """
    if stride > 1:
        if x.is_contiguous(memory_format=torch.channels_last):
            # The same pixels as by slicing. But the gradient of a slice is contiguous, which would
            # slow down the whole backward pass.
            x = F.avg_pool2d(x, 1, stride)
        else:
            x = x[:, :, ::stride, ::stride]
    return F.pad(x, padding) if any(padding) else x
