"""`sat-optuna compare`: the tickets of several studies side by side."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from sat_optuna.cli.console import FORMAT, Console

if TYPE_CHECKING:
    from sat_optuna.evidence.statistics import Comparison

__all__ = ["compare"]


@click.command(epilog="Example: sat-optuna compare se-study sge-study")
@click.argument("studies", nargs=-1, required=True, metavar="STUDY STUDY...")
@FORMAT
@click.pass_obj
def compare(console: Console, *, studies: tuple[str, ...], format: str) -> None:
    """Show the tickets of several studies side by side: schemes, accuracies, costs.

    Where networks saw the same data and were trained the same way with the same seeds, the first
    study's ticket is compared with each other one, paired by seed. The tickets' files are read and
    nothing else.
    """
    from sat_optuna.pipeline.comparison import compare_studies

    found = compare_studies(studies)
    rows = [_shown(row) for row in found.rows] if format == "table" else found.rows
    console.rows(rows, tuple(rows[0]), format)
    say = console.result if format == "table" else console.remark
    for line in (*(_said(found.names[0], d) for d in found.differences), *found.remarks):
        say(line)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with one cell for the accuracy and its interval."""
    accuracy = None if row["accuracy"] is None else f"{row['accuracy']:.2f}"
    if row["low"] is not None:
        accuracy = f"{accuracy} ({row['low']:.2f} to {row['high']:.2f})"
    names = {"accuracy": "test accuracy %"}
    shown = {**row, "accuracy": accuracy}
    return {names.get(key, key): v for key, v in shown.items() if key not in ("low", "high")}


def _said(first: str, entry: "Comparison") -> str:
    spread = entry.difference
    interval = "" if math.isnan(spread.low) else f" ({spread.low:+z.2f} to {spread.high:+z.2f})"
    told = ", not told from noise" if entry.within_noise else ""
    return (
        f"ticket of {first} minus ticket of {entry.control}: {spread.mean:+z.2f} points"
        f"{interval}, {spread.n} seeds{told}"
    )
