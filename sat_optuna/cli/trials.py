"""`sat-optuna trials`: the trials of a search."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from sat_optuna.cli.console import FORMAT, Console
from sat_optuna.errors import readable
from sat_optuna.pipeline.folder import StudyFolder, find_study

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

__all__ = ["trials"]

_COLUMNS = ("number", "state", "scheme", "reward", "accuracy", "sparsity", "params", "macs")
_ERROR = "error"  # of a FAIL trial: of another length than the rest, a line of its own in a table
_LATENCY = "latency_ms"


def _row(trial: "FrozenTrial", stale: set[int], columns: Sequence[str]) -> dict[str, Any]:
    attributes = trial.user_attrs
    state = "DEAD" if trial.number in stale else trial.state.name
    return {"number": trial.number, "state": state} | {
        column: attributes.get(column) for column in (*columns[2:], _ERROR)
    }


def _columns(study: "Study") -> tuple[str, ...]:
    """Return what is known of this study's trials: its objectives come after the scheme."""
    from sat_optuna.search.front import objectives_of
    from sat_optuna.search.tickets import measure_of

    objectives, metric = objectives_of(study), measure_of(study).name
    trials = study.get_trials(deepcopy=False)
    labelled = metric == "accuracy" or any("accuracy" in t.user_attrs for t in trials)
    scores = dict.fromkeys((metric, "accuracy") if labelled else (metric,))
    usual = ["reward", *scores, *_COLUMNS[5:]]
    if objectives:  # no reward, and the metric is one of them
        usual = [name for name in usual[1:] if name not in objectives]
    if _LATENCY not in objectives and any(_LATENCY in trial.user_attrs for trial in trials):
        usual.append(_LATENCY)
    return (*_COLUMNS[:3], *objectives, *usual)


def _best_first(study: "Study", rows: list[dict[str, Any]]) -> None:
    """Sort by reward, or where there are several objectives the front before the others."""
    from sat_optuna.search.front import front_trials, objectives_of

    if objectives_of(study):
        front = [trial.number for trial in front_trials(study)]
        place = {number: index for index, number in enumerate(front)}
        rows.sort(key=lambda row: place.get(row["number"], len(front)))
    else:
        rows.sort(key=lambda row: -(row["reward"] if row["reward"] is not None else -1e9))


@click.command(epilog="Example: sat-optuna trials mine --top 20 --format csv > trials.csv")
@click.argument("study")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    help="Only so many: the highest rewards, or the front, first. Default: all in number order.",
)
@FORMAT
@click.pass_obj
def trials(console: Console, *, study: str, top: int | None, format: str) -> None:
    """List the trials; a RUNNING one whose process is dead is shown as DEAD.

    Below the list is said why a trial became FAIL, and which trials of live processes hold up the
    sampler.
    """
    folder = StudyFolder(find_study(study))
    opened = folder.optuna_study()
    from sat_optuna.search.unfinished import blocking_trials, stale_trials

    stale = {trial.number for trial in stale_trials(opened)}
    columns = _columns(opened)
    rows = [_row(trial, stale, columns) for trial in opened.get_trials(deepcopy=False)]
    if top:
        _best_first(opened, rows)
        rows = rows[:top]
    console.rows(rows, columns if format == "table" else (*columns, _ERROR), format)
    for row in rows:
        if row[_ERROR] and format == "table":
            console.result(readable(f"trial {row['number']} is {row['state']}: {row[_ERROR]}"))
    if stale:
        console.remark(
            f"DEAD trials {sorted(stale)} are finished under their numbers by: "
            f"sat-optuna search {folder.argument}"
        )
    for blocker in blocking_trials(opened):
        console.remark(str(blocker))
