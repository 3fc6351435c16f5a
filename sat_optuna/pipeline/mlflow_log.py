"""A study's trials on their way to MLflow, or to nowhere with --no-mlflow."""

import hashlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sat_optuna.pipeline.folder import Workspace

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from sat_optuna.tracking import MLflowLog

__all__ = [
    "Tracker",
    "are_logged",
    "is_logged",
    "log_trial",
    "note_logged",
    "open_log",
    "tracked",
]

# Study attribute: for each MLflow store, how many finished trials are in it. A study that is
# logged already need not import MLflow to find that out.
_LOGGED = "sat:logged"

Tracker = Callable[["FrozenTrial"], object]


@contextmanager
def open_log(workspace: Workspace, study: "optuna.Study") -> Iterator["MLflowLog"]:
    """Open the study's parent run, and close it with how the block ended."""
    from sat_optuna.search.study import UUID_KEY
    from sat_optuna.tracking import MLflowLog, TrackingError

    log = MLflowLog(workspace.mlruns)
    log.open_study(study.study_name, study.user_attrs[UUID_KEY], config=workspace.config.to_dict())
    log.end_stale_runs()
    try:
        yield log
    except BaseException as error:
        # Closing may fail for the same reason; the first reason is the one to tell.
        with suppress(TrackingError):
            log.close_study("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    log.close_study()


@contextmanager
def tracked(workspace: Workspace, study: "optuna.Study", *, enabled: bool) -> Iterator[Tracker]:
    """Yield what logs a finished trial to MLflow; what earlier processes left out comes first."""
    if not enabled:
        yield lambda _trial: None
        return
    from sat_optuna.search.study import finished_trials

    with open_log(workspace, study) as log:
        for trial in finished_trials(study):
            log_trial(log, study, trial)
        yield lambda trial: log_trial(log, study, trial)
        count = len(finished_trials(study))
        study.set_user_attr(_LOGGED, study.user_attrs.get(_LOGGED, {}) | {_mark(log.uri): count})


def is_logged(workspace: Workspace, study: "optuna.Study") -> bool:
    """Whether every finished trial is in the MLflow store that would be used now."""
    from sat_optuna.search.study import finished_trials
    from sat_optuna.tracking import store_uri

    uri = store_uri(workspace.mlruns)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return False
    logged = study.user_attrs.get(_LOGGED, {})
    return bool(logged.get(_mark(uri)) == len(finished_trials(study)))


_RETRAININGS = "sat:logged-retrainings"


def are_logged(workspace: Workspace, study: "optuna.Study", results: Collection[object]) -> bool:
    """Whether so many retrainings are in the MLflow store that would be used now."""
    from sat_optuna.tracking import store_uri

    mark = _mark(store_uri(workspace.mlruns))
    noted = study.user_attrs.get(_RETRAININGS, {})
    return is_logged(workspace, study) and bool(noted.get(mark) == len(results))


def note_logged(study: "optuna.Study", log: "MLflowLog", results: Collection[object]) -> None:
    """Note that all these retrainings are in the store."""
    noted = study.user_attrs.get(_RETRAININGS, {})
    study.set_user_attr(_RETRAININGS, noted | {_mark(log.uri): len(results)})


def _mark(uri: str) -> str:
    # A digest, since a store's address may hold a password and the dashboard shows attributes.
    return hashlib.sha256(uri.encode()).hexdigest()[:12]


def log_trial(log: "MLflowLog", study: "optuna.Study", trial: "FrozenTrial") -> str:
    """Log a finished trial with its ticket, unless it is there already; return its run."""
    from sat_optuna.search.tickets import ticket_of

    numbers = {
        name: float(value)
        for name, value in trial.user_attrs.items()
        if isinstance(value, int | float)
    }
    curve = [value for _, value in sorted(trial.intermediate_values.items())]
    ticket = ticket_of(study, trial).to_json() if "scheme" in trial.user_attrs else None
    return log.log_trial(
        trial.number,
        scheme=trial.user_attrs.get("scheme", ""),
        state=trial.state.name,
        value=trial.value,
        metrics=numbers,
        params=trial.params,
        curves={"reward by epoch": curve} if curve else {},
        artifact=("ticket.json", ticket) if ticket else None,
        started=trial.datetime_start,
        ended=trial.datetime_complete,
    )
