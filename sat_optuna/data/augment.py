"""Augmentation: patches, shift, flip and cutout of a whole batch at once; torchvision's by name.

Cutout: DeVries and Taylor, 2017 (arXiv:1708.04552). Differs from the paper: the square is filled
with 0 before normalisation (black), not after it (the mean).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast, overload

import torch
from torch import Tensor

from sat_optuna.config.config import IGNORED
from sat_optuna.errors import DataError
from sat_optuna.seeds import seeded

__all__ = ["POLICIES", "Draws", "augment", "augmented", "check_crop", "draw", "mixing", "patches"]

# By the names of [train] augment, torchvision's classes (torchvision.transforms.v2).
POLICIES = {
    "randaugment": "RandAugment",
    "trivialaugment": "TrivialAugmentWide",
    "augmix": "AugMix",
    "autoaugment": "AutoAugment",
}


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


@overload
def augment(
    images: Tensor,
    generator: torch.Generator,
    maps: None = None,
    *,
    shift: int,
    flip: bool,
    cutout: int,
) -> Tensor: ...
@overload
def augment(
    images: Tensor,
    generator: torch.Generator,
    maps: Tensor,
    *,
    shift: int,
    flip: bool,
    cutout: int,
) -> tuple[Tensor, Tensor]: ...
def augment(
    images: Tensor,
    generator: torch.Generator,
    maps: Tensor | None = None,
    *,
    shift: int,
    flip: bool,
    cutout: int,
) -> Tensor | tuple[Tensor, Tensor]:
    """Shift, flip and cut each image of a batch by draws of its own, in that order.

    A map of an image is shifted and flipped as the image is, and not cut: what comes in has no
    class in a mask, 255, and the density 0.

    Args:
        images: (N, C, H, W), uint8 or finite floats; not changed.
        generator: source of the draws, on any device; the same three draws are made whatever is
            switched on, so that switching one thing off leaves the others as they were.
        maps: (N, H, W) masks, uint8 or int64, or densities, float32; not changed.
        shift: up to how many pixels an image moves along each axis; what comes in is 0.
        flip: mirror left and right with probability 1/2.
        cutout: side in pixels of a square that is set to 0, centred on any pixel and clipped at
            the borders; 0 for none.

    Returns:
        (N, C, H, W) of the same dtype; `images` itself where nothing is switched on. With maps
        both.
    """
    if shift or flip or cutout:
        draws = draw(images, generator, shift)
        if shift or flip:
            images = _moved(images, draws, flip=flip)
            if maps is not None:
                outside = 0 if maps.is_floating_point() else IGNORED
                maps = _moved(maps[:, None], draws, flip=flip, outside=outside)[:, 0]
        if cutout:
            images = _cut(images, draws.centres, cutout)
    return images if maps is None else (images, maps)


def check_crop(
    crop: int, *, maps: bool, task: str, shape: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Return the shape of what is learnt from, of patches where they are asked for.

    Args:
        crop: side of the patches; 0 for whole images.
        maps: whether the targets are maps.
        task: its name.
        shape: (C, H, W) of an image.

    Raises:
        DataError: patches have no target of their own, or the images are smaller.
    """
    if not crop:
        return shape
    if not maps:
        raise DataError(
            f"crop is {crop} and the task is {task}, whose target is of a whole image and need "
            "not be that of a patch; set train.crop to 0"
        )
    channels, height, width = shape
    if crop > min(height, width):
        raise DataError(
            f"crop is {crop} and the images are {height} x {width}; set train.crop to at most "
            f"{min(height, width)}, or to 0 for whole images"
        )
    return channels, crop, crop


def patches(
    images: Tensor, maps: Tensor, generator: torch.Generator, *, side: int
) -> tuple[Tensor, Tensor]:
    """Cut a square at random out of each image, and the same out of its map.

    The sum of a density there is the count of the patch.

    Args:
        images: (N, C, H, W); not changed.
        maps: (N, H, W); not changed.
        generator: draws the places, each as likely as any other.
        side: in pixels, at most H and W.

    Returns:
        (N, C, side, side) and (N, side, side).
    """
    count, _, height, width = images.shape
    ends = torch.tensor([height - side + 1, width - side + 1])
    uniform = torch.rand(count, 2, generator=generator, device=generator.device).cpu()
    corners = (uniform * ends).long().minimum(ends - 1).tolist()  # the product may round up
    cut = [
        (image[:, top : top + side, left : left + side], one[top : top + side, left : left + side])
        for image, one, (top, left) in zip(images, maps, corners, strict=True)
    ]
    return torch.stack([image for image, _ in cut]), torch.stack([one for _, one in cut])


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


def _moved(images: Tensor, draws: Draws, *, flip: bool, outside: int = 0) -> Tensor:
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
    if outside:
        return moved.masked_fill_(~inside[:, None], outside)
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


def augmented(
    policy: str, first: Callable[[Tensor], Tensor], *, key: tuple[str | int, ...]
) -> Callable[[Tensor], Tensor]:
    """Return what augments one batch after another: `first`, then a policy of torchvision's.

    Each image is changed by draws of its own, which are a function of the key and of the batch's
    number alone.

    Args:
        policy: a name of `POLICIES`.
        first: called with (N, C, H, W).
        key: of the draws, such as ("policy", seed, epoch).

    Returns:
        A function from uint8 (N, C, H, W) to the same. It raises DataError for other numbers, and
        for other channels than 1 or 3.
    """
    from torchvision.transforms import v2

    change, batches = getattr(v2, POLICIES[policy])(), 0

    def both(images: Tensor) -> Tensor:
        nonlocal batches
        if images.dtype != torch.uint8 or images.shape[1] not in (1, 3):
            raise DataError(
                f"augment = {policy!r} changes bytes in 1 or 3 channels, and these images are "
                f"{str(images.dtype).removeprefix('torch.')} in {images.shape[1]}; set augment = "
                "'none', or put it among the transforms of your Dataset"
            )
        images = first(images)
        with seeded(*key, batches):
            batches += 1
            return torch.stack([change(image) for image in images])

    return both


def mixing(
    mixup: float, cutmix: float, *, classes: int
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Return what mixes the images and labels of a batch; None where nothing is switched on.

    Args:
        mixup: alpha of MixUp (arXiv:1710.09412); 0 for none.
        cutmix: alpha of CutMix (arXiv:1905.04899); 0 for none. With both, a batch is mixed by one
            of the two, either as often.
        classes: of the network.

    Returns:
        A function from floats (N, C, H, W) and labels (N,) to images of that shape and (N,
        classes) shares of the labels. It draws from torch's global generator.
    """
    if not (mixup or cutmix):
        return None
    from torchvision.transforms import v2

    kinds = ((mixup, v2.MixUp), (cutmix, v2.CutMix))
    mixes: list[Any] = [kind(alpha=alpha, num_classes=classes) for alpha, kind in kinds if alpha]
    either: Any = v2.RandomChoice(mixes)
    return cast("Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]", either)
