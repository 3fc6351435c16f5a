"""The child runs of a study's parent run: each is written once and completely.

A trial or retraining is logged only when it has ended, in four steps: create the run, write the
artifact, write the batch of numbers, end the run. The tag `sat.state` comes last in the batch, so
a run that has this tag is complete. If a process was killed in between, the next one that logs the
same child completes its run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from sat_optuna.processes import is_dead, worker_name
from sat_optuna.tracking.store import Point, RunStore, TrackingError

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = ["ChildRuns", "Record", "status_of"]

_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Everything that is written into one child run.

    Attributes:
        key: identifies the child within its study and never changes.
        name: the run's name.
        state: COMPLETE, PRUNED or FAIL.
        tags: further tags.
        metrics: the final numbers.
        params: the settings that led to them.
        curves: for each name one number an epoch; epochs count from 1 and are MLflow's steps.
        artifact: file name and text, or None.
        started: when the trial or retraining began.
        ended: when it ended.
    """

    key: str
    name: str
    state: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    params: Mapping[str, object]
    curves: Mapping[str, Sequence[float]]
    artifact: tuple[str, str] | None
    started: datetime | None = None
    ended: datetime | None = None

    def __post_init__(self) -> None:
        if self.state not in _STATUS:
            states = ", ".join(_STATUS)
            raise TrackingError(f"{self.name} is {self.state}; log it once it is {states}")


@dataclass(frozen=True, slots=True)
class _Child:
    """A child run as the store has it."""

    run_id: str
    started_ms: int
    done: bool  # the run is complete and has ended
    busy: bool  # another living process is writing it


class ChildRuns:
    """The child runs of one parent run; the store is asked for them once, at the first use."""

    def __init__(self, store: RunStore, *, experiment: str, parent: str, uuid: str) -> None:
        self.parent = parent
        self.uuid = uuid
        self._store = store
        self._experiment = experiment
        self._of_parent = f"tags.`mlflow.parentRunId` = '{parent}'"
        self._known: dict[str, _Child] | None = None

    def forget(self) -> None:
        """Ask the store again at the next use."""
        self._known = None

    def has(self, key: str) -> bool:
        """Return whether a child is complete, or another living process is writing it."""
        child = self._children().get(key)
        return child is not None and (child.done or child.busy)

    def log(self, record: Record) -> str:
        """Write a child, or complete a run that was left half-written; return the run's id."""
        with self._store.guarded(f"log {record.name}"):
            child = self._children().get(record.key) or self._create(record)
            if not (child.done or child.busy):
                self._complete(child, record)
                self._children()[record.key] = replace(child, done=True)
        return child.run_id

    def end_stale(self) -> int:
        """End the child runs that a dead process left RUNNING; return their number."""
        with self._store.guarded("end the runs of dead processes"):
            running = f"{self._of_parent} AND attributes.status = 'RUNNING'"
            found = list(self._store.runs(self._experiment, running))
            left = [run for run in found if is_dead(run.data.tags.get("sat.worker", ""))]
            for run in left:
                self._store.end(run.info.run_id, status_of(run.data.tags))
        self.forget()
        return len(left)

    def _children(self) -> dict[str, _Child]:
        if self._known is None:
            known: dict[str, _Child] = {}
            with self._store.guarded("read the runs"):
                for run in self._store.runs(self._experiment, self._of_parent):
                    known.setdefault(run.data.tags.get("sat.key", ""), _seen(run))
            self._known = known
        return self._known

    def _create(self, record: Record) -> _Child:
        tags = {
            **record.tags,
            "sat.key": record.key,
            "sat.study_uuid": self.uuid,
            "sat.worker": worker_name(),
            "mlflow.parentRunId": self.parent,
        }
        started = _milliseconds(record.started)
        child = _seen(self._store.create(self._experiment, record.name, tags, started))
        self._children()[record.key] = child
        return child

    def _complete(self, child: _Child, record: Record) -> None:
        if record.artifact is not None:
            self._store.write_text(child.run_id, *record.artifact)
        # With the same time as before, MLflow drops points that a killed process wrote already.
        at = _milliseconds(record.ended) or child.started_ms
        points: list[Point] = [(key, value, at, 0) for key, value in record.metrics.items()]
        for key, curve in record.curves.items():
            points += [(key, value, at, epoch) for epoch, value in enumerate(curve, start=1)]
        tags = {"sat.state": record.state}
        self._store.write(child.run_id, params=record.params, points=points, tags=tags)
        self._store.end(child.run_id, _STATUS[record.state], _milliseconds(record.ended))


def _seen(run: "Run") -> _Child:
    ended, tags = run.info.status != "RUNNING", run.data.tags
    worker = tags.get("sat.worker", "")
    return _Child(
        run.info.run_id,
        run.info.start_time,
        done=ended and "sat.state" in tags,
        busy=not ended and worker != worker_name() and not is_dead(worker),
    )


def status_of(tags: Mapping[str, str]) -> str:
    """Return how a run ended that was left RUNNING: as its trial where it is complete."""
    return _STATUS.get(tags.get("sat.state", ""), "KILLED")


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
