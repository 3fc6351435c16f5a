"""`sat-optuna enumerate`: score all schemes of a study in its supernet."""

import json

import click

from sat_optuna.cli.console import FORMAT, Console
from sat_optuna.errors import StudyError
from sat_optuna.pipeline.folder import Workspace

__all__ = ["enumerate_all"]

_LIMIT = 2**16
_SHOWN = ("scheme", "connections", "accuracy", "loss", "reward", "percentile")


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
    default=_LIMIT,
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
    table for `sat-optuna bench sampler --problems table:FILE`.
    """
    workspace = Workspace.open(study)
    with workspace.locked():
        _enumerate(workspace, console, top=top, memory=memory or 0, limit=limit, format=format)


def _enumerate(
    workspace: Workspace, console: Console, *, top: int, memory: int, limit: int, format: str
) -> None:
    from sat_optuna.evaluate.journal import Journal
    from sat_optuna.evidence.enumeration import Enumeration

    evaluator = workspace.supernet_objective(memory=memory * 2**20, cache=0).evaluator
    plan = evaluator.plan()
    if plan.schemes > limit:
        raise StudyError(
            f"study {workspace.name!r} has {plan.schemes:,} schemes, more than the limit of "
            f"{limit:,}; all of them would take {plan}; raise --limit for that, or search them: "
            f"sat-optuna search {workspace.name}"
        )
    console.remark(f"enumerate: {plan}")
    schemes = evaluator.all_schemes(limit=limit)
    journal = Journal(workspace.work / "enumeration.jsonl", evaluator)
    done = len(journal.held)
    with console.progress("enumerate", plan.schemes, done) as bar:
        results = journal.score(schemes, on_event=lambda _: bar.advance())
    scores = Enumeration(
        tuple(results.values()),
        kinds=[spec.kind for spec in workspace.config.attention.kinds],
        sparsity_weight=workspace.config.search.sparsity_weight,
    )
    table, _, page = scores.write(workspace.folder, top=top)
    summary = scores.summary(top=top)
    if format == "json":
        console.result(json.dumps(summary, indent=1))
    else:
        rows = [{"role": f"best {n}"} | row for n, row in enumerate(summary["best"], start=1)]
        rows += [{"role": role} | row for role, row in summary["controls"].items()]
        console.rows(rows, ("role", *_SHOWN), format)
    if format == "table":
        console.result("")
        console.rows(summary["effects"], tuple(summary["effects"][0]), format)
    console.remark(
        f"enumerate: {plan.schemes - done:,} schemes now, {plan.schemes:,} in all, in {page} and "
        f"{table}; next: sat-optuna bench sampler --problems table:{table}"
    )
