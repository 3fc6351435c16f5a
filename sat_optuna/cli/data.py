"""`sat-optuna data get`: bring a data set."""

from pathlib import Path

import click

from sat_optuna.cli.console import Console

__all__ = ["data"]


@click.group()
def data() -> None:
    """Bring data sets."""


@data.command(epilog="Example: sat-optuna data get fashion-mnist")
@click.argument("name")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for data sets; default $SAT_OPTUNA_DATA or ~/.cache/sat_optuna/data.",
)
@click.pass_obj
def get(console: Console, *, name: str, root: Path | None) -> None:
    """Fetch a data set, or say exactly what to put where."""
    from sat_optuna.data import get_dataset

    path = get_dataset(name, root)
    console.result(f'{name} is in {path}; next: set name = "{name}" under [data] in study.toml')
