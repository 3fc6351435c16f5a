"""`sat-optuna bench sampler`: the samplers against each other."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from sat_optuna.cli.console import FORMAT, Console
from sat_optuna.files import check_writable, write_text

__all__ = ["sampler"]

_SHOWN = ("problem", "rival", "seeds", "evaluations", "value", "regret", "area", "distinct", "ms")
_AGAINST = ("problem", "ours", "rival", "seeds", "difference", "p", "p Holm")


@click.command(
    epilog="Example: sat-optuna bench sampler --out studies/bench-sampler --problems "
    "ticket54,nk16 --rivals default,tpe,default:pairs=false --seeds 20"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("studies/bench-sampler"),
    show_default=True,
    help="Folder; runs.jsonl in it holds each finished run, and none is done twice.",
)
@click.option(
    "--problems",
    default="",
    help="With commas, table:FILE for one of yours; default: all our own.",
)
@click.option(
    "--rivals",
    default="",
    help="With commas; default:pairs=false+ranks=false is a variant; default: all, no variants.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=30, show_default=True)
@click.option(
    "--evaluations",
    type=click.IntRange(min=1),
    help="Of each run; default: 100 for nb201, 200 for others.",
)
@click.option(
    "--cap",
    "cap_s",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="Seconds of CPU a run of gp may take; it ends early then.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Processes of one thread each; 0: this one.",
)
@click.option(
    "--overhead",
    is_flag=True,
    help="Instead: the time of ask and tell, of the first proposal after a study was opened, and "
    "the share of repeats of processes that work at once.",
)
@FORMAT
@click.pass_obj
def sampler(
    console: Console,
    *,
    out: Path,
    problems: str,
    rivals: str,
    seeds: int,
    evaluations: int | None,
    cap_s: float,
    workers: int,
    overhead: bool,
    format: str,
) -> None:
    """Compare samplers on problems of categorical choices, with equal budgets and paired seeds.

    Writes runs.jsonl, table.md, curves.png and, where there are variants, ablation.md, of all runs
    of that budget that runs.jsonl holds.
    """
    if overhead:
        _overhead(console, out, format)
        return
    from sat_optuna.bench.sampler import DEFAULT_PROBLEMS, DEFAULT_RIVALS, bench_sampler

    named = _names(problems) or list(DEFAULT_PROBLEMS)
    against = _names(rivals) or list(DEFAULT_RIVALS)
    with console.progress("bench sampler", len(named) * len(against) * seeds) as advance:
        runs = bench_sampler(
            out / "runs.jsonl",
            problems=named,
            rivals=against,
            seeds=seeds,
            evaluations=evaluations,
            cap_s=cap_s,
            workers=workers,
            on_run=advance,
        )
    from sat_optuna.bench.ablation import ablation_markdown
    from sat_optuna.bench.comparison import compared, standings
    from sat_optuna.bench.sampler_report import draw_curves, sampler_markdown

    rows, comparisons = standings(runs), compared(runs)
    if format == "json":
        document = {
            "standings": [asdict(row) for row in rows],
            "comparisons": [asdict(row) for row in comparisons],
        }
        console.result(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        console.rows([_standing(asdict(row)) for row in rows], _SHOWN, format)
    if format == "table" and comparisons:
        console.result("")
        console.rows([_versus(asdict(row)) for row in comparisons], _AGAINST, format)
    table = write_text(out / "table.md", sampler_markdown(runs, rows, comparisons))
    written = [table]
    if any(":" not in run.rival for run in runs):  # curves are of rivals, not of variants
        written.append(draw_curves(out / "curves.png", runs))
    if ablation := ablation_markdown(runs, comparisons):
        written.append(write_text(out / "ablation.md", ablation))
    console.remark(f"{', '.join(map(str, written))} written")


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _standing(row: Mapping[str, Any]) -> dict[str, Any]:
    means = {name: _interval(row[name]) for name in ("value", "regret", "area")}
    return {**row, **means, "evaluations": round(row["done"], 1)}


def _versus(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "difference": _interval(row["difference"]),
        "p": f"{row['p']:.2g}",
        "p Holm": f"{row['p_holm']:.2g}",
    }


def _interval(mean: Mapping[str, float] | None) -> str | None:
    if mean is None:
        return None
    return f"{mean['value']:.3f} ({mean['low']:.3f} to {mean['high']:.3f})"


def _overhead(console: Console, out: Path, format: str) -> None:
    from sat_optuna.bench import asynchrony, overhead, reopening
    from sat_optuna.bench.sampler import versions_used
    from sat_optuna.bench.sampler_report import overhead_markdown

    check_writable(out / "overhead.json")
    with console.progress("ask and tell", len(overhead.HISTORIES)) as advance:
        asked = overhead.bench_overhead(on_history=advance)
    with console.progress("reopening", len(reopening.READERS) * reopening.ROUNDS) as advance:
        reopened = reopening.bench_reopening(on_opening=advance)
    studies = len(asynchrony.ASYNCHRONOUS) * len(asynchrony.PROBLEMS) * asynchrony.SEEDS
    with console.progress("asynchrony", studies) as advance:
        together = asynchrony.bench_asynchrony(on_study=advance)
    parts = {"ask_and_tell": asked, "reopening": reopened, "asynchrony": together}
    machine = f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores"
    document = {"machine": machine, "versions": versions_used()} | parts
    text = json.dumps(document, indent=1, ensure_ascii=False)
    if format == "json":
        console.result(text)
    else:
        console.rows(asked, tuple(asked[0]), format)
    for rows in (reopened, together) if format == "table" else ():
        console.result("")
        console.rows(rows, tuple(rows[0]), format)
    write_text(out / "overhead.json", text + "\n")
    table = write_text(out / "overhead.md", overhead_markdown(document))
    console.remark(f"{table} written")
