"""Weights and ticket in one safetensors file, and the network that is built from it; no pickle.

import sat_optuna as sat
network = sat.load_ticket("ticket.safetensors")
"""

import json
import reprlib
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from sat_optuna.attention import ATTENTION, OWN
from sat_optuna.attention.own import OwnAttention
from sat_optuna.attention.stage import SHARED
from sat_optuna.backbones import BACKBONES
from sat_optuna.backbones.weights import differing_tensors
from sat_optuna.errors import CheckpointError, TicketError, UnknownName, WriteError
from sat_optuna.export.network import meta_network
from sat_optuna.supernet.materialise import TicketNetwork, apart, build_network, scheme_of
from sat_optuna.ticket import Ticket
from sat_optuna.training.checkpoint import (
    check_digest,
    load_tensors,
    read_record,
    save_checkpoint,
)

__all__ = [
    "load_ticket",
    "load_weights",
    "memory_format_of",
    "read_ticket",
    "record_of",
    "write_weights",
]

_T = TypeVar("_T")

_SCHEMA = 2
_READ = (1, 2)  # in schema 1 the tensors had the names that `_renamed` knows
_FORMATS = {str(memory): memory for memory in (torch.contiguous_format, torch.channels_last)}
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}
# The fields of a ticket that say which network it is. The others say what is known of it.
_NETWORK = ("scheme", "backbone", "backbone_settings", "attention", "classes", "input_shape")
_TRAINED = "model."  # prefix of the network's tensors in a checkpoint of a training


def load_ticket(path: str | PathLike[str]) -> nn.Module:
    """Build a network from nothing but the file that `export --to safetensors` wrote.

    Args:
        path: the file.

    Returns:
        The network on the CPU, in eval mode and in the memory format it was written in.

    Raises:
        TicketError: there is no ticket in the file.
        CheckpointError: the file is cut off, or its tensors are not those of the ticket's network.
        UnknownName: the backbone or an attention module is not registered here.
    """
    path = Path(path)
    record = _readable(path, read_record)
    return _load(_ticket_in(record, path), record, path)


def load_weights(ticket: Ticket, path: Path) -> nn.Module:
    """Build a ticket's network with the weights of a file.

    Args:
        ticket: says which network to build.
        path: a checkpoint of a training of this network, or a file that `export` wrote.

    Returns:
        The network on the CPU, in eval mode and in the memory format that the file records.

    Raises:
        CheckpointError: the file is cut off, or holds the weights of another network.
        TicketError: the ticket in the file is broken.
        UnknownName: the backbone or an attention module is not registered here.
    """
    record = _readable(path, read_record)
    if "ticket" in record:
        _check_same(ticket, _ticket_in(record, path), path)
    return _load(ticket, record, path)


def _load(ticket: Ticket, record: Mapping[str, Any], path: Path) -> nn.Module:
    """Build a ticket's network with the weights of a file; `record` is the file's."""
    tensors = _readable(path, load_tensors)
    # A training's checkpoint does not record the dtype.
    dtype = _recorded(record, "dtype", _DTYPES, torch.float32, path)
    memory = _recorded(record, "memory_format", _FORMATS, torch.contiguous_format, path)
    if "ticket" not in record:
        kept = {k: v for k, v in tensors.items() if k.startswith(_TRAINED)}
        tensors = {name.removeprefix(_TRAINED): tensor for name, tensor in kept.items()}
    _check_registered(ticket, path)
    meta = meta_network(ticket)
    tensors = _renamed(tensors, meta)
    _check_tensors(meta, tensors, path)  # before such a network is allocated
    network = build_network(ticket, seed=ticket.seed)
    network.to(dtype)
    cast("Any", network).to(memory_format=memory)
    network.load_state_dict(tensors)
    return network.eval()


def read_ticket(path: Path) -> Ticket:
    """Return the ticket of a file that `export --to safetensors` wrote.

    Raises:
        TicketError: there is no ticket in it.
        CheckpointError: there is no such file, it is cut off, or its bytes have changed.
    """
    ticket = _ticket_in(_readable(path, read_record), path)
    _readable(path, check_digest)
    return ticket


def _ticket_in(record: Mapping[str, Any], path: Path) -> Ticket:
    if "ticket" not in record:
        raise TicketError(
            f"{path} holds weights without a ticket, which alone says of what network; write both "
            f"into one file with: sat-optuna export TICKET --to safetensors "
            f"--weights {quote(str(path))}"
        )
    if record.get("schema") not in _READ:
        raise TicketError(
            f"{path} has schema {record.get('schema')!r} and this version reads schemas 1 and 2; "
            "install the version of sat_optuna that wrote it"
        )
    return Ticket.from_json(json.dumps(record["ticket"]), source=str(path))


def memory_format_of(network: nn.Module) -> torch.memory_format:
    """Return the memory format that a network's convolutions are in."""
    kernels = [value for value in network.parameters() if value.dim() == 4]
    # A 1x1 kernel, for example, is contiguous in both formats and says nothing.
    last = any(not k.is_contiguous() for k in kernels)
    return torch.channels_last if last else torch.contiguous_format


def record_of(network: nn.Module, ticket: Ticket) -> dict[str, Any]:
    """Return the record that is stored beside the weights, JSON values."""
    return {
        "schema": _SCHEMA,
        "ticket": json.loads(ticket.to_json()),
        "memory_format": str(memory_format_of(network)),
        "dtype": str(next(network.parameters()).dtype).removeprefix("torch."),
    }


def write_weights(network: nn.Module, record: Mapping[str, Any], path: Path) -> None:
    """Write a network's tensors and the record to `path`.

    Raises:
        OSError: the disk is full, or the like.
    """
    try:
        save_checkpoint(path, network.state_dict(), record)
    except WriteError as error:
        # `path` is a temporary file, which the message must not name. The caller names the file.
        raise error.__cause__ or error from None


def _recorded(
    record: Mapping[str, Any], key: str, known: Mapping[str, _T], usual: _T, path: Path
) -> _T:
    """Return what a record says under a key, as torch's constant; `usual` if it says nothing."""
    if key not in record:
        return usual
    value = record[key]
    if not isinstance(value, str) or value not in known:
        raise CheckpointError(
            f"{path} has {key} {reprlib.repr(value)} and this version knows {', '.join(known)}; "
            "fetch or write it again"
        )
    return known[value]


def _check_same(ticket: Ticket, stored: Ticket, path: Path) -> None:
    """Make sure that the ticket in a file is of the same network as another ticket."""
    wanted, has = (json.loads(each.to_json()) for each in (ticket, stored))
    for field in _NETWORK:
        if wanted[field] != has[field]:
            raise CheckpointError(
                f"{path} holds the weights of another network, with {field} {_text(has[field])} "
                f"and not {_text(wanted[field])}; give those of this very network"
            )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _check_registered(ticket: Ticket, path: Path) -> None:
    try:
        BACKBONES.check(ticket.backbone)
        for kind in {spec.kind for spec in ticket.attention} - {OWN}:
            ATTENTION.check(kind)
    except UnknownName as error:
        raise UnknownName(
            f"cannot build the network of {path}: {error}; register it before loading, or name "
            "the file that does under [plugins] of the study.toml"
        ) from error


def _readable(path: Path, read: Callable[[Path], _T]) -> _T:
    """Return what `read` finds in a file; its errors speak of trainings, and these do not."""
    try:
        return read(path)
    except CheckpointError as error:
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder; give a file in it") from error
        if not path.exists():
            raise CheckpointError(f"there is no file {path}; give one that is there") from error
        if path.is_file() and _starts_with_brace(path):
            raise TicketError(
                f"{path} is a ticket without weights; write both into one file with: "
                f"sat-optuna export {quote(str(path))} --to safetensors"
            ) from error
        if error.__cause__ is None:
            raise TicketError(
                f"{path} holds neither a ticket nor a training of this program; give a file that "
                "sat-optuna wrote"
            ) from error
        raise CheckpointError(
            f"cannot read {path}: {error.__cause__}; fetch or write it again"
        ) from error


def _starts_with_brace(path: Path) -> bool:
    """Return whether a file may be JSON; the first byte of a safetensors file is never "{"."""
    try:
        with path.open("rb") as stream:
            return stream.read(1) == b"{"
    except OSError:
        return False


def _renamed(tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return tensors under the names that a network has for them.

    Version 0.2.0 kept the backbone and the attention of a ticket's network apart, as the
    `TicketNetwork` of a recurrent kind does still: `backbone.layer1.0.conv1.weight` and
    `attention.0.slots.se.0.squeeze.weight`, or `shared` for a block's number.

    Args:
        tensors: of a file of any version.
        network: the ticket's network.
    """
    older = all(name.startswith(("backbone.", "attention.")) for name in tensors)
    known = isinstance(network, TicketNetwork) or tensors.keys() == network.state_dict().keys()
    if not older or known:
        return tensors
    paths = {module: path for path, module in network.named_modules()}
    _, stages = apart(network)
    old: dict[str, str] = {}
    for number, (stage, choices) in enumerate(
        zip(stages, scheme_of(network).by_stage(), strict=True)
    ):
        for block, choice in enumerate(choices):
            if not choice:
                continue
            kind, module = stage.kinds[choice - 1], stage.module_at(choice, block)
            own = isinstance(module, OwnAttention)
            path = paths[module.module if own else module]
            for slot in (str(block), SHARED):
                old[f"attention.{number}.slots.{kind}.{slot}{'.module' if own else ''}."] = path
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        begin = next((prefix for prefix in old if name.startswith(prefix)), None)
        rest = name.removeprefix("backbone.") if begin is None else name[len(begin) :]
        renamed[rest if begin is None else f"{old[begin]}.{rest}"] = value
    return renamed


def _check_tensors(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Make sure that a file's tensors are those of a network, by name and shape."""
    faults = differing_tensors(tensors, network.state_dict())
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise CheckpointError(
            f"{path} does not hold the weights of scheme {scheme_of(network)}: {faults[0]}{more}; "
            "give those of this very network"
        )
