"""`sat-optuna dashboard`: browse a study in optuna-dashboard."""

import click

from sat_optuna.cli.console import Console
from sat_optuna.pipeline.folder import StudyFolder, find_study

__all__ = ["PORT", "dashboard"]

PORT = click.IntRange(1, 65535)


@click.command(epilog="Example: sat-optuna dashboard mine --port 8081")
@click.argument("study")
@click.option("--port", type=PORT, default=8080, show_default=True, help="On 127.0.0.1.")
@click.pass_obj
def dashboard(console: Console, *, study: str, port: int) -> None:
    """Browse the trials in optuna-dashboard, on this machine only, until Ctrl-C."""
    opened = StudyFolder(find_study(study))
    opened.optuna_study()
    from sat_optuna.tracking.servers import serve_dashboard

    serve_dashboard(
        opened.storage,
        port=port,
        on_ready=lambda url: console.result(f"optuna-dashboard: {url} (Ctrl-C ends it)"),
    )
