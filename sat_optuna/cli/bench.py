"""`sat-optuna bench`: the benchmarks a user can run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sat_optuna.cli.bench_evaluation import evaluation
from sat_optuna.cli.bench_export import export
from sat_optuna.cli.bench_training import training
from sat_optuna.cli.console import FORMAT, Console
from sat_optuna.config.plugins import load_plugins
from sat_optuna.files import check_writable, write_text

__all__ = ["bench"]


@click.group()
def bench() -> None:
    """Measure this machine; ratios within one run."""


bench.add_command(evaluation)
bench.add_command(export)
bench.add_command(training)


_THREADS = click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads; default torch's own."
)
_OUT = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="JSON file to write."
)


@bench.command(
    epilog="Example: sat-optuna bench inference --backbone resnet50 --modules se,sge,dia --json"
)
@click.option("--backbone", default="resnet50", show_default=True, help="As in ls backbones.")
@click.option(
    "--modules", default="se,sge,dia", show_default=True, help="As in ls modules, with commas."
)
@click.option("--resolution", type=click.IntRange(min=1), default=224, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=31, show_default=True)
@_THREADS
@click.option(
    "--scheme", "schemes", multiple=True, help="Measured too, for each module; may be repeated."
)
@click.option(
    "--cheapest/--no-cheapest",
    default=True,
    show_default=True,
    help="Look for the cheapest scheme of as many connections as the published or given one.",
)
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A Python file that registers your network or module; may be repeated.",
)
@_OUT
@FORMAT
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.pass_obj
def inference(
    console: Console,
    *,
    backbone: str,
    modules: str,
    resolution: int,
    batch: int,
    rounds: int,
    threads: int | None,
    schemes: Sequence[str],
    cheapest: bool,
    plugins: Sequence[Path],
    out: Path | None,
    format: str,
    as_json: bool,
) -> None:
    """Inference time of a network plain, with attention everywhere, and under schemes.

    The published tickets of SE, SGE and DIA are measured on networks with ResNet-50's stages.
    All networks take turns, so what else the machine does falls on all; increments are over
    plain, with 95 % intervals; p are one-sided and corrected for the number of tests.
    """
    import torch

    from sat_optuna.bench.contestants import plan_inference
    from sat_optuna.bench.inference import FIT_ROUNDS, bench_inference

    if out:
        check_writable(out)
    if threads:
        torch.set_num_threads(threads)
    load_plugins(plugins)
    plan = plan_inference(
        backbone,
        modules=[name.strip() for name in modules.split(",") if name.strip()],
        resolution=resolution,
        batch=batch,
        rounds=rounds,
        schemes=schemes,
        cheapest=cheapest,
    )
    with console.progress("bench inference", FIT_ROUNDS * len(plan.fits) + rounds) as bar:
        document = bench_inference(plan, on_round=bar.advance)
    if as_json or format == "json":
        console.result(json.dumps(document, indent=1, ensure_ascii=False))
    elif format == "csv":
        console.rows(document["rows"], tuple(document["rows"][0]), format)
    else:
        rows = [_readable(row) for row in document["rows"]]
        console.rows(rows, tuple(rows[0]), format)
        for model in document["latency_models"]:
            console.result(
                f"latency model of {', '.join(model['kinds'])}: {model['runs']} schemes in "
                f"{model['rounds']} rounds; median error on {model['fresh_schemes']} other "
                f"schemes {model['residual_percent']} %"
            )
    _write(console, document, out)


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with each interval behind its value."""
    kept = ("module", "network", "scheme", "batch", "resolution", "threads", "ms")
    return {name: row[name] for name in kept} | {
        "increment %": _interval(row, "increment_percent", 1),
        "share of full": _interval(row, "share_of_full", 2),
        "p cheaper than share-full": _p(row["p_cheaper_than_share_full"]),
        "p cheaper than ticket": _p(row["p_cheaper_than_ticket"]),
        "note": row["note"],
    }


def _interval(row: Mapping[str, Any], name: str, digits: int) -> str | None:
    if row[name] is None:
        return None
    value, low, high = (f"{row[name + end]:.{digits}f}" for end in ("", "_low", "_high"))
    return f"{value} ({low} to {high})"


def _p(p: float | None) -> str | None:
    return p if p is None else f"{p:.2g}"


def _write(console: Console, document: Mapping[str, Any], out: Path | None) -> None:
    if out:
        write_text(out, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        console.remark(f"{out} written")
