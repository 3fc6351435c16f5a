"""The constant control of a ticket: its placement, with gates that look at nothing.

The control has the ticket's blocks, with one learnt factor a channel and block in the place of
each module (`attention.constant`). What it reaches is rescaling; what a ticket reaches beyond it
is attention. No torch is imported here.
"""

from dataclasses import replace

from sat_optuna.attention import CONSTANT, default_spec
from sat_optuna.errors import TicketError
from sat_optuna.scheme import MAX_KINDS, Scheme
from sat_optuna.ticket import AttentionSpec, Ticket

__all__ = ["constant_scheme", "constant_ticket", "real_ticket"]


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
