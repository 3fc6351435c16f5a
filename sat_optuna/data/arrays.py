"""What a user's images and labels must be: arrays, or the batches of a DataLoader."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sat_optuna.errors import DataError, errors_as

__all__ = ["UserArray", "UserPair", "checked_images", "checked_labels", "checked_pair"]

UserArray: TypeAlias = Tensor | np.ndarray[Any, np.dtype[Any]]
UserPair: TypeAlias = tuple[UserArray, UserArray | Sequence[int]]
"""Images and their labels, as a user gives them."""

_CHANNELS = (1, 3, 4)  # of images as files hold them: grey, colour, colour with transparency


def checked_pair(x: object, y: object, *, of: str = "") -> tuple[Tensor, Tensor]:
    """Return images and their labels as tensors.

    Args:
        x: as in `checked_images`.
        y: as in `checked_labels`.
        of: what they belong to, for messages, for example `" of valid"`.

    Raises:
        DataError: one of them is not what it must be, or their numbers differ.
    """
    images, labels = checked_images(x, f"x{of}"), checked_labels(y, f"y{of}")
    if len(images) != len(labels):
        raise DataError(
            f"x{of} has {len(images)} images and y{of} {len(labels)} labels; give a label for each"
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
            f"image's class, {what[0]}.argmax(1)"
        )
    if len(shape) != 1:
        raise DataError(f"{what} has shape {shape}; give (N,), a label for each image")
    kind = _type_of(array)
    if kind == "bool" or not kind.startswith(("int", "uint")):
        raise DataError(
            f"{what} is {kind}; give whole numbers, the classes numbered from 0, for example "
            "numpy.unique(y, return_inverse=True)[1]"
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
