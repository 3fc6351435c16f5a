"""`sat-optuna check`: every fault of study.toml at once."""

import click

from sat_optuna.cli.console import Console
from sat_optuna.pipeline.folder import StudyFolder, find_study

__all__ = ["check"]


@click.command(epilog="Example: sat-optuna check mine; next: sat-optuna run mine")
@click.argument("study")
@click.pass_obj
def check(console: Console, *, study: str) -> None:
    """Show every fault of study.toml at once; trains nothing.

    The study's [plugins] are run, for they register what it names.
    """
    opened = StudyFolder(find_study(study))
    if opened.plugins:
        console.remark(f"running the study's plugins: {', '.join(map(str, opened.plugins))}")
    stages = opened.check()
    choices = (len(opened.config.attention.kinds) + 1) ** sum(stages)
    console.result(
        f"{opened.folder / 'study.toml'} has no fault: {sum(stages)} blocks in stages "
        f"{stages}, {choices:,} schemes; next: sat-optuna run {opened.argument}"
    )
