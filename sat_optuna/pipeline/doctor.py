"""Is this installation well, what did dead processes leave, and what waits for live ones?"""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from sat_optuna.errors import SatOptunaError, readable

if TYPE_CHECKING:
    from sat_optuna.pipeline.folder import StudyFolder

__all__ = ["Finding", "examine"]

_PACKAGES = (
    "sat_optuna",
    "torch",
    "torchvision",
    "optuna",
    "optuna-dashboard",
    "mlflow",
    "click",
    "numpy",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        subject: what was looked at.
        state: `ok`, `look` where something wants a hand, or `fixed`.
        finding: what was found, and what to do.
    """

    subject: str
    state: str
    finding: str


def examine(studies: Iterable[Path], mlruns: Path) -> Iterator[Finding]:
    """Look at versions, device, stores and the unfinished trials.

    Args:
        studies: folders of studies.
        mlruns: the folder of MLflow's runs.
    """
    yield Finding("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")
    for package in _PACKAGES:
        try:
            yield Finding(package, "ok", version(package))
        except PackageNotFoundError:
            yield Finding(package, "look", f"not installed; run: pip install {package}")
    yield _device()
    yield from _store(mlruns)
    for folder in studies:
        yield from _study(folder)


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("device", "ok", f"GPU {torch.cuda.get_device_name()}")
    threads = torch.get_num_threads()
    return Finding("device", "ok", f"CPU, {os.cpu_count()} cores, {threads} threads; no GPU")


def _store(mlruns: Path) -> Iterator[Finding]:
    from sat_optuna.tracking import stale_runs, store_file, store_uri

    uri, file = readable(store_uri(mlruns)), store_file(mlruns)
    if file is None:  # a server is not asked: it may take minutes to fail
        yield Finding("mlflow store", "ok", f"{uri} (a server, which was not asked)")
        return
    if not file.exists():
        yield Finding("mlflow store", "ok", f"{uri} (not made yet: no study was logged)")
        return
    try:
        stale = stale_runs(mlruns)
    except SatOptunaError as error:
        yield Finding("mlflow store", "look", str(error))
        return
    yield Finding("mlflow store", "ok", uri)
    if stale:
        remedy = "end them with: sat-optuna doctor --fix"
        listed = ", ".join(stale)
        yield Finding("mlflow store", "look", f"runs of dead processes: {listed}; {remedy}")


def _study(folder: Path) -> Iterator[Finding]:
    """Look at a search and at the random one that it is held against, both in study.db."""
    import optuna

    from sat_optuna.pipeline.folder import StudyFolder
    from sat_optuna.search.study import finished_trials, load_study
    from sat_optuna.search.unfinished import blocking_trials, stale_trials

    looked_at = StudyFolder(folder)
    db = looked_at.db
    yield from _owed(looked_at)
    try:
        if not looked_at.has_search():
            remedy = f"not searched yet; run: sat-optuna run {looked_at.argument}"
            if looked_at.given:
                done = (looked_at.tickets / "ticket.json").is_file()
                state = "retrained" if done else "not retrained yet"
                remedy = (
                    f"its ticket is given; {state}; go on: sat-optuna run {looked_at.argument}"
                )
            yield Finding(f"study {folder.name}", "ok", remedy)
            if not db.exists():
                return
        storage = looked_at.storage
        studies = [load_study(storage, name) for name in optuna.get_all_study_names(storage)]
    except SatOptunaError as error:
        yield Finding(f"study {folder.name}", "look", str(error))
        return
    for study in studies:
        subject = f"study {study.study_name}"
        yield Finding(subject, "ok", f"finished trials: {len(finished_trials(study))}, in {db}")
        ends = {looked_at.search_name: "search", looked_at.truth_name: "truth"}
        command = ends.get(study.study_name, "retrain")
        remedy = f"sat-optuna {command} {looked_at.argument}"
        if stale := [trial.number for trial in stale_trials(study)]:
            yield Finding(
                subject,
                "look",
                f"a dead process left the trials {stale} unfinished"
                f"{'' if command == 'truth' else ', which holds up the sampler'}; finish them "
                f"with: {remedy}",
            )
        for blocker in blocking_trials(study):
            advice = f"wait for it, or end the process and finish it with: {remedy}"
            yield Finding(subject, "look", f"{blocker}; {advice}")


def _owed(study: "StudyFolder") -> Iterator[Finding]:
    """Look for what MLflow lacks of a study, whose command was killed or whose store failed."""
    from sat_optuna.pipeline.owed import Owed

    owed = Owed(study)
    subject = f"study {study.name}"
    if (debt := owed.here) and debt.is_left:
        yield Finding(subject, "look", f"{debt}; log them with: sat-optuna doctor --fix")
    for debt in owed.elsewhere:
        if debt.is_left:
            remedy = "set MLFLOW_TRACKING_URI to that store and run: sat-optuna doctor --fix"
            yield Finding(subject, "look", f"{debt}; {remedy}")
