"""`sat-optuna doctor`: versions, device, stores, what dead processes left and live ones hold."""

from dataclasses import asdict
from pathlib import Path

import click

from sat_optuna.cli.console import FORMAT, Console
from sat_optuna.pipeline.folder import STUDIES, find_study, nearest_mlruns

__all__ = ["doctor"]


@click.command(epilog="Example: sat-optuna doctor mine")
@click.argument("studies", metavar="[STUDY]...", nargs=-1)
@FORMAT
@click.pass_obj
def doctor(console: Console, *, studies: tuple[str, ...], format: str) -> None:
    """Show versions, device, where things are stored, and trials that hold up the sampler.

    Without a STUDY it looks at all under studies/.
    """
    from sat_optuna.pipeline.doctor import examine

    known = [path.parent.resolve() for path in sorted(STUDIES.glob("*/study.toml"))]
    folders = [find_study(study) for study in studies] if studies else known
    rows = [
        asdict(finding)
        for finding in examine(folders, nearest_mlruns(Path.cwd()) or Path("mlruns"))
    ]
    console.rows(rows, ("subject", "state", "finding"), format)
