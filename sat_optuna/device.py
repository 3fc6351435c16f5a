"""Devices that are not there and memory that is used up, each in one sentence."""

import contextlib
import os
import re
import traceback
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from sat_optuna.errors import SatOptunaError

if TYPE_CHECKING:
    import torch

__all__ = ["DeviceError", "DeviceMemoryError", "known_device", "memory_for", "visible_devices"]

# What the driver, its libraries and torch's allocators say, on a GPU and on a CPU.
_NO_MEMORY = re.compile(r"out of memory|_STATUS_ALLOC_FAILED|DefaultCPUAllocator: .*memory")
_HIDING = ("", "-1", "none", "nodevfiles")  # values of CUDA_VISIBLE_DEVICES that mean no GPU
_CONTEXT = 2**30  # bytes: a process holds up to so much of a GPU beside what torch counts


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
        named = visible_devices()
        under = f" under CUDA_VISIBLE_DEVICES = {named!r}" if named else ""
        raise DeviceError(
            f"there is no device {str(given)!r}{under}; give one of those here: {here}"
        )
    return device


def visible_devices() -> str:
    """Return the GPUs, or slices of one (MIG), that CUDA_VISIBLE_DEVICES names; "" if none."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return "" if given.strip().lower() in _HIDING else given


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
        DeviceMemoryError: there is no memory left.
    """
    import torch

    try:
        yield
    except RuntimeError as error:
        known = isinstance(error, torch.OutOfMemoryError) or _NO_MEMORY.search(str(error))
        if isinstance(error, SatOptunaError) or not known:
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the activations
        asked = re.search(r"allocate ([\d.]+ \w+)", str(error))
        facts = [f"{asked[1]} more were asked for"] if asked else []
        facts += _held_by_others(str(error))
        more = f" ({', and '.join(facts)})" if facts else ""
        raise DeviceMemoryError(
            f"the device has no memory for {what}{more}; {remedy}, or end what else uses the "
            "device"
        ) from error


def _held_by_others(said: str) -> list[str]:
    """Return what other processes hold of the GPU that ran out of memory, if it is much.

    Args:
        said: by torch, which names the GPU.
    """
    import torch

    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return []
    number = re.search(r"GPU (\d+)", said)
    gpu = int(number[1]) if number else torch.cuda.current_device()
    with contextlib.suppress(RuntimeError):  # a context that could not be made has no numbers
        free, total = torch.cuda.mem_get_info(gpu)
        ours = re.search(r"this process has ([\d.]+) GiB", said)
        mine = max(torch.cuda.memory_reserved(gpu), 2**30 * float(ours[1]) if ours else 0)
        held = total - free - mine
        if held > _CONTEXT:
            return [f"other processes hold {held / 2**30:.1f} of its {total / 2**30:.1f} GiB"]
    return []
