"""Progress on stderr: a bar in a terminal or notebook, a line now and then in a log file."""

import atexit
import sys
import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from typing_extensions import override

from sat_optuna.events import Event

__all__ = ["ProgressBar", "progress_bar"]


class _Bar(Progress):
    """A bar with a line of words below it, which is wrapped between words in a narrow terminal."""

    words = ""

    @override
    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.words:
            yield Padding(Text(self.words), (0, 0, 0, 2))


class ProgressBar:
    """Shows the events it is called with, one bar for each step."""

    _PAUSE_S = 30.0  # between two lines of a log file

    def __init__(self) -> None:
        self._screen = Console(stderr=True)
        self._drawn = self._screen.is_terminal or self._screen.is_jupyter
        self._bar: _Bar | None = None
        self._task: Any = None
        self._step, self._done, self._said = "", 0, 0.0
        atexit.register(self.close)  # a bar that is left open would hide the cursor for good

    def __call__(self, event: Event) -> None:
        """Show an event."""
        begins = event.step != self._step
        if begins:
            self.close()
            self._step, self._done, self._said = event.step, event.done, time.monotonic()
        if self._drawn:
            self._draw(event)
        elif event.done > self._done or (begins and event.message):
            self._write(event, begins=begins)
        self._done = event.done
        if event.finished:
            self.close()

    def close(self) -> None:
        """Leave the bar as it stands; the next event begins another."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._step = ""

    def _draw(self, event: Event) -> None:
        if self._bar is None:
            if event.finished:  # there was nothing to wait for
                return
            self._bar = _Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[done]}/{task.total}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._screen,
                # No thread and no other stdout: an exception may leave the bar as it stands.
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._bar.start()
            self._task = self._bar.add_task(event.step, total=event.total, done=event.done)
        self._bar.words = _words(event) or self._bar.words
        self._bar.update(
            self._task,
            completed=event.done + event.share,
            total=event.total,
            done=event.done,
            refresh=True,
        )

    def _write(self, event: Event, *, begins: bool) -> None:
        now = time.monotonic()
        if begins or now - self._said > self._PAUSE_S or event.done == event.total:
            self._said = now
            behind = f": {words}" if (words := _words(event)) else ""
            print(f"{event.step} {event.done}/{event.total}{behind}", file=sys.stderr)  # noqa: T201


def _words(event: Event) -> str:
    return ": ".join(text for text in (event.message, event.best) if text)


def progress_bar() -> ProgressBar:
    """Return what shows events, for the `on_event` of any long call.

    >>> from sat_optuna.events import Event
    >>> show = progress_bar()
    >>> show(Event(step="fit", done=0, total=3))
    >>> show.close()
    """
    return ProgressBar()
