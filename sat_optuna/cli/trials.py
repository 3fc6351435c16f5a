"""`sat-optuna trials`: the trials of a search."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from sat_optuna.cli.console import FORMAT, Console
from sat_optuna.pipeline.folder import StudyFolder, find_study
from sat_optuna.tasks import TASKS

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["trials"]

_COLUMNS = ("number", "state", "scheme", "reward", "accuracy", "sparsity", "params", "macs")


def _row(trial: "FrozenTrial", stale: set[int], columns: Sequence[str]) -> dict[str, Any]:
    attributes = trial.user_attrs
    state = "DEAD" if trial.number in stale else trial.state.name
    return {"number": trial.number, "state": state} | {
        column: attributes.get(column) for column in columns[2:]
    }


@click.command(epilog="Example: sat-optuna trials mine --format csv > trials.csv")
@click.argument("study")
@click.option("--best", is_flag=True, help="Highest reward first, not in number order.")
@FORMAT
@click.pass_obj
def trials(console: Console, *, study: str, best: bool, format: str) -> None:
    """List the trials; a RUNNING one whose process is dead is shown as DEAD.

    Which trials of live processes hold up the sampler is said below the list.
    """
    folder = StudyFolder(find_study(study))
    opened = folder.optuna_study()
    from sat_optuna.search.tickets import measure_of
    from sat_optuna.search.unfinished import blocking_trials, stale_trials

    metric = measure_of(opened).name
    columns = _COLUMNS if metric in _COLUMNS else (*_COLUMNS[:4], metric, *_COLUMNS[4:])
    if TASKS.get(folder.config.task.name).targets != "labels":
        columns = tuple(name for name in columns if name != "accuracy")
    stale = {trial.number for trial in stale_trials(opened)}
    rows = [_row(trial, stale, columns) for trial in opened.get_trials(deepcopy=False)]
    if best:
        rows.sort(key=lambda row: -(row["reward"] if row["reward"] is not None else -1e9))
    console.rows(rows, columns, format)
    if stale:
        console.remark(
            f"DEAD trials {sorted(stale)} are finished under their numbers by: "
            f"sat-optuna search {folder.argument}"
        )
    for blocker in blocking_trials(opened):
        console.remark(str(blocker))
