"""The network of one scheme, in which unconnected modules do not exist."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any, cast

from torch import Tensor, nn

from sat_optuna.attention.stage import StageAttention
from sat_optuna.backbones import BACKBONES
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.tables import type_name
from sat_optuna.backbones.view import NetworkView
from sat_optuna.errors import SchemeError
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.inside import Carried, apart_inside, carried_by, put_inside
from sat_optuna.supernet.supernet import Supernet, walk
from sat_optuna.ticket import Ticket

__all__ = [
    "TicketNetwork",
    "apart",
    "assembled",
    "build_network",
    "kinds_of",
    "materialise",
    "scheme_of",
    "supernet_of",
]


class TicketNetwork(nn.Module):
    """A backbone with the attention of one scheme, run block by block; made by `materialise`.

    Attention with a state, such as DIA, is handed from block to block, which the forward of a
    network from elsewhere cannot do. So the network is walked, and hooks on its blocks are not
    called.

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


def assembled(view: NetworkView, stages: Sequence[StageAttention], scheme: Scheme) -> nn.Module:
    """Return the network of a view with the attention of a scheme.

    Args:
        view: of the network, which is used and changed.
        stages: the modules that the scheme connects, of each stage.
        scheme: which block carries what.
    """
    rows = zip(stages, scheme.by_stage(), strict=True)
    recurrent = any(
        stage.module_at(choice, index).recurrent
        for stage, choices in rows
        for index, choice in enumerate(choices)
        if choice
    )
    blocks = [block.module for members in view.blocks for block in members]
    if recurrent or len(set(blocks)) < len(blocks):  # a network may run a block twice
        return TicketNetwork(view, stages, scheme)
    return put_inside(view.model, view.blocks, stages, scheme)


def scheme_of(net: nn.Module) -> Scheme:
    """Return which blocks of a network carry what.

    Args:
        net: what `materialise`, `build_network`, `retrain`, `load_ticket` or `fold_constant`
            returned.

    Raises:
        SchemeError: it is another network.
    """
    return _noted(net).scheme


def kinds_of(net: nn.Module) -> tuple[str, ...]:
    """Return the study's kinds of attention, in the order of a scheme's choices.

    Raises:
        SchemeError: as of `scheme_of`.
    """
    noted = _noted(net)
    if isinstance(noted, TicketNetwork):
        return apart(noted)[1][0].kinds
    return noted.kinds


def apart(net: nn.Module) -> tuple[NetworkView, tuple[StageAttention, ...]]:
    """Return a network without its attention, block by block, and the attention of each stage.

    Nothing is copied: both hold the network's own modules.

    Raises:
        SchemeError: as of `scheme_of`.
    """
    noted = _noted(net)
    if isinstance(noted, TicketNetwork):
        return noted.view, tuple(cast("Iterable[StageAttention]", noted.attention))
    view, stages = apart_inside(net, noted)
    return view, tuple(stages)


def _noted(net: nn.Module) -> "TicketNetwork | Carried":
    if isinstance(net, TicketNetwork):
        return net
    noted = carried_by(net)
    if noted is None:
        raise SchemeError(
            f"a network of type {type_name(type(net))} given, on which no scheme is noted; give "
            "what materialise, retrain or load_ticket returned"
        )
    return noted


def materialise(supernet: Supernet, scheme: Scheme) -> nn.Module:
    """Build the network of one scheme; it computes what the supernet computes under the scheme.

    It is a copy of the supernet's backbone, of the same type and with the same forward. The blocks
    that the scheme connects carry their attention inside, as their submodule `attention`; the
    attention of a network's own (the kind "own") is where it was. Where a recurrent kind is
    connected (DIA), the network is a `TicketNetwork`, which is walked block by block.

    >>> import torch
    >>> net = Supernet(
    ...     "resnet20", attention=("se",), in_channels=3, classes=10, seed=0, blocks=(1, 1, 1)
    ... ).eval()
    >>> scheme, images = Scheme.parse("1-0-0"), torch.ones(2, 3, 32, 32)
    >>> ticket = materialise(net, scheme)
    >>> torch.equal(ticket(images), net(images, scheme)), type(ticket) is type(net.backbone)
    (True, True)
    >>> [name for name in ticket.state_dict() if "attention" in name][:1]
    ['stages.0.0.attention.squeeze.weight']

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
    return assembled(copy.deepcopy(supernet.view), kept, scheme)


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


def build_network(ticket: Ticket, *, seed: int) -> nn.Module:
    """Build a ticket's network with newly drawn weights.

    Where two networks of one seed have the same part, it starts with the same weights in both,
    whatever their schemes are.

    Raises:
        BackboneError: the ticket is of a network that was given as an object.
    """
    return materialise(supernet_of(ticket, seed=seed), ticket.scheme)
