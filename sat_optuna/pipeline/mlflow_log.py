"""A study's trials and retrainings on their way to MLflow, and what is there already."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from math import isnan
from statistics import fmean
from typing import TYPE_CHECKING

from sat_optuna.errors import SatOptunaWarning, readable
from sat_optuna.files import sha256_of
from sat_optuna.pipeline.done import Done, digest_of
from sat_optuna.pipeline.mlflow_model import DIGITS, log_best_model
from sat_optuna.pipeline.owed import Owed
from sat_optuna.scheme import Scheme

if TYPE_CHECKING:
    from pathlib import Path

    import optuna
    from optuna.trial import FrozenTrial

    from sat_optuna.evidence.claims import Claim
    from sat_optuna.evidence.results import RetrainResult
    from sat_optuna.pipeline.folder import StudyFolder
    from sat_optuna.pipeline.outcome import Outcome
    from sat_optuna.ticket import Measure, Ticket
    from sat_optuna.tracking import MLflowLog, Network, UsedData

__all__ = ["BLOCKS", "SERVED_AT", "StudyLog", "trials_digest"]

BLOCKS = "blocks.json"  # in work/: what each block does, as the report told it
SERVED_AT = "http://127.0.0.1:5000"  # by `sat-optuna ui`, unless its --port says otherwise

_LATER = (
    "the study goes on without it, and what it lacks is logged later: by the same command, or by "
    "sat-optuna doctor --fix"
)


@dataclass(frozen=True, slots=True)
class _Logged:
    """A study as MLflow knows it: the search, or the transfer of a ticket that was given."""

    what: str
    name: str
    uuid: str
    measure: "Measure"
    ended: Callable[[], datetime | None]  # when the last trial did, or the last training

    @property
    def is_given(self) -> bool:
        """Whether the study's run is that of its retrainings."""
        return self.what == "transfer"

    @classmethod
    def searched(cls, study: "optuna.Study") -> "_Logged":
        """Return that of a search."""
        from sat_optuna.search.study import UUID_KEY
        from sat_optuna.search.tickets import measure_of

        uuid, ended = study.user_attrs[UUID_KEY], partial(_last_end, study)
        return cls("search", study.study_name, uuid, measure_of(study), ended)

    @classmethod
    def of(cls, outcome: "Outcome") -> "_Logged":
        """Return that of the study whose networks an outcome has."""
        best = outcome.best
        if best.source is None:
            return cls.searched(outcome.study.optuna_study())
        name, uuid = best.study or outcome.study.name, best.study_uuid or ""
        return cls("transfer", name, uuid, outcome.measure, partial(_last_training, outcome))


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
        self._uri = store_uri(study.mlruns)
        self._step = f"mlflow-{digest_of(self._uri)[:12]}"
        self._file = store_file(study.mlruns)

    def has_trials(self, trials: "Sequence[FrozenTrial]") -> bool:
        """Tell whether all these trials are in the store."""
        logged = self._made().get("trials") == trials_digest(trials)
        return logged and not self.owed.lacks("trials")

    def has_retrainings(self, outcome: "Outcome") -> bool:
        """Tell whether all retrainings of an outcome are in the store."""
        logged = self._made().get("retrainings") == digest_of(outcome.decided)
        return logged and not self.owed.lacks("retrainings")

    @property
    def table(self) -> str:
        """Where the table of the study's tickets is, in words; empty where none is logged."""
        from sat_optuna.tracking import table_link

        if not (experiment := self._made().get("experiment")):
            return ""
        if self._file is None and self._uri.startswith("http"):
            return table_link(readable(self._uri), experiment)
        return f"sat-optuna ui, at {table_link(SERVED_AT, experiment)}"

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
                            log = stack.enter_context(
                                self._opened(_Logged.searched(study), "trials")
                            )
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
                    log = stack.enter_context(self._opened(_Logged.searched(study), "trials"))
                    log.catch_up(study)
                elif log.is_behind:
                    log.catch_up(study)
                self._log_search(log, study)
        except TrackingError as error:
            _warn(f"{error.what}; {_LATER}")
        else:
            self._note(trials=trials_digest(finished_trials(study)))

    def _log_search(self, log: "MLflowLog", study: "optuna.Study") -> None:
        """Log what a search was made with, and what it came to."""
        from sat_optuna.search.space import NETWORK_KEY
        from sat_optuna.search.study import MACHINE_KEY
        from sat_optuna.tracking import UsedData

        log.log_files(log.study_run, [self._study.folder / "study.toml"])
        machine = study.user_attrs.get(MACHINE_KEY, {})
        log.log_text(log.study_run, "environment.json", json.dumps(machine, indent=2))
        scored = study.user_attrs.get(NETWORK_KEY, {})
        if "dataset" in scored:
            source = f"[data] of studies/{self._study.name}/study.toml"
            data = UsedData(scored["dataset"], scored["dataset_fingerprint"], source)
            log.log_data([log.study_run], data)

    @contextmanager
    def retrainings(self, outcome: "Outcome") -> "Iterator[Callable[[RetrainResult], object]]":
        """Yield what logs a retraining when it ends; what the store does not take is logged later.

        Args:
            outcome: what is retrained.
        """
        from sat_optuna.tracking import TrackingError

        def put_off(error: TrackingError) -> None:
            self.owed.owe("retrainings", error.what)
            _warn(f"{error.what}; the retrainings go on, and are logged at their end")

        self.owed.begin("retrainings")
        try:
            logged = _Logged.of(outcome)
            log = self._open(logged, running=logged.is_given)
            summaries = {
                scheme: log.begin_summary(
                    _network(outcome, scheme),
                    params=_params(outcome, scheme),
                    started=_span(outcome, scheme)[0],
                )
                for scheme in outcome.distinct
            }
        except TrackingError as error:
            put_off(error)
            yield _nowhere
            return
        failed = False

        def on_result(result: "RetrainResult") -> None:
            nonlocal failed
            if not failed:
                try:
                    _log_retraining(log, outcome, result, summaries[result.scheme])
                except TrackingError as error:
                    failed = True
                    put_off(error)

        for result in outcome.results.values():  # trained beside the search, or before a stop
            on_result(result)
        try:
            yield on_result
        except BaseException as error:
            try:
                for run_id in summaries.values():
                    log.finish_summary(run_id, _status(error))
                log.close_study(_status(error))
            except TrackingError as lost:
                self.owed.owe("retrainings", lost.what)
            else:  # those that are finished are logged, and the others are not made yet
                if not failed:
                    self.owed.pay("retrainings")
            raise

    def log_retrainings(self, outcome: "Outcome") -> str | None:
        """Log all retrainings of an outcome that are not logged yet, and what they come to.

        Args:
            outcome: what was retrained.

        Returns:
            The ticket's summary; None where the store does not take them now.
        """
        from sat_optuna.tracking import TrackingError

        try:
            return self._log_retrainings(outcome)
        except TrackingError as error:
            _warn(f"{error.what}; {_LATER}")
            return None

    def _log_retrainings(self, outcome: "Outcome") -> str:
        from sat_optuna.evidence.verdicts import claims_of, claims_text, headline

        claims, summaries = claims_of(outcome.tickets), dict[Scheme, str]()
        logged = _Logged.of(outcome)
        with self._opened(logged, "retrainings", running=logged.is_given) as log:
            for scheme in outcome.distinct:
                network = _network(outcome, scheme)
                started, ended = _span(outcome, scheme)
                run_id = log.begin_summary(
                    network, params=_params(outcome, scheme), started=started
                )
                summaries[scheme] = run_id
                for seed in self._study.config.retrain.seeds:
                    _log_retraining(log, outcome, outcome.results[scheme, seed], run_id)
                found = claims if scheme == outcome.schemes["ticket"] else ()
                measured = _measured(outcome, scheme)
                sections = {"Result": _told(outcome, network.role, scheme, measured)}
                log.end_summary(
                    run_id,
                    network,
                    metrics=_rounded(measured) | _numbers(found),
                    verdicts={_key(claim): claim.line() for claim in found},
                    tags=_source_tags(outcome.best),
                    sections=sections | ({"Verdicts": claims_text(found)} if found else {}),
                    ticket=outcome.ticket_for(scheme).to_json(),
                    ended=ended,
                )
            log.keep_summaries(summaries.values())
            ticket = summaries[outcome.schemes["ticket"]]
            log_best_model(self._study, outcome, log.store, ticket)
            log.log_data(summaries.values(), _data(outcome))
            if given := self._study.given:
                self._log_given(log, given, outcome)
            told = f"{headline(claims)} {_result(outcome)}"
            log.describe_study({"Result": told}, summary=told)
            self._note(retrainings=digest_of(outcome.decided), experiment=log.experiment)
        return ticket

    def _log_given(self, log: "MLflowLog", given: "Path", outcome: "Outcome") -> None:
        """Log into the study's run what a transfer was made with; a search has logged it."""
        log.log_files(log.study_run, [self._study.folder / "study.toml", given])
        log.log_text(
            log.study_run, "environment.json", json.dumps(dict(outcome.best.versions), indent=2)
        )
        log.log_data([log.study_run], _data(outcome))

    def log_report(self, outcome: "Outcome", files: "Mapping[str, Path]") -> None:
        """Log a report and its figures into the study's run, and the ticket's into its own.

        Args:
            outcome: what was retrained.
            files: the report's, by name.
        """
        from sat_optuna.tracking import TrackingError

        kept = self._study.work / BLOCKS
        blocks = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else None
        digest = digest_of([{name: sha256_of(path) for name, path in files.items()}, blocks])
        logged = self._made().get("report") == digest and not self.owed.lacks("report")
        if logged or not self.has_retrainings(outcome):
            return
        pages = [path for path in files.values() if path.parent == self._study.folder]
        drawn = [path for path in files.values() if path.parent != self._study.folder]
        try:
            with self._opened(_Logged.of(outcome), "report", running=False) as log:
                study = log.study_run
                log.log_files(study, pages)
                log.log_files(study, drawn, folder="figures")
                if ticket := log.summary_of(_network(outcome, outcome.schemes["ticket"])):
                    log.log_files(ticket, [path for path in drawn if path.stem == "ticket"])
                if blocks:
                    log.log_blocks(blocks["text"], blocks["effects"])
                self._note(report=digest)
        except TrackingError as error:
            _warn(f"{error.what}; the report lies in {self._study.folder}")

    @contextmanager
    def _opened(
        self, logged: _Logged, part: str, *, running: bool = True
    ) -> "Iterator[MLflowLog]":
        """Open the study's run in MLflow, and close it, if it runs, with how the block ended.

        Args:
            logged: what the study is in MLflow.
            part: what the block logs; it is owed until the block has ended well.
            running: whether the study is searched, or the ticket given to it retrained.
        """
        from sat_optuna.tracking import TrackingError

        log: MLflowLog | None = None
        self.owed.begin(part)
        try:
            log = self._open(logged, running=running)
            try:
                yield log
            except BaseException as error:
                # Closing may fail for the same reason; the first reason is the one to tell.
                with suppress(TrackingError):
                    log.close_study(_status(error))
                raise
            log.close_study(ended=logged.ended())
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

    def _open(self, logged: _Logged, *, running: bool) -> "MLflowLog":
        from sat_optuna.tracking import MLflowLog

        log, config = MLflowLog(self._study.mlruns), self._study.config.to_dict()
        if not self._hurry:
            log.slow = float("inf")
        log.open_study(
            logged.name,
            logged.uuid,
            what=logged.what,
            config=config,
            measure=logged.measure,
            running=running,
            place=self._study.project.name,
        )
        log.end_stale_runs()
        return log

    @property
    def _decided(self) -> dict[str, str]:
        """The study whose trials are logged: another one has runs of its own."""
        known = self._study.records.get("search") or self._study.records.get("given")
        return {"uuid": known.made.get("uuid", "") if known else ""}

    def _made(self) -> Mapping[str, str]:
        record = self._study.records.get(self._step)
        here = self._file is None or self._file.exists()
        return record.made if record and here and record.decided == self._decided else {}

    def _note(self, **made: str) -> None:
        record = Done(self._decided, {**self._made(), **made}, finished=True)
        self._study.records.write(self._step, record)


def _network(outcome: "Outcome", scheme: "Scheme") -> "Network":
    """Return a network as MLflow knows it: by all roles that have its scheme."""
    from sat_optuna.tracking import Network

    roles = [role for role, has in outcome.schemes.items() if has == scheme]
    return Network(", ".join(roles), str(scheme), outcome.fingerprint)


def _params(outcome: "Outcome", scheme: "Scheme") -> dict[str, object]:
    """Return what a network's trainings are made with, and what each block carries."""
    ticket = outcome.ticket_for(scheme)
    names = ("none", *(spec.kind for spec in ticket.attention))
    blocks = zip(Scheme.parameter_names(scheme.stages), scheme.choices, strict=True)
    return {
        "epochs": outcome.study.config.retrain.epochs,
        **{block: names[choice] for block, choice in blocks},
    }


def _log_retraining(
    log: "MLflowLog", outcome: "Outcome", result: "RetrainResult", summary: str
) -> None:
    ticket = outcome.ticket_for(result.scheme)
    rights = [entry.accuracy for entry in result.history if entry.accuracy is not None]
    log.log_retraining(
        _network(outcome, result.scheme),
        seed=result.seed,
        summary=summary,
        metrics={
            f"test_{outcome.measure.name}": result.score,
            **({} if isnan(result.accuracy) else {"test_accuracy": result.accuracy}),
            **_costs(ticket),
        },
        params=_params(outcome, result.scheme),
        curves={
            "train_loss": [entry.loss for entry in result.history],
            **({"train_accuracy": rights} if rights else {}),
        },
        started=_moment(result.started),
        ended=_moment(result.ended),
    )


def _source_tags(ticket: "Ticket") -> dict[str, str]:
    """Return which ticket was carried over; nothing of one that was searched for."""
    if (source := ticket.source) is None:
        return {}
    told = {
        "study": source.study,
        "study_uuid": source.study_uuid,
        "scheme": str(source.scheme),
        "dataset": source.dataset,
        "backbone": source.backbone,
    }
    return {f"sat.source_{name}": value for name, value in told.items() if value}


def _span(outcome: "Outcome", scheme: "Scheme") -> tuple[datetime | None, datetime | None]:
    """Return when a network's first training began and its last one ended; None if not known."""
    results = [result for (has, _), result in outcome.results.items() if has == scheme]
    begun = [result.started for result in results if result.started]
    ended = [result.ended for result in results if result.ended]
    return _moment(min(begun, default=None)), _moment(max(ended, default=None))


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds)


def _costs(ticket: "Ticket") -> dict[str, float]:
    costs = {"params": float(ticket.params), "macs": float(ticket.macs)}
    return costs | ({} if ticket.latency_ms is None else {"latency_ms": ticket.latency_ms})


def _measured(outcome: "Outcome", scheme: "Scheme") -> dict[str, float]:
    """Return what a network came to: the mean over the seeds with its interval, and its costs."""
    from sat_optuna.evidence.statistics import summarise_scores

    results = [outcome.results[scheme, seed] for seed in outcome.study.config.retrain.seeds]
    spread = summarise_scores(
        [result.score for result in results], images=results[0].images, measure=outcome.measure
    )
    tested, costs = f"test_{outcome.measure.name}", _costs(outcome.ticket_for(scheme))
    plain = _costs(outcome.ticket_for(outcome.schemes["plain"]))
    fulls = [
        _costs(outcome.ticket_for(has))
        for role, has in outcome.schemes.items()
        if role.startswith("full")
    ]
    shares = {}
    for name in ("params", "macs"):  # the share of the latency is a verdict, with its interval
        full = min(costs_of[name] for costs_of in fulls)
        if full > plain[name]:
            shares[f"share_of_full_{name}"] = (costs[name] - plain[name]) / (full - plain[name])
    found = {
        tested: spread.mean,
        f"{tested}_low": spread.low,
        f"{tested}_high": spread.high,
        "test_accuracy": fmean(result.accuracy for result in results),
        "seeds": float(spread.n),
        "connections": float(scheme.connections),
        **costs,
        **shares,
    }
    return {name: value for name, value in found.items() if not isnan(value)}


def _rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, DIGITS) for name, value in numbers.items()}


def _key(claim: "Claim") -> str:
    return claim.name.replace(" ", "_")


def _numbers(claims: "Sequence[Claim]") -> dict[str, float]:
    return {
        f"verdict.{_key(claim)}.{what}": value
        for claim in claims
        for what in ("effect", "low", "high", "p")
        if not isnan(value := getattr(claim, what))
    }


def _told(outcome: "Outcome", role: str, scheme: "Scheme", measured: Mapping[str, float]) -> str:
    """Return what a network is and what it came to on the test images; a sentence."""
    measure, tested = outcome.measure, f"test_{outcome.measure.name}"
    said = f"{role} `{scheme}`: {measure.text(measured[tested])}"
    if f"{tested}_low" in measured:
        low, high = (measure.number(measured[f"{tested}_{end}"]) for end in ("low", "high"))
        said += f" (95 % interval {low} to {high})"
    seeds = int(measured["seeds"])
    means = f"mean of {seeds} seeds" if seeds > 1 else "one seed"
    return (
        f"{said}, test {measure.title} from scratch, {means}; {scheme.connections} of "
        f"{len(scheme.choices)} blocks are connected."
    )


def _result(outcome: "Outcome") -> str:
    """Return what ticket, plain and full came to on the test images; a sentence."""
    measure, seeds = outcome.measure, len(outcome.study.config.retrain.seeds)
    said = [
        f"{role} `{scheme}` {measure.text(_measured(outcome, scheme)[f'test_{measure.name}'])}"
        for role, scheme in outcome.schemes.items()
        if role in ("ticket", "plain") or role.startswith("full")
    ]
    means = f"means of {seeds} seeds" if seeds > 1 else "one seed"
    return f"Test {measure.title} from scratch: {'; '.join(said)} ({means})."


def _data(outcome: "Outcome") -> "UsedData":
    from sat_optuna.tracking import UsedData

    ticket = outcome.best
    images = (outcome.measured or {}).get("images", {})
    source = f"[data] of studies/{outcome.study.name}/study.toml"
    return UsedData(ticket.dataset, ticket.dataset_fingerprint, source, images)


def _last_end(study: "optuna.Study") -> datetime | None:
    """Return when the last trial ended; None where none has."""
    ends = (trial.datetime_complete for trial in study.get_trials(deepcopy=False))
    return max(filter(None, ends), default=None)


def _last_training(outcome: "Outcome") -> datetime | None:
    ends = (_span(outcome, scheme)[1] for scheme in outcome.distinct)
    return max(filter(None, ends), default=None)


def _status(error: BaseException) -> str:
    """Return how a run ended that this error ended; a failure of MLflow's own ends nothing."""
    from sat_optuna.tracking import TrackingError

    if isinstance(error, TrackingError):
        return "FINISHED"
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


def _nowhere(_result: "RetrainResult") -> None:
    """Log a retraining nowhere."""


def _warn(text: str) -> None:
    warnings.warn(text, SatOptunaWarning, stacklevel=3)


def trials_digest(trials: "Sequence[FrozenTrial]") -> str:
    """Return a digest of what finished trials came to."""
    return digest_of(
        [(t.number, t.state.name, t.values, t.user_attrs.get("scheme")) for t in trials]
    )
