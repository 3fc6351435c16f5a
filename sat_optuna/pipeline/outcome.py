"""What a study has come to: its networks by role, their costs and results, what is missing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from sat_optuna.errors import TicketError
from sat_optuna.evidence.results import (
    RetrainJob,
    RetrainResult,
    read_result,
    retrain_fingerprint,
)
from sat_optuna.files import write_text
from sat_optuna.pipeline.folder import Workspace
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Score, Ticket

__all__ = ["RANDOM", "Outcome", "read_outcome"]

# Suffix of the study that draws as many random schemes as the search had trials.
RANDOM = ".random"


@dataclass(frozen=True)
class Outcome:
    """The networks that a study retrains; reading it imports no torch.

    Attributes:
        workspace: the study.
        best: the ticket as the search left it.
        schemes: by role, the ticket's first.
    """

    workspace: Workspace
    best: Ticket
    schemes: Mapping[str, Scheme]

    LATENCY_BATCH: ClassVar[int] = 128
    LATENCY_REPEATS: ClassVar[int] = 31

    @property
    def folder(self) -> Path:
        """Where the retrainings keep their results."""
        return self.workspace.work / "retrain" / self.fingerprint

    @property
    def fingerprint(self) -> str:
        """Of what decides a retraining, beside its scheme and seed."""
        return retrain_fingerprint(self.workspace.config)

    @cached_property
    def distinct(self) -> tuple[Scheme, ...]:
        """The schemes, each once: two roles may have the same."""
        return tuple(dict.fromkeys(self.schemes.values()))

    @cached_property
    def jobs(self) -> tuple[RetrainJob, ...]:
        """One a distinct scheme and seed; seeds outermost, so that an early stop is balanced."""
        config = self.workspace.config
        return tuple(
            RetrainJob(scheme, seed, config, self.folder)
            for seed in config.retrain.seeds
            for scheme in self.distinct
        )

    @cached_property
    def results(self) -> dict[tuple[Scheme, int], RetrainResult]:
        """The results there are."""
        found = (read_result(job) for job in self.jobs)
        return {(result.scheme, result.seed): result for result in found if result}

    @property
    def missing(self) -> tuple[RetrainJob, ...]:
        """The jobs without a result."""
        return tuple(job for job in self.jobs if (job.scheme, job.seed) not in self.results)

    @property
    def _costs_path(self) -> Path:
        return self.workspace.work / "costs.json"

    @cached_property
    def costs(self) -> dict[str, dict[str, Any]] | None:
        """By scheme: params, macs and latency_ms; None until all of them are measured."""
        document = self._costs_document
        if document.get("fingerprint") != self.fingerprint:
            return None
        costs: dict[str, dict[str, Any]] = document["costs"]
        return costs if all(str(scheme) in costs for scheme in self.distinct) else None

    @cached_property
    def _costs_document(self) -> dict[str, Any]:
        """What `write_costs` wrote; empty where there is none or it is broken."""
        try:
            document = json.loads(self._costs_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def write_costs(self, costs: Mapping[str, Mapping[str, Any]], *, hardware: str) -> None:
        """Keep what was measured of each scheme."""
        document = {"fingerprint": self.fingerprint, "hardware": hardware, "costs": costs}
        write_text(self._costs_path, json.dumps(document, indent=1) + "\n")

    @property
    def hardware(self) -> str:
        """What the costs were measured on."""
        return str(self._costs_document["hardware"])

    def ticket(self, role: str) -> Ticket:
        """Return the ticket of a role with its costs and the scores there are."""
        scheme = self.schemes[role]
        costs = (self.costs or {}).get(str(scheme))
        ticket = replace(
            self.best,
            role=role,
            scheme=scheme,
            scores=(*(self.best.scores if role == "ticket" else ()), *self._scores(scheme)),
            config=self.workspace.config.to_dict(),
        )
        if role != "ticket":
            ticket = replace(ticket, trial=None)
        return replace(ticket, **costs) if costs else ticket

    def ticket_for(self, scheme: Scheme) -> Ticket:
        """Return the ticket of the first role that has this scheme."""
        return self.ticket(next(role for role, has in self.schemes.items() if has == scheme))

    def _scores(self, scheme: Scheme) -> tuple[Score, ...]:
        epochs = self.workspace.config.retrain.epochs
        return tuple(
            Score(split="test", value=result.accuracy, seed=result.seed, epochs=epochs)
            for (has, _), result in self.results.items()
            if has == scheme
        )

    def path(self, role: str) -> Path:
        """Where a role's ticket is written."""
        return self.workspace.tickets / f"{role}.json"

    def write_tickets(self, *, mlflow_run: str | None) -> None:
        """Write the ticket of each role, the found one with the MLflow run of its trial."""
        for role in self.schemes:
            run = mlflow_run if role == "ticket" else None
            replace(self.ticket(role), mlflow_run=run).save(self.path(role))

    @property
    def finished(self) -> bool:
        """Whether all is measured, trained and written."""
        if self.costs is None or self.missing:
            return False
        try:
            written = {role: Ticket.load(self.path(role)) for role in self.schemes}
        except TicketError:
            return False
        return all(_result(written[role]) == _result(self.ticket(role)) for role in written)


def _result(ticket: Ticket) -> Ticket:
    """A ticket without what may change and leaves its result as it is."""
    return replace(ticket, versions={}, mlflow_run=None, config={})


def read_outcome(workspace: Workspace) -> Outcome:
    """Read a study's best ticket and its controls.

    Raises:
        StudyError: there is no search yet, or no complete trial.
    """
    from sat_optuna.evidence.controls import control_schemes
    from sat_optuna.search.tickets import best_ticket

    best = best_ticket(workspace.load_study())
    random_best = best_ticket(workspace.load_study(RANDOM)).scheme
    schemes = control_schemes(best.scheme, random_best=random_best, seed=best.seed)
    return Outcome(workspace, best, schemes)
