"""`sat-optuna report`: write report.md and its figures."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import click

from sat_optuna.cli.console import Console
from sat_optuna.errors import StudyError
from sat_optuna.files import write_text
from sat_optuna.pipeline.folder import Workspace
from sat_optuna.pipeline.outcome import RANDOM, Outcome, read_outcome
from sat_optuna.ticket import Ticket

__all__ = ["report", "report_step"]


def report_step(workspace: Workspace, console: Console) -> None:
    """Write the report, unless it is there and of these tickets.

    Raises:
        StudyError: the retrainings are not finished.
    """
    outcome = read_outcome(workspace)
    if not outcome.finished:
        raise StudyError(
            f"{len(outcome.missing)} of {len(outcome.jobs)} retrainings of study "
            f"{workspace.name!r} are missing; run: sat-optuna retrain {workspace.name}"
        )
    tickets = {role: Ticket.load(outcome.path(role)) for role in outcome.schemes}
    mark, digest = workspace.work / "report.json", _digest(tickets)
    path = workspace.folder / "report.md"
    names = ("ticket.png", "search.png", "accuracy.png", "trials.csv")
    files = [path, *(workspace.folder / "figures" / name for name in names)]
    if all(file.exists() for file in files) and _marked(mark) == digest:
        console.result(f"report: done already, {path}")
        return
    _write(workspace, outcome, tickets)
    write_text(mark, json.dumps({"digest": digest}) + "\n")
    console.result(f"report: {path} written; next: sat-optuna show {outcome.path('ticket')}")


def _marked(mark: Path) -> str | None:
    try:
        return str(json.loads(mark.read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError):
        return None


def _digest(tickets: Mapping[str, Ticket]) -> str:
    text = "".join(ticket.to_json() for ticket in tickets.values())
    return hashlib.sha256(text.encode()).hexdigest()


def _write(workspace: Workspace, outcome: Outcome, tickets: Mapping[str, Ticket]) -> None:
    from sat_optuna.evidence.report import SearchSummary, TrialRow, write_report
    from sat_optuna.search.study import finished_trials

    def rows(suffix: str) -> list[TrialRow]:
        finished = finished_trials(workspace.load_study(suffix))
        return [
            TrialRow(t.number, t.user_attrs["scheme"], t.value, t.user_attrs["accuracy"])
            for t in finished
            if t.value is not None and t.state.name == "COMPLETE"
        ]

    write_report(
        workspace.folder,
        tickets,
        SearchSummary(workspace.config.search.sampler, rows(""), rows(RANDOM)),
        images=next(iter(outcome.results.values())).images,
        latency=(
            f"latency is the median of {outcome.LATENCY_REPEATS} interleaved forward passes of "
            f"{outcome.LATENCY_BATCH} images in eval and inference mode, after warm-up."
        ),
        hardware=outcome.hardware,
    )


@click.command(epilog="Example: sat-optuna report mine; next: sat-optuna show TICKET")
@click.argument("study")
@click.pass_obj
def report(console: Console, *, study: str) -> None:
    """Write report.md, its table and its figures."""
    workspace = Workspace.open(study)
    with workspace.locked():
        report_step(workspace, console)
