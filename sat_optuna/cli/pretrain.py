"""`sat-optuna pretrain`: train the supernet under random schemes."""

import click

from sat_optuna.cli.console import Console
from sat_optuna.cli.said import steps_of
from sat_optuna.pipeline.folder import open_study

__all__ = ["pretrain"]


@click.command(epilog="Example: sat-optuna pretrain mine; next: sat-optuna search mine")
@click.argument("study")
@click.pass_obj
def pretrain(console: Console, *, study: str) -> None:
    """Train the supernet under random schemes; continues where it was stopped."""
    opened = open_study(study)
    with steps_of(opened, console) as on_event:
        opened.pretrain(on_event=on_event)
