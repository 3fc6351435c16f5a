"""Networks as torch.export programs: .pt2 files, which run without this package."""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sat_optuna.export import ExportError

__all__ = ["BATCH", "EXTRA", "quiet", "read_program", "root_cause", "write_program"]

# The name of the JSON record among a .pt2 file's extra files.
EXTRA = "sat_optuna.json"
# Tells both exporters that the batch size of the images is free.
BATCH = ({0: torch.export.Dim("batch", min=1)},)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal


def write_program(
    network: nn.Module, record: Mapping[str, Any], path: Path, *, example: Tensor
) -> None:
    """Trace a network and write it with the record as an extra file.

    Args:
        network: in eval mode.
        record: JSON values.
        path: the file.
        example: (N, C, H, W) images with N at least 2; torch takes a dimension of 1 as fixed.

    Raises:
        ExportError: torch.export cannot trace the network.
    """
    with quiet():
        try:
            program = torch.export.export(network, (example,), dynamic_shapes=BATCH)
        except Exception as error:  # torch raises any type of error here
            raise ExportError(
                f"torch.export cannot trace this network ({root_cause(error)}); write safetensors"
            ) from error
        with path.open("wb") as stream:
            torch.export.save(program, stream, extra_files={EXTRA: json.dumps(record)})


def read_program(path: Path) -> Callable[[Tensor], Tensor]:
    """Return the network of a .pt2 file."""
    with quiet(), path.open("rb") as stream:
        return cast("Callable[[Tensor], Tensor]", torch.export.load(stream).module())


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress a warning of torch's that says nothing to a user whose file has been compared."""
    with warnings.catch_warnings():
        # It comes with kernels in channels_last. Their strides are stored and come back; that is
        # compared.
        warnings.filterwarnings("ignore", "No complete tensor found", UserWarning)
        yield


def root_cause(error: BaseException) -> str:
    """Return the first line of the error that was the first cause, without its full stop."""
    while error.__cause__ is not None:  # an exporter's own errors name only the exporter's step
        error = error.__cause__
    lines = _COLOURS.sub("", str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")
