"""`sat-optuna check`: every fault of study.toml at once."""

import click

from sat_optuna.cli.console import Console
from sat_optuna.pipeline.folder import open_study

__all__ = ["check"]


@click.command(epilog="Example: sat-optuna check mine; next: sat-optuna run mine")
@click.argument("study")
@click.pass_obj
def check(console: Console, *, study: str) -> None:
    """Show every fault of study.toml at once; trains nothing."""
    opened = open_study(study)
    stages = opened.check()
    choices = (len(opened.config.attention.kinds) + 1) ** sum(stages)
    console.result(
        f"{opened.folder / 'study.toml'} has no fault: {sum(stages)} blocks in stages "
        f"{stages}, {choices:,} schemes; next: sat-optuna run {study}"
    )
