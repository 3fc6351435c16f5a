"""Networks written out as one file that is known to compute the same; no torch here.

A file is loaded back and compared before it gets its name, so one that differs is never left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sat_optuna.errors import SatOptunaError
from sat_optuna.registry import nearest

__all__ = ["SUFFIXES", "ExportError", "Exported", "check_asked"]

# What a network can be written as, and how the names of such files end.
SUFFIXES: Mapping[str, str] = {
    "safetensors": ".safetensors",
    "torch-export": ".pt2",
    "onnx": ".onnx",
}


class ExportError(SatOptunaError, RuntimeError):
    """A network that cannot be written, or whose file computes something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A file that was written and compared.

    Attributes:
        path: where it is.
        format: what it is, a key of `SUFFIXES`.
        size: of the file, bytes.
        differences: by batch size, the largest difference to the network's logits over their
            largest magnitude.
        opset: of the operators; None but for ONNX.
    """

    path: Path
    format: str
    size: int
    differences: Mapping[int, float]
    opset: int | None = None


def check_asked(path: Path, *, to: str, opset: int | None = None) -> None:
    """Make sure that name, format and opset go together.

    Args:
        path: of the file that shall be written.
        to: a key of `SUFFIXES`.
        opset: of ONNX's operators; None for torch's own choice.

    Raises:
        ExportError: they do not.
    """
    if to not in SUFFIXES:
        raise ExportError(f"to = {to!r} given{nearest(to, SUFFIXES)}; use {', '.join(SUFFIXES)}")
    if path.suffix != SUFFIXES[to]:
        raise ExportError(f"{path} shall be {to}; give a name that ends in {SUFFIXES[to]}")
    if opset is not None and to != "onnx":
        raise ExportError(f"opset {opset} given with {to}, which has none; leave it out")
