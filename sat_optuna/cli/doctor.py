"""`sat-optuna doctor`: versions, device, stores, what dead processes left and live ones hold."""

from dataclasses import asdict
from pathlib import Path

import click

from sat_optuna.cli.console import FORMAT, Console
from sat_optuna.pipeline.folder import STUDIES, find_study, nearest_mlruns

__all__ = ["doctor"]


@click.command(epilog="Example: sat-optuna doctor mine")
@click.argument("studies", metavar="[STUDY]...", nargs=-1)
@click.option(
    "--fix",
    "mend",
    is_flag=True,
    help="Log what MLflow lacks, end the runs of dead processes and release their trials.",
)
@FORMAT
@click.pass_obj
def doctor(console: Console, *, studies: tuple[str, ...], mend: bool, format: str) -> None:
    """Show versions, device, stores, trials that hold up the sampler, and what MLflow lacks.

    Without a STUDY it looks at all under studies/.
    """
    from sat_optuna.pipeline.doctor import examine

    known = [path.parent.resolve() for path in sorted(STUDIES.glob("*/study.toml"))]
    folders = [find_study(study) for study in studies] if studies else known
    mlruns = nearest_mlruns(Path.cwd()) or Path("mlruns")
    fixed = []
    if mend:
        from sat_optuna.pipeline.fixing import fix

        console.remark("putting right what dead processes left, which may take some seconds")
        fixed = list(fix(folders, mlruns))
    rows = [asdict(finding) for finding in (*fixed, *examine(folders, mlruns))]
    console.rows(rows, ("subject", "state", "finding"), format)
