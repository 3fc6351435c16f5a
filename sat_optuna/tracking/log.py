"""What of a study is logged to MLflow: a parent run, and child runs of trials and retrainings.

study.db holds the study; MLflow holds a copy for reading. So whatever is missing in MLflow can be
logged again. Each method may be called again, also after a kill -9, and then completes the copy.
"""

import atexit
import contextlib
import json
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sat_optuna.errors import SatOptunaWarning
from sat_optuna.processes import worker_name
from sat_optuna.tracking.child_runs import ChildRuns, Record
from sat_optuna.tracking.limits import cut
from sat_optuna.tracking.note import with_section
from sat_optuna.tracking.patience import Patience
from sat_optuna.tracking.store import RunStore, StoreLockedError, TrackingError, store_uri

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

__all__ = ["MLflowLog"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_DESCRIPTION = "mlflow.note.content"  # the tag that MLflow's pages show as a run's description


class MLflowLog:
    """Logs studies to MLflow; it is also a callback for Optuna.

        study.optimize(objective, n_trials=60, callbacks=[MLflowLog("mlruns")])

    As a callback it opens the study at its first call and logs the trials that earlier processes
    finished but did not log; then it logs each trial when it ends. Where the store does not take a
    trial, locked by another process or lost for example, that is said and the trial is logged with
    a later one, or when the process exits: no search ends for the sake of its copy. The parent run
    is closed when the process exits. Threads may share one log; each process makes its own.

    Attributes:
        patience: seconds after which a store that took nothing is tried again; twice as many each
            time that it takes nothing again.
        slow: seconds that a trial may take to be logged; where it takes more, trials are logged as
            in a store that takes nothing.
    """

    patience = 60.0
    slow = 5.0

    def __init__(self, root: str | Path = "mlruns", *, study_name: str | None = None) -> None:
        """Connect to the store: root/mlflow.db and root/artifacts/STUDY, made at the first use.

        Args:
            root: the folder of the runs; it is made if it is missing. If MLFLOW_TRACKING_URI is
                set, it is used instead of root/mlflow.db.
            study_name: the name of the experiment that the callback writes to; None takes the name
                of the study.

        Raises:
            TrackingError: the store cannot be made, read or reached. One that another process
                locks is connected to when a study is opened.
        """
        self._root = root
        self._study_name = study_name
        self._lock = threading.RLock()
        self._opened: ChildRuns | None = None
        self._followed: Study | None = None  # the study that this is a callback of
        self._behind = False  # whether finished trials may be missing in the store
        self._wait = Patience()  # where the store took nothing
        with contextlib.suppress(StoreLockedError):
            _ = self._store

    @property
    def is_behind(self) -> bool:
        """Whether trials that were to be logged are not."""
        return self._behind

    @property
    def uri(self) -> str:
        """The URL of the database or of the server that has the runs."""
        return store_uri(self._root)

    @cached_property
    def _store(self) -> RunStore:
        return RunStore(self._root)

    def open_study(
        self,
        name: str,
        uuid: str,
        *,
        config: Mapping[str, Any] = _NOTHING,
        metric: str = "",
        place: str = "",
    ) -> str:
        """Open the study's parent run and set it RUNNING; return its id.

        The run is made if it is missing.

        Args:
            name: name of the study and of the experiment.
            uuid: distinguishes this study from others of the same name.
            config: the resolved configuration. Its values become params such as `search.trials`,
                whose first values MLflow keeps, and the artifact config.json, which is replaced.
            metric: what is searched for, with its unit and which way is better; a tag.
            place: tells the study from others of its name, the name of its project for example.

        Raises:
            TrackingError: the store cannot be read or written.
        """
        tags = {"sat.kind": "study", "sat.study_uuid": uuid, "sat.worker": worker_name()}
        tags |= {"sat.metric": metric} if metric else {}
        with self._lock, self._store.guarded(f"open study {name}"):
            experiment = self._store.experiment(name, uuid, place=place)
            parents = self._store.runs(experiment, "tags.`sat.kind` = 'study'")
            same = (run for run in parents if run.data.tags.get("sat.study_uuid") == uuid)
            run = next(same, None) or self._store.create(experiment, name, tags)
            parent = str(run.info.run_id)
            self._store.resume(parent)
            known = run.data.params
            params = {key: value for key, value in _flat(config).items() if key not in known}
            self._store.write(parent, params=params, tags=tags)
            if config:
                text = json.dumps(config, indent=2, default=str)
                self._store.write_text(parent, "config.json", text)
            self._opened = ChildRuns(self._store, experiment=experiment, parent=parent, uuid=uuid)
        return parent

    def close_study(self, status: str = "FINISHED") -> None:
        """End the parent run with an MLflow status: FINISHED, FAILED or KILLED.

        Raises:
            TrackingError: no study is open, or the store cannot be written.
        """
        with self._lock, self._store.guarded("close the study"):
            self._store.end(self._study.parent, status)
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
        value: float | None = None,
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
            value: the objective's value; it is logged as the metric `value`.
            started: when the trial began (Optuna's datetime_start).
            ended: when the trial ended.

        Returns:
            The run's id.

        Raises:
            TrackingError: the store cannot be written, or the trial has not ended.
        """
        key = _trial_key(number, scheme)
        record = Record(
            key=key,
            name=key,
            state=state,
            tags={"sat.kind": "trial", "sat.trial": str(number), "scheme": scheme},
            metrics=metrics if value is None else {**metrics, "value": value},
            params=params,
            curves=curves,
            artifact=artifact,
            started=started,
            ended=ended,
        )
        with self._lock:
            return self._study.log(record)

    def log_retraining(
        self,
        key: str,
        *,
        role: str,
        seed: int,
        scheme: str,
        metrics: Mapping[str, float] = _NOTHING,
        params: Mapping[str, object] = _NOTHING,
        curves: Mapping[str, Sequence[float]] = _NOTHING,
        ticket: str | None = None,
    ) -> str:
        """Log a finished retraining as a child run; a complete run is not changed.

        Args:
            key: identifies the retraining within its study; a retraining with another
                configuration needs another key.
            role: ticket, or that of the control.
            seed: of the retraining.
            scheme: the scheme's text form.
            metrics: its final numbers.
            params: the settings of the training.
            curves: for each name one number an epoch; epochs count from 1.
            ticket: the ticket's JSON, stored as ticket.json.

        Raises:
            TrackingError: the store cannot be written.
        """
        tags = {"sat.kind": "retraining", "sat.role": role, "sat.seed": str(seed)}
        record = Record(
            key=f"retraining {key}",
            name=f"{role} seed {seed} {scheme}",
            state="COMPLETE",
            tags={**tags, "scheme": scheme},
            metrics=metrics,
            params=params,
            curves=curves,
            artifact=None if ticket is None else ("ticket.json", ticket),
        )
        with self._lock:
            return self._study.log(record)

    def log_verdicts(
        self, run_id: str, verdicts: Mapping[str, str], *, metrics: Mapping[str, float], note: str
    ) -> None:
        """Write what was found of a ticket into its run, in the place of what it said before.

        All else in the run's description is kept, as by `with_section`.

        Args:
            run_id: the run of the ticket's trial.
            verdicts: by name a line each; they become tags such as `verdict.smaller`.
            metrics: their numbers.
            note: Markdown, the section "Verdicts" of the run's description.

        Raises:
            TrackingError: the store cannot be written.
        """
        tags = {f"verdict.{name}": line for name, line in verdicts.items()}
        at = int(1000 * time.time())
        points = [(name, value, at, 0) for name, value in metrics.items()]
        with self._lock, self._store.guarded("log the verdicts"):
            tags |= self._described(run_id, "Verdicts", note)
            self._store.write(run_id, params={}, points=points, tags=tags)

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

    def _described(self, run_id: str, title: str, text: str) -> dict[str, str]:
        """Return the tag of a run's description with a section of it replaced."""
        note = self._store.tags(run_id).get(_DESCRIPTION, "")
        return {_DESCRIPTION: with_section(note, title, text)}

    def __call__(self, study: "Study", trial: "FrozenTrial") -> None:
        """Log one finished trial, or later; at the first call all earlier ones too."""
        uuid = str(study.user_attrs.get("sat:uuid", study.study_name))
        with self._lock:
            if self._opened is None or self._opened.uuid != uuid:
                if self._followed is None:
                    atexit.register(self._close_at_exit)
                self._followed, self._behind = study, True
                if not self._wait.is_over:
                    return
                try:
                    self.open_study(self._study_name or study.study_name, uuid)
                except TrackingError as error:
                    self._put_off(error)
                    return
            self.log_or_later(study, trial)

    def log_or_later(self, study: "Study", trial: "FrozenTrial | None" = None) -> None:
        """Log a finished trial, or all that are missing where there are any.

        What the store does not take is logged with a later one.

        Args:
            study: the Optuna study.
            trial: None for those alone that are missing.
        """
        with self._lock:
            if not self._wait.is_over:
                self._behind = True
                return
            try:
                if self._behind or trial is None:
                    self.catch_up(study)
                else:
                    self._log_in_time(study, trial)
                self._wait.worked()
            except TrackingError as error:
                self._put_off(error)

    def _log_in_time(self, study: "Study", trial: "FrozenTrial") -> None:
        began = time.monotonic()
        self.log_optuna(study, trial)
        if (took := time.monotonic() - began) > self.slow:
            raise TrackingError(
                f"MLflow's store {self.uri} took {took:.0f} s to log trial {trial.number}",
                "the study itself has lost nothing",
            )

    def _put_off(self, error: TrackingError) -> None:
        self._behind = True
        self._wait.failed(self.patience)
        warnings.warn(
            f"{error.what}; the search goes on, and its trials are logged later",
            SatOptunaWarning,
            stacklevel=3,
        )

    def log_optuna(self, study: "Study", trial: "FrozenTrial") -> str:
        """Log a finished trial of an Optuna study; one that is complete already stays as it is.

        Its user attributes are read: `scheme` becomes the tag, numbers become metrics. A trial of
        our objectives leaves its ticket, with the seed of the search, as ticket.json.

        Returns:
            The run's id.

        Raises:
            TrackingError: the store cannot be written, or the trial has not ended.
        """
        from sat_optuna.search.tickets import is_ticket, ticket_of

        values = list(trial.values or [])
        several = {f"value_{i}": value for i, value in enumerate(values)}
        steps = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
        ticket = ticket_of(study, trial).to_json() if is_ticket(study, trial) else None
        return self.log_trial(
            trial.number,
            scheme=_scheme_of(trial),
            state=trial.state.name,
            metrics=_numbers(trial.user_attrs) | (several if len(values) > 1 else {}),
            params=trial.params,
            # Our objectives report the reward after each epoch; others report what they like.
            curves={"reward by epoch" if ticket else "intermediate": steps} if steps else {},
            artifact=None if ticket is None else ("ticket.json", ticket),
            value=values[0] if len(values) == 1 else None,
            started=trial.datetime_start,
            ended=trial.datetime_complete,
        )

    def catch_up(self, study: "Study") -> int:
        """Log the finished trials that no process has logged yet; return their number.

        Raises:
            TrackingError: no study is open, or the store cannot be written, or is slow.
        """
        finished = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
        with self._lock:
            self._behind = True
            # The runs are read after the trials, so a trial that another process is logging now
            # is found there and not logged twice.
            self._study.forget()
            missing = [
                t for t in finished if not self._study.has(_trial_key(t.number, _scheme_of(t)))
            ]
            for trial in missing:
                self._log_in_time(study, trial)
            self._behind = False
        return len(missing)

    def end_stale_runs(self) -> int:
        """End the child runs that a dead process left RUNNING; return their number.

        A complete run gets the status of its trial. Any other run gets KILLED, and logging its
        trial again completes it. Processes of other machines are taken to be alive.

        Raises:
            TrackingError: no study is open, or the store cannot be written.
        """
        with self._lock:
            return self._study.end_stale()

    @property
    def _study(self) -> ChildRuns:
        if self._opened is None:
            raise TrackingError("no study is open in MLflow; call open_study first")
        return self._opened

    def _close_at_exit(self) -> None:
        raised = getattr(sys, "last_value", None) is not None
        study = self._followed
        try:
            if self._opened is None and study is not None and self._behind:  # not to be opened yet
                uuid = str(study.user_attrs.get("sat:uuid", study.study_name))
                self.open_study(self._study_name or study.study_name, uuid)
            if self._opened is not None:
                if self._behind and study is not None:
                    self.catch_up(study)
                self.close_study("FAILED" if raised else "FINISHED")
        except TrackingError as error:
            if self._behind:
                warnings.warn(
                    f"{error.what}; the trials that MLflow lacks are in the study, and the next "
                    "process that logs it logs them",
                    SatOptunaWarning,
                    stacklevel=2,
                )


def _scheme_of(trial: "FrozenTrial") -> str:
    return cut(trial.user_attrs.get("scheme", ""), 1000)  # it is part of a tag


def _trial_key(number: int, scheme: str) -> str:
    return f"trial {number} {scheme}".rstrip()


def _numbers(attributes: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: value
        for key, value in attributes.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and ":" not in key
    }


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
