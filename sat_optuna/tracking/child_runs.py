"""The runs of a study beside its own: each is written once and completely.

A trial or retraining is logged only when it has ended: at once where MLflow's runs are a file that
is known, else in four steps: create the run, write the artifact, write the batch of numbers, end
the run as FINISHED or FAILED. So a run that has ended so is complete. If a process was killed in
between, its run is ended as KILLED or is still RUNNING, and the next process that logs the same
child completes it. A summary is begun before its retrainings, which are nested in it, and written
anew whenever they say something else.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from sat_optuna.processes import is_dead, worker_name
from sat_optuna.tracking.store import RunStore, TrackingError
from sat_optuna.tracking.whole_runs import Point, WholeRun

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = ["ChildRuns", "Record"]

_NONE: Mapping[str, str] = MappingProxyType({})
_STATE = "sat.state"  # a tag: COMPLETE, PRUNED or FAIL, for the filters of MLflow's pages
_SEARCH = "sat.search"  # the study's run, of a run that is not nested in it


# MLflow shows what is KILLED with a red cross; a pruned trial has come to the end it should.
_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}


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
        parent: the run that it is nested in; None for the study's, "" for none.
        started: when the trial or retraining began.
        ended: when it ended.
    """

    key: str
    name: str
    state: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, object] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    artifact: tuple[str, str] | None = None
    parent: str | None = None
    started: datetime | None = None
    ended: datetime | None = None

    def __post_init__(self) -> None:
        if self.state not in _STATUS:
            states = ", ".join(_STATUS)
            raise TrackingError(f"{self.key} is {self.state}; log it once it is {states}")


@dataclass(frozen=True, slots=True)
class _Child:
    """A child run as the store has it."""

    run_id: str
    started_ms: int
    done: bool  # the run is complete and has ended
    busy: bool  # another living process is writing it


class ChildRuns:
    """The runs of one study; the store is asked for them once, at the first use."""

    def __init__(self, store: RunStore, *, experiment: str, parent: str, uuid: str) -> None:
        self.parent = parent
        self.uuid = uuid
        self.experiment = experiment
        self._store = store
        # Trials are nested in the study's run; summaries and what is nested in them name it.
        self._of_study = [f"tags.`{tag}` = '{parent}'" for tag in ("mlflow.parentRunId", _SEARCH)]
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
        with self._store.guarded(f"log {record.key}"):
            state = {_STATE: record.state}
            child = self._children().get(record.key)
            if child is None and (made := self._create_whole(record, state)):
                return made
            if child is None:
                child, state = self._create(record, state), {}
            if not (child.done or child.busy):
                self._complete(child, record, state)
                self._children()[record.key] = replace(child, done=True)
        return child.run_id

    def find(self, key: str) -> str | None:
        """Return the id of the run of a key; None where there is none."""
        child = self._children().get(key)
        return None if child is None else child.run_id

    def begin(self, record: Record) -> str:
        """Open the run of a record, RUNNING until `end`, with its params and tags; return its id.

        What MLflow has of it already is kept: params can be written once alone.
        """
        with self._store.guarded(f"log {record.key}"):
            child = self._children().get(record.key)
            if child is None:
                child = self._create(record)
                self._store.write(child.run_id, params=record.params, tags={})
            else:
                self._store.resume(child.run_id)
                tags = {**record.tags, "sat.worker": worker_name()}
                self._store.write(child.run_id, params={}, tags=tags)
        return child.run_id

    def end(self, run_id: str, record: Record) -> None:
        """Write the numbers and tags of a run that `begin` has opened, and end it."""
        with self._store.guarded(f"log {record.key}"):
            at = int(1000 * time.time())
            points = [(key, value, at, 0) for key, value in record.metrics.items()]
            tags = {**record.tags, _STATE: record.state}
            self._store.write(run_id, params={}, points=points, tags=tags)
            self._store.end(run_id, _STATUS[record.state], _milliseconds(record.ended))

    def retag(self, kind: str, to: str, *, but: Collection[str]) -> None:
        """Call the study's runs of a kind another one, but for those of these ids."""
        with self._store.guarded("sort the runs"):
            for run in self._runs(f" AND tags.`sat.kind` = '{kind}'"):
                if run.info.run_id not in but:
                    self._store.write(run.info.run_id, params={}, tags={"sat.kind": to})

    def end_stale(self) -> int:
        """End the child runs that a dead process left RUNNING; return their number."""
        with self._store.guarded("end the runs of dead processes"):
            found = self._runs(" AND attributes.status = 'RUNNING'")
            left = [run for run in found if is_dead(run.data.tags.get("sat.worker", ""))]
            for run in left:
                self._store.end(run.info.run_id, "KILLED")
        self.forget()
        return len(left)

    def _children(self) -> dict[str, _Child]:
        if self._known is None:
            known: dict[str, _Child] = {}
            with self._store.guarded("read the runs"):
                for run in self._runs():
                    known.setdefault(run.data.tags.get("sat.key", ""), _seen(run))
            self._known = known
        return self._known

    def _runs(self, more: str = "") -> "list[Run]":
        """Return the study's runs beside its own that a further condition finds."""
        return [
            run
            for condition in self._of_study
            for run in self._store.runs(self.experiment, condition + more)
        ]

    def _create_whole(self, record: Record, state: Mapping[str, str]) -> str | None:
        now = int(1000 * time.time())
        started = _milliseconds(record.started) or now
        ended = _milliseconds(record.ended) or now
        run = WholeRun(
            name=record.name,
            status=_STATUS[record.state],
            started_ms=started,
            ended_ms=ended,
            tags=self._tags(record, state),
            params=record.params,
            points=_points(record, ended),
            text=record.artifact,
        )
        run_id = self._store.create_whole(self.experiment, run)
        if run_id is not None:
            self._children()[record.key] = _Child(run_id, started, done=True, busy=False)
        return run_id

    def _create(self, record: Record, state: Mapping[str, str] = _NONE) -> _Child:
        tags, started = self._tags(record, state), _milliseconds(record.started)
        child = _seen(self._store.create(self.experiment, record.name, tags, started))
        self._children()[record.key] = child
        return child

    def _tags(self, record: Record, state: Mapping[str, str]) -> dict[str, str]:
        tags = {
            **record.tags,
            **state,
            "sat.key": record.key,
            "sat.study_uuid": self.uuid,
            "sat.worker": worker_name(),
        }
        if record.parent is not None:
            tags[_SEARCH] = self.parent
        if parent := self.parent if record.parent is None else record.parent:
            tags["mlflow.parentRunId"] = parent
        return tags

    def _complete(self, child: _Child, record: Record, tags: Mapping[str, str]) -> None:
        if record.artifact is not None:
            self._store.write_text(child.run_id, *record.artifact)
        # With the same time as before, MLflow drops points that a killed process wrote already.
        at = _milliseconds(record.ended) or child.started_ms
        points = _points(record, at)
        self._store.write(child.run_id, params=record.params, points=points, tags=tags)
        self._store.end(child.run_id, _STATUS[record.state], _milliseconds(record.ended))


def _points(record: Record, at: int) -> list[Point]:
    points: list[Point] = [(key, value, at, 0) for key, value in record.metrics.items()]
    for key, curve in record.curves.items():
        points += [(key, value, at, epoch) for epoch, value in enumerate(curve, start=1)]
    return points


def _seen(run: "Run") -> _Child:
    status, worker = run.info.status, run.data.tags.get("sat.worker", "")
    return _Child(
        run.info.run_id,
        run.info.start_time,
        done=status in _STATUS.values(),
        busy=status == "RUNNING" and worker != worker_name() and not is_dead(worker),
    )


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
