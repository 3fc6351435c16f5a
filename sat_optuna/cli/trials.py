"""`sat-optuna trials`: the trials of a search."""

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


def _row(trial: "FrozenTrial", stale: set[int]) -> dict[str, Any]:
    attributes = trial.user_attrs
    state = "DEAD" if trial.number in stale else trial.state.name
    return {"number": trial.number, "state": state} | {
        column: attributes.get(column) for column in (*_COLUMNS[2:], _ERROR)
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
    from sat_optuna.search.unfinished import blocking_trials, stale_trials

    stale = {trial.number for trial in stale_trials(opened)}
    rows = [_row(trial, stale) for trial in opened.get_trials(deepcopy=False)]
    if best:
        rows.sort(key=lambda row: -(row["reward"] if row["reward"] is not None else -1e9))
    console.rows(rows, _COLUMNS if format == "table" else (*_COLUMNS, _ERROR), format)
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
