"""`sat-optuna search`: let the study's sampler look for the ticket."""

import click

from sat_optuna.cli.console import Console
from sat_optuna.cli.said import steps_of
from sat_optuna.pipeline.folder import open_study

__all__ = ["NO_MLFLOW", "TRIALS", "search"]

TRIALS = click.option(
    "--trials",
    type=click.IntRange(min=1),
    help="Total of finished trials of the study, in place of study.toml's search.trials.",
)
NO_MLFLOW = click.option(
    "--no-mlflow", is_flag=True, help="Log nothing to MLflow; a later run without it catches up."
)


@click.command(epilog="Example: sat-optuna search mine --trials 200; next: sat-optuna trials mine")
@click.argument("study")
@TRIALS
@NO_MLFLOW
@click.pass_obj
def search(console: Console, *, study: str, trials: int | None, no_mlflow: bool) -> None:
    """Search for the ticket; continues a study that exists, also one that was killed."""
    opened = open_study(study, trials=trials)
    with steps_of(opened, console) as on_event:
        opened.search(mlflow=not no_mlflow, on_event=on_event)
