"""`sat-optuna bench`: the benchmarks a user can run."""

import json
from pathlib import Path

import click

from sat_optuna.cli.console import FORMAT, Console
from sat_optuna.files import write_text

__all__ = ["bench"]


@click.group()
def bench() -> None:
    """Measure this machine; ratios within one run."""


@bench.command(epilog="Example: sat-optuna bench training --out studies/bench-training/mine.json")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default torch's own.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="JSON file to write.")
@FORMAT
@click.pass_obj
def training(
    console: Console, *, rounds: int, threads: int | None, out: Path | None, format: str
) -> None:
    """Training speed in each precision and memory format, beside float32 contiguous."""
    import torch

    from sat_optuna.bench.training import SETTINGS, bench_training

    if threads:
        torch.set_num_threads(threads)
    with console.progress("bench training", rounds * len(SETTINGS) * 2) as bar:
        document = bench_training(rounds=rounds, on_round=bar.advance)
    columns = ("network", "precision", "memory_format", "threads", "images_per_s", "ratio")
    console.rows(document["rows"], columns, format)
    if out:
        write_text(out, json.dumps(document, indent=1) + "\n")
        console.remark(f"{out} written")
