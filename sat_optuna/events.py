"""What a long call tells while it works: frozen values, handed to its `on_event`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Event", "OnEvent", "ignore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One step further.

    >>> Event(step="search", done=12, total=60, best="110-010-001").done
    12

    Attributes:
        step: what is being done: "pretrain", "search", "control", "enumerate", "costs", "retrain",
            "report", or "fit" for one training.
        done: how much of it, 0 at the beginning.
        total: of how much.
        share: how much of the next one is done, from 0 to below 1.
        message: what was made last, in words.
        best: the best so far, in words.
        made: what was made last: an EpochRecord, a FrozenTrial, a RetrainResult ...
        finished: whether this is the step's last event; `made` is then the step's result.
    """

    step: str
    done: int
    total: int
    share: float = 0.0
    message: str = ""
    best: str = ""
    made: object = None
    finished: bool = False


OnEvent: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Do nothing with an event: the default of every `on_event`."""
    del event
