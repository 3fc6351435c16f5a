"""Trials of an Optuna study are logged to MLflow as they end; what the store lacks, later."""

import atexit
import contextlib
import sys
import time
import warnings
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from sat_optuna.errors import SatOptunaWarning
from sat_optuna.tracking.limits import cut
from sat_optuna.tracking.patience import Patience
from sat_optuna.tracking.store import TrackingError
from sat_optuna.tracking.study_runs import StudyRuns, trial_key

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from sat_optuna.tracking.whole_runs import Point

__all__ = ["MLflowLog"]

_FOLLOWED_S = 1.0  # at least, between two writes into the run of a search that goes on
_LAST = 100  # trials that such a write, lost by a kill, may have been of


class MLflowLog(StudyRuns):
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
    slow = 10.0

    def __init__(self, root: str | Path = "mlruns", *, study_name: str | None = None) -> None:
        """Connect to the store, as `StudyRuns` does.

        Args:
            root: the folder of the runs.
            study_name: the name of the experiment that the callback writes to; None takes the name
                of the study.

        Raises:
            TrackingError: the store cannot be made, read or reached.
        """
        self._study_name = study_name
        self._searched: Study | None = None  # of which trials are logged as they end
        self._followed: Study | None = None  # the study that this is a callback of
        self._behind = False  # whether finished trials may be missing in the store
        self._unfollowed: list[FrozenTrial] = []  # logged trials that the study's run lacks
        self._followed_at = 0.0  # when it was last written
        self._wait = Patience()  # where the store took nothing
        super().__init__(root)

    @property
    def is_behind(self) -> bool:
        """Whether trials that were to be logged are not."""
        return self._behind

    @override
    def _begin(self) -> None:
        self._unfollowed, self._searched = [], None

    @override
    def close_study(self, status: str = "FINISHED", *, ended: datetime | None = None) -> None:
        """End the study's run, as `StudyRuns.close_study` does, once it holds all trials."""
        with self._lock:
            if self._unfollowed and self._searched is not None:
                with contextlib.suppress(TrackingError):  # the next process writes it
                    self._follow(self._searched)
            super().close_study(status, ended=ended)

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
                    self._unfollowed.append(trial)
                    self._searched = study
                    waited = time.monotonic() - self._followed_at
                    if waited > _FOLLOWED_S or len(self._unfollowed) >= _LAST:
                        self._follow(study)
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
        from sat_optuna.search.tickets import find_ticket

        values = list(trial.values or [])
        told = {f"value_{i}": value for i, value in enumerate(values)}
        if len(values) == 1:  # our objectives tell it as the reward
            told = {} if "reward" in trial.user_attrs else {"value": values[0]}
        steps = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
        found = find_ticket(study, trial)
        ticket = None if found is None else found.to_json()
        return self.log_trial(
            trial.number,
            scheme=_scheme_of(trial),
            state=trial.state.name,
            metrics=_numbers(trial.user_attrs) | told,
            params=trial.params,
            # Our objectives report the reward after each epoch; others report what they like.
            curves={"reward by epoch" if ticket else "intermediate": steps} if steps else {},
            artifact=None if ticket is None else ("ticket.json", ticket),
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
                t for t in finished if not self._study.has(trial_key(t.number, _scheme_of(t)))
            ]
            for trial in missing:
                self._log_in_time(study, trial)
            # A process that was killed may have logged the last ones and told the study's run
            # nothing of them; what is there already is not written twice.
            lacking = {t.number for t in (*missing, *self._unfollowed, *finished[-_LAST:])}
            self._unfollowed = [t for t in finished if t.number in lacking]
            self._follow(study)
            self._behind = False
        return len(missing)

    def _follow(self, study: "Study") -> None:
        """Write into the study's run what trials came to, and the best so far, by number."""
        from sat_optuna.search.tickets import measure_of

        trials, self._followed_at = self._unfollowed, time.monotonic()
        if not trials or len(study.directions) > 1:
            self._unfollowed = []
            return
        sign = -1.0 if study.direction.name == "MINIMIZE" else 1.0
        metric, numbers = measure_of(study).name, {trial.number for trial in trials}
        best: FrozenTrial | None = None
        points: list[Point] = []
        for trial in filter(_is_complete, study.get_trials(deepcopy=False)):
            if best is None or sign * trial.values[0] > sign * best.values[0]:
                best = trial
            if trial.number not in numbers:
                continue
            at, step = _moment(trial), trial.number
            for prefix, of in (("", trial), ("best_", best)):
                points.append((f"{prefix}reward", of.values[0], at, step))
                if (value := of.user_attrs.get(metric)) is not None:
                    points.append((f"{prefix}{metric}", value, at, step))
        tags = {} if best is None else {"best scheme": _scheme_of(best)}
        with self._store.guarded("log the search"):
            self._store.write(self._study.parent, params={}, points=points, tags=tags)
        self._unfollowed = []

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


def _is_complete(trial: "FrozenTrial") -> bool:
    return trial.state.name == "COMPLETE" and bool(trial.values)


def _moment(trial: "FrozenTrial") -> int:
    ended = trial.datetime_complete
    return int(1000 * (time.time() if ended is None else ended.timestamp()))


def _numbers(attributes: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: value
        for key, value in attributes.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and ":" not in key
    }
