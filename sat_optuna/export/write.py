"""Writing a network to a file: it is loaded back and compared before it gets its name."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sat_optuna.export import Exported, ExportError, check_format
from sat_optuna.export.network import check_network
from sat_optuna.export.onnx import check_onnx, read_onnx, write_onnx
from sat_optuna.export.preprocessing import WithPreprocessing, inputs_of
from sat_optuna.export.program import read_program, root_cause, write_program
from sat_optuna.export.weights import load_ticket, memory_format_of, record_of, write_weights
from sat_optuna.files import write_atomically
from sat_optuna.seeds import generator_for
from sat_optuna.ticket import Inputs, Ticket

__all__ = ["BATCHES", "TOLERANCE", "export_ticket"]

# Batch sizes of the random images on which the file and the network are compared.
BATCHES = (1, 2, 5)
# By format, the difference that is allowed, relative to the largest logit. Other formats must be
# exact.
TOLERANCE = {"onnx": 1e-5}


def export_ticket(
    network: nn.Module,
    ticket: Ticket,
    path: str | PathLike[str],
    *,
    to: str,
    opset: int | None = None,
    preprocessing: bool = False,
) -> Exported:
    """Write a network to one file that is known to compute the same.

        export_ticket(network, ticket, "ticket.onnx", to="onnx")

    The file runs any batch size, and has the network's memory format.

    Args:
        network: on any device and in any mode; it is not changed.
        ticket: of this network; it is stored in the file.
        path: the file; an existing file is replaced.
        to: a key of `SUFFIXES`.
        opset: version of the ONNX operators; None for torch's choice.
        preprocessing: whether scale and normalisation are part of the program, so that it takes
            uint8 images (or float32, in the numbers of deeper files); see `WithPreprocessing`.

    Raises:
        TicketError: preprocessing is asked for, and the ticket says none.
        ExportError: the network is not the ticket's, it cannot be written in that format, or the
            file computes something else. A file that existed before is untouched.
        WriteError: the disk is full, or the like.
    """
    path = Path(path)
    if preprocessing and to == "safetensors":
        raise ExportError(
            "preprocessing is asked for in safetensors, which hold weights and no program; export "
            "as torch-export or onnx"
        )
    wanted = inputs_of(ticket) if preprocessing else None
    _check(network, ticket, path, to=to, opset=opset)
    reference = copy.deepcopy(network).cpu().eval()
    written = WithPreprocessing(reference, wanted).eval() if wanted else reference
    draw = partial(_images, written, ticket.input_shape, wanted)
    found: dict[str, Any] = {}

    def write(temporary: Path) -> None:
        record = record_of(reference, ticket) | ({"preprocessing": True} if wanted else {})
        found["opset"] = _write(written, record, temporary, to, example=draw(2), opset=opset)
        found["differences"] = _compared(
            _opened(temporary, path=path, to=to), written, draw, path=path, to=to
        )
        found["size_bytes"] = temporary.stat().st_size

    write_atomically(path, write)
    return Exported(path=path, format=to, **found)


_READERS: Mapping[str, Callable[[Path], Callable[[Tensor], Tensor]]] = {
    "safetensors": load_ticket,
    "torch-export": read_program,
    "onnx": read_onnx,
}


def _check(network: nn.Module, ticket: Ticket, path: Path, *, to: str, opset: int | None) -> None:
    check_format(path, to=to, opset=opset)
    if to == "onnx":
        check_onnx(opset)
    check_network(network, ticket, to=to)


def _write(
    network: nn.Module,
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
    """Return the network of a temporary file; messages name `path` instead of it."""
    try:
        return _READERS[to](temporary)
    except (ExportError, OSError):
        raise
    except Exception as error:  # torch and onnxruntime raise any type of error
        cause = root_cause(error).replace(str(temporary), str(path))
        raise ExportError(
            f"{path} was not written: as {to} it cannot be read back ({cause}); choose another "
            "format"
        ) from error


def _images(
    network: nn.Module, shape: tuple[int, int, int], inputs: Inputs | None, batch: int
) -> Tensor:
    """Draw (batch, C, H, W) images in the dtype and memory format that are taken."""
    generator = generator_for("export", batch)
    if inputs is None:
        drawn = torch.randn(batch, *shape, generator=generator)
        drawn = drawn.to(next(network.parameters()).dtype)
    elif inputs.numbers == "bytes":
        drawn = torch.randint(256, (batch, *shape), generator=generator, dtype=torch.uint8)
    else:
        drawn = torch.rand(batch, *shape, generator=generator) * inputs.white
    return drawn.contiguous(memory_format=memory_format_of(network))


def _compared(
    loaded: Callable[[Tensor], Tensor],
    network: nn.Module,
    draw: Callable[[int], Tensor],
    *,
    path: Path,
    to: str,
) -> dict[int, float]:
    """Return the differences by batch size.

    Raises:
        ExportError: a difference is too large.
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
        if not apart <= limit:  # true for NaN as well
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
    except Exception as error:  # torch and onnxruntime raise any type of error
        raise ExportError(
            f"{path} was not written: as {to} it does not run at batch {len(images)} "
            f"({root_cause(error)}); choose another format"
        ) from error
