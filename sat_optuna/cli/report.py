"""`sat-optuna report`: write report.md and its figures."""

import click

from sat_optuna.cli.console import Console
from sat_optuna.cli.said import steps_of
from sat_optuna.pipeline.folder import open_study

__all__ = ["report"]


@click.command(epilog="Example: sat-optuna report mine; next: sat-optuna show TICKET")
@click.argument("study")
@click.pass_obj
def report(console: Console, *, study: str) -> None:
    """Write report.md, its table and its figures."""
    opened = open_study(study)
    with steps_of(opened, console) as on_event:
        opened.report(on_event=on_event)
