"""Puts right what dead processes left, and logs what MLflow lacks: `sat-optuna doctor --fix`."""

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from sat_optuna.errors import SatOptunaError, SatOptunaWarning
from sat_optuna.pipeline.doctor import Finding
from sat_optuna.pipeline.folder import StudyFolder
from sat_optuna.pipeline.mlflow_log import StudyLog
from sat_optuna.pipeline.outcome import read_outcome

__all__ = ["close_dead", "fix"]

# Seconds that a slow tracking server may take for a request, where nobody waits for a search.
_PATIENT = "120"


def fix(studies: Iterable[Path], mlruns: Path) -> Iterator[Finding]:
    """Log what MLflow lacks, end the runs of dead processes and release their trials.

    A study that is being run now is left alone.

    Args:
        studies: folders of studies.
        mlruns: the folder of MLflow's runs.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", _PATIENT)
    folders = [StudyFolder(folder) for folder in studies]
    for study in folders:
        try:
            for said in _released(study):
                yield Finding(f"study {study.name}", "fixed", said)
            if study.has_search() or study.given:
                with study.locked():
                    yield from _pay(study)
        except SatOptunaError as error:
            yield Finding(f"study {study.name}", "look", str(error))
    for root in dict.fromkeys([mlruns.resolve(), *(study.mlruns for study in folders)]):
        yield from _end_runs(root)


def _pay(study: StudyFolder) -> Iterator[Finding]:
    log = StudyLog(study, hurry=False)
    if (debt := log.owed.here) is None:
        return
    subject, parts = f"study {study.name}", " and ".join(debt.parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SatOptunaWarning)  # what is still owed says why
        remedy = _log_all(study, log)
    if left := log.owed.here:
        yield Finding(subject, "look", f"{left}; {remedy}")
    else:
        yield Finding(subject, "fixed", f"logged its {parts} to {debt.store}")


def _log_all(study: StudyFolder, log: StudyLog) -> str:
    """Log what is finished; return what to do where something is still owed then."""
    again = "see to that store and run the same command again"
    if study.given is None:
        with log.trials(study.optuna_study()):
            pass
    if (left := log.owed.here) is None or "trials" in left.parts:
        return again
    outcome = read_outcome(study)
    if not outcome.is_written:
        missing = f"{len(outcome.missing)} of {len(outcome.jobs)} retrainings are missing"
        return f"{missing}, and all are logged by: sat-optuna retrain {study.argument}"
    log.log_retrainings(outcome)
    record = study.records.get("report")
    places = (study.folder, study.folder / "figures")
    files = {
        name: folder / name
        for name in (record.made if record else ())
        for folder in places
        if (folder / name).is_file()
    }
    if files:
        log.log_report(outcome, files)
    return again if files else f"the report is logged by: sat-optuna report {study.argument}"


def close_dead(studies: Iterable[Path], mlruns: Path) -> Iterator[str]:
    """Let trials of dead processes wait and end their runs in MLflow; yield a sentence of each.

    A waiting trial is finished under its number by the next run of its step. What cannot be read
    is passed over: whoever wants to look at pages can do so all the same.

    Args:
        studies: folders of studies.
        mlruns: the folder of MLflow's runs; those on a server are left alone.
    """
    from sat_optuna.tracking import end_stale_runs, store_file

    for study in map(StudyFolder, studies):
        with suppress(SatOptunaError):
            yield from _released(study)
    if store_file(mlruns) is not None:
        try:
            if ended := end_stale_runs(mlruns):
                yield f"ended the runs of dead processes: {', '.join(ended)}"
        except SatOptunaError as error:
            yield f"the runs of dead processes stay RUNNING, for {error}"


def _released(study: StudyFolder) -> Iterator[str]:
    for command, numbers in study.release_dead().items():
        yield (
            f"trials {numbers} of study {study.name!r} were left by a dead process and wait now; "
            f"they are finished under their numbers by: sat-optuna {command} {study.argument}"
        )


def _end_runs(root: Path) -> Iterator[Finding]:
    from sat_optuna.tracking import end_stale_runs

    try:
        ended = end_stale_runs(root)
    except SatOptunaError as error:
        yield Finding("mlflow store", "look", str(error))
        return
    if ended:
        said = f"ended the runs of dead processes: {', '.join(ended)}"
        yield Finding("mlflow store", "fixed", said)
