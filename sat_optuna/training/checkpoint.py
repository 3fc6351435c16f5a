"""Checkpoints: tensors and a JSON record in one safetensors file; no pickle anywhere.

The record can be read without importing torch, so that finding a step done costs nothing. A digest
of both lies in the file, and is compared before the tensors are used.
"""

import contextlib
import hashlib
import io
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sat_optuna.errors import CheckpointError
from sat_optuna.files import check_is_file, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "EpochRecord",
    "check_digest",
    "environment",
    "load_tensors",
    "read_record",
    "save_checkpoint",
    "versions",
]

_KEY = "sat_optuna"
_PACKAGES = ("sat_optuna", "torch", "torchvision", "optuna", "mlflow", "numpy")


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What one epoch did.

    Attributes:
        epoch: from 0.
        loss: mean loss of the training steps, of a classification the cross-entropy.
        accuracy: per cent of augmented training images classified right during the steps; None in
            a task without labels.
        lr: learning rate of the last step.
    """

    epoch: int
    loss: float
    accuracy: float | None
    lr: float


def versions() -> dict[str, str]:
    """Return the versions of Python and of those packages that decide a result and are here."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = _version(name)
    return found


@cache  # read from a file; a process keeps what it has imported
def _version(name: str) -> str:
    return version(name)


def environment(device: str, threads: int) -> dict[str, Any]:
    """Return what a training's bits depend on beside its seed: versions, machine, threads."""
    kept = {name: _version(name) for name in ("torch", "numpy")}
    machine = f"{platform.machine()} {platform.system()} {os.cpu_count()} cores"
    return {"versions": kept, "machine": machine, "device": device, "threads": threads}


def save_checkpoint(
    path: Path, tensors: "Mapping[str, Tensor]", record: Mapping[str, Any]
) -> Path:
    """Write tensors and record to `path`, whole or not at all.

    Args:
        path: the file.
        tensors: by name; stored contiguous.
        record: anything JSON can hold.
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(record)
    digest = _digest(io.BytesIO(save(plain)), text)
    # One entry, since safetensors writes several in any order: the same content, the same bytes.
    payload = save(plain, metadata={_KEY: f"{text}\n{digest}"})
    return write_atomically(path, lambda temporary: temporary.write_bytes(payload))


def read_record(path: Path) -> dict[str, Any]:
    """Return the JSON record of a checkpoint without reading its tensors.

    Raises:
        CheckpointError: there is no such file, or it is cut or not ours.
    """
    text, _ = _metadata(path)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(record, dict):
        raise _unreadable(path, "it is not of this program")
    return record


def check_digest(path: Path) -> None:
    """Make sure that tensors and record are bit for bit those that were written.

    A file of version 0.2.0 and earlier holds no digest, and passes.

    Raises:
        CheckpointError: there is no such file, it is cut, or its bytes have changed.
    """
    text, wanted = _metadata(path)
    with path.open("rb") as stream:
        changed = wanted and _digest(stream, text) != wanted
    if changed:
        reason = "its bytes have changed since it was written"
        raise _unreadable(path, reason) from ValueError(reason)


def _metadata(path: Path) -> tuple[str, str]:
    """Return the record's text and the digest; the empty text where there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        check_is_file(path)
        with safe_open(path, framework="numpy") as stored:  # checks header and length
            text, _, digest = (stored.metadata() or {}).get(_KEY, "null").partition("\n")
            return text, digest
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is no checkpoint {path}; run the training that writes it"
        ) from error
    except (OSError, SafetensorError, ValueError) as error:
        raise _unreadable(path, error) from error


def _digest(stream: BinaryIO, text: str) -> str:
    """Return the SHA-256 of a safetensors file's tensors and of the record's text."""
    header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    header.pop("__metadata__", None)
    digest = hashlib.sha256(json.dumps([text, header], sort_keys=True).encode())
    while part := stream.read(2**20):
        digest.update(part)
    return digest.hexdigest()


def load_tensors(path: Path) -> "dict[str, Tensor]":
    """Return the tensors of a checkpoint, on the CPU.

    Raises:
        CheckpointError: there is no such file, it is cut or not ours, or its bytes have changed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read_record(path)
    check_digest(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, reason: object) -> CheckpointError:
    # What the system says of a disk or of rights says nothing against the file.
    healthy = isinstance(reason, OSError) and not isinstance(reason, IsADirectoryError)
    first = "see to that" if healthy else "move it away"
    return CheckpointError(
        f"cannot read checkpoint {path}: {reason}; {first} and run the same command again"
    )
