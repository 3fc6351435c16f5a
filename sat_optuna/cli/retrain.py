"""`sat-optuna retrain`: the ticket and its controls trained anew."""

import click

from sat_optuna.cli.console import Console
from sat_optuna.cli.said import steps_of
from sat_optuna.cli.search import NO_MLFLOW
from sat_optuna.pipeline.folder import open_study

__all__ = ["retrain"]


@click.command(epilog="Example: sat-optuna retrain mine; next: sat-optuna report mine")
@click.argument("study")
@NO_MLFLOW
@click.pass_obj
def retrain(console: Console, *, study: str, no_mlflow: bool) -> None:
    """Train the ticket from scratch, or from [network] weights, beside its controls.

    Controls: plain (no attention), full (all blocks), a random scheme of the same density, and
    the best of as many random schemes as the search had trials.
    """
    opened = open_study(study)
    with steps_of(opened, console) as on_event:
        opened.retrain(mlflow=not no_mlflow, on_event=on_event)
