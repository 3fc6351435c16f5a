"""What a user's images and labels must be: arrays, or the batches of a DataLoader."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sat_optuna.config.config import IGNORED
from sat_optuna.errors import DataError, errors_as

__all__ = [
    "MAPS",
    "TARGETS",
    "UserArray",
    "UserPair",
    "checked_images",
    "checked_labels",
    "checked_pair",
    "checked_targets",
]

UserArray: TypeAlias = Tensor | np.ndarray[Any, np.dtype[Any]]
UserPair: TypeAlias = tuple[UserArray, UserArray | Sequence[int]]
"""Images and their labels, as a user gives them."""

TARGETS = ("labels", "multi-hot", "numbers", "masks", "density")
"""What an image may come with: its class, a column a class of 0 and 1, a number, or a map of its
own height and width: the class of each pixel, or a density whose sum is a count."""

MAPS = ("masks", "density")
"""Those that are maps (H, W)."""

_CHANNELS = (1, 3, 4)  # of images as files hold them: grey, colour, colour with transparency


def checked_pair(
    x: object, y: object, *, of: str = "", targets: str = "labels"
) -> tuple[Tensor, Tensor]:
    """Return images and their labels, or other targets, as tensors.

    Args:
        x: as in `checked_images`.
        y: as in `checked_targets`.
        of: what they belong to, for messages, for example `" of valid"`.
        targets: what `y` holds, one of TARGETS.

    Raises:
        DataError: one of them is not what it must be, or their numbers differ.
    """
    images, labels = checked_images(x, f"x{of}"), checked_targets(y, f"y{of}", targets)
    if len(images) != len(labels):
        raise DataError(
            f"x{of} has {len(images)} images and y{of} {len(labels)} labels; give a label for each"
        )
    if targets in MAPS and labels.shape[1:] != images.shape[2:]:
        height, width = images.shape[2:]
        raise DataError(
            f"x{of} has images of {height} x {width} pixels and y{of} {targets} of "
            f"{labels.shape[1]} x {labels.shape[2]}; bring both to one size"
        )
    return images, labels


def checked_images(x: object, what: str) -> Tensor:
    """Return images as a tensor that a network can be given, or bytes that can be normalised.

    >>> checked_images(np.zeros((2, 1, 8, 8)), "x").dtype
    torch.float32

    Args:
        x: (N, C, H, W), uint8 or any floats; memory is shared with it where that is possible.
        what: their name, for messages.

    Returns:
        (N, C, H, W) uint8 or float32.

    Raises:
        DataError: another shape, another type of numbers, no image, or a number that is not
            finite.
    """
    array = _array(x, what)
    shape = tuple(array.shape)
    if len(shape) != 4 or _has_channels_last(shape[1:]):
        raise DataError(f"{what} has shape {shape}{_shape_hint(shape)}")
    if 0 in shape:
        raise DataError(f"{what} has shape {shape}, which holds no image; give at least one")
    floats = array.is_floating_point() if isinstance(array, Tensor) else array.dtype.kind == "f"
    if not floats and _type_of(array) != "uint8":
        raise DataError(f"{what} is {_type_of(array)}; give uint8 from 0 to 255, or floats")
    if isinstance(array, Tensor):
        images = array.float() if floats else array
    else:
        images = torch.from_numpy(
            np.require(array, np.float32 if floats else np.uint8, ("C", "W"))
        )
    if floats and not images.isfinite().all():
        broken = (~images.isfinite()).flatten(1).any(dim=1).nonzero()
        raise DataError(
            f"{what} has a value that is not finite in image {int(broken[0])}; correct it, or "
            "leave the image out"
        )
    return images


def checked_targets(y: object, what: str, targets: str) -> Tensor:
    """Return what images come with as a tensor.

    >>> checked_targets([[0, 1], [1, 1]], "y", "multi-hot")
    tensor([[0., 1.],
            [1., 1.]])

    Args:
        y: of "labels" as in `checked_labels`; of "multi-hot" (N, classes) of 0 and 1; of "numbers"
            (N,) finite numbers; of "masks" (N, H, W) whole numbers, the class of each pixel from 0
            to 254, or 255 for none; of "density" (N, H, W) finite numbers of at least 0.
        what: their name, for messages.
        targets: one of TARGETS.

    Returns:
        int64 of labels, uint8 of masks, else float32.

    Raises:
        DataError: they are something else.
    """
    if targets == "labels":
        return checked_labels(y, what)
    if targets not in TARGETS:
        raise DataError(f"targets is {targets!r}; write one of {', '.join(map(repr, TARGETS))}")
    array = _array(y, what)
    shape, kind = tuple(array.shape), _type_of(array)
    wanted, dimensions = _WANTED[targets]
    if len(shape) != dimensions or not all(shape):
        raise DataError(f"{what} has shape {shape}; give {wanted}, for targets = {targets!r}")
    if not kind.startswith(("int", "uint", "float", "bool", "bfloat")):
        raise DataError(f"{what} is {kind}; give {wanted}, for targets = {targets!r}")
    tensor = array if isinstance(array, Tensor) else torch.from_numpy(np.require(array, None, "W"))
    if targets == "masks":
        return _checked_masks(tensor, what)
    numbers = tensor.float()
    if not numbers.isfinite().all():
        broken = (~numbers.isfinite()).flatten(1 if dimensions > 1 else 0).nonzero()
        raise DataError(
            f"{what} has a value that is not finite for image {int(broken[0][0])}; correct it, or "
            "leave the image out"
        )
    if targets == "multi-hot" and not ((numbers == 0) | (numbers == 1)).all():
        odd = numbers[(numbers != 0) & (numbers != 1)][0].item()
        raise DataError(f"{what} has the value {odd:g}; give {wanted}, for targets = 'multi-hot'")
    if targets == "density" and (numbers < 0).any():
        raise DataError(
            f"{what} has the density {numbers.min():g}; give {wanted}, for targets = 'density'"
        )
    return numbers


_WANTED = {
    "multi-hot": ("(N, classes), a column of 0 and 1 for each class", 2),
    "numbers": ("(N,), a number for each image", 1),
    "masks": (f"(N, H, W), the class of each pixel from 0, or {IGNORED} where it has none", 3),
    "density": ("(N, H, W), densities of at least 0 whose sum is an image's count", 3),
}


def _checked_masks(given: Tensor, what: str) -> Tensor:
    if given.is_floating_point() or given.dtype == torch.bool:
        raise DataError(
            f"{what} is {_type_of(given)}; give whole numbers, the classes numbered from 0, for "
            "example y.astype('uint8')"
        )
    low, high = int(given.min()), int(given.max())
    if low < 0 or high > IGNORED:
        odd = low if low < 0 else high
        raise DataError(
            f"{what} has a pixel of class {odd}; number the classes from 0 to {IGNORED - 1}, and "
            f"write {IGNORED} where a pixel has none"
        )
    return given.to(torch.uint8)


def checked_labels(y: object, what: str) -> Tensor:
    """Return labels as a tensor.

    >>> checked_labels([0, 2, 1], "y")
    tensor([0, 2, 1])

    Args:
        y: (N,) whole numbers from 0.
        what: their name, for messages.

    Returns:
        (N,) int64.

    Raises:
        DataError: floats, texts, one-hot rows, another shape, or a number below 0.
    """
    array = _array(y, what)
    shape = tuple(array.shape)
    if len(shape) == 2 and shape[1] > 1:
        raise DataError(
            f"{what} has shape {shape}, which looks like one-hot rows; give the number of each "
            f"image's class, {what[0]}.argmax(1), or targets='multi-hot' where an image may have "
            "several"
        )
    if len(shape) != 1:
        mask = ", or targets='masks' for a class a pixel" if len(shape) > 2 else ""
        raise DataError(f"{what} has shape {shape}; give (N,), a label for each image{mask}")
    kind = _type_of(array)
    if kind == "bool" or not kind.startswith(("int", "uint")):
        raise DataError(
            f"{what} is {kind}; give whole numbers, the classes numbered from 0, for example "
            "numpy.unique(y, return_inverse=True)[1]"
            + (", or targets='numbers' to learn the number itself" if "float" in kind else "")
        )
    if isinstance(array, Tensor):
        labels = array.long()
    else:
        labels = torch.from_numpy(np.require(array, np.int64, ("C", "W")))
    if len(labels) and int(labels.min()) < 0:
        raise DataError(f"{what} has the label {int(labels.min())}; number the classes from 0")
    return labels


def _array(value: object, what: str) -> UserArray:
    if isinstance(value, Tensor):
        return value.detach()
    with errors_as(
        DataError,
        f"{what} is a {type(value).__name__} that cannot be made an array",
        "give a NumPy array or a torch tensor",
    ):
        return np.asarray(value)


def _type_of(array: UserArray) -> str:
    """Return the name of an array's type: float32, uint8, str128 ..."""
    return (
        str(array.dtype).removeprefix("torch.") if isinstance(array, Tensor) else array.dtype.name
    )


def _has_channels_last(shape: tuple[int, ...]) -> bool:
    return shape[2] in _CHANNELS and min(shape[:2]) > max(_CHANNELS)


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        return (
            ", which looks like channels last; give (N, C, H, W): x.transpose(0, 3, 1, 2) in "
            "NumPy, x.permute(0, 3, 1, 2) in torch"
        )
    if len(shape) == 3 and _has_channels_last(shape):
        return (
            ", which looks like one image with channels last; give (N, C, H, W): "
            "x.transpose(2, 0, 1)[None] in NumPy, x.permute(2, 0, 1)[None] in torch"
        )
    grey = ": x[:, None] for grey images" if len(shape) == 3 else ""
    return f"; give (N, C, H, W){grey}"
