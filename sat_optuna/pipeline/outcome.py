"""What a study has come to: its networks by role, their costs and results, what is missing."""

import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from sat_optuna.config.config import StudyConfig
from sat_optuna.errors import SatOptunaWarning, StudyError, TicketError
from sat_optuna.evidence.constants import constant_ticket
from sat_optuna.evidence.results import (
    RetrainJob,
    RetrainResult,
    kept_in,
    read_result,
    retrain_fingerprint,
)
from sat_optuna.files import sha256_of, write_text
from sat_optuna.pipeline.done import Done
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import ACCURACY, Inputs, Measure, Score, Ticket

if TYPE_CHECKING:
    from sat_optuna.evidence.report import OnTest
    from sat_optuna.pipeline.folder import StudyFolder

__all__ = [
    "RANDOM",
    "Candidates",
    "Outcome",
    "networks_step",
    "read_candidates",
    "read_outcome",
]

# Suffix of the Optuna study that draws as many random schemes as the search had trials.
RANDOM = ".random"


def networks_step(config: StudyConfig | Mapping[str, Any]) -> str:
    """Return the step whose record has the digests of what the retrainings made."""
    return f"networks-{retrain_fingerprint(config)}"


class Outcome:
    """The networks that a study retrains, and what is known of them; reading it imports no torch.

    Args:
        study: the study's folder.
        best: the ticket as the search left it.
        schemes: by role, the ticket's first.
        pair: of which the ticket is one; None where there is no candidate.

    Attributes:
        fingerprint: of what decides a retraining, beside its scheme and seed.
        measured: what `keep_costs` kept of these networks; None until they are measured.
    """

    LATENCY_REPEATS = 31
    step = "retrain"  # of its events
    split = "test"  # what its networks are scored on

    def __init__(
        self,
        study: "StudyFolder",
        best: Ticket,
        schemes: Mapping[str, Scheme],
        pair: "Candidates | None" = None,
    ) -> None:
        self.study, self.best, self.schemes, self.pair = study, best, schemes, pair
        self.fingerprint = retrain_fingerprint(study.config)
        self._costs_path = study.work / "costs.json"
        self.measured: dict[str, Any] | None = None
        files = {self._costs_path.name: self._costs_path}
        if study.records.is_current("costs", self._costs_decided, files):
            self.measured = json.loads(self._costs_path.read_text(encoding="utf-8"))

    @property
    def folder(self) -> Path:
        """Where the retrainings keep their results."""
        return self.study.work / "retrain" / self.fingerprint

    @property
    def _networks_step(self) -> str:
        return networks_step(self.study.config)

    @property
    def decided(self) -> dict[str, Any]:
        """What decides the tickets that retraining writes."""
        return {
            "study": self.best.study_uuid,
            "retrain": self.fingerprint,
            "seeds": self.study.config.retrain.seeds,
            "trial": self.best.trial,
            "schemes": {role: str(scheme) for role, scheme in self.schemes.items()},
            "margin": self.study.config.evidence.margin,
            **({"validated": self.pair.scores} if self.pair else {}),
        }

    @cached_property
    def distinct(self) -> tuple[Scheme, ...]:
        """The schemes, each once: two roles may have the same."""
        return tuple(dict.fromkeys(self.schemes.values()))

    @cached_property
    def jobs(self) -> tuple[RetrainJob, ...]:
        """One a distinct scheme and seed; seeds outermost, so that an early stop is balanced."""
        config = self.study.config
        return tuple(
            RetrainJob(scheme, seed, config, self.folder, self.split)
            for seed in config.retrain.seeds
            for scheme in self.distinct
        )

    @cached_property
    def results(self) -> dict[tuple[Scheme, int], RetrainResult]:
        """The results there are whose bytes are those that the retrainings wrote."""
        record = self.study.records.get(self._networks_step) or Done({})
        found = {}
        for job in self.jobs:
            digest = record.made.get(job.result_path.name)
            if not digest or not job.result_path.is_file():
                continue
            if sha256_of(job.result_path) == digest:
                found[job.scheme, job.seed] = read_result(job)
            else:
                warnings.warn(
                    f"{job.result_path} is not what the retraining wrote: its bytes have changed "
                    "since, so `retrain` makes it again",
                    SatOptunaWarning,
                    stacklevel=2,
                )
        return {key: result for key, result in found.items() if result}

    @property
    def missing(self) -> tuple[RetrainJob, ...]:
        """The jobs without a result."""
        return tuple(job for job in self.jobs if (job.scheme, job.seed) not in self.results)

    def check_weights(self) -> None:
        """Make sure that finished weights, where a result is missing, are still what they were.

        Raises:
            StudyError: they are not.
        """
        record = self.study.records.get(self._networks_step) or Done({})
        for path in (job.weights_path for job in self.missing):
            digest = record.made.get(path.name)
            if digest and path.is_file() and sha256_of(path) != digest:
                raise StudyError(
                    f"{path} is not what the retraining made: its bytes have changed since; bring "
                    "it back from a copy, or move it away to train that network again"
                )

    def weights_of(self, scheme: Scheme, seed: int) -> Path | None:
        """Return the file of a network's weights; None where it is gone or its bytes changed."""
        record = self.study.records.get(self._networks_step) or Done({})
        path = kept_in(self.folder, scheme, seed)[1]
        digest = record.made.get(path.name)
        return path if digest and path.is_file() and sha256_of(path) == digest else None

    def add(self, result: RetrainResult) -> None:
        """Take in a result that was written now, and note its digest and that of its weights."""
        job = next(j for j in self.jobs if (j.scheme, j.seed) == (result.scheme, result.seed))
        made = {path.name: sha256_of(path) for path in (job.result_path, job.weights_path)}
        data = {"data": self.best.dataset_fingerprint}
        self.study.records.add(self._networks_step, made, decided=data)
        self.results[result.scheme, result.seed] = result

    @property
    def _costs_decided(self) -> dict[str, Any]:
        return {
            "retrain": self.fingerprint,
            "schemes": sorted(str(scheme) for scheme in self.distinct),
        }

    def keep_costs(
        self,
        costs: Mapping[str, Mapping[str, Any]],
        *,
        hardware: str,
        inputs: Inputs,
        images: Mapping[str, int],
    ) -> None:
        """Keep what was measured of each network, and what all of them take.

        Args:
            costs: by scheme: params, macs, latency_ms and latency_rounds.
            hardware: what they were measured on.
            inputs: how images become what the networks take.
            images: how many they are trained on ("train") and tested on ("test").
        """
        path = self._costs_path
        document = {
            "hardware": hardware,
            "costs": costs,
            "inputs": asdict(inputs),
            "images": images,
        }
        text = json.dumps(document, indent=1) + "\n"
        write_text(path, text)
        made = {path.name: sha256_of(path)}
        self.study.records.write("costs", Done(self._costs_decided, made, finished=True))
        self.measured = json.loads(text)

    def ticket(self, role: str) -> Ticket:
        """Return the ticket of a role with its costs and the scores there are."""
        scheme = self.schemes[role]
        searched = role in ("ticket", "searched") and scheme == self.best.scheme
        base = self.best
        if role == "constant":
            base = constant_ticket(replace(base, scheme=self.schemes["ticket"]))
        ticket = replace(
            base,
            role=role,
            scheme=scheme,
            trial=self.best.trial if searched else None,
            scores=(*(self.best.scores if searched else ()), *self._scores(scheme)),
            config=self.study.config.to_dict(),
            weights=self.study.weights_digest,
        )
        if self.measured is None:
            return ticket
        inputs = self.measured.get("inputs")  # none in results of earlier versions
        costs = dict(self.measured["costs"][str(scheme)])
        return replace(
            ticket,
            **costs | {"latency_rounds": tuple(costs.get("latency_rounds", ()))},
            images=self.measured.get("images", {}),
            inputs=Inputs.from_json(inputs) if inputs else None,
        )

    @property
    def tickets(self) -> dict[str, Ticket]:
        """The ticket of each role, with its costs and the scores there are."""
        return {role: self.ticket(role) for role in self.schemes}

    def ticket_for(self, scheme: Scheme) -> Ticket:
        """Return the ticket of the first role that has this scheme."""
        return self.ticket(next(role for role, has in self.schemes.items() if has == scheme))

    @cached_property
    def measure(self) -> Measure:
        """What the networks are measured in: as the schemes of the search."""
        from sat_optuna.search.tickets import measure_of

        return measure_of(self.study.optuna_study())

    @property
    def tested(self) -> "OnTest | None":
        """What is known of the test beside the accuracies; None in results of earlier versions."""
        from sat_optuna.evidence.report import OnTest
        from sat_optuna.evidence.spread import Part

        seeds = self.study.config.retrain.seeds
        asked = [(scheme, seed) for scheme in self.schemes.values() for seed in seeds]
        if not all(key in self.results and self.results[key].class_counts for key in asked):
            return None
        part = Part.of(self.results[asked[0]].class_counts)
        if part is None:
            return None
        balanced = {
            role: fmean(self.results[scheme, seed].balanced_accuracy for seed in seeds)
            for role, scheme in self.schemes.items()
        }
        accuracy = {
            role: fmean(self.results[scheme, seed].accuracy for seed in seeds)
            for role, scheme in self.schemes.items()
            if self.measure != ACCURACY
        }
        return OnTest(part, balanced, accuracy)

    def _scores(self, scheme: Scheme) -> tuple[Score, ...]:
        """Return the scores and, where there is any, the training accuracies of last epochs."""
        retrain = self.study.config.retrain
        results = [r for seed in retrain.seeds if (r := self.results.get((scheme, seed)))]
        scores = [(self.split, r, r.score, self.measure) for r in results] + [
            ("train", r, accuracy, ACCURACY)
            for r in results
            if (accuracy := r.history[-1].accuracy) is not None
        ]
        return tuple(
            Score(split=split, value=value, seed=r.seed, epochs=retrain.epochs, measure=measure)
            for split, r, value, measure in scores
        )

    @property
    def paths(self) -> dict[str, Path]:
        """Where the ticket of each role is written."""
        return {role: self.study.tickets / f"{role}.json" for role in self.schemes}

    @property
    def is_written(self) -> bool:
        """Whether all networks are trained and their tickets are as they were written."""
        return self.study.records.is_current("retrain", self.decided, self.paths)

    def write_tickets(self, *, mlflow_run: str | None) -> None:
        """Write the ticket of each role, the found one with the MLflow run of its trial."""
        for role, path in self.paths.items():
            run = mlflow_run if role == "ticket" else None
            replace(self.ticket(role), mlflow_run=run).save(path)
        for path in sorted(self.study.tickets.glob("*.json")):
            if path.stem in self.paths:
                continue
            with suppress(TicketError):  # what is no ticket is somebody's own file
                if Ticket.load(path).role == path.stem:  # of another search or version
                    path.unlink()
        made = {role: sha256_of(path) for role, path in self.paths.items()}
        self.study.records.write("retrain", Done(self.decided, made, finished=True))


def read_outcome(study: "StudyFolder") -> Outcome:
    """Read a study's best ticket, or the one that is given to it, and its controls.

    Raises:
        StudyError: there is no search yet, or no complete trial.
    """
    if study.config.is_given:
        from sat_optuna.pipeline.given import read_given

        return read_given(study)
    from sat_optuna.evidence.controls import control_schemes
    from sat_optuna.search.tickets import best_ticket

    best = best_ticket(study.optuna_study())
    kinds = [spec.kind for spec in best.attention]
    pair = read_candidates(study)
    placed = pair.placed if pair else {"ticket": best.scheme}
    schemes = control_schemes(placed["ticket"], seed=best.seed, kinds=kinds)
    return Outcome(study, best, schemes | placed, pair)


class Candidates(Outcome):
    """The searched scheme and what is left of it without passengers, of which one is the ticket.

    Which one is told on the validation images, by trainings that have not seen them: the test
    images judge the ticket, so they must not choose it. Until all of these trainings are there it
    is the searched one.
    """

    step = "passengers"
    split = "valid"

    @property
    @override
    def folder(self) -> Path:
        """Where these trainings keep their results."""
        return self.study.work / "candidates" / self.fingerprint

    @property
    @override
    def _networks_step(self) -> str:
        return f"candidates-{self.fingerprint}"

    @property
    def scores(self) -> dict[str, list[float]]:
        """By role, the validation score with each seed; empty until all are there."""
        if self.missing:
            return {}
        seeds = self.study.config.retrain.seeds
        return {
            role: [self.results[scheme, seed].score for seed in seeds]
            for role, scheme in self.schemes.items()
        }

    @property
    def gain(self) -> float:
        """What the candidate has more than the searched scheme in the mean, in the metric."""
        return fmean(self.scores["candidate"]) - fmean(self.scores["searched"])

    @property
    def images(self) -> int:
        """How many validation images told it."""
        return next(iter(self.results.values())).images

    @property
    def placed(self) -> dict[str, Scheme]:
        """The scheme of the role "ticket", and that of the other under its own role."""
        from sat_optuna.evidence.passengers import not_worse

        chosen, other = "searched", "candidate"
        if scores := self.scores:
            margin = self.study.config.evidence.margin
            if not_worse(
                scores["candidate"], scores["searched"], margin=margin, measure=self.measure
            ):
                chosen, other = other, chosen
        return {"ticket": self.schemes[chosen], other: self.schemes[other]}


def read_candidates(study: "StudyFolder") -> Candidates | None:
    """Read the best trial's scheme and the candidate; None where there is no other candidate.

    Raises:
        StudyError: there is no search yet, or no complete trial.
    """
    from sat_optuna.pipeline.passengers import known_passengers
    from sat_optuna.search.tickets import best_ticket

    if not study.config.search.held_back:
        return None
    best = best_ticket(study.optuna_study())
    found = known_passengers(study, best.scheme)
    if found is None or found.candidate == best.scheme:
        return None
    schemes = {"searched": best.scheme, "candidate": found.candidate}
    return Candidates(study, best, schemes)
