"""`sat-optuna bench inference`: what attention costs here, block by block."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sat_optuna.cli.console import FORMAT, Console
from sat_optuna.config.plugins import load_plugins
from sat_optuna.files import check_writable

__all__ = ["inference"]


@click.command(
    epilog="Example: sat-optuna bench inference --backbone resnet50 --modules se,sge,dia --json"
)
@click.option("--backbone", default="resnet50", show_default=True, help="As in ls backbones.")
@click.option(
    "--modules", default="se,sge,dia", show_default=True, help="As in ls modules, with commas."
)
@click.option("--resolution", type=click.IntRange(min=1), default=224, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=31, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default torch's own.")
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
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="JSON file to write.")
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
    """Inference time of a network: plain, with attention everywhere, and under schemes.

    On networks with ResNet-50's stages, the published tickets of SE, SGE and DIA are measured.
    All networks take turns, so other work of the machine disturbs all of them alike. Increments
    are over plain, with 95 % intervals; p-values are one-sided and corrected for the number of
    tests.
    """
    import torch

    from sat_optuna.bench.document import write_document
    from sat_optuna.bench.inference import bench_inference
    from sat_optuna.bench.inference_plan import plan_inference

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
    with console.following() as on_event:
        document = bench_inference(plan, on_event=on_event)
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
    if out:
        write_document(out, document)
        console.remark(f"{out} written")


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row in which each interval stands behind its value."""
    from sat_optuna.cost.timing import interval_text

    kept = ("module", "network", "scheme", "batch", "resolution", "threads", "ms")
    return {name: row[name] for name in kept} | {
        "increment %": interval_text(row, "increment_percent", "{:z.1f}"),
        "share of full": interval_text(row, "share_of_full", "{:z.2f}"),
        "p cheaper than share-full": _p(row["p_cheaper_than_share_full"]),
        "p cheaper than ticket": _p(row["p_cheaper_than_ticket"]),
        "note": row["note"],
    }


def _p(p: float | None) -> str | None:
    return p if p is None else f"{p:.2g}"
