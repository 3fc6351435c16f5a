"""The networks a ticket is held against."""

import numpy as np

from sat_optuna.scheme import Scheme
from sat_optuna.seeds import seed_for

__all__ = ["control_schemes", "same_density"]


def same_density(scheme: Scheme, *, seed: int) -> Scheme:
    """Return a random scheme with the same choices at other blocks: the forgotten control.

    It differs from `scheme` wherever a different arrangement exists; a scheme with the same choice
    everywhere has none and is returned itself.
    """
    if len(set(scheme.choices)) == 1:
        return scheme
    rng = np.random.default_rng(seed_for("same-density", seed))
    while True:
        drawn = Scheme.of(rng.permutation(scheme.choices), scheme.stages)
        if drawn != scheme:
            return drawn


def control_schemes(ticket: Scheme, *, random_best: Scheme, seed: int) -> dict[str, Scheme]:
    """Return the scheme of each role, the ticket first.

    >>> roles = control_schemes(
    ...     Scheme.parse("110-010"), random_best=Scheme.parse("100-001"), seed=0
    ... )
    >>> {role: str(scheme) for role, scheme in roles.items() if role != "random-density"}
    {'ticket': '110-010', 'plain': '000-000', 'full': '111-111', 'random-best': '100-001'}
    >>> roles["random-density"].density == roles["ticket"].density
    True

    With several kinds of attention, full is the first kind at every block.

    Args:
        ticket: the found scheme.
        random_best: the best of as many random schemes as the search had trials.
        seed: of the random scheme of the same density.
    """
    return {
        "ticket": ticket,
        "plain": Scheme.uniform(ticket.stages, 0),
        "full": Scheme.uniform(ticket.stages, 1),
        "random-density": same_density(ticket, seed=seed),
        "random-best": random_best,
    }
