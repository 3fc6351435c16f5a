"""`sat-optuna run`: the whole road."""

import click

from sat_optuna.cli.console import Console
from sat_optuna.cli.said import steps_of
from sat_optuna.cli.search import NO_MLFLOW, TRIALS
from sat_optuna.pipeline.folder import open_study

__all__ = ["run"]


@click.command(epilog="Example: sat-optuna run studies/quickstart")
@click.argument("study")
@TRIALS
@NO_MLFLOW
@click.pass_obj
def run(console: Console, *, study: str, trials: int | None, no_mlflow: bool) -> None:
    """Pretrain, search, retrain with controls, report; what is done is not done again."""
    opened = open_study(study, trials=trials)
    with steps_of(opened, console) as on_event:
        opened.run(mlflow=not no_mlflow, on_event=on_event)
