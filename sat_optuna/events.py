"""What a long call tells while it works: frozen values, handed to its `on_event`."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

__all__ = ["GETTING_READY", "Event", "OnEvent", "counted", "ignore"]

GETTING_READY = "getting ready"  # told at once, before torch is imported, which takes seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One step further.

    >>> Event(step="search", done=12, total=60, best="110-010-001").done
    12

    Attributes:
        step: what is being done: "data", "pretrain", "search", "search random", "enumerate",
            "passengers", "costs", "retrain", "blocks", "report", "evidence", "truth", "verify";
            or "fit" for one training, "latency" for timed rounds, "bench training" and the like
            for a benchmark.
        done: how much of it, 0 at the beginning.
        total: of how much.
        share: how much more is done, of those under way: 0.5 is half of the next one.
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


def counted(on_event: OnEvent, *, step: str, total: int) -> OnEvent:
    """Return a function that hands events on as the next part of a larger step.

    >>> show = lambda event: print(event.step, event.done, event.total)
    >>> part = counted(show, step="bench", total=3)
    >>> part(Event(step="fit", done=1, total=1)); part(Event(step="latency", done=1, total=2))
    bench 1 3
    bench 2 3

    Args:
        on_event: what is called.
        step: name of the larger step.
        total: how many events it has in all.
    """
    done = itertools.count(1)

    def hand_on(event: Event) -> None:
        on_event(replace(event, step=step, done=next(done), total=total))

    return hand_on
