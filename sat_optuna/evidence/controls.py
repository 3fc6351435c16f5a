"""The controls: schemes that a ticket is compared with."""

import re
from collections.abc import Sequence

import numpy as np

from sat_optuna.scheme import Scheme
from sat_optuna.seeds import seed_for

__all__ = ["control_schemes", "full_roles", "same_density"]


def same_density(scheme: Scheme, *, seed: int) -> Scheme:
    """Return a random scheme that has the same choices at other blocks.

    >>> print(same_density(Scheme.parse("110-000"), seed=0))
    010-100

    This control is often forgotten: it shows whether the arrangement matters, or only the number
    of modules. A scheme with the same choice in every block has no other arrangement; then it is
    returned itself.
    """
    if len(set(scheme.choices)) == 1:
        return scheme
    rng = np.random.default_rng(seed_for("same-density", seed))
    while True:
        drawn = Scheme.of(rng.permutation(scheme.choices), scheme.stages)
        if drawn != scheme:
            return drawn


def full_roles(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the role of the full network of each kind, which names a file as well.

    >>> full_roles(["se"]), full_roles(["se", "timm:eca"])
    (('full',), ('full-se', 'full-timm-eca'))
    """
    if len(kinds) == 1:
        return ("full",)
    return tuple(f"full-{re.sub(r'[^A-Za-z0-9_]', '-', kind)}" for kind in kinds)


def control_schemes(
    ticket: Scheme, *, random_best: Scheme, seed: int, kinds: Sequence[str] = ("",)
) -> dict[str, Scheme]:
    """Return the scheme of each role; the ticket comes first.

    >>> found = control_schemes(Scheme.parse("10-01"), random_best=Scheme.parse("00-11"), seed=0)
    >>> [f"{role} {scheme}" for role, scheme in found.items()]
    ['ticket 10-01', 'plain 00-00', 'full 11-11', 'random-density 01-10', 'random-best 00-11']

    With several kinds of attention there is a full network of each:

    >>> found = control_schemes(
    ...     Scheme.parse("10"), random_best=Scheme.parse("01"), seed=0, kinds=["se", "timm:eca"]
    ... )
    >>> [f"{role} {scheme}" for role, scheme in found.items()][2:4]
    ['full-se 11', 'full-timm-eca 22']

    Args:
        ticket: the scheme that was found.
        random_best: the best of as many random schemes as the search had trials.
        seed: of the random scheme with the same density.
        kinds: names of the kinds of attention.
    """
    return {
        "ticket": ticket,
        "plain": Scheme.uniform(ticket.stages, 0),
        **{
            role: Scheme.uniform(ticket.stages, choice)
            for choice, role in enumerate(full_roles(kinds), start=1)
        },
        "random-density": same_density(ticket, seed=seed),
        "random-best": random_best,
    }
