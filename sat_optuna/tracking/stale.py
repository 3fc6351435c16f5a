"""Runs that a killed process left RUNNING, in all experiments of a store."""

import contextlib
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from sat_optuna.processes import is_dead
from sat_optuna.tracking.store import RunStore, store_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow.entities import Run

__all__ = ["end_stale_runs", "stale_runs"]


def stale_runs(root: str | Path = "mlruns") -> list[str]:
    """Return the names of the runs that a dead process of this machine left RUNNING.

    Raises:
        TrackingError: the store cannot be read or reached.
    """
    if _none_is_running(root):
        return []
    store = RunStore(root)
    with store.guarded("look for the runs of dead processes"):
        return [str(run.info.run_name) for run in _left_in(store)]


def end_stale_runs(root: str | Path = "mlruns") -> list[str]:
    """End the runs that a dead process of this machine left RUNNING as KILLED; return their names.

    Logging their trials again completes them. Runs of processes of other machines, and runs that
    are not of this package, stay as they are.

    Raises:
        TrackingError: the store cannot be read, reached or written.
    """
    if _none_is_running(root):
        return []
    store = RunStore(root)
    with store.guarded("end the runs of dead processes"):
        left = list(_left_in(store))
        for run in left:
            store.end(run.info.run_id, "KILLED")
    return [str(run.info.run_name) for run in left]


def _left_in(store: RunStore) -> "Iterator[Run]":
    for experiment in store.experiments():
        for run in list(store.runs(experiment, "attributes.status = 'RUNNING'")):
            if is_dead(run.data.tags.get("sat.worker", "")):
                yield run


def _none_is_running(root: str | Path) -> bool:
    """Tell, without importing MLflow, whether a file of runs is missing or has none RUNNING."""
    if (file := store_file(root)) is None:
        return False
    if not file.exists():
        return True
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(file)) as known:
        running = "SELECT 1 FROM runs WHERE status = 'RUNNING'"
        return known.execute(running).fetchone() is None
    return False
