"""What every command prints with: results on stdout, progress and remarks on stderr."""

import csv
import io
import json
import logging
import shutil
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click

from sat_optuna.errors import SatOptunaWarning, readable
from sat_optuna.events import Event, OnEvent

if TYPE_CHECKING:
    from sat_optuna.pipeline.progress import ProgressBar

__all__ = ["FORMAT", "INTERRUPTED", "Console", "wrapped"]

INTERRUPTED = threading.Event()  # set by Ctrl-C and SIGTERM

_GAP = 2  # blanks between two columns

FORMAT = click.option(
    "--format",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="How the result is printed.",
)


class Console:
    """Prints for one command.

    Args:
        quiet: no progress and no remarks.
        verbose: the libraries' own messages too.
    """

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        self.quiet, self.verbose = quiet, verbose
        self._bar: ProgressBar | None = None  # while one is shown
        logging.basicConfig(level=logging.INFO if verbose else logging.ERROR)
        if not verbose:
            warnings.showwarning = self._warn

    def _warn(
        self, message: Warning | str, category: type[Warning], *_place: Any, **_more: Any
    ) -> None:
        # Ours are sentences for the user; the libraries' are for their developers.
        if issubclass(category, SatOptunaWarning) and not self.quiet:
            self.remark(f"Warning: {message}")

    def _leave_bar(self) -> None:
        if self._bar:  # else a line would be printed into it
            self._bar.pause()

    def result(self, text: str) -> None:
        """Print a line of the result."""
        self._leave_bar()
        click.echo(wrapped(text, sys.stdout))

    def remark(self, text: str) -> None:
        """Print a line that is not the result."""
        if not self.quiet:
            self._leave_bar()
            click.echo(wrapped(readable(text), sys.stderr), err=True)

    def rows(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], format: str) -> None:
        """Print rows as a table, as one JSON document (a list of objects) or as CSV."""
        if format == "json":
            self.result(json.dumps([dict(row) for row in rows], indent=1, ensure_ascii=False))
        elif format == "csv":
            buffer = io.StringIO()
            writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            self.result(buffer.getvalue().rstrip("\n"))
        else:
            self._table(rows, columns)

    def _table(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """Print a line a row; a terminal too narrow for the words gets a line a value."""
        from rich.console import Console as RichConsole
        from rich.table import Table

        cells = [list(columns), *([_cell(row.get(c)) for c in columns] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        screen = _screen_width(sys.stdout)
        if screen and sum(widths) + _GAP * len(widths) > screen:
            if "scheme" in columns:
                at = columns.index("scheme")
                for line in cells:
                    line[at] = line[at].replace("-", "-\n")
            widths = _narrowed(cells, screen - _GAP * len(widths))
            if sum(widths) + _GAP * len(widths) > screen:
                self._records(cells)
                return
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
        for column, width in zip(columns, widths, strict=True):
            numeric = any(isinstance(row.get(column), int | float) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", width=width)
        for line in cells[1:]:
            table.add_row(*line)
        natural = sum(widths) + _GAP * len(widths)
        RichConsole(width=natural, highlight=False).print(table, soft_wrap=True)

    def _records(self, cells: Sequence[Sequence[str]]) -> None:
        """Print each row as lines of a column's name and its value."""
        names = max(map(len, cells[0])) + _GAP
        for line in cells[1:]:
            for column, cell in zip(cells[0], line, strict=True):
                self.result(f"{column:<{names}}{cell.replace(chr(10), '')}")
            self.result("")

    @contextmanager
    def following(
        self, say: Callable[[Event], str | None] = lambda _event: None
    ) -> Iterator[OnEvent]:
        """Yield an `on_event` that shows progress on stderr while the block runs.

        Args:
            say: gives the lines of the result that an event is worth, or None.
        """
        from sat_optuna.pipeline.progress import ProgressBar

        bar = self._bar = None if self.quiet else ProgressBar()

        def on_event(event: Event) -> None:
            if INTERRUPTED.is_set():  # Ctrl-C was pressed and nobody heard it
                raise KeyboardInterrupt
            if bar:
                bar(event)
            for line in (say(event) or "").splitlines():
                self.result(line)

        try:
            yield on_event
        finally:
            self._bar = None
            if bar:
                bar.close()


def wrapped(text: str, stream: TextIO) -> str:
    """Return a line so that a terminal breaks no word of it; elsewhere it stays one line."""
    screen = _screen_width(stream)
    if not screen or len(text) <= screen or "\n" in text:
        return text
    return textwrap.fill(
        text, screen, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _screen_width(stream: TextIO) -> int:
    """Return the columns of the terminal that a stream is, 0 where it is none."""
    return shutil.get_terminal_size().columns if stream.isatty() else 0


def _narrowed(cells: Sequence[Sequence[str]], room: int) -> list[int]:
    """Return widths of columns that fit into the room if they can, with no word broken."""
    columns = list(zip(*cells, strict=True))
    lines = [[line for cell in column for line in cell.split("\n")] for column in columns]
    widths = [max(map(len, column)) for column in lines]
    least = [max(len(word) for line in column for word in [*line.split(), ""]) for column in lines]
    while sum(widths) > room and widths != least:
        _, widest = max((w, at) for at, w in enumerate(widths) if w > least[at])
        widths[widest] -= 1
    return widths


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:z.3f}"
