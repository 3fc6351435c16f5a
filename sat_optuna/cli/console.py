"""What every command prints with: results on stdout, progress and remarks on stderr."""

import csv
import io
import json
import logging
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from sat_optuna.errors import SatOptunaWarning

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["FORMAT", "INTERRUPTED", "Bar", "Console"]

INTERRUPTED = threading.Event()  # set by Ctrl-C and SIGTERM

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
        self.quiet = quiet
        logging.basicConfig(level=logging.INFO if verbose else logging.ERROR)
        if not verbose:
            warnings.showwarning = self._warn

    def _warn(
        self, message: Warning | str, category: type[Warning], *_place: Any, **_more: Any
    ) -> None:
        # Ours are sentences for the user; the libraries' are for their developers.
        if issubclass(category, SatOptunaWarning) and not self.quiet:
            click.echo(f"Warning: {message}", err=True)

    def result(self, text: str) -> None:
        """Print a line of the result."""
        click.echo(text)

    def remark(self, text: str) -> None:
        """Print a line that is not the result."""
        if not self.quiet:
            click.echo(text, err=True)

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
        from rich.console import Console as RichConsole
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in columns:
            numeric = any(isinstance(row.get(column), int | float) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(_cell(row.get(column)) for column in columns))
        # A line a row, however long: a scheme or a path must not be cut or folded.
        natural = RichConsole(width=100_000).measure(table).maximum
        RichConsole(width=natural, highlight=False).print(table, soft_wrap=True)

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator["Bar"]:
        """Show progress on stderr while the block runs; `advance` of what is yielded moves it.

        A terminal gets a bar; a log file gets a line now and then.
        """
        from rich.console import Console as RichConsole
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        screen = RichConsole(stderr=True)
        shown = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=screen,
            disable=self.quiet or not screen.is_terminal,
        )
        with shown:
            yield Bar(self, shown, title, total, done)


class Bar:
    """Progress of one step; made by `Console.progress`."""

    _PAUSE_S = 30.0  # between two lines of a log file

    def __init__(
        self, console: Console, shown: "Progress", title: str, total: int, done: int
    ) -> None:
        self._console, self._shown, self._title = console, shown, title
        self._total, self._done, self._said = total, done, time.monotonic()
        self._task = shown.add_task(title, total=total, completed=done, note="")

    def advance(self, note: str = "") -> None:
        """One step further, with a note behind the bar.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed and nobody heard it.
        """
        if INTERRUPTED.is_set():
            raise KeyboardInterrupt
        self._done += 1
        self._shown.update(self._task, advance=1, note=note)
        now = time.monotonic()
        if self._shown.disable and (now - self._said > self._PAUSE_S or self._done == self._total):
            self._said = now
            behind = f": {note}" if note else ""
            self._console.remark(f"{self._title} {self._done}/{self._total}{behind}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
