"""What of a study is logged to MLflow.

    search             the study's run: its trials are nested in it; of a given ticket "transfer"
      #000 000-000-00
      #001 101-010-11
    ticket 100-010-10  a summary of each network that was retrained: its trainings are nested in it
      seed 0 ticket
      seed 1 ticket
    plain 000-000-00
      ...

study.db holds the study; MLflow holds a copy for reading. So whatever is missing in MLflow can be
logged again. Each method may be called again, also after a kill -9, and then completes the copy.
"""

import contextlib
import json
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sat_optuna.processes import is_dead, worker_name
from sat_optuna.ticket import ACCURACY, Measure
from sat_optuna.tracking.child_runs import ChildRuns, Record
from sat_optuna.tracking.note import with_section
from sat_optuna.tracking.store import (
    RunStore,
    StoreLockedError,
    TrackingError,
    UsedData,
    store_uri,
)
from sat_optuna.tracking.views import view_tags

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = ["Network", "StudyRuns", "trial_key"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_TOLD = "sat.result"  # what of an experiment's description is ours
_DESCRIPTION = "mlflow.note.content"  # the tag that MLflow's pages show as a run's description


@dataclass(frozen=True, slots=True)
class Network:
    """A network that is retrained.

    Attributes:
        role: ticket, or that of the control; those of one scheme together, "plain, ticket".
        scheme: the scheme's text form.
        trained_with: fingerprint of what decides its trainings, beside their seed.
    """

    role: str
    scheme: str
    trained_with: str

    @property
    def tags(self) -> dict[str, str]:
        """What its runs are found by."""
        return {"sat.role": self.role, "scheme": self.scheme}

    @property
    def params(self) -> dict[str, object]:
        """What MLflow compares its runs by."""
        return {"role": self.role, "scheme": self.scheme}


class StudyRuns:
    """The runs of one study after another, as methods that log to them.

    Threads may share it; each process makes its own.
    """

    def __init__(self, root: str | Path = "mlruns") -> None:
        """Connect to the store: root/mlflow.db and root/artifacts/STUDY, made at the first use.

        Args:
            root: the folder of the runs; it is made if it is missing. If MLFLOW_TRACKING_URI is
                set, it is used instead of root/mlflow.db.

        Raises:
            TrackingError: the store cannot be made, read or reached. One that another process
                locks is connected to when a study is opened.
        """
        self._root = root
        self._lock = threading.RLock()
        self._opened: ChildRuns | None = None
        self._running = False  # whether the study's run is RUNNING by this log
        with contextlib.suppress(StoreLockedError):
            _ = self._store

    @property
    def uri(self) -> str:
        """The URL of the database or of the server that has the runs."""
        return store_uri(self._root)

    @property
    def store(self) -> RunStore:
        """The store, for what is logged by other means.

        Raises:
            TrackingError: it cannot be made, read or reached.
        """
        return self._store

    @cached_property
    def _store(self) -> RunStore:
        return RunStore(self._root)

    def open_study(
        self,
        name: str,
        uuid: str,
        *,
        what: str = "search",
        config: Mapping[str, Any] = _NOTHING,
        measure: Measure = ACCURACY,
        running: bool = True,
        place: str = "",
    ) -> str:
        """Open the study's run, and set it RUNNING if it is searched now; return its id.

        The run is made if it is missing. The experiment gets the view of its summaries that
        `table_link` opens.

        Args:
            name: name of the study and of the experiment.
            uuid: distinguishes this study from others of the same name.
            what: name of the study's run.
            config: the resolved configuration. Its values become params such as `search.trials`,
                whose first values MLflow keeps, and the artifact config.json, which is replaced.
            measure: what is searched for; with its unit and which way is better it is a tag.
            running: whether the study is searched; else its run stays as it ended.
            place: tells the study from others of its name, the name of its project for example.

        Raises:
            TrackingError: the store cannot be read or written.
        """
        tags = {"sat.kind": "study", "sat.study_uuid": uuid, "sat.worker": worker_name()}
        tags["sat.metric"] = str(measure)
        with self._lock, self._store.guarded(f"open study {name}"):
            experiment = self._store.experiment(name, uuid, place=place)
            parents = self._store.runs(experiment, "tags.`sat.kind` = 'study'")
            same = (run for run in parents if run.data.tags.get("sat.study_uuid") == uuid)
            run = next(same, None)
            self._running = running or run is None or _was_left(run)
            run = run or self._store.create(experiment, what, tags)
            parent = str(run.info.run_id)
            if self._running:
                self._store.resume(parent)
            known = run.data.params
            params = {key: value for key, value in _flat(config).items() if key not in known}
            self._store.write(parent, params=params, tags=tags)
            if config:
                text = json.dumps(config, indent=2, default=str)
                self._store.write_text(parent, "config.json", text)
            self._store.describe(experiment, view_tags(measure))
            self._opened = ChildRuns(self._store, experiment=experiment, parent=parent, uuid=uuid)
            self._begin()
        return parent

    def _begin(self) -> None:
        """Forget what was of the study before: a study was opened."""

    def close_study(self, status: str = "FINISHED", *, ended: datetime | None = None) -> None:
        """End the study's run, where it was RUNNING.

        Args:
            status: FINISHED, FAILED or KILLED.
            ended: when its last trial ended; None for now.

        Raises:
            TrackingError: no study is open, or the store cannot be written.
        """
        with self._lock, self._store.guarded("close the study"):
            study = self._study
            if self._running:
                at = None if ended is None else int(1000 * ended.timestamp())
                self._store.end(study.parent, status, at)
            self._opened = None

    def log_trial(
        self,
        number: int,
        *,
        scheme: str,
        state: str,
        metrics: Mapping[str, float] = _NOTHING,
        params: Mapping[str, object] = _NOTHING,
        curves: Mapping[str, Sequence[float]] = _NOTHING,
        artifact: tuple[str, str] | None = None,
        started: datetime | None = None,
        ended: datetime | None = None,
    ) -> str:
        """Log a finished trial as a child run; a complete run is not changed.

        Args:
            number: the trial's number; number and scheme name the run.
            scheme: the scheme's text form, for example `110-010-001`.
            state: the trial's state in Optuna: COMPLETE, PRUNED or FAIL.
            metrics: the trial's final numbers.
            params: the trial's parameters.
            curves: for each name one number an epoch; epochs count from 1 and are MLflow's steps.
            artifact: file name and text, for example ("ticket.json", ticket.to_json()).
            started: when the trial began (Optuna's datetime_start).
            ended: when the trial ended.

        Returns:
            The run's id.

        Raises:
            TrackingError: the store cannot be written, or the trial has not ended.
        """
        record = Record(
            key=trial_key(number, scheme),
            name=f"#{number:03} {scheme}".rstrip(),
            state=state,
            tags={"sat.kind": "trial", "sat.trial": str(number), "scheme": scheme},
            metrics=_named(metrics),
            params=params,
            curves=curves,
            artifact=artifact,
            started=started,
            ended=ended,
        )
        with self._lock:
            return self._study.log(record)

    def begin_summary(
        self,
        network: Network,
        *,
        params: Mapping[str, object] = _NOTHING,
        started: datetime | None = None,
    ) -> str:
        """Open the summary of a network, before its retrainings, which are nested in it.

        Args:
            network: which it is.
            params: the settings of its trainings, and the choice of each block.
            started: when its first training began; None for now.

        Returns:
            The run's id, for `log_retraining` and `end_summary`.

        Raises:
            TrackingError: the store cannot be written.
        """
        with self._lock:
            record = _summary(network, params={**network.params, **params}, started=started)
            return self._study.begin(record)

    def end_summary(
        self,
        run_id: str,
        network: Network,
        *,
        metrics: Mapping[str, float],
        verdicts: Mapping[str, str] = _NOTHING,
        tags: Mapping[str, str] = _NOTHING,
        sections: Mapping[str, str] = _NOTHING,
        ticket: str | None = None,
        ended: datetime | None = None,
    ) -> None:
        """Write what a network came to into its summary, in the place of what it said before.

        Args:
            run_id: of the summary.
            network: which it is.
            metrics: means over the seeds, their intervals, costs.
            verdicts: by name a line each; they become tags such as `verdict.smaller`.
            tags: more of them.
            sections: Markdown by title, of the run's description; all else in it is kept.
            ticket: the ticket's JSON, stored as ticket.json.
            ended: when its last training ended; None for now.

        Raises:
            TrackingError: the store cannot be written.
        """
        tags = {**tags, **{f"verdict.{name}": line for name, line in verdicts.items()}}
        with self._lock, self._store.guarded(f"log {network.role}"):
            for title, text in sections.items():
                tags |= self._described(run_id, title, text, tags)
            if ticket is not None:
                self._store.write_text(run_id, "ticket.json", ticket)
            record = _summary(network, metrics=_named(metrics), tags=tags, ended=ended)
            self._study.end(run_id, record)

    def summary_of(self, network: Network) -> str | None:
        """Return the id of the summary of a network, as it stands; None where there is none.

        Raises:
            TrackingError: the store cannot be read.
        """
        with self._lock:
            return self._study.find(_summary(network).key)

    def finish_summary(self, run_id: str, status: str = "FINISHED") -> None:
        """End a summary that `begin_summary` has opened, with what it says.

        Args:
            run_id: of the summary.
            status: FINISHED, FAILED or KILLED.

        Raises:
            TrackingError: the store cannot be written.
        """
        with self._lock, self._store.guarded("end a summary"):
            self._store.end(run_id, status)

    def keep_summaries(self, run_ids: Collection[str]) -> None:
        """Let these be the study's summaries; others are of tickets that it has left behind.

        Raises:
            TrackingError: the store cannot be written.
        """
        with self._lock:
            self._study.retag("summary", "former summary", but=run_ids)
            self._study.forget()

    def log_retraining(
        self,
        network: Network,
        *,
        seed: int,
        summary: str | None = None,
        metrics: Mapping[str, float] = _NOTHING,
        params: Mapping[str, object] = _NOTHING,
        curves: Mapping[str, Sequence[float]] = _NOTHING,
        started: datetime | None = None,
        ended: datetime | None = None,
    ) -> str:
        """Log a finished retraining as a child run; a complete run is not changed.

        Args:
            network: what was trained.
            seed: of the retraining.
            summary: the run of the network's summary; None nests it in the study's run.
            metrics: its final numbers.
            params: the settings of the training.
            curves: for each name one number an epoch; epochs count from 1.
            started: when the training began.
            ended: when it ended.

        Raises:
            TrackingError: the store cannot be written.
        """
        tags = {"sat.kind": "retraining", "sat.seed": str(seed), **network.tags}
        record = Record(
            key=f"retraining {network.scheme} seed {seed} {network.trained_with}",
            name=f"seed {seed} {network.role.partition(',')[0]}",
            state="COMPLETE",
            tags=tags,
            metrics=_named(metrics),
            params={**network.params, "seed": seed, **params},
            curves=curves,
            parent=summary,
            started=started,
            ended=ended,
        )
        with self._lock:
            return self._study.log(record)

    def describe_study(self, sections: Mapping[str, str], *, summary: str = "") -> None:
        """Write sections of the description of the study's run; all else in it is kept.

        Args:
            sections: Markdown by title.
            summary: a few sentences, which also stand above the experiment's table of runs.

        Raises:
            TrackingError: no study is open, or the store cannot be written.
        """
        with self._lock, self._store.guarded("describe the study"):
            study, tags = self._study, dict[str, str]()
            for title, text in sections.items():
                tags |= self._described(study.parent, title, text, tags)
            self._store.write(study.parent, params={}, tags=tags)
            if summary:
                known = self._store.experiment_tags(study.experiment)
                own = known.get(_DESCRIPTION, "").removeprefix(known.get(_TOLD, "")).strip()
                told = f"{summary}\n\n{own}".strip()
                self._store.describe(study.experiment, {_DESCRIPTION: told, _TOLD: summary})

    def log_files(self, run_id: str, files: Iterable[Path], *, folder: str = "") -> None:
        """Copy files into the artifacts of a run; those of the same names are replaced.

        Raises:
            TrackingError: the store cannot be written.
        """
        with self._lock, self._store.guarded("log files"):
            for path in files:
                self._store.write_file(run_id, path, folder)

    def log_text(self, run_id: str, name: str, text: str) -> None:
        """Write a text into the artifacts of a run; one of that name is replaced.

        Raises:
            TrackingError: the store cannot be written.
        """
        with self._lock, self._store.guarded(f"log {name}"):
            self._store.write_text(run_id, name, text)

    def log_data(self, run_ids: Iterable[str], data: UsedData) -> None:
        """Say which data runs used.

        Raises:
            TrackingError: the store cannot be written.
        """
        with self._lock, self._store.guarded("log the data"):
            for run_id in run_ids:
                self._store.write_dataset(run_id, data)

    def log_blocks(self, text: str, effects: Mapping[str, float]) -> None:
        """Write what each block does into the study's run, in the place of what it said before.

        All else in the run's description is kept, as by `with_section`.

        Args:
            text: Markdown, the section "Block by block" of the run's description.
            effects: their numbers, by block and kind; they become metrics such as
                `effect.s1.b00.se`.

        Raises:
            TrackingError: no study is open, or the store cannot be written.
        """
        at = int(1000 * time.time())
        points = [(f"effect.{name}", value, at, 0) for name, value in effects.items()]
        with self._lock, self._store.guarded("log the blocks"):
            run_id = self._study.parent
            tags = self._described(run_id, "Block by block", text)
            self._store.write(run_id, params={}, points=points, tags=tags)

    def _described(
        self, run_id: str, title: str, text: str, tags: Mapping[str, str] = _NOTHING
    ) -> dict[str, str]:
        """Return the tag of a run's description, or that among `tags`, with a section replaced."""
        note = tags.get(_DESCRIPTION) or self._store.tags(run_id).get(_DESCRIPTION, "")
        return {_DESCRIPTION: with_section(note, title, text)}

    def end_stale_runs(self) -> int:
        """End the child runs that a dead process left RUNNING as KILLED; return their number.

        Logging their trials again completes them. Processes of other machines are taken to be
        alive.

        Raises:
            TrackingError: no study is open, or the store cannot be written.
        """
        with self._lock:
            return self._study.end_stale()

    @property
    def experiment(self) -> str:
        """The id of the experiment of the study that is open.

        Raises:
            TrackingError: none is.
        """
        return self._study.experiment

    @property
    def study_run(self) -> str:
        """The id of the run of the study that is open.

        Raises:
            TrackingError: none is.
        """
        return self._study.parent

    @property
    def _study(self) -> ChildRuns:
        if self._opened is None:
            raise TrackingError("no study is open in MLflow; call open_study first")
        return self._opened


def _was_left(run: "Run") -> bool:
    """Tell whether a dead process left a run RUNNING."""
    return run.info.status == "RUNNING" and is_dead(run.data.tags.get("sat.worker", ""))


def _summary(network: Network, *, tags: Mapping[str, str] = _NOTHING, **more: Any) -> Record:
    """Return the record of a network's summary, COMPLETE once it is ended."""
    return Record(
        key=f"summary {network.role} {network.scheme} {network.trained_with}",
        name=f"{network.role} {network.scheme}",
        state="COMPLETE",
        tags={"sat.kind": "summary", **network.tags, **tags},
        parent="",
        **more,
    )


# What a count is called in MLflow, whose pages mean something else by "params".
_NAMES = {"params": "parameters", "share_of_full_params": "share_of_full_parameters"}


def _named(metrics: Mapping[str, float]) -> dict[str, float]:
    return {_NAMES.get(name, name): value for name, value in metrics.items()}


def trial_key(number: int, scheme: str) -> str:
    """Return the key of a trial's run within its study."""
    return f"trial {number} {scheme}".rstrip()


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
