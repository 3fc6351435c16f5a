"""`sat-optuna dashboard`: browse studies in optuna-dashboard."""

import click

from sat_optuna.cli.console import Console
from sat_optuna.errors import SatOptunaError, StudyError
from sat_optuna.pipeline.folder import STUDIES, StudyFolder, find_study

__all__ = ["PORT", "dashboard"]

PORT = click.IntRange(1, 65535)


@click.command(epilog="Example: sat-optuna dashboard mine --port 8081")
@click.argument("studies", nargs=-1, metavar="[STUDY]...")
@click.option("--port", type=PORT, default=8080, show_default=True, help="On 127.0.0.1.")
@click.pass_obj
def dashboard(console: Console, *, studies: tuple[str, ...], port: int) -> None:
    """Browse the trials in optuna-dashboard, on this machine only, until Ctrl-C.

    Several studies are shown together, to be compared and not to be changed; without STUDY all of
    those under studies/ that were searched.
    """
    from sat_optuna.pipeline.dashboard import ARTIFACTS, open_dashboard
    from sat_optuna.pipeline.fixing import close_dead
    from sat_optuna.tracking.servers import serve_dashboard
    from sat_optuna.tracking.several import FolderArtifacts, SeveralArtifacts, ShownStudies

    opened = {}
    for folder in _asked(studies):
        try:
            for said in close_dead([folder.folder], folder.mlruns):
                console.remark(said)
            open_dashboard(folder)
        except SatOptunaError as error:
            if studies:
                raise
            console.remark(f"left out: {error}")
            continue
        opened[folder] = folder.work / ARTIFACTS
    if not opened:
        raise StudyError("none of the studies here can be shown; run one: sat-optuna run STUDY")
    names = [folder.name for folder in opened]
    labels = [f.name if names.count(f.name) == 1 else str(f.folder) for f in opened]
    folders = list(opened.values())
    # Of one study the page of its search, which the list has below that of its random control.
    page = f"/dashboard/studies/{next(iter(opened)).search_id}" if len(opened) == 1 else ""
    serve_dashboard(
        ShownStudies(dict(zip(labels, (f.storage for f in opened), strict=True))),
        artifacts=FolderArtifacts(folders[0]) if len(folders) == 1 else SeveralArtifacts(folders),
        port=port,
        on_ready=lambda url: console.result(f"optuna-dashboard: {url}{page} (Ctrl-C ends it)"),
    )


def _asked(studies: tuple[str, ...]) -> list[StudyFolder]:
    """Return the studies of these names, each once; without any, all that have a database.

    Raises:
        StudyError: there is no such study, or none at all.
    """
    given = map(find_study, studies)
    found = list(given) if studies else [db.parent.resolve() for db in STUDIES.glob("*/study.db")]
    if not found:
        raise StudyError(
            f"no study under {STUDIES}/ was searched yet; run one: sat-optuna run STUDY"
        )
    return [StudyFolder(folder) for folder in sorted(dict.fromkeys(found))]
