"""Is this installation well, and what did dead processes leave behind?"""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sat_optuna.errors import SatOptunaError

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
        state: `ok`, or `look` where something wants a hand.
        finding: what was found, and what to do.
    """

    subject: str
    state: str
    finding: str


def examine(studies: Iterable[Path], mlruns: Path) -> Iterator[Finding]:
    """Look at versions, device, stores and the trials of dead processes.

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
    yield _store(mlruns)
    for folder in studies:
        yield from _study(folder)


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("device", "ok", f"GPU {torch.cuda.get_device_name()}")
    threads = torch.get_num_threads()
    return Finding("device", "ok", f"CPU, {os.cpu_count()} cores, {threads} threads; no GPU")


def _store(mlruns: Path) -> Finding:
    from sat_optuna.tracking import store_uri

    uri = store_uri(mlruns)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return Finding("mlflow store", "ok", f"{uri} (not made yet: no study was logged)")
    return Finding("mlflow store", "ok", uri)


def _study(folder: Path) -> Iterator[Finding]:
    from sat_optuna.search.study import finished_trials, load_study, stale_trials

    subject, db = f"study {folder.name}", folder / "study.db"
    if not db.exists():
        yield Finding(subject, "ok", f"not searched yet; run: sat-optuna run {folder.name}")
        return
    try:
        study = load_study(db, folder.name)
    except SatOptunaError as error:
        yield Finding(subject, "look", str(error))
        return
    stale = [trial.number for trial in stale_trials(study)]
    yield Finding(subject, "ok", f"{len(finished_trials(study))} finished trials in {db}")
    if stale:
        yield Finding(
            subject,
            "look",
            f"trials {stale} were left by a dead process and hold up the sampler; "
            f"finish them with: sat-optuna search {folder.name}",
        )
