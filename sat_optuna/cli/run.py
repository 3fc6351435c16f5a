"""`sat-optuna run`: the whole road."""

import click

from sat_optuna.cli.console import Console
from sat_optuna.cli.pretrain import pretrain_step
from sat_optuna.cli.report import report_step
from sat_optuna.cli.retrain import retrain_step
from sat_optuna.cli.search import NO_MLFLOW, TRIALS, check_search, search_step
from sat_optuna.pipeline.folder import Workspace

__all__ = ["run"]


@click.command(epilog="Example: sat-optuna run studies/quickstart")
@click.argument("study")
@TRIALS
@NO_MLFLOW
@click.pass_obj
def run(console: Console, *, study: str, trials: int | None, no_mlflow: bool) -> None:
    """Pretrain, search, retrain with controls, report; what is done is not done again."""
    workspace = Workspace.open(study, trials=trials)
    with workspace.locked():
        config = workspace.config
        if not workspace.db.exists():  # where it does, the search was begun: no torch for nothing
            check_search(workspace)
        if config.search.objective == "supernet" or config.search.start == "supernet":
            pretrain_step(workspace, console)
        if not search_step(workspace, console, mlflow=not no_mlflow):
            return
        retrain_step(workspace, console, mlflow=not no_mlflow)
        report_step(workspace, console)
