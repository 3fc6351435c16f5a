"""Does a network belong to a ticket?"""

import inspect
from typing import Any

import torch
from torch import nn

from sat_optuna.attention import ATTENTION, OWN
from sat_optuna.attention.own import OwnAttention
from sat_optuna.backbones import BACKBONES
from sat_optuna.backbones.weights import differing_tensors
from sat_optuna.errors import SatOptunaError, TicketError
from sat_optuna.export import ExportError
from sat_optuna.export.program import root_cause
from sat_optuna.supernet.materialise import apart, build_network, scheme_of
from sat_optuna.ticket import Ticket

__all__ = ["check_network", "meta_network"]


def meta_network(ticket: Ticket) -> nn.Module:
    """Build a ticket's network on "meta": its tensors have names and shapes, but no values.

    Raises:
        UnknownName: the backbone or an attention module is not registered here.
        TicketError: the network cannot be built.
    """
    try:
        try:
            with torch.device("meta"):  # nothing is allocated or drawn
                return build_network(ticket, seed=ticket.seed)
        except (NotImplementedError, RuntimeError):  # the builder reads values
            return build_network(ticket, seed=ticket.seed)
    except SatOptunaError:
        raise
    except Exception as error:  # a builder may raise anything, and so may torch at absurd sizes
        raise TicketError(
            f"the network of scheme {ticket.scheme} of {ticket.backbone} cannot be built "
            f"({root_cause(error)}); correct the ticket's backbone_settings"
        ) from error


def check_network(network: nn.Module, ticket: Ticket, *, to: str) -> None:
    """Make sure that a network has the tensors, kinds of attention and settings of a ticket.

    Args:
        network: the network, with any weights.
        ticket: will be stored beside the weights.
        to: a key of `SUFFIXES`. A backbone that no registry holds can be written as a program
            only, not as safetensors.

    Raises:
        ExportError: the network does not belong to the ticket, or no file could rebuild it.
        SatOptunaError: the ticket's network cannot be built.
    """
    scheme = scheme_of(network)
    if scheme != ticket.scheme:
        raise ExportError(
            f"a network of scheme {scheme} given with the ticket of {ticket.scheme}; give "
            "the two that belong together"
        )
    if ticket.backbone not in BACKBONES:
        if to != "safetensors":
            return
        raise ExportError(
            "this ticket is of a network given as an object, which no file can rebuild; register "
            "it with add_backbone, or export it as torch-export or onnx"
        )
    wanted = meta_network(ticket)
    faults = differing_tensors(network.state_dict(), wanted.state_dict())
    faults = faults or _differing_modules(network, wanted)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ExportError(
            f"the network of scheme {scheme} is not the ticket's: {faults[0]}{more}; give "
            "the two that belong together"
        )


def _differing_modules(network: nn.Module, wanted: nn.Module) -> list[str]:
    has, shall = _modules(network), _modules(wanted)
    faults = [f"it has no module {name}" for name in shall if name not in has]
    faults += [f"the ticket has no module {name}" for name in has if name not in shall]
    for name in has.keys() & shall.keys():
        (kind, module), (other_kind, other) = has[name], shall[name]
        if (kind, type(module)) != (other_kind, type(other)):
            faults.append(f"{name} is {type(module).__name__}, not {type(other).__name__}")
            continue
        given, asked = _settings(kind, module), _settings(kind, other)
        faults += [
            f"{name} has {key} = {value!r}, not {asked[key]!r}"
            for key, value in given.items()
            if key in asked and asked[key] != value
        ]
    return sorted(faults)


def _modules(network: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    """Return each attention module with its kind, by its path in the network."""
    paths = {module: path for path, module in network.named_modules()}
    placed: dict[str, tuple[str, nn.Module]] = {}
    for stage in apart(network)[1]:
        for kind, slots in stage.get_submodule("slots").named_children():
            for module in slots.children():
                # The attention of a network's own is wrapped where it is a kind.
                inner = module.module if isinstance(module, OwnAttention) else module
                placed[paths[inner]] = (kind, inner)
    return placed


def _settings(kind: str, module: nn.Module) -> dict[str, Any]:
    """Return those settings of a module that it keeps as attributes of the same name."""
    if kind == OWN:
        return {}
    kept = vars(module)
    names = inspect.signature(ATTENTION.get(kind)).parameters
    return {name: kept[name] for name in names if type(kept.get(name)) in (int, float, str, bool)}
