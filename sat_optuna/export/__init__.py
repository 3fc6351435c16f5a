"""Networks are written to one file that is known to compute the same; no torch is imported here.

A file is loaded back and compared before it gets its name, so a file that differs never stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sat_optuna.errors import SatOptunaError
from sat_optuna.registry import nearest

__all__ = ["SUFFIXES", "ExportError", "Exported", "check_format"]

# By format, how the name of a file ends.
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
        path: the file.
        format: a key of `SUFFIXES`.
        size_bytes: size of the file.
        differences: by batch size, the largest difference to the network's logits, divided by
            their largest magnitude.
        opset: version of the ONNX operators; None for other formats.
    """

    path: Path
    format: str
    size_bytes: int
    differences: Mapping[int, float]
    opset: int | None = None


def check_format(path: Path, *, to: str, opset: int | None = None) -> None:
    """Make sure that a file's name, its format and an opset go together.

    >>> check_format(Path("net.onnx"), to="onnx", opset=18)
    >>> check_format(Path("net.onnx"), to="torch-export")
    Traceback (most recent call last):
    sat_optuna.export.ExportError: net.onnx shall be torch-export; give a name that ends in .pt2

    Args:
        path: the file that shall be written.
        to: a key of `SUFFIXES`.
        opset: version of the ONNX operators; None for torch's choice.

    Raises:
        ExportError: they do not go together.
    """
    if to not in SUFFIXES:
        raise ExportError(f"to = {to!r} given{nearest(to, SUFFIXES)}; use {', '.join(SUFFIXES)}")
    if path.suffix != SUFFIXES[to]:
        raise ExportError(f"{path} shall be {to}; give a name that ends in {SUFFIXES[to]}")
    if opset is not None and to != "onnx":
        raise ExportError(f"opset {opset} given with {to}, which has none; leave it out")
