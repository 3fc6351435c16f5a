"""A study's trials and retrainings on their way to MLflow, and what is there already."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from math import isnan
from typing import TYPE_CHECKING

from sat_optuna.errors import SatOptunaWarning
from sat_optuna.pipeline.done import Done, digest_of
from sat_optuna.pipeline.owed import Owed

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from sat_optuna.evidence.effects import Effect
    from sat_optuna.pipeline.folder import StudyFolder
    from sat_optuna.pipeline.outcome import Outcome
    from sat_optuna.tracking import MLflowLog

__all__ = ["StudyLog", "trials_digest"]

_LATER = (
    "the study goes on without it, and what it lacks is logged later: by the same command, or by "
    "sat-optuna doctor --fix"
)


class StudyLog:
    """What of a study is in the MLflow store that would be used now.

    A study that is logged already need not import MLflow to find that out. A store that fails ends
    no search and no retraining: what it lacks is noted, and logged by a later command.

    Args:
        study: the study's folder.
        hurry: whether somebody waits, so that a store that is slow is left for later.

    Attributes:
        owed: what the store lacks.
    """

    def __init__(self, study: "StudyFolder", *, hurry: bool = True) -> None:
        from sat_optuna.tracking import store_file, store_uri

        self.owed = Owed(study)
        self._study, self._hurry = study, hurry
        # A digest, since a store's address may hold a password.
        self._step = f"mlflow-{digest_of(store_uri(study.mlruns))[:12]}"
        self._file = store_file(study.mlruns)

    def has_trials(self, trials: "Sequence[FrozenTrial]") -> bool:
        """Tell whether all these trials are in the store."""
        logged = self._made().get("trials") == trials_digest(trials)
        return logged and not self.owed.lacks("trials")

    def has_retrainings(self, outcome: "Outcome") -> bool:
        """Tell whether all retrainings of an outcome are in the store."""
        logged = self._made().get("retrainings") == digest_of(outcome.decided)
        return logged and not self.owed.lacks("retrainings")

    @contextmanager
    def trials(self, study: "optuna.Study") -> "Iterator[Callable[[FrozenTrial], object]]":
        """Yield what logs a finished trial; trials that nobody has logged are logged first.

        What the store does not take is logged later in the search, at its end, or by the next one.

        Args:
            study: the Optuna study of this folder.
        """
        from sat_optuna.search.study import finished_trials
        from sat_optuna.tracking import MLflowLog, Patience, TrackingError

        log: MLflowLog | None = None
        wait, searched = Patience(), False
        try:
            with ExitStack() as stack:

                def log_trial(trial: "FrozenTrial | None") -> None:
                    nonlocal log, searched
                    searched = trial is not None
                    if log is None:
                        if not wait.is_over:
                            return
                        try:
                            log = stack.enter_context(self._opened(study, "trials"))
                        except TrackingError as error:
                            wait.failed(MLflowLog.patience)
                            _warn(f"{error.what}; {_LATER}")
                            return
                        trial = None
                    log.log_or_later(study, trial)

                log_trial(None)
                yield log_trial
                if log is None and not searched:  # it has just been tried
                    return
                if log is None:
                    log = stack.enter_context(self._opened(study, "trials"))
                    log.catch_up(study)
                elif log.is_behind:
                    log.catch_up(study)
        except TrackingError as error:
            _warn(f"{error.what}; {_LATER}")
        else:
            self._note(trials=trials_digest(finished_trials(study)))

    def log_retrainings(self, study: "optuna.Study", outcome: "Outcome") -> str | None:
        """Log all retrainings of an outcome.

        Args:
            study: the Optuna study of this folder.
            outcome: what was retrained.

        Returns:
            The run of the ticket's trial; None where the store does not take them now.
        """
        from sat_optuna.tracking import TrackingError

        try:
            return self._log_retrainings(study, outcome)
        except TrackingError as error:
            _warn(f"{error.what}; {_LATER}")
            return None

    def _log_retrainings(self, study: "optuna.Study", outcome: "Outcome") -> str:
        with self._opened(study, "retrainings") as log:
            for result in outcome.results.values():
                ticket = outcome.ticket_for(result.scheme)
                rights = [e.accuracy for e in result.history if e.accuracy is not None]
                log.log_retraining(
                    f"{result.scheme} seed {result.seed} {outcome.fingerprint}",
                    role=ticket.role,
                    seed=result.seed,
                    scheme=str(result.scheme),
                    metrics={
                        f"test_{outcome.measure.name}": result.score,
                        **({} if isnan(result.accuracy) else {"test_accuracy": result.accuracy}),
                        "params": ticket.params,
                        "macs": ticket.macs,
                        "latency_ms": ticket.latency_ms or float("nan"),
                    },
                    params={"epochs": self._study.config.retrain.epochs},
                    curves={
                        "train_loss": [entry.loss for entry in result.history],
                        **({"train_accuracy": rights} if rights else {}),
                    },
                    ticket=ticket.to_json(),
                )
            (best,) = (t for t in study.get_trials() if t.number == outcome.best.trial)
            run_id = log.log_optuna(study, best)
            _log_verdicts(log, run_id, outcome)
            self._note(retrainings=digest_of(outcome.decided))
        return run_id

    def log_blocks(self, study: "optuna.Study", effects: "Sequence[Effect]", text: str) -> None:
        """Log what each kind does at each block into the study's run.

        Args:
            study: the Optuna study of this folder.
            effects: of `block_effects`.
            text: what they come to, Markdown.
        """
        from sat_optuna.tracking import TrackingError

        try:
            with self._opened(study, "retrainings") as log:
                log.log_blocks(text, {f"{e.block}.{e.kind}": e.points for e in effects})
        except TrackingError as error:
            _warn(f"{error.what}; the report has what each block does")

    @contextmanager
    def _opened(self, study: "optuna.Study", part: str) -> "Iterator[MLflowLog]":
        """Open the study's parent run in MLflow, and close it with how the block ended.

        Args:
            study: the Optuna study of this folder.
            part: what the block logs; it is owed until the block has ended well.
        """
        from sat_optuna.tracking import MLflowLog, TrackingError

        log: MLflowLog | None = None
        self.owed.begin(part)
        try:
            log = MLflowLog(self._study.mlruns)
            self._open(log, study)
            try:
                log.end_stale_runs()
                yield log
            except BaseException as error:
                # Closing may fail for the same reason; the first reason is the one to tell.
                with suppress(TrackingError):
                    log.close_study(_status_after(error))
                raise
            log.close_study()
        except TrackingError as error:
            self.owed.owe(part, error.what)
            raise
        except BaseException:
            if log is None or log.is_behind:
                self.owed.owe(part, "the command was broken off")
            else:
                self.owed.pay(part)
            raise
        self.owed.pay(part)

    def _open(self, log: "MLflowLog", study: "optuna.Study") -> None:
        from sat_optuna.search.study import UUID_KEY
        from sat_optuna.search.tickets import measure_of

        if not self._hurry:
            log.slow = float("inf")
        log.open_study(
            study.study_name,
            study.user_attrs[UUID_KEY],
            config=self._study.config.to_dict(),
            metric=str(measure_of(study)),
            place=self._study.project.name,
        )

    @property
    def _decided(self) -> dict[str, str]:
        """The study whose trials are logged: another one has runs of its own."""
        searched = self._study.records.get("search")
        return {"uuid": searched.made.get("uuid", "") if searched else ""}

    def _made(self) -> Mapping[str, str]:
        record = self._study.records.get(self._step)
        here = self._file is None or self._file.exists()
        return record.made if record and here and record.decided == self._decided else {}

    def _note(self, **made: str) -> None:
        record = Done(self._decided, {**self._made(), **made}, finished=True)
        self._study.records.write(self._step, record)


def _log_verdicts(log: "MLflowLog", run_id: str, outcome: "Outcome") -> None:
    from sat_optuna.evidence.verdicts import claims_of, claims_text

    claims = claims_of(outcome.tickets)
    keys = {claim.name: claim.name.replace(" ", "_") for claim in claims}
    log.log_verdicts(
        run_id,
        {keys[claim.name]: claim.line() for claim in claims},
        metrics={
            f"verdict.{keys[claim.name]}.{what}": value
            for claim in claims
            for what in ("effect", "low", "high", "p")
            if not isnan(value := getattr(claim, what))
        },
        note=claims_text(claims),
    )


def _status_after(error: BaseException) -> str:
    """Return how a study ended that this error ended; one of MLflow's own ends none."""
    from sat_optuna.tracking import TrackingError

    if isinstance(error, TrackingError):
        return "FINISHED"
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


def _warn(text: str) -> None:
    warnings.warn(text, SatOptunaWarning, stacklevel=3)


def trials_digest(trials: "Sequence[FrozenTrial]") -> str:
    """Return a digest of what finished trials came to."""
    return digest_of(
        [(t.number, t.state.name, t.values, t.user_attrs.get("scheme")) for t in trials]
    )
