"""Writing a network: temporary file, loading back, comparing, and only then its name."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sat_optuna.export import Exported, ExportError, check_asked
from sat_optuna.export.network import check_network
from sat_optuna.export.onnx import check_onnx, read_onnx, write_onnx
from sat_optuna.export.program import read_program, reason, write_program
from sat_optuna.export.weights import load_ticket, memory_format_of, record_of, write_weights
from sat_optuna.files import write_atomically
from sat_optuna.seeds import generator_for
from sat_optuna.supernet.materialise import TicketNetwork
from sat_optuna.ticket import Ticket

__all__ = ["BATCHES", "TOLERANCE", "export_ticket"]

# Sizes of the batches of random images on which file and network are compared.
BATCHES = (1, 2, 5)
# How far a file may be off, relative to the largest logit; the others have to be exact.
TOLERANCE = {"onnx": 1e-5}


def export_ticket(
    network: TicketNetwork,
    ticket: Ticket,
    path: str | PathLike[str],
    *,
    to: str,
    opset: int | None = None,
) -> Exported:
    """Write a network as one file that is known to compute the same.

    Any batch size can be run with the file. Its memory format is the network's.

    Args:
        network: on any device and in any mode; it is left as it is.
        ticket: of this network; stored in the file.
        path: of the file, replaced if it is there.
        to: a key of `SUFFIXES`.
        opset: of ONNX's operators; None for torch's own choice.

    Raises:
        ExportError: it is not the ticket's network, cannot be written so, or the file computes
            something else; a file that was there before is untouched.
        WriteError: the disk is full, or the like.
    """
    path = Path(path)
    _check(network, ticket, path, to=to, opset=opset)
    reference = copy.deepcopy(network).cpu().eval()
    draw = partial(_images, reference, ticket.input_shape)
    found: dict[str, Any] = {}

    def write(temporary: Path) -> None:
        record = record_of(reference, ticket)
        found["opset"] = _write(reference, record, temporary, to, example=draw(2), opset=opset)
        found["differences"] = _compared(
            _opened(temporary, path=path, to=to), reference, draw, path=path, to=to
        )
        found["size"] = temporary.stat().st_size

    write_atomically(path, write)
    return Exported(path=path, format=to, **found)


_READERS: Mapping[str, Callable[[Path], Callable[[Tensor], Tensor]]] = {
    "safetensors": load_ticket,
    "torch-export": read_program,
    "onnx": read_onnx,
}


def _check(
    network: TicketNetwork, ticket: Ticket, path: Path, *, to: str, opset: int | None
) -> None:
    check_asked(path, to=to, opset=opset)
    if to == "onnx":
        check_onnx(opset)
    check_network(network, ticket, to=to)


def _write(
    network: TicketNetwork,
    record: Mapping[str, Any],
    path: Path,
    to: str,
    *,
    example: Tensor,
    opset: int | None,
) -> int | None:
    if to == "safetensors":
        write_weights(network, record, path)
    elif to == "torch-export":
        write_program(network, record, path, example=example)
    else:
        return write_onnx(network, record, path, example=example, opset=opset)
    return None


def _opened(temporary: Path, *, path: Path, to: str) -> Callable[[Tensor], Tensor]:
    """Return the network of a temporary file, which no message names."""
    try:
        return _READERS[to](temporary)
    except (ExportError, OSError):
        raise
    except Exception as error:  # neither torch nor onnxruntime has a common type
        said = reason(error).replace(str(temporary), str(path))
        raise ExportError(
            f"{path} was not written: as {to} it cannot be read back ({said}); choose another "
            "format"
        ) from error


def _images(network: TicketNetwork, shape: tuple[int, int, int], batch: int) -> Tensor:
    """Draw (batch, C, H, W) images in the network's dtype and memory format."""
    drawn = torch.randn(batch, *shape, generator=generator_for("export", batch))
    drawn = drawn.to(next(network.parameters()).dtype)
    return drawn.contiguous(memory_format=memory_format_of(network))


def _compared(
    loaded: Callable[[Tensor], Tensor],
    network: TicketNetwork,
    draw: Callable[[int], Tensor],
    *,
    path: Path,
    to: str,
) -> dict[int, float]:
    """Return the differences by batch size.

    Raises:
        ExportError: one is too large.
    """
    limit = TOLERANCE.get(to, 0.0)
    least = torch.finfo(torch.float64).tiny
    differences: dict[int, float] = {}
    for batch in BATCHES:
        images = draw(batch)
        with torch.no_grad():
            wanted = network(images).double()
            got = _run(loaded, images, path=path, to=to).double()
        apart = float((got - wanted).abs().max() / wanted.abs().max().clamp_min(least))
        if not apart <= limit:  # NaN is too large as well
            raise ExportError(
                f"{path} was not written: as {to} it differs from the network by {apart:.2e} of "
                f"the largest logit at batch {batch} and {limit:g} is allowed; choose another "
                "format"
            )
        differences[batch] = apart
    return differences


def _run(loaded: Callable[[Tensor], Tensor], images: Tensor, *, path: Path, to: str) -> Tensor:
    try:
        return loaded(images)
    except Exception as error:  # neither torch nor onnxruntime has a common type
        raise ExportError(
            f"{path} was not written: as {to} it does not run at batch {len(images)} "
            f"({reason(error)}); choose another format"
        ) from error
