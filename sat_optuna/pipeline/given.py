"""A ticket that is given, not searched for: a study carries it over and retrains it.

What of its source goes to the study's network is kept in work/given.json with a uuid of the study,
so that reading it again imports no torch. It is a ticket like that of a search, without scores.
"""

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from typing_extensions import override

from sat_optuna.carry import carried, check_told, rule_for
from sat_optuna.config.config import decided
from sat_optuna.errors import DataError, StudyError
from sat_optuna.evidence.controls import control_schemes, random_family
from sat_optuna.files import sha256_of
from sat_optuna.pipeline.done import Done
from sat_optuna.pipeline.outcome import Outcome, networks_step
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Measure, Source, Ticket
from sat_optuna.training.checkpoint import versions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sat_optuna.pipeline.folder import StudyFolder

__all__ = ["RANDOM_TICKETS", "GivenOutcome", "carried_here", "read_given", "ticket_here"]

RANDOM_TICKETS = 3  # of the ticket's density; `evidence --seeds` draws as many as can decide C4


def carried_here(study: "StudyFolder", stages: "Sequence[int]") -> tuple[Scheme, Source]:
    """Return the scheme of the given ticket on a network of these stages, and where it is from.

    Raises:
        StudyError: its kinds of attention are not those of study.toml.
        TicketError: its file cannot be read.
        TransferError: it has other stages, or comes to plain or full.
    """
    ticket = Ticket.load(_file(study))
    theirs, ours = (
        [spec.kind for spec in kinds] for kinds in (ticket.attention, study.config.attention.kinds)
    )
    if theirs != ours:
        raise StudyError(
            f"attention.kinds is {ours!r}, and the ticket's digits stand for {theirs!r}; write "
            "these in this order"
        )
    scheme = carried(ticket.scheme, stages)
    check_told(scheme, source=ticket.scheme)
    source = Source(
        study=ticket.study,
        study_uuid=ticket.study_uuid,
        scheme=ticket.scheme,
        backbone=ticket.backbone,
        dataset=ticket.dataset,
        rule=rule_for(ticket.scheme, stages),
    )
    return scheme, source


def _file(study: "StudyFolder") -> Any:
    given = study.given
    if given is None:
        raise StudyError(f"no ticket is given to study {study.name!r}; it is searched for")
    return given


def ticket_here(study: "StudyFolder") -> Ticket:
    """Return the ticket of a study whose ticket is given, as its network takes it.

    Raises:
        ConfigError: all faults of the network and of the ticket at once.
        DataError: the data cannot be read, or are others than networks were trained on already.
    """
    path = study.work / "given.json"
    decides = {**decided(study.config, "retrain"), "the ticket's bytes": sha256_of(_file(study))}
    if study.records.is_current("given", decides, {path.name: path}):
        return Ticket.load(path)
    known = study.records.get("given")
    uuid = known.made["uuid"] if known else str(uuid4())
    scheme, source = carried_here(study, study.parts.check_fit())
    ticket = replace(
        study.parts.ticket(scheme),
        study=study.name,
        study_uuid=uuid,
        versions=versions(),
        source=source,
    )
    _check_same_data(study, ticket)
    ticket.save(path)
    made = {path.name: sha256_of(path), "uuid": uuid}
    study.records.write("given", Done(decides, made, finished=True))
    return ticket


def _check_same_data(study: "StudyFolder", ticket: Ticket) -> None:
    """Make sure that what was trained with this recipe, for another ticket too, had these data.

    Plain and full are networks of each ticket, and are not trained again.

    Raises:
        DataError: it had others.
    """
    trained = study.records.get(networks_step(study.config)) or Done({})
    before = trained.decided.get("data", ticket.dataset_fingerprint)
    if before != ticket.dataset_fingerprint:
        raise DataError(
            f"data set {ticket.dataset} is not the one that networks of study {study.name!r} "
            f"were trained on: its fingerprint is {ticket.dataset_fingerprint[:16]} and was "
            f"{before[:16]}; bring the files back, or give the transfer another name with --study"
        )


class GivenOutcome(Outcome):
    """The networks of a study whose ticket is given."""

    @property
    @override
    def decided(self) -> "dict[str, Any]":
        """What decides the tickets that retraining writes."""
        record = self.study.records.get("given") or Done({})
        return {**super().decided, "given": dict(record.made)}

    @cached_property
    @override
    def measure(self) -> Measure:
        """What the networks are measured in."""
        from sat_optuna.tasks import TASKS, as_metric

        config = self.study.config
        return as_metric(config.search.metric, TASKS.get(config.task.name)).measure


def read_given(study: "StudyFolder") -> GivenOutcome:
    """Read the given ticket and its controls: random tickets of its density among them.

    Raises:
        ConfigError, DataError: as of `ticket_here`.
    """
    best = ticket_here(study)
    return GivenOutcome(study, best, _schemes(best))


def _schemes(ticket: Ticket) -> "Mapping[str, Scheme]":
    kinds = [spec.kind for spec in ticket.attention]
    found = control_schemes(ticket.scheme, seed=ticket.seed, kinds=kinds)
    del found["random-density"]  # it is the first of the family
    family = random_family(ticket.scheme, seed=ticket.seed)[:RANDOM_TICKETS]
    return found | {f"random-{number}": scheme for number, scheme in enumerate(family, start=1)}
