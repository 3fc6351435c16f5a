"""Weights and ticket in one safetensors file, and networks out of it; no pickle anywhere.

import sat_optuna as sat
network = sat.load_ticket("ticket.safetensors")
"""

import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from sat_optuna.attention import ATTENTION, OWN
from sat_optuna.backbones import BACKBONES
from sat_optuna.checkpoint import load_tensors, read_record, save_checkpoint
from sat_optuna.errors import CheckpointError, TicketError, UnknownName, WriteError
from sat_optuna.surgery import TicketNetwork, build_network
from sat_optuna.ticket import Ticket

__all__ = [
    "load_ticket",
    "load_weights",
    "memory_format_of",
    "read_ticket",
    "record_of",
    "write_weights",
]

_SCHEMA = 1
_FORMATS = {str(memory): memory for memory in (torch.contiguous_format, torch.channels_last)}
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}
_TRAINED = "model."  # what a training's checkpoint calls the network's tensors


def load_ticket(path: str | PathLike[str]) -> TicketNetwork:
    """Build a network with nothing but the file that `export --to safetensors` wrote.

    Args:
        path: the file.

    Returns:
        The network on the CPU, in eval mode and in the memory format it was written in.

    Raises:
        TicketError: there is no ticket in the file.
        CheckpointError: the file is cut, or its tensors are not those of the ticket's network.
        UnknownName: the backbone or an attention module is not registered here.
    """
    return load_weights(read_ticket(Path(path)), Path(path))


def load_weights(ticket: Ticket, path: Path) -> TicketNetwork:
    """Build a ticket's network with the weights of a file.

    Args:
        ticket: what to build.
        path: a training's checkpoint of this very network, or what `export` wrote of it.

    Returns:
        The network on the CPU, in eval mode and in the memory format the file records.

    Raises:
        CheckpointError: the file is cut, or holds the tensors of another network.
        UnknownName: the backbone or an attention module is not registered here.
    """
    record, tensors = _readable(path, read_record), _readable(path, load_tensors)
    if "ticket" not in record:
        kept = {k: v for k, v in tensors.items() if k.startswith(_TRAINED)}
        tensors = {name.removeprefix(_TRAINED): tensor for name, tensor in kept.items()}
    network = _network_of(ticket, path)
    network.to(_DTYPES.get(record.get("dtype", ""), torch.float32))  # a training says none
    memory = _FORMATS.get(record.get("memory_format", ""), torch.contiguous_format)
    cast("Any", network).to(memory_format=memory)
    _fill(network, tensors, path=path)
    return network.eval()


def read_ticket(path: Path) -> Ticket:
    """Return the ticket of a file that `export --to safetensors` wrote.

    Raises:
        TicketError: there is no ticket in it.
        CheckpointError: there is no such file, or it is cut.
    """
    record = _readable(path, read_record)
    if "ticket" not in record:
        raise TicketError(
            f"{path} holds weights without a ticket, which alone says of what network; write both "
            f"into one file with: sat-optuna export TICKET --to safetensors --weights {path}"
        )
    if record.get("schema") != _SCHEMA:
        raise TicketError(
            f"{path} has schema {record.get('schema')!r} and this version reads schema {_SCHEMA}; "
            "install the version of sat_optuna that wrote it"
        )
    return Ticket.from_json(json.dumps(record["ticket"]), source=str(path))


def memory_format_of(network: TicketNetwork) -> torch.memory_format:
    """Return the memory format that a network's convolutions are in."""
    kernels = [value for value in network.parameters() if value.dim() == 4]
    # One that is contiguous in both ways, a 1x1 kernel for example, tells nothing.
    last = any(not k.is_contiguous() for k in kernels)
    return torch.channels_last if last else torch.contiguous_format


def record_of(network: TicketNetwork, ticket: Ticket) -> dict[str, Any]:
    """Return what is stored beside the weights, JSON values."""
    return {
        "schema": _SCHEMA,
        "ticket": json.loads(ticket.to_json()),
        "memory_format": str(memory_format_of(network)),
        "dtype": str(next(network.parameters()).dtype).removeprefix("torch."),
    }


def write_weights(network: TicketNetwork, record: Mapping[str, Any], path: Path) -> None:
    """Write a network's tensors and the record to `path`.

    Raises:
        OSError: the disk is full, or the like.
    """
    try:
        save_checkpoint(path, network.state_dict(), record)
    except WriteError as error:
        # `path` is a temporary file here: who gave it that name says which file is meant.
        raise error.__cause__ or error from None


def _network_of(ticket: Ticket, path: Path) -> TicketNetwork:
    try:
        BACKBONES.check(ticket.backbone)
        for kind in {spec.kind for spec in ticket.attention} - {OWN}:
            ATTENTION.check(kind)
    except UnknownName as error:
        raise UnknownName(
            f"cannot build the network of {path}: {error}; register it before loading, or name "
            "the file that does under [plugins] of the study.toml"
        ) from error
    return build_network(ticket, seed=ticket.seed)


def _readable(path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return what `read` finds in a file; its errors name a training, which is no remedy here."""
    try:
        return read(path)
    except CheckpointError as error:
        if not path.is_file():
            raise CheckpointError(f"there is no file {path}; give one that is there") from error
        if path.read_bytes()[:1] == b"{":  # a safetensors file starts with a multiple of 8
            raise TicketError(
                f"{path} is a ticket without weights; write both into one file with: "
                f"sat-optuna export {path} --to safetensors"
            ) from error
        if error.__cause__ is None:
            raise TicketError(
                f"{path} holds neither a ticket nor a training of this program; give a file that "
                "sat-optuna wrote"
            ) from error
        raise CheckpointError(
            f"cannot read {path}: {error.__cause__}; fetch or write it again"
        ) from error


def _fill(network: TicketNetwork, tensors: Mapping[str, Tensor], *, path: Path) -> None:
    own = network.state_dict()
    faults = [f"{name} is not in it" for name in own if name not in tensors]
    faults += [f"nothing here is called {name}" for name in tensors if name not in own]
    faults += [
        f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(value.shape)}"
        for name, value in own.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise CheckpointError(
            f"{path} does not hold the weights of scheme {network.scheme}: {faults[0]}{more}; "
            "give those of this very network"
        )
    network.load_state_dict(dict(tensors))
