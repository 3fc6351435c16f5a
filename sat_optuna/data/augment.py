"""Augmentation of a whole batch at once, on its device: shift, flip, cutout.

Cutout: DeVries and Taylor, 2017 (arXiv:1708.04552). Differs from the paper: the square is filled
with 0 before normalisation (black), not after it (the mean).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Draws", "augment", "draw"]


@dataclass(frozen=True, slots=True)
class Draws:
    """What is drawn for a batch.

    Attributes:
        shifts: (N, 2) int64, pixels down and right that the window moves, -shift..shift.
        flips: (N,) bool.
        centres: (N, 2) int64, row and column of the middle of the square cut out.
    """

    shifts: Tensor
    flips: Tensor
    centres: Tensor


def augment(
    images: Tensor, generator: torch.Generator, *, shift: int, flip: bool, cutout: int
) -> Tensor:
    """Shift, flip and cut each image of a batch by draws of its own, in that order.

    Args:
        images: (N, C, H, W), uint8 or finite floats; not changed.
        generator: source of the draws, on any device; the same three draws are made whatever is
            switched on, so that switching one thing off leaves the others as they were.
        shift: up to how many pixels an image moves along each axis; what comes in is 0.
        flip: mirror left and right with probability 1/2.
        cutout: side in pixels of a square that is set to 0, centred on any pixel and clipped at
            the borders; 0 for none.

    Returns:
        (N, C, H, W) of the same dtype; `images` itself where nothing is switched on.
    """
    if not (shift or flip or cutout):
        return images
    draws = draw(images, generator, shift)
    if shift or flip:
        images = _moved(images, draws, flip=flip)
    if cutout:
        images = _cut(images, draws.centres, cutout)
    return images


def draw(images: Tensor, generator: torch.Generator, shift: int) -> Draws:
    """Make the draws for a batch (N, C, H, W), on its device."""
    count, _, height, width = images.shape
    uniform = torch.rand(count, 5, generator=generator, device=generator.device)
    uniform = uniform.to(images.device)
    sides = torch.tensor([2 * shift + 1, 2 * shift + 1, height, width])
    sides = sides.to(images.device, non_blocking=True)  # a GPU's queue goes on
    # The product may round up to the side itself.
    whole = (uniform[:, :4] * sides).long().minimum(sides - 1)
    return Draws(whole[:, :2] - shift, uniform[:, 4] < 0.5, whole[:, 2:])


def _moved(images: Tensor, draws: Draws, *, flip: bool) -> Tensor:
    _, channels, height, width = images.shape
    across = torch.arange(width, device=images.device)
    if flip:
        across = torch.where(draws.flips[:, None], width - 1 - across, across)
    rows = torch.arange(height, device=images.device) + draws.shifts[:, :1]  # (N, H)
    columns = across + draws.shifts[:, 1:]  # (N, W)
    # One gather over the flattened pixels; what comes in from outside reads any pixel, then 0.
    inside = _within(rows, height)[:, :, None] & _within(columns, width)[:, None, :]
    flat = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    source = flat.flatten(1)[:, None, :].expand(-1, channels, -1)
    moved = images.flatten(2).gather(2, source).view_as(images)
    # A product with a bool keeps the dtype and takes a thirtieth of masked_fill's time on bytes.
    return moved.mul_(inside[:, None])


def _cut(images: Tensor, centres: Tensor, side: int) -> Tensor:
    height, width = images.shape[2:]
    top_left = centres - side // 2
    rows = torch.arange(height, device=images.device) - top_left[:, :1]
    columns = torch.arange(width, device=images.device) - top_left[:, 1:]
    square = _within(rows, side)[:, :, None] & _within(columns, side)[:, None, :]
    return images * ~square[:, None]


def _within(index: Tensor, size: int) -> Tensor:
    return (index >= 0) & (index < size)
