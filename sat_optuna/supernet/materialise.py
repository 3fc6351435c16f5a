"""From a supernet and a scheme to the network in which unconnected modules do not exist."""

import copy
from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor, nn

from sat_optuna.backbones import BACKBONES
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.view import NetworkView
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.supernet import StageAttention, Supernet, walk
from sat_optuna.ticket import Ticket

__all__ = ["TicketNetwork", "build_network", "materialise", "supernet_of"]


class TicketNetwork(nn.Module):
    """A backbone with the attention of one scheme and nothing more.

    Attributes:
        backbone: the network without attention, its state_dict keys its own.
        view: how it is walked.
        attention: a `StageAttention` a stage, with the connected modules alone.
        scheme: which block carries what.
    """

    def __init__(
        self, view: NetworkView, attention: Iterable[StageAttention], scheme: Scheme
    ) -> None:
        super().__init__()
        self.backbone = view.model
        self.view = view
        self.attention = nn.ModuleList(attention)
        self.scheme = scheme

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits.

        Args:
            x: (N, C, H, W) images.

        Returns:
            (N, classes) logits.
        """
        stages = cast("Iterable[StageAttention]", self.attention)
        return walk(self.view, stages, self.scheme, x)


def materialise(supernet: Supernet, scheme: Scheme) -> TicketNetwork:
    """Build the network of one scheme; it is the same function as the supernet under it.

    Args:
        supernet: gives the weights, which are copied.
        scheme: which block carries what.

    Returns:
        A network without unconnected modules; a module that a stage shares is there where at
        least one of its blocks uses it.

    Raises:
        SchemeError: the scheme does not fit the supernet.
    """
    supernet.check(scheme)
    stages = zip(supernet.stage_attention, scheme.by_stage(), strict=True)
    kept = [stage.pruned_to(choices) for stage, choices in stages]
    return TicketNetwork(copy.deepcopy(supernet.view), kept, scheme)


def supernet_of(ticket: Ticket, *, seed: int) -> Supernet:
    """Build the supernet that a ticket's scheme is of, with fresh weights.

    Raises:
        BackboneError: the ticket is of a network that was given as an object.
    """
    if ticket.backbone not in BACKBONES and "." in ticket.backbone:
        raise BackboneError(
            f"this ticket is of a network given as an object, of type {ticket.backbone}, which "
            "its JSON cannot build; register a builder for it with add_backbone and give its name "
            "to Supernet, or train materialise(supernet, scheme) with fit"
        )
    settings: dict[str, Any] = dict(ticket.backbone_settings)
    return Supernet(
        ticket.backbone,
        attention=ticket.attention,
        in_channels=ticket.input_shape[0],
        classes=ticket.classes,
        seed=seed,
        **settings,
    )


def build_network(ticket: Ticket, *, seed: int) -> TicketNetwork:
    """Build a ticket's network with fresh weights.

    Networks of the same seed start with equal weights wherever they share a part, whatever their
    schemes.

    Raises:
        BackboneError: the ticket is of a network that was given as an object.
    """
    return materialise(supernet_of(ticket, seed=seed), ticket.scheme)
