"""`sat-optuna bench training`: what trains fast here, and what a supernet costs."""

import json
from dataclasses import replace
from pathlib import Path

import click

from sat_optuna.cli.console import FORMAT, Console
from sat_optuna.files import check_writable, write_text

__all__ = ["training"]


@click.command(epilog="Example: sat-optuna bench training --out studies/bench-speed/mine.json")
@click.option("--rounds", type=click.IntRange(min=6), default=31, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default torch's own.")
@click.option(
    "--batch", type=click.IntRange(min=2), help="Images a step; default each network's own."
)
@click.option(
    "--seeds",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    help="Trainings of each loop on mnist5k.",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), default=4, show_default=True, help="Of these."
)
@click.option("--compile", is_flag=True, help="Also time steps through torch.compile.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON file, rewritten after each measurement; what it holds is not done again. A page of "
    "tables is written beside it, with the suffix .md.",
)
@FORMAT
@click.pass_obj
def training(
    console: Console,
    *,
    rounds: int,
    threads: int | None,
    batch: int | None,
    seeds: int,
    epochs: int,
    compile: bool,
    out: Path | None,
    format: str,
) -> None:
    """Our training loop beside the usual one, in each precision and memory format.

    The usual loop has a DataLoader that augments one image at a time, contiguous float32 tensors,
    and fetches the loss each step. Also measured: what a supernet costs beside networks of the
    same schemes, for a forward pass, a training step and a score.
    """
    import torch

    from sat_optuna.bench.training import bench_training
    from sat_optuna.bench.training_plan import NETWORKS, TrainingPlan
    from sat_optuna.bench.training_report import (
        COMPILED_COLUMNS,
        LOOP_COLUMNS,
        RATIO_COLUMNS,
        accuracy_line,
        readable,
        training_markdown,
    )

    if out:
        check_writable(out)
    if threads:
        torch.set_num_threads(threads)
    networks = tuple(replace(one, batch=batch or one.batch) for one in NETWORKS)
    plan = TrainingPlan(
        networks=networks, rounds=rounds, seeds=seeds, epochs=epochs, compile=compile
    )
    with console.following() as on_event:
        document = bench_training(plan, out=out, on_event=on_event)
    if format == "json":
        console.result(json.dumps(document, indent=1, ensure_ascii=False))
    elif format == "csv":
        console.rows(document["rows"], tuple(document["rows"][0]), format)
    else:
        console.rows(readable(document["rows"]), LOOP_COLUMNS, format)
        console.result("")
        console.rows(readable(document["ratios"]), RATIO_COLUMNS, format)
        if document["compiled"]:
            console.result("\ntraining step through torch.compile / without:")
            console.rows(readable(document["compiled"]), COMPILED_COLUMNS, format)
        console.result(f"\n{accuracy_line(document['accuracy'])}")
    if out:
        page = write_text(out.with_suffix(".md"), training_markdown(document))
        console.remark(f"{out} and {page} written")
