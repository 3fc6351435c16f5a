"""`sat-optuna bench evaluation`: schemes scored through the tree beside one by one."""

import json
from pathlib import Path

import click

from sat_optuna.cli.console import FORMAT, Console
from sat_optuna.files import check_writable, write_text

__all__ = ["evaluation"]

_SHOWN = (
    "case",
    "schemes",
    "images",
    "calibration",
    "tree_s",
    "one_by_one_s",
    "timed",
    "faster",
    "floor_share",
)


@click.command(
    epilog="Example: sat-optuna bench evaluation --cases m9,m12 --images 1000 --rounds 1"
)
@click.option(
    "--cases",
    default="",
    help="With commas: m8, m9, m12 (all schemes), m16, m54 (900 random ones), and for the growth "
    "m8-half, m8-double (images), m16-100, m16-300 (schemes); default: all.",
)
@click.option("--images", type=click.IntRange(min=2), default=50, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--sample",
    type=click.IntRange(min=2),
    default=6,
    show_default=True,
    help="Schemes scored one by one in a round, and scaled to all.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; default torch's own.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON file to write, with a table FILE.md beside it.",
)
@FORMAT
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.pass_obj
def evaluation(
    console: Console,
    *,
    cases: str,
    images: int,
    rounds: int,
    sample: int,
    threads: int | None,
    out: Path | None,
    format: str,
    as_json: bool,
) -> None:
    """Score schemes through the tree of their prefixes and one by one; the ratio within a run.

    Also the time of the parts alone, which is the floor, and a scheme's score beside evaluating
    the network of that scheme. Without and with BatchNorm calibrated for each scheme.
    """
    import torch

    from sat_optuna.bench.evaluation import bench_evaluation
    from sat_optuna.bench.evaluation_report import evaluation_markdown

    if out:
        check_writable(out)
    if threads:
        torch.set_num_threads(threads)
    named = [name.strip() for name in cases.split(",") if name.strip()]
    with console.following() as on_event:
        document = bench_evaluation(
            cases=named,
            images=images,
            rounds=rounds,
            sample=sample,
            on_event=on_event,
        )
    if as_json or format == "json":
        console.result(json.dumps(document, indent=1))
    else:
        console.rows(document["rows"], _SHOWN, format)
    if out:
        write_text(out, json.dumps(document, indent=1) + "\n")
        table = write_text(out.with_suffix(".md"), evaluation_markdown(document))
        console.remark(f"{out} and {table} written")
