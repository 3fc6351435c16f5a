"""What a search may ask for at once: its metric, the higher the better, and costs, the lower."""

from collections.abc import Sequence
from typing import Literal

from sat_optuna.registry import nearest

__all__ = ["COSTS", "METRIC", "directions_of", "objectives_fault"]

METRIC = "accuracy"  # what a study measures of a scheme, in points
COSTS = ("latency_ms", "params", "macs")


def directions_of(
    objectives: Sequence[str],
) -> tuple[Literal["minimize", "maximize"], ...]:
    """Return Optuna's direction of each objective; without any there is one, the reward.

    >>> directions_of(()), directions_of(("accuracy", "latency_ms"))
    (('maximize',), ('maximize', 'minimize'))
    """
    return tuple("minimize" if name in COSTS else "maximize" for name in objectives or (METRIC,))


def objectives_fault(objectives: Sequence[str]) -> str:
    """Return why these cannot be the objectives of a search; the empty text where they can.

    >>> objectives_fault(("accuracy", "macs"))
    ''
    """
    known = (METRIC, *COSTS)
    for name in objectives:
        if name not in known:
            return f"has {name!r}{nearest(name, known) or ';'} known: {', '.join(known)}"
    if len(set(objectives)) < len(objectives):
        return f"is {list(objectives)!r}; name each objective once"
    if objectives and (METRIC not in objectives or len(objectives) == 1):
        return (
            f"is {list(objectives)!r}; name {METRIC} and one or more of {', '.join(COSTS)}, or "
            "leave it empty, for one reward"
        )
    return ""
