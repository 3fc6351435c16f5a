"""Progress on stderr: a bar in a terminal or notebook, a line now and then in a log file."""

import atexit
import sys
from collections import deque
from time import monotonic

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from sat_optuna.errors import SchemeError
from sat_optuna.events import Event
from sat_optuna.scheme import Scheme

__all__ = ["ProgressBar", "progress_bar"]

_WIDEST = 24  # of the bar itself
_UNITS = {  # what a step counts
    "search": "trial",
    "search random": "trial",
    "pretrain": "epoch",
    "fit": "epoch",
    "enumerate": "scheme",
    "retrain": "network",
    "evidence": "network",
    "truth": "training",
    "verify": "training",
    "supernets": "supernet",
    "latency": "round",
}


class _Pace:
    """How fast a step goes: from what was done lately, and in this process alone.

    The clock starts when the first of it is under way, for getting ready takes a time that says
    nothing of the rest.
    """

    _LATELY_S = 300.0
    _BURST_S = 1.0  # what comes in so short a time, such as a batch, was made before it

    def __init__(self) -> None:
        self.begun = monotonic()
        # Of each burst when it began, when its last came, and how far the step was then.
        self._bursts: deque[tuple[float, float, float]] = deque()

    def note(self, position: float) -> None:
        """Note how far the step is now."""
        now, bursts = monotonic(), self._bursts
        if not bursts or (len(bursts) == 1 and position <= bursts[0][2]):
            bursts.clear()
            bursts.append((now, now, position))
        elif position > bursts[-1][2]:
            goes_on = len(bursts) > 1 and now - bursts[-1][0] < self._BURST_S
            bursts.append((bursts.pop()[0] if goes_on else now, now, position))
            while len(bursts) > 2 and bursts[1][1] < now - self._LATELY_S:
                bursts.popleft()

    @property
    def per_second(self) -> float:
        """How much is done in a second; 0 while that is not known."""
        (_, began, start), (_, now, position) = self._bursts[0], self._bursts[-1]
        return (position - start) / (now - began) if now - began >= self._BURST_S else 0.0

    def left(self, total: int) -> float:
        """Return how many seconds the rest takes, where the pace is known."""
        return max(total - self._bursts[-1][2], 0.0) / self.per_second


class ProgressBar:
    """Shows the events it is called with, one bar for each step."""

    _PAUSE_S = 30.0  # between two lines of a log file

    def __init__(self) -> None:
        self._screen = screen = Console(stderr=True)
        self._drawn = (screen.is_terminal and not screen.is_dumb_terminal) or screen.is_jupyter
        self._live: Live | None = None
        self._event = Event(step="", done=0, total=1)  # the last one
        self._words = ""
        self._pace, self._said = _Pace(), 0.0
        atexit.register(self._show_cursor)  # which an open bar hides

    def __call__(self, event: Event) -> None:
        """Show an event."""
        begins = event.step != self._event.step
        if begins:
            self.close()
            self._pace, self._said = _Pace(), monotonic()
        went_on = event.done > self._event.done or event.share > 0
        self._event = event
        self._pace.note(event.done + event.share)
        if self._drawn:
            self._draw(event)
        elif event.message if begins else went_on:
            self._write(event, begins=begins)
        if event.finished:
            self.close()

    def close(self) -> None:
        """Leave the bar as it stands; the next event begins another."""
        self.pause()
        self._event, self._words = Event(step="", done=0, total=1), ""

    def pause(self) -> None:
        """Leave the bar as it stands, for something else is printed; its step goes on below."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _show_cursor(self) -> None:
        if self._live is not None:  # nothing is drawn again: a traceback may stand below
            self._screen.show_cursor(True)

    def _draw(self, event: Event) -> None:
        if self._live is None:
            if event.finished:  # there was nothing to wait for
                return
            self._live = Live(
                get_renderable=self._picture,
                console=self._screen,
                # No thread and no other stdout: an exception may leave the bar as it stands.
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        can_draw = self._screen.encoding.startswith("utf")
        self._words = _words(event, drawn=can_draw) or self._words
        self._live.refresh()

    def _picture(self) -> RenderableType:
        """Return step, bar, count, pace and time left in one line, and below it the words.

        In a narrow terminal the pace goes first, then the bar; words are wrapped between words.
        """
        event = self._event
        texts = [event.step, f"{event.done:,}/{event.total:,}", *self._tempo()]
        if len(texts) == 4 and len(" ".join(texts)) > self._screen.width:
            del texts[2]
        room = self._screen.width - len(" ".join(texts)) - 2
        cells: list[RenderableType] = [Text(text, no_wrap=True) for text in texts]
        if room >= 4:
            bar = Bar(
                total=max(event.total, 1),
                completed=event.done + event.share,
                width=min(room, _WIDEST),
            )
            cells.insert(1, bar)
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_row(*cells)
        return Group(line, Padding(Text(self._words), (0, 0, 0, 2))) if self._words else line

    def _tempo(self) -> list[str]:
        """Return pace and time left in words; at the end, how long it took."""
        event, rate = self._event, self._pace.per_second
        if event.finished or event.done == event.total:
            took = monotonic() - self._pace.begun
            return [f"in {_duration(took)}"] if took >= 1 else []
        if not rate:
            return []
        left = self._pace.left(event.total)
        return [_speed(rate, _UNITS.get(event.step, "step")), f"{_duration(left)} left"]

    def _write(self, event: Event, *, begins: bool) -> None:
        now = monotonic()
        if begins or now - self._said > self._PAUSE_S or event.done == event.total:
            self._said = now
            count = ", ".join([f"{event.step} {event.done}/{event.total}", *self._tempo()])
            behind = f": {words}" if (words := _words(event, drawn=False)) else ""
            print(f"{count}{behind}", file=sys.stderr)  # noqa: T201


def _words(event: Event, *, drawn: bool) -> str:
    best = event.best
    if drawn and best:
        try:
            scheme = Scheme.parse(best)
        except SchemeError:  # a user's own words
            pass
        else:
            best = scheme.dots(kinds=max(1, *scheme.choices))
    return ": ".join(text for text in (event.message, best) if text)


def _speed(rate: float, unit: str) -> str:
    """Return a pace in words.

    >>> _speed(250.0, "scheme"), _speed(2.345, "trial"), _speed(0.4, "trial")
    ('250 schemes/s', '2.3 trials/s', '2.5 s/trial')
    """
    if rate >= 1:
        return f"{rate:,.{1 if rate < 10 else 0}f} {unit}s/s"
    return f"{_duration(1 / rate, finer=True)}/{unit}"


def _duration(seconds: float, *, finer: bool = False) -> str:
    """Return a time in words.

    >>> _duration(0.4), _duration(75.0), _duration(3600.0), _duration(9000.0), _duration(3e5)
    ('0 s', '75 s', '60 min', '2.5 h', '3.5 days')
    """
    if seconds < 100:
        return f"{seconds:.{1 if finer and seconds < 10 else 0}f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def progress_bar() -> ProgressBar:
    """Return what shows events, for the `on_event` of any long call.

    >>> from sat_optuna.events import Event
    >>> show = progress_bar()
    >>> show(Event(step="fit", done=0, total=3))
    >>> show.close()
    """
    return ProgressBar()
