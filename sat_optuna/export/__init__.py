"""Networks written out as one file that is known to compute the same; no torch here.

A file is loaded back and compared before it gets its name, so one that differs is never left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sat_optuna.errors import SatOptunaError

__all__ = ["SUFFIXES", "ExportError", "Exported"]

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
