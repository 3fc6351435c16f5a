"""What a search may ask for at once: its metric, the higher the better, and costs, the lower."""

from collections.abc import Sequence
from typing import Literal

from sat_optuna.registry import nearest

__all__ = ["COSTS", "directions_of", "metric_of", "objectives_fault"]

COSTS = ("latency_ms", "params", "macs")


def directions_of(
    objectives: Sequence[str],
) -> tuple[Literal["minimize", "maximize"], ...]:
    """Return Optuna's direction of each objective; without any there is one, the reward.

    >>> directions_of(()), directions_of(("accuracy", "latency_ms"))
    (('maximize',), ('maximize', 'minimize'))
    """
    return tuple("minimize" if name in COSTS else "maximize" for name in objectives or ("reward",))


def metric_of(objectives: Sequence[str]) -> str:
    """Return which of the objectives is the metric; the empty text where none is.

    >>> metric_of(("latency_ms", "auroc"))
    'auroc'
    """
    return next((name for name in objectives if name not in COSTS), "")


def objectives_fault(objectives: Sequence[str], metric: str = "accuracy") -> str:
    """Return why these cannot be the objectives of a search; the empty text where they can.

    Args:
        objectives: their names.
        metric: what the search measures of a scheme. It counts as in a reward, the higher the
            better, so one that is better lower counts negative.

    >>> objectives_fault(("accuracy", "macs"))
    ''
    """
    known = (metric, *COSTS)
    for name in objectives:
        if name not in known:
            return f"has {name!r}{nearest(name, known) or ';'} known: {', '.join(known)}"
    if len(set(objectives)) < len(objectives):
        return f"is {list(objectives)!r}; name each objective once"
    if objectives and (metric not in objectives or len(objectives) == 1):
        return (
            f"is {list(objectives)!r}; name {metric} and one or more of {', '.join(COSTS)}, or "
            "leave it empty, for one reward"
        )
    return ""
