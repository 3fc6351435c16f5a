"""`sat-optuna ticket`: write the best scheme as a ticket."""

from shlex import quote

import click

from sat_optuna.cli.console import Console
from sat_optuna.cli.show import picture
from sat_optuna.pipeline.folder import StudyFolder, find_study

__all__ = ["ticket"]


@click.command(epilog="Example: sat-optuna ticket mine; next: sat-optuna retrain mine")
@click.argument("study")
@click.option("--trial", type=click.IntRange(min=0), help="Another trial than the best.")
@click.pass_obj
def ticket(console: Console, *, study: str, trial: int | None) -> None:
    """Write the best trial's scheme to tickets/trial-N.json, before any retraining."""
    opened = StudyFolder(find_study(study))
    found = opened.ticket(trial)
    path = found.save(opened.tickets / f"trial-{found.trial}.json")
    console.result(picture(found.scheme, [spec.kind for spec in found.attention]))
    console.result(f"{path} written; next: sat-optuna show {quote(str(path))}")
