"""The constant control of a ticket: its placement, with gates that look at nothing.

Each gate of a fresh network does two things: it looks at the features, and it rescales them (a
fresh sigmoid halves them). The control has the same blocks with one learnt factor a channel and
block, which starts where the fresh module M would rescale to: <M(F), F> / <F, F> over the features
F of the block. What the control reaches is rescaling; what a ticket reaches beyond it is
attention.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from sat_optuna.attention import CONSTANT, default_spec
from sat_optuna.attention.constant import Constant
from sat_optuna.attention.contract import State
from sat_optuna.attention.stage import Attend, StageAttention
from sat_optuna.errors import TicketError
from sat_optuna.scheme import MAX_KINDS, Scheme
from sat_optuna.seeds import generator_for
from sat_optuna.supernet.batchnorm import averaged
from sat_optuna.supernet.materialise import apart, scheme_of
from sat_optuna.supernet.supernet import walk
from sat_optuna.ticket import AttentionSpec, Ticket

__all__ = ["constant_scheme", "constant_ticket", "real_ticket", "start_constants"]


def constant_scheme(scheme: Scheme, *, kinds: int) -> Scheme:
    """Return the scheme of the constant control: choice K + k where a scheme has k of K kinds.

    >>> print(constant_scheme(Scheme.parse("100-01"), kinds=1))
    200-02

    Raises:
        TicketError: the scheme connects nothing, or a digit has no room for so many kinds.
    """
    if not scheme.connections:
        raise TicketError(
            f"scheme {scheme} connects nothing, so a constant control of it is itself; give one "
            "with attention"
        )
    if kinds + max(scheme.choices) > MAX_KINDS:
        raise TicketError(
            f"scheme {scheme} uses kind {max(scheme.choices)} of {kinds}, and a constant control "
            f"of it needs choices up to {kinds + max(scheme.choices)}, of which a scheme has "
            f"{MAX_KINDS}; list fewer kinds"
        )
    return Scheme.of([c and kinds + c for c in scheme.choices], scheme.stages)


def constant_ticket(ticket: Ticket) -> Ticket:
    """Return the constant control of a ticket: the same blocks, with gates that look at nothing.

    It has no scores yet, and the counts of the ticket's network.

        control = sat.retrain(constant_ticket(ticket), data, epochs=20, seed=0)

    Raises:
        TicketError: as of `constant_scheme`.
    """
    constants = tuple(AttentionSpec(kind=CONSTANT + spec.kind) for spec in ticket.attention)
    return replace(
        ticket,
        role="constant",
        scheme=constant_scheme(ticket.scheme, kinds=len(ticket.attention)),
        attention=ticket.attention + constants,
        scores=(),
        latency_ms=None,
    )


def real_ticket(ticket: Ticket) -> Ticket | None:
    """Return the ticket with the kinds themselves for the constant ones; None if it uses none.

    A constant kind stands for the kind of its name that the ticket lists; for that kind with its
    default settings where the ticket lists it not.
    """
    kinds = [spec.kind for spec in ticket.attention]
    used = {c: kinds[c - 1].removeprefix(CONSTANT) for c in set(ticket.scheme.choices) if c}
    if all(kinds[choice - 1] == kind for choice, kind in used.items()):
        return None
    listed = [spec for spec in ticket.attention if not spec.kind.startswith(CONSTANT)]
    known = [spec.kind for spec in listed]
    listed += [default_spec(kind) for kind in sorted({*used.values()} - {*known})]
    place = {spec.kind: number for number, spec in enumerate(listed, start=1)}
    scheme = Scheme.of([c and place[used[c]] for c in ticket.scheme.choices], ticket.scheme.stages)
    return replace(ticket, scheme=scheme, attention=tuple(listed))


def start_constants(net: nn.Module, twin: nn.Module, batches: Sequence[Tensor]) -> None:
    """Start the factors of a constant control where the fresh modules themselves rescale to.

    All channels of a block start with the same factor, <M(F), F> / <F, F> over the images. Where a
    branch adds nothing at first (F is 0), F is normal noise instead. What is added starts at 0.

    Args:
        net: of the control; its factors are set.
        twin: the fresh network of the same seed with the modules themselves. BatchNorm takes the
            statistics of each batch; the twin is left as it was.
        batches: (n, C, H, W) images, on the device of both.
    """
    view, stages = apart(twin)
    recorded = [_Rescaling(stage) for stage in stages]
    scheme = scheme_of(twin)
    with averaged(
        twin, lambda x: walk(view, recorded, scheme, x), batches, what="starting the constants"
    ):
        pass  # the passes were made on entering
    rows = zip(apart(net)[1], recorded, scheme_of(net).by_stage(), strict=True)
    for stage, found, choices in rows:
        for block, choice in enumerate(choices):
            module = stage.module_at(choice, block) if choice else None
            if isinstance(module, Constant):
                nn.init.constant_(module.factor, found.factor(block))


class _Rescaling:
    """The attention of a stage; it adds up how each block's module rescales while it is used."""

    def __init__(self, stage: StageAttention) -> None:
        self._stage = stage
        self._sums: dict[int, Tensor] = {}  # by block: <M(F), F> and <F, F>

    def module_for(self, choice: int, block: int, /) -> Attend:
        attend = self._stage.module_for(choice, block)

        def adding(features: Tensor, state: State | None) -> tuple[Tensor, State | None]:
            attended, after = attend(features, state)
            given, seen = attended, features
            if not seen.any():
                chance = generator_for("constants", block)
                seen = torch.randn(features.shape, generator=chance).to(features)
                given, _ = attend(seen.clone(), state)
            sums = torch.stack([_inner(given, seen), _inner(seen, seen)])
            self._sums[block] = self._sums.get(block, torch.zeros_like(sums)) + sums
            return attended, after

        return adding

    def factor(self, block: int) -> float:
        """Return <M(F), F> / <F, F> of a block."""
        both, own = cast("list[float]", self._sums[block].tolist())
        return both / own


def _inner(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(dtype=torch.float64)
