"""What every command prints with: results on stdout, progress and remarks on stderr."""

import csv
import io
import json
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from sat_optuna.errors import SatOptunaWarning, readable
from sat_optuna.events import Event, OnEvent

__all__ = ["FORMAT", "INTERRUPTED", "Console"]

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
        self.quiet, self.verbose = quiet, verbose
        logging.basicConfig(level=logging.INFO if verbose else logging.ERROR)
        if not verbose:
            warnings.showwarning = self._warn

    def _warn(
        self, message: Warning | str, category: type[Warning], *_place: Any, **_more: Any
    ) -> None:
        # Ours are sentences for the user; the libraries' are for their developers.
        if issubclass(category, SatOptunaWarning) and not self.quiet:
            click.echo(readable(f"Warning: {message}"), err=True)

    def result(self, text: str) -> None:
        """Print a line of the result."""
        click.echo(text)

    def remark(self, text: str) -> None:
        """Print a line that is not the result."""
        if not self.quiet:
            click.echo(readable(text), err=True)

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
    def following(
        self, say: Callable[[Event], str | None] = lambda _event: None
    ) -> Iterator[OnEvent]:
        """Yield an `on_event` that shows progress on stderr while the block runs.

        Args:
            say: gives the line of the result that an event is worth, or None.
        """
        from sat_optuna.pipeline.progress import ProgressBar

        bar = None if self.quiet else ProgressBar()

        def on_event(event: Event) -> None:
            if INTERRUPTED.is_set():  # Ctrl-C was pressed and nobody heard it
                raise KeyboardInterrupt
            if bar:
                bar(event)
            if line := say(event):
                self.result(line)

        try:
            yield on_event
        finally:
            if bar:
                bar.close()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
