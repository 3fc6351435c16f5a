"""`sat-optuna evaluate`: a trained ticket on the test part, or on a folder of images."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sat_optuna.cli.console import FORMAT, Console

if TYPE_CHECKING:
    from sat_optuna.evidence.performance import Measured

__all__ = ["evaluate"]


@click.command(
    epilog="Example: sat-optuna evaluate studies/mine/tickets/ticket.json --data photographs"
)
@click.argument("ticket", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A folder of images, a folder for each class; default: the study's test part.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="A training's checkpoint or an exported file; default: the study's own retraining.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Of that retraining; default: the first.")
@click.option(
    "--figure",
    type=click.Path(path_type=Path),
    help="The confusion matrix's PNG file; default: in figures/ of the study.",
)
@FORMAT
@click.pass_obj
def evaluate(
    console: Console,
    *,
    ticket: Path,
    data: Path | None,
    weights: Path | None,
    seed: int | None,
    figure: Path | None,
    format: str,
) -> None:
    """Measure a trained ticket with every metric of its task, and on each class.

    TICKET is a ticket's JSON file or an exported .safetensors. Intervals are of 95 % over the
    images: Wilson's of accuracies, of other metrics those of a bootstrap. They do not hold what
    training with another seed would change.
    """
    from sat_optuna.evidence.performance import largest_confusions
    from sat_optuna.pipeline.evaluation import evaluate_ticket

    console.remark("reading the network and the images")
    done = evaluate_ticket(ticket, data=data, weights=weights, seed=seed, figure=figure)
    found = done.found
    kind = "accuracy" if found.confusion is not None else "iou"
    rows = [
        *({"of": "all images", **_row(m)} for m in found.metrics),
        *({"of": f"class {m.name}", **_row(m), "metric": kind} for m in found.classes),
    ]
    shown = [_cells(row) for row in rows] if format == "table" else rows
    console.rows(shown, tuple(shown[0]), format)
    say = console.result if format == "table" else console.remark
    for remark in found.remarks:
        say(remark)
    if found.confusion is not None:
        for true, answer, images in largest_confusions(found.confusion, done.class_names):
            say(f"{images} images of class {true} are taken for {answer}")
    scheme = f"{done.ticket.role} {done.ticket.scheme}"
    written = f"; {done.figure} written" if done.figure else ""
    say(f"{scheme} on {done.images}{written}")


def _row(measured: "Measured") -> dict[str, Any]:
    row = asdict(measured)
    values = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
    return {"metric": values.pop("name"), **values}


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as people read it: the value with its unit, and the interval in one cell."""
    digits = ".2f" if row["unit"] == "%" else ".4f"
    known = row["low"] is not None
    interval = f"{row['low']:{digits}} to {row['high']:{digits}}" if known else None
    value = f"{row['value']:{digits}} {row['unit']}".rstrip()
    name = row["metric"].replace("_", " ")
    return {"of": row["of"], "metric": name, "value": value, "95 %": interval, "n": row["n"]}
