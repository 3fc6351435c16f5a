"""Devices that are not there and memory that is used up, each in one sentence."""

import contextlib
import re
import traceback
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from sat_optuna.errors import SatOptunaError

if TYPE_CHECKING:
    import torch

__all__ = ["DeviceError", "DeviceMemoryError", "known_device", "memory_for"]


class DeviceError(SatOptunaError, ValueError):
    """A device that is not here."""


class DeviceMemoryError(SatOptunaError, RuntimeError):
    """A device without memory for what it shall compute."""


def known_device(
    given: "torch.device | str", *, kinds: Collection[str] | None = None
) -> "torch.device":
    """Return a device that is here.

    >>> known_device("cpu")
    device(type='cpu')

    Args:
        given: the device.
        kinds: what it may be; None for all that torch knows.

    Raises:
        DeviceError: there is no such device, or it is of another kind.
    """
    import torch

    count = torch.cuda.device_count()
    here = ", ".join(["cpu", *(f"cuda:{index}" for index in range(count))])
    try:
        device = torch.device(given)
    except RuntimeError as error:  # no name of a device
        raise DeviceError(f"device {given!r} given; give one of those here: {here}") from error
    if kinds is not None and device.type not in kinds:
        raise DeviceError(f"device {str(given)!r} given; give one of those here: {here}")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise DeviceError(f"there is no device {str(given)!r}; give one of those here: {here}")
    return device


@contextlib.contextmanager
def memory_for(what: str, remedy: str) -> Iterator[None]:
    """Say in one sentence that the device's memory does not suffice.

    >>> import torch
    >>> with memory_for("512 images", "lower train.batch"):
    ...     raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB.")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sat_optuna.device.DeviceMemoryError: the device has no memory for 512 images (2.00 GiB more ...

    What the failed passes held is given back.

    Args:
        what: needs the memory.
        remedy: what to do.

    Raises:
        DeviceMemoryError: torch has no memory left.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # they hold the activations
        asked = re.search(r"allocate ([\d.]+ \w+)", str(error))
        more = f" ({asked[1]} more were asked for)" if asked else ""
        raise DeviceMemoryError(
            f"the device has no memory for {what}{more}; {remedy}, or end what else uses the "
            "device"
        ) from error
