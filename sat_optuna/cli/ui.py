"""`sat-optuna ui`: compare tickets in the MLflow UI."""

from pathlib import Path

import click

from sat_optuna.cli.console import Console
from sat_optuna.cli.dashboard import PORT
from sat_optuna.pipeline.folder import nearest_mlruns

__all__ = ["ui"]

_SHOWN = 10  # studies whose links are printed


@click.command(epilog="Example: sat-optuna ui --port 5001")
@click.option("--port", type=PORT, default=5000, show_default=True, help="On 127.0.0.1.")
@click.option(
    "--mlruns",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that holds mlflow.db; default: mlruns/ here or in the nearest parent.",
)
@click.pass_obj
def ui(console: Console, *, port: int, mlruns: Path | None) -> None:
    """Compare tickets in the MLflow UI, on this machine only, until Ctrl-C.

    Ends the runs of dead processes, and prints the link to each study's table of tickets, the
    latest study first.
    """
    from sat_optuna.errors import SatOptunaError
    from sat_optuna.tracking import end_stale_runs, store_uri, studies_in, table_link
    from sat_optuna.tracking.servers import serve_mlflow

    root = mlruns or nearest_mlruns(Path.cwd()) or Path("mlruns")
    try:
        served = store_uri(root).startswith("http")  # a server has a page of its own, see below
        if ended := [] if served else end_stale_runs(root):
            console.remark(f"ended the runs of dead processes: {', '.join(ended)}")
    except SatOptunaError as error:  # looking at the runs is possible all the same
        console.remark(f"the runs of dead processes stay RUNNING, for {error}")

    def on_ready(url: str) -> None:
        studies = studies_in(root)
        console.result(f"MLflow: {url} (Ctrl-C ends it)")
        for name, experiment in list(studies.items())[:_SHOWN]:
            console.result(f"{name}: {table_link(url, experiment)}")
        if len(studies) > _SHOWN:
            console.remark(f"and {len(studies) - _SHOWN} earlier studies, listed on the page")

    console.remark("starting the MLflow server, which takes some seconds")
    serve_mlflow(root, port=port, on_ready=on_ready)
