"""`sat-optuna trials`: the trials of a search."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from sat_optuna.cli.console import FORMAT, Console
from sat_optuna.errors import readable
from sat_optuna.pipeline.folder import StudyFolder, find_study

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["trials"]

_COLUMNS = ("number", "state", "scheme", "reward", "accuracy", "sparsity", "params", "macs")
_ERROR = "error"  # of a FAIL trial: of another length than the rest, a line of its own in a table


def _row(trial: "FrozenTrial", stale: set[int], columns: Sequence[str]) -> dict[str, Any]:
    attributes = trial.user_attrs
    state = "DEAD" if trial.number in stale else trial.state.name
    return {"number": trial.number, "state": state} | {
        column: attributes.get(column) for column in (*columns[2:], _ERROR)
    }


@click.command(epilog="Example: sat-optuna trials mine --format csv > trials.csv")
@click.argument("study")
@click.option("--best", is_flag=True, help="Highest reward first, not in number order.")
@FORMAT
@click.pass_obj
def trials(console: Console, *, study: str, best: bool, format: str) -> None:
    """List the trials; a RUNNING one whose process is dead is shown as DEAD.

    Below the list is said why a trial became FAIL, and which trials of live processes hold up the
    sampler.
    """
    folder = StudyFolder(find_study(study))
    opened = folder.optuna_study()
    from sat_optuna.search.tickets import measure_of
    from sat_optuna.search.unfinished import blocking_trials, stale_trials

    listed = opened.get_trials(deepcopy=False)
    metric = measure_of(opened).name
    columns: tuple[str, ...] = _COLUMNS
    if metric not in columns:
        labelled = any("accuracy" in trial.user_attrs for trial in listed)
        columns = (*columns[:4], metric, *columns[4 if labelled else 5 :])
    stale = {trial.number for trial in stale_trials(opened)}
    rows = [_row(trial, stale, columns) for trial in listed]
    if best:
        rows.sort(key=lambda row: -(row["reward"] if row["reward"] is not None else -1e9))
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
