"""The network of one scheme, in which unconnected modules do not exist."""

import copy
from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor, nn

from sat_optuna.attention.stage import StageAttention
from sat_optuna.backbones import BACKBONES
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.view import NetworkView
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.supernet import Supernet, walk
from sat_optuna.ticket import Ticket

__all__ = ["TicketNetwork", "build_network", "materialise", "supernet_of"]


class TicketNetwork(nn.Module):
    """A backbone with the attention of one scheme and no other; made by `materialise`.

    Attributes:
        backbone: the network without attention, with its own state_dict keys.
        view: how the network is run block by block.
        attention: one `StageAttention` for each stage, which holds the connected modules alone.
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
    """Build the network of one scheme; it computes what the supernet computes under the scheme.

    >>> import torch
    >>> net = Supernet(
    ...     "resnet20", attention=("se",), in_channels=3, classes=10, seed=0, blocks=(1, 1, 1)
    ... ).eval()
    >>> scheme, images = Scheme.parse("1-0-0"), torch.ones(2, 3, 32, 32)
    >>> torch.equal(materialise(net, scheme)(images), net(images, scheme))
    True

    Args:
        supernet: gives the weights, which are copied.
        scheme: which block carries what.

    Returns:
        A network without unconnected modules. A module that a stage shares is in it if at least
        one block of the stage uses it.

    Raises:
        SchemeError: the scheme does not fit the supernet.
    """
    supernet.check(scheme)
    stages = zip(supernet.stage_attention, scheme.by_stage(), strict=True)
    kept = [stage.pruned_to(choices) for stage, choices in stages]
    return TicketNetwork(copy.deepcopy(supernet.view), kept, scheme)


def supernet_of(ticket: Ticket, *, seed: int) -> Supernet:
    """Build the supernet that a ticket's scheme belongs to, with newly drawn weights.

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
    """Build a ticket's network with newly drawn weights.

    Where two networks of one seed have the same part, it starts with the same weights in both,
    whatever their schemes are.

    Raises:
        BackboneError: the ticket is of a network that was given as an object.
    """
    return materialise(supernet_of(ticket, seed=seed), ticket.scheme)
