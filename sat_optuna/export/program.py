"""Networks as torch.export programs: .pt2 files that run without this package."""

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

__all__ = ["BATCH", "EXTRA", "quiet", "read_program", "reason", "write_program"]

# The name of the JSON record among a .pt2 file's extra files.
EXTRA = "sat_optuna.json"
# How both exporters are told that the first dimension of the images is free.
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
        example: (N, C, H, W) images, two at least: a dimension of 1 would be taken for fixed.

    Raises:
        ExportError: torch.export cannot trace the network.
    """
    with quiet():
        try:
            program = torch.export.export(network, (example,), dynamic_shapes=BATCH)
        except Exception as error:  # torch has no common type for what stops a trace
            raise ExportError(
                f"torch.export cannot trace this network ({reason(error)}); write safetensors"
            ) from error
        with path.open("wb") as stream:
            torch.export.save(program, stream, extra_files={EXTRA: json.dumps(record)})


def read_program(path: Path) -> Callable[[Tensor], Tensor]:
    """Return the network of a .pt2 file."""
    with quiet(), path.open("rb") as stream:
        return cast("Callable[[Tensor], Tensor]", torch.export.load(stream).module())


@contextmanager
def quiet() -> Iterator[None]:
    """Keep a warning of torch's that is not for the user of a finished file."""
    with warnings.catch_warnings():
        # Kernels in channels_last; their strides are stored and come back, which is compared.
        warnings.filterwarnings("ignore", "No complete tensor found", UserWarning)
        yield


def reason(error: BaseException) -> str:
    """Return the first line of what a foreign error was caused by, without the full stop."""
    while error.__cause__ is not None:  # exporters wrap it in errors that name their steps alone
        error = error.__cause__
    lines = _COLOURS.sub("", str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")
