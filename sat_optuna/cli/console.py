"""What every command prints with: results on stdout, progress and remarks on stderr."""

import csv
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

__all__ = ["FORMAT", "Console"]

FORMAT = click.option(
    "--format",
    "form",
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
        if category is UserWarning and not self.quiet:
            click.echo(f"Warning: {message}", err=True)

    def result(self, text: str) -> None:
        """Print a line of the result."""
        click.echo(text)

    def remark(self, text: str) -> None:
        """Print a line that is not the result."""
        if not self.quiet:
            click.echo(text, err=True)

    def rows(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], form: str) -> None:
        """Print rows as a table, as one JSON document (a list of objects) or as CSV."""
        if form == "json":
            self.result(json.dumps([dict(row) for row in rows], indent=1, ensure_ascii=False))
        elif form == "csv":
            buffer = io.StringIO()
            writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            self.result(buffer.getvalue().rstrip("\n"))
        else:
            self._table(rows, columns)

    def _table(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console as RichConsole
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            numeric = any(isinstance(row.get(column), int | float) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_cell(row.get(column)) for column in columns))
        RichConsole(highlight=False).print(table)

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator["_Bar"]:
        """Show a bar on stderr while the block runs; `advance` moves it."""
        from rich.console import Console as RichConsole
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=RichConsole(stderr=True),
            disable=self.quiet,
        )
        with bar:
            yield _Bar(bar, bar.add_task(title, total=total, completed=done, note=""))


class _Bar:
    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def advance(self, note: str = "") -> None:
        """One step further, with a note behind the bar."""
        self._progress.update(self._task, advance=1, note=note)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
