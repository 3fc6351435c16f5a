"""The controls: schemes that a ticket is compared with.

`run` retrains those of `control_schemes`; `evidence` the heuristics and the random family too.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from sat_optuna.evidence.constants import constant_scheme
from sat_optuna.scheme import MAX_KINDS, Scheme
from sat_optuna.seeds import seed_for
from sat_optuna.ticket import HEURISTICS

__all__ = [
    "RANDOM_SCHEMES",
    "control_schemes",
    "full_roles",
    "heuristic_schemes",
    "other_arrangements",
    "random_family",
    "same_density",
]

RANDOM_SCHEMES = 20  # of the ticket's density, at most


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


def other_arrangements(scheme: Scheme) -> int:
    """Return how many other schemes have the same choices at other blocks.

    >>> other_arrangements(Scheme.parse("110-00"))
    9
    """
    same = (math.factorial(count) for count in Counter(scheme.choices).values())
    return math.factorial(len(scheme.choices)) // math.prod(same) - 1


def random_family(scheme: Scheme, *, seed: int) -> tuple[Scheme, ...]:
    """Return the other schemes of the same choices: all where they are 20 at most, else 20 drawn.

    >>> [str(drawn) for drawn in random_family(Scheme.parse("10-0"), seed=0)]
    ['00-1', '01-0']
    >>> len(random_family(Scheme.parse("110-000-110"), seed=0))
    20

    The first is that of `same_density`. Against all of them a ticket is tested by its rank.
    """
    choices, others = scheme.choices, other_arrangements(scheme)
    family = dict.fromkeys({same_density(scheme, seed=seed)} - {scheme})
    rng = np.random.default_rng(seed_for("random-family", seed))
    while len(family) < min(others, RANDOM_SCHEMES):
        drawn = Scheme.of(rng.permutation(choices), scheme.stages)
        if drawn != scheme:
            family[drawn] = None
    return tuple(family)


def heuristic_schemes(scheme: Scheme) -> dict[str, Scheme]:
    """Return the placements that one would try without a search, by role.

    >>> found = heuristic_schemes(Scheme.parse("010-201"))
    >>> [f"{role} {placed}" for role, placed in found.items()]
    ['first-k 121-000', 'last-k 000-121', 'every-other 101-010', 'stage-ends 001-001']

    The first and the last k blocks carry the k choices of the scheme, in their order. Every other
    block, and the last block of each stage, carry its most frequent kind: where they are more or
    fewer than k, they have another density and cannot be compared with the scheme.
    """
    placed = [choice for choice in scheme.choices if choice]
    blocks = len(scheme.choices)
    usual = Counter(placed).most_common(1)[0][0] if placed else 1
    free = [0] * (blocks - len(placed))
    ends = [[0] * (size - 1) + [usual] for size in scheme.stages]
    drawn = (
        [*placed, *free],
        [*free, *placed],
        [usual * (block % 2 == 0) for block in range(blocks)],
        [choice for stage in ends for choice in stage],
    )
    return {
        role: Scheme.of(choices, scheme.stages)
        for role, choices in zip(HEURISTICS, drawn, strict=True)
    }


def full_roles(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the role of the full network of each kind, which names a file as well.

    >>> full_roles(["se"]), full_roles(["se", "timm:eca"])
    (('full',), ('full-se', 'full-timm-eca'))
    """
    if len(kinds) == 1:
        return ("full",)
    return tuple(f"full-{re.sub(r'[^A-Za-z0-9_]', '-', kind)}" for kind in kinds)


def control_schemes(
    ticket: Scheme, *, seed: int, kinds: Sequence[str] = ("",)
) -> dict[str, Scheme]:
    """Return the scheme of each role; the ticket comes first.

    >>> found = control_schemes(Scheme.parse("10-01"), seed=0)
    >>> [f"{role} {scheme}" for role, scheme in found.items()]
    ['ticket 10-01', 'plain 00-00', 'full 11-11', 'constant 20-02', 'random-density 01-10']

    With several kinds of attention there is a full network of each:

    >>> found = control_schemes(Scheme.parse("10"), seed=0, kinds=["se", "timm:eca"])
    >>> [f"{role} {scheme}" for role, scheme in found.items()][2:5]
    ['full-se 11', 'full-timm-eca 22', 'constant 30']

    Args:
        ticket: the scheme that was found.
        seed: of the random scheme with the same density.
        kinds: names of the kinds of attention. The scheme `constant` is one of a network that has
            their constant controls after them, as `constant_ticket` lists them. A ticket without
            attention has none.
    """
    fulls = {
        role: Scheme.uniform(ticket.stages, choice)
        for choice, role in enumerate(full_roles(kinds), start=1)
    }
    found = {"ticket": ticket, "plain": Scheme.uniform(ticket.stages, 0), **fulls}
    if ticket.connections and len(kinds) + max(ticket.choices) <= MAX_KINDS:
        found["constant"] = constant_scheme(ticket, kinds=len(kinds))
    return found | {"random-density": same_density(ticket, seed=seed)}
