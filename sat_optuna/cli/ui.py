"""`sat-optuna ui`: compare tickets in the MLflow UI."""

from pathlib import Path

import click

from sat_optuna.cli.console import Console
from sat_optuna.cli.dashboard import PORT
from sat_optuna.pipeline.folder import STUDIES, nearest_mlruns

__all__ = ["links", "ui"]


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

    Ends the runs of dead processes, lets their trials wait, and prints the link to each study's
    table of tickets, the latest study first.
    """
    from sat_optuna.pipeline.fixing import close_dead
    from sat_optuna.tracking.servers import serve_mlflow

    root = mlruns or nearest_mlruns(Path.cwd()) or Path("mlruns")
    searched = [db.parent.resolve() for db in sorted(STUDIES.glob("*/study.db"))]
    for said in close_dead(searched, root):
        console.remark(said)

    def on_ready(url: str) -> None:
        console.result(f"MLflow: {url} (Ctrl-C ends it)")
        for link in links(root, url):
            console.result(link)

    console.remark("starting the MLflow server, which takes some seconds")
    serve_mlflow(root, port=port, on_ready=on_ready)


def links(root: Path, url: str, *, most: int = 10) -> list[str]:
    """Return a line for each study: its name, and the link to its table of tickets.

    Args:
        root: the folder that holds mlflow.db.
        url: of the server.
        most: studies that get a line, the latest ones.
    """
    from sat_optuna.tracking import studies_in, table_link

    found = [f"{name}: {table_link(url, of)}" for name, of in studies_in(root).items()]
    more = len(found) - most
    left = [f"and {more} earlier {'study' if more == 1 else 'studies'}, listed on the page"]
    return found[:most] + (left if more > 0 else [])
