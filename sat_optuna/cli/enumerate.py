"""`sat-optuna enumerate`: score all schemes of a study in its supernet."""

import json
from dataclasses import replace
from shlex import quote

import click

from sat_optuna.cli.console import FORMAT, Console
from sat_optuna.events import Event
from sat_optuna.pipeline.folder import open_study
from sat_optuna.scheme import ENUMERATION_LIMIT

__all__ = ["enumerate_all"]


@click.command(
    "enumerate", epilog="Example: sat-optuna enumerate mine --top 20; first: sat-optuna pretrain"
)
@click.argument("study")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How many of the best schemes are shown.",
)
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    help="MB that scoring may take; default: no limit, and what is fast.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=ENUMERATION_LIMIT,
    show_default=True,
    help="Refuse a study of more schemes.",
)
@FORMAT
@click.pass_obj
def enumerate_all(
    console: Console, *, study: str, top: int, memory: int | None, limit: int, format: str
) -> None:
    """Score all schemes in the pretrained supernet, each with BatchNorm calibrated for it.

    Schemes share the passes of their first blocks. What is done is kept in work/enumeration.jsonl,
    so the same command goes on after any end. Writes enumeration.npz, .json and .md; the npz is a
    problem, table:FILE, for the duel of samplers in studies/bench-sampler.
    """
    opened = open_study(study)
    with console.following() as show:

        def on_event(event: Event) -> None:
            if event.message:
                console.remark(f"enumerate: {event.message}")
            show(replace(event, message=""))

        found = opened.enumerate(
            top=top, memory=(memory or 0) * 2**20, limit=limit, on_event=on_event
        )
    summary = found.scores.summary(top=top)
    if format == "json":
        console.result(json.dumps(summary, indent=1))
    else:
        rows = [{"role": f"best {n}"} | row for n, row in enumerate(summary["best"], start=1)]
        rows += [{"role": role} | row for role, row in summary["controls"].items()]
        console.rows(rows, tuple(rows[0]), format)
    if format == "table":
        console.result("")
        console.rows(summary["effects"], tuple(summary["effects"][0]), format)
    if found.kept and format == "table":
        kept = [
            {"points": f"{points:g}", "scheme": str(ticket.scheme)}
            | {f"{score.split} %": f"{score.value:.2f}" for score in ticket.scores}
            for points, ticket in found.kept.items()
        ]
        console.result("")
        console.rows(kept, tuple(kept[0]), format)
        console.remark(
            f"enumerate: the fewest modules within so many points of full, in {found.folded}; a "
            f"network: sat-optuna export {quote(str(opened.tickets / 'within-0.3.json'))} --to "
            "safetensors --fold-constant"
        )
    console.remark(f"enumerate: {summary['spread']}")
    done = "scored" if found.new else "done already"
    console.remark(
        f"enumerate: {summary['schemes']:,} schemes {done}, in {found.page} and {found.table}; "
        f"next: sat-optuna search {opened.argument}"
    )
