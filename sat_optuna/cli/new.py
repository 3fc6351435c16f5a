"""`sat-optuna new`: write a commented study.toml."""

from pathlib import Path
from shlex import quote

import click

from sat_optuna.cli.console import Console
from sat_optuna.config.config import StudyConfig
from sat_optuna.config.template import EXAMPLE, write_config
from sat_optuna.pipeline.folder import STUDIES

__all__ = ["new"]


@click.command(epilog="Example: sat-optuna new mine; next: sat-optuna check mine")
@click.argument("study")
@click.option(
    "--example",
    is_flag=True,
    help="Write a study that is ready to run: SRM in a small ResNet on cued digits, minutes.",
)
@click.pass_obj
def new(console: Console, *, study: str, example: bool) -> None:
    """Write studies/STUDY/study.toml, every key with its default and a comment."""
    name = Path(study).name
    if not name.strip() or name == ".." or not name.isprintable():
        raise click.UsageError(
            f"{study!r} is no name for a study, whose folder is called so; give one such as mine"
        )
    folder = Path(study) if name != study else STUDIES / study
    path = write_config(folder / "study.toml", EXAMPLE if example else StudyConfig())
    then = "run it: sat-optuna run" if example else "edit it, then: sat-optuna check"
    console.result(f"{path} written; {then} {quote(study)}")
