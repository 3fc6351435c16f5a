"""`sat-optuna ticket`: write the best scheme as a ticket."""

import click

from sat_optuna.cli.console import Console
from sat_optuna.cli.show import picture
from sat_optuna.pipeline.folder import Workspace

__all__ = ["ticket"]


@click.command(epilog="Example: sat-optuna ticket mine; next: sat-optuna retrain mine")
@click.argument("study")
@click.option("--trial", type=click.IntRange(min=0), help="Another trial than the best.")
@click.pass_obj
def ticket(console: Console, *, study: str, trial: int | None) -> None:
    """Write the best trial's scheme to tickets/trial-N.json, before any retraining."""
    from sat_optuna.errors import StudyError
    from sat_optuna.search.study import finished_trials
    from sat_optuna.search.tickets import best_ticket, ticket_of

    workspace = Workspace.open(study)
    opened = workspace.load_study()
    if trial is None:
        found = best_ticket(opened)
    else:
        finished = {t.number: t for t in finished_trials(opened)}
        if trial not in finished or "scheme" not in finished[trial].user_attrs:
            raise StudyError(
                f"study {workspace.name!r} has no finished trial {trial}; "
                f"look at: sat-optuna trials {workspace.name}"
            )
        found = ticket_of(opened, finished[trial])
    path = found.save(workspace.tickets / f"trial-{found.trial}.json")
    console.result(picture(found.scheme, [spec.kind for spec in found.attention]))
    console.result(f"{path} written; next: sat-optuna show {path}")
