"""Whether a network is the one that a ticket tells of."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sat_optuna.attention import ATTENTION, OWN
from sat_optuna.backbones import BACKBONES
from sat_optuna.errors import SatOptunaError, TicketError
from sat_optuna.export import ExportError
from sat_optuna.export.program import reason
from sat_optuna.supernet.materialise import TicketNetwork, build_network
from sat_optuna.ticket import Ticket

__all__ = ["check_network", "differing_tensors", "outline"]


def outline(ticket: Ticket) -> TicketNetwork:
    """Build a ticket's network without its numbers, for names and shapes.

    Raises:
        UnknownName: the backbone or an attention module is not registered here.
        TicketError: it cannot be built.
    """
    try:
        try:
            with torch.device("meta"):  # nothing is allocated or drawn
                return build_network(ticket, seed=ticket.seed)
        except (NotImplementedError, RuntimeError):  # a builder that looks at numbers
            return build_network(ticket, seed=ticket.seed)
    except SatOptunaError:
        raise
    except Exception as error:  # a builder may raise anything, and torch of absurd sizes
        raise TicketError(
            f"the network of scheme {ticket.scheme} of {ticket.backbone} cannot be built "
            f"({reason(error)}); correct the ticket's backbone_settings"
        ) from error


def differing_tensors(has: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Return a phrase for each name or shape in which some tensors are not a network's.

    Args:
        has: tensors by name.
        wanted: the state_dict of the network.
    """
    faults = [f"{name} is not in it" for name in wanted if name not in has]
    faults += [f"nothing here is called {name}" for name in has if name not in wanted]
    faults += [
        f"{name} has shape {tuple(has[name].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in has and has[name].shape != value.shape
    ]
    return faults


def check_network(network: TicketNetwork, ticket: Ticket, *, to: str) -> None:
    """Make sure that a network is the ticket's: tensors, kinds of attention and their settings.

    Args:
        network: with any weights.
        ticket: that shall be stored beside them.
        to: a key of `SUFFIXES`; of an unregistered backbone only a program can be written.

    Raises:
        ExportError: it is another one, or no file could rebuild it.
        SatOptunaError: the ticket's own network cannot be built.
    """
    if network.scheme != ticket.scheme:
        raise ExportError(
            f"a network of scheme {network.scheme} given with the ticket of {ticket.scheme}; give "
            "the two that belong together"
        )
    if ticket.backbone not in BACKBONES:
        if to != "safetensors":
            return
        raise ExportError(
            "this ticket is of a network given as an object, which no file can rebuild; register "
            "it with add_backbone, or export it as torch-export or onnx"
        )
    wanted = outline(ticket)
    faults = differing_tensors(network.state_dict(), wanted.state_dict())
    faults = faults or _differing_modules(network, wanted)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ExportError(
            f"the network of scheme {network.scheme} is not the ticket's: {faults[0]}{more}; give "
            "the two that belong together"
        )


def _differing_modules(network: TicketNetwork, wanted: TicketNetwork) -> list[str]:
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


def _modules(network: TicketNetwork) -> dict[str, tuple[str, nn.Module]]:
    """Return the attention modules by place, each with its kind."""
    return {
        f"attention.{number}.slots.{kind}.{slot}": (kind, module)
        for number, stage in enumerate(network.attention)
        for kind, slots in stage.get_submodule("slots").named_children()
        for slot, module in slots.named_children()
    }


def _settings(kind: str, module: nn.Module) -> dict[str, Any]:
    """Return a module's settings as far as it keeps them under their own names."""
    if kind == OWN:
        return {}
    kept = vars(module)
    names = inspect.signature(ATTENTION.get(kind)).parameters
    return {name: kept[name] for name in names if type(kept.get(name)) in (int, float, str, bool)}
