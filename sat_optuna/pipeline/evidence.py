"""The claims of a study, from all that was measured of its networks; and the networks they lack.

What was measured is kept in evidence/runs.json, which is committed with the study. A run without
`seeds` trains nothing: it takes in what the study's tickets and its work/ hold, and judges.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from itertools import count, islice
from pathlib import Path

from typing_extensions import override

from sat_optuna.config.config import decided, differences
from sat_optuna.errors import StudyError
from sat_optuna.events import Event, OnEvent, ignore
from sat_optuna.evidence.claims import LOOKS, Runs, Table, claims, is_random, over
from sat_optuna.evidence.claims_page import write_claims
from sat_optuna.evidence.controls import (
    RANDOM_SCHEMES,
    control_schemes,
    heuristic_schemes,
    other_arrangements,
    random_family,
)
from sat_optuna.evidence.results import RetrainJob
from sat_optuna.evidence.runs import About, MeasuredNetwork, MeasuredRuns
from sat_optuna.evidence.truth import TruthTable
from sat_optuna.evidence.verdicts import conditions_of, headline, margin_of
from sat_optuna.pipeline.folder import StudyFolder, open_study
from sat_optuna.pipeline.outcome import RANDOM, Outcome
from sat_optuna.pipeline.results import Evidenced
from sat_optuna.pipeline.retraining import train_missing
from sat_optuna.pipeline.search import random_control
from sat_optuna.pipeline.theory import theory_lines
from sat_optuna.scheme import Scheme
from sat_optuna.search.tickets import best_ticket
from sat_optuna.ticket import ACCURACY, HEURISTICS, Measure, Ticket

__all__ = ["evidence", "evidence_of"]

_BESIDE = ("over plain", "over constant", "attention pays")  # C1 to C3 are the other conditions


def evidence_of(
    study: str | Path, *, seeds: int | None = None, on_event: OnEvent = ignore
) -> Evidenced:
    """Judge the claims of a study, as `sat-optuna evidence` does.

    Args:
        study: the folder, its study.toml, or the name of a folder under studies/.
        seeds: train what the claims lack, up to this look: 4, 8, 16 or 32. None trains nothing.
        on_event: told of each training.

    Raises:
        StudyError: there is no such study, it has no ticket yet, or what lies in its tickets/ and
            evidence/ is not of one network and one data set.
        ConfigError: study.toml has faults.
    """
    return open_study(study).evidence(seeds=seeds, on_event=on_event)


def evidence(study: StudyFolder, *, seeds: int | None, on_event: OnEvent) -> Evidenced:
    """Judge the claims of a study; see `evidence_of`."""
    if seeds not in (None, *LOOKS):
        raise StudyError(
            f"seeds is {seeds!r}; claims are looked at after {', '.join(map(str, LOOKS))} seeds "
            "only, so give one of these"
        )
    path = study.folder / "evidence" / "runs.json"
    measured = _measured(study, path)
    if seeds:
        measured = _trained(study, measured, seeds, on_event)
    measured.save(path)
    margin, runs = study.config.evidence.margin, measured.runs()
    remarks = _remarks(study, measured, runs)
    conditions = conditions_of(runs, margin=margin)
    table = _table(study)
    remarks.append(
        "C5 and C6 need a truth table of this network, data and recipe; make one with: sat-optuna "
        f"truth {study.argument}."
        if table is None
        else f"C5 and C6 are of truth table {table.manifest['name']!r}: {table.manifest['what']}."
    )
    found = (
        *claims(runs, margin=margin, table=_counted_on(table) if table else None),
        *([over(runs, "random-best")] if "random-best" in runs.accuracy else []),
        *(claim for claim in conditions if claim.name in _BESIDE),
    )
    said = headline(conditions)
    theory = theory_lines(study)
    page, _ = write_claims(
        study.folder,
        measured,
        found,
        headline=said,
        argument=study.argument,
        margin=margin,
        remarks=remarks,
        theory=theory,
    )
    plain = said.replace("*", "")
    result = Evidenced(
        claims=found,
        headline=plain,
        runs=path,
        page=page,
        remarks=tuple(remarks),
        theory=theory,
    )
    on_event(Event(step="evidence", done=1, total=1, made=result, finished=True))
    return result


def _table(study: StudyFolder) -> TruthTable | None:
    """Return the truth table of a study's network, data and recipe: its own, or one beside it.

    Raises:
        StudyError: the bytes of that table have changed.
    """
    ticket = _tickets(study)["ticket"]
    recipe = decided(ticket.config, "truth")
    wanted = {**recipe, "the data's fingerprint": ticket.dataset_fingerprint}
    beside = sorted(study.folder.parent.glob("truth-*/truth.json"))
    for path in (study.folder / "truth.json", *beside):
        with suppress(OSError, ValueError, LookupError, TypeError):  # no table of ours
            if not differences(json.loads(path.read_text("utf-8"))["decided"], wanted):
                return TruthTable.load(path.parent)
    return None


def _counted_on(truth: TruthTable) -> Table:
    """Return what claims take of a truth table: its validation values, the higher the better.

    Its networks were trained without the validation images, which a retraining trains on.
    """
    epochs, images = truth.manifest["epochs"], truth.manifest["images"]
    return Table(
        truth.signed(),
        f"{epochs} epoch{'s' * (epochs > 1)} of {images['train']:,} images, scored on "
        f"{images['valid']:,} validation images",
    )


def _remarks(study: StudyFolder, measured: MeasuredRuns, runs: Runs) -> list[str]:
    """Return what else a reader must know, a sentence each."""
    told, tickets = [], _tickets(study)
    margin, retrained = study.config.evidence.margin, margin_of(tickets["ticket"])
    if margin != retrained:
        told.append(
            f"The margin was changed: study.toml has {runs.amount(margin)}, which the claims here "
            f"use, and the ticket was retrained, and is shown, with {runs.amount(retrained)}."
        )
    best = {} if study.config.is_given else {"random-best": None}
    wanted: dict[str, Scheme | None] = {**best, **_family(tickets)}
    lacking = [role for role in wanted if role not in runs.accuracy]
    if lacking:
        drawn = {wanted[role] for role in lacking if is_random(role)}
        named = [role for role in lacking if not is_random(role)]
        named += [f"{len(drawn)} random schemes of its density"] if drawn else []
        remedy = f"train them with: sat-optuna evidence {study.argument} --seeds {LOOKS[0]}"
        if differences(measured.about.recipe, decided(study.config, "retrain")):
            remedy = "study.toml has another configuration now than the tickets, so they cannot be"
        told.append(f"Not trained yet: {', '.join(named)}; {remedy}.")
    if not (study.config.search.held_back or study.config.is_given):
        told.append(
            "Whether the ticket carries blocks that it can do without is not known: the search "
            "saw all validation images (search.held_back = 0)."
        )
    return told


def _tickets(study: StudyFolder) -> dict[str, Ticket]:
    """Return the tickets of a study by role, the ticket first.

    Raises:
        StudyError: there are none, or they are of different networks or data.
    """
    read = {path: Ticket.load(path) for path in sorted(study.tickets.glob("*.json"))}
    found = {t.role: t for path, t in read.items() if t.role == path.stem}
    if "ticket" not in found or "plain" not in found:
        raise StudyError(
            f"study {study.name!r} has no ticket with controls yet; run: sat-optuna run "
            f"{study.argument}"
        )
    ticket = found["ticket"]
    for role, other in found.items():
        if unlike := _about(other, kinds=len(ticket.attention)).unlike(_about(ticket)):
            raise StudyError(
                f"{study.tickets / role}.json and ticket.json beside it are not of one study: "
                f"they have {unlike}; leave the tickets of one study there"
            )
    return {"ticket": ticket, **found}


def _about(ticket: Ticket, *, kinds: int | None = None) -> About:
    """Return what a ticket's network has in common with the others of its study.

    Args:
        ticket: any of them.
        kinds: number of the study's kinds; what a ticket lists beyond them are constant controls.
    """
    tested = [score for score in ticket.scores if score.split == "test"]
    measure = tested[0].measure if tested else ACCURACY
    return About(
        backbone=ticket.backbone,
        backbone_settings=dict(ticket.backbone_settings),
        attention=[
            {"kind": spec.kind, "sharing": spec.sharing, "settings": dict(spec.settings)}
            for spec in ticket.attention[:kinds]
        ],
        classes=ticket.classes,
        input_shape=list(ticket.input_shape),
        dataset=ticket.dataset,
        dataset_fingerprint=ticket.dataset_fingerprint,
        weights=ticket.weights,
        recipe=decided(ticket.config, "retrain"),
        epochs=ticket.config.get("retrain", {}).get("epochs", 0),
        measure={"name": measure.name, "unit": measure.unit, "better": measure.better},
    )


def _measured(study: StudyFolder, path: Path) -> MeasuredRuns:
    """Return all that is known of a study's networks: runs.json, its tickets, its work/.

    Raises:
        StudyError: runs.json is broken, was changed, or is of another network or other data.
    """
    tickets = _tickets(study)
    ticket = tickets["ticket"]
    roles = {role: str(found.scheme) for role, found in tickets.items()}
    known = MeasuredRuns(about=_about(ticket), roles=roles, networks={})
    if path.exists():
        stored = MeasuredRuns.load(path)
        if unlike := known.about.unlike(stored.about):
            raise StudyError(
                f"{path} is not of this study: its tickets and that file have {unlike}; move the "
                "file away and run the same command again, or bring the tickets back from a copy"
            )
        known = replace(stored, roles=roles)
        if stored.roles.get("ticket") == roles["ticket"]:
            known = replace(known, roles={**stored.roles, **roles})
    known = replace(
        known,
        images=ticket.images.get("test", known.images),
        train_images=ticket.images.get("train", known.train_images),
    )
    for found in tickets.values():
        known = known.with_network(str(found.scheme), _of_ticket(found))
    schemes = _family(tickets) | {r: Scheme.parse(text) for r, text in known.roles.items()}
    if known.about.recipe == decided(study.config, "retrain"):
        seeds = tuple(islice(_seeds(study), LOOKS[-1]))
        known = _taken_in(known, _Networks(study, ticket, schemes, dict.fromkeys(schemes, seeds)))
    return _with_roles(study, known, schemes)


def _of_ticket(ticket: Ticket) -> MeasuredNetwork:
    def scores(split: str) -> dict[int, float]:
        return {score.seed: score.value for score in ticket.scores if score.split == split}

    once = () if ticket.latency_ms is None else (ticket.latency_ms,)
    return MeasuredNetwork(
        test=scores("test"),
        train=scores("train"),
        params=ticket.params,
        macs=ticket.macs,
        latency_ms=ticket.latency_rounds or once,
    )


def _taken_in(known: MeasuredRuns, outcome: "_Networks") -> MeasuredRuns:
    """Return what is known, with the results of retrainings that lie in work/."""
    for result in outcome.results.values():
        accuracy = result.history[-1].accuracy if result.history else None
        network = MeasuredNetwork(
            test={result.seed: result.score},
            train={} if accuracy is None else {result.seed: accuracy},
        )
        known = known.with_network(str(result.scheme), network)
        known = replace(known, images=result.images)
    return known


def _with_roles(
    study: StudyFolder, known: MeasuredRuns, schemes: Mapping[str, Scheme]
) -> MeasuredRuns:
    """Return what is known, with the roles that were trained and the seeds in their order."""
    order = {seed: place for place, seed in enumerate(study.config.retrain.seeds)}

    def place(item: tuple[int, float]) -> tuple[int, int]:
        return order.get(item[0], len(order)), item[0]

    return replace(
        known,
        roles={r: str(s) for r, s in schemes.items() if str(s) in known.networks},
        networks={
            scheme: replace(
                network,
                test=dict(sorted(network.test.items(), key=place)),
                train=dict(sorted(network.train.items(), key=place)),
            )
            for scheme, network in sorted(known.networks.items())
        },
    )


def _family(tickets: Mapping[str, Ticket]) -> dict[str, Scheme]:
    """Return the schemes that a ticket is compared with, the ticket and its tickets' roles first.

    One without attention is compared with no other placement.
    """
    ticket = tickets["ticket"]
    kinds = [spec.kind for spec in ticket.attention]
    every = control_schemes(ticket.scheme, seed=ticket.seed, kinds=kinds)
    every |= {role: found.scheme for role, found in tickets.items()}
    if not ticket.scheme.connections:
        return every
    drawn = enumerate(random_family(ticket.scheme, seed=ticket.seed), start=1)
    random = {f"random-{number}": scheme for number, scheme in drawn}
    return every | heuristic_schemes(ticket.scheme) | random


def _seeds(study: StudyFolder) -> Iterator[int]:
    """Yield the seeds in the order in which they are looked at: the study's own first."""
    own = study.config.retrain.seeds
    yield from own
    yield from (seed for seed in count() if seed not in own)


class _Networks(Outcome):
    """The networks that the claims of a study are about, each role with its own seeds."""

    def __init__(
        self,
        study: StudyFolder,
        best: Ticket,
        schemes: Mapping[str, Scheme],
        seeds: Mapping[str, Sequence[int]],
    ) -> None:
        super().__init__(study, best, schemes)
        self._seeds = seeds

    @cached_property
    @override
    def jobs(self) -> tuple[RetrainJob, ...]:
        """One a distinct scheme and seed; seeds outermost, so that an early stop is balanced."""
        asked = {(scheme, s) for r, scheme in self.schemes.items() for s in self._seeds[r]}
        order = dict.fromkeys(seed for seeds in self._seeds.values() for seed in seeds)
        return tuple(
            RetrainJob(scheme, seed, self.study.config, self.folder)
            for seed in order
            for scheme in self.distinct
            if (scheme, seed) in asked
        )

    @cached_property
    @override
    def measure(self) -> Measure:
        """What the networks are measured in."""
        return Measure(**_about(self.best).measure)


def _trained(
    study: StudyFolder, measured: MeasuredRuns, seeds: int, on_event: OnEvent
) -> MeasuredRuns:
    """Train what the claims lack with so many seeds; return all that is known then.

    Raises:
        StudyError: the study's tickets were retrained with another configuration.
    """
    if changed := differences(measured.about.recipe, decided(study.config, "retrain")):
        raise StudyError(
            f"the tickets of study {study.name!r} were retrained with another configuration "
            f"({'; '.join(changed)}), so further networks could not be paired with them; restore "
            f"that in study.toml, or run: sat-optuna run {study.argument}"
        )
    tickets = _tickets(study)
    schemes = _family(tickets)
    if best := measured.roles.get("random-best"):
        schemes["random-best"] = Scheme.parse(best)
    if study.has_search():
        random_control(study, on_event=on_event)
        schemes["random-best"] = best_ticket(study.optuna_study(RANDOM)).scheme
    first, every = (tuple(islice(_seeds(study), n)) for n in (LOOKS[0], seeds))
    once = _looked_at_once(schemes)
    wanted = {
        role: [
            seed
            for seed in (first if role in once else every)
            if seed not in measured.networks.get(str(scheme), MeasuredNetwork()).test
        ]
        for role, scheme in schemes.items()
    }
    outcome = _Networks(study, tickets["ticket"], schemes, wanted)
    if outcome.missing:
        train_missing(outcome, on_event)
    return _with_roles(study, _counted(study, _taken_in(measured, outcome), schemes), schemes)


def _looked_at_once(schemes: Mapping[str, Scheme]) -> frozenset[str]:
    """Return the roles of which no more seeds than those of the first look are of use.

    Random schemes that were drawn are tested by the rank of their means, which more seeds do not
    sharpen; a heuristic of another density is not tested at all.
    """
    ticket = schemes["ticket"]
    drawn = [role for role in schemes if is_random(role)]
    few = other_arrangements(ticket) <= RANDOM_SCHEMES  # all of them, which are no draw
    unlike = [
        role
        for role in HEURISTICS
        if role in schemes and sorted(schemes[role].choices) != sorted(ticket.choices)
    ]
    return frozenset(unlike if few else [*unlike, *drawn])


def _counted(
    study: StudyFolder, known: MeasuredRuns, schemes: Mapping[str, Scheme]
) -> MeasuredRuns:
    """Return what is known, with parameters and multiply-adds of each network."""
    from sat_optuna.cost.operations import CostModel

    kinds = len(known.about.attention)
    uncounted = [
        scheme
        for scheme in dict.fromkeys(schemes.values())
        if max(scheme.choices) <= kinds
        and known.networks.get(str(scheme), MeasuredNetwork()).params is None
    ]
    if not uncounted:
        return known
    data = study.parts.data
    costs = CostModel(study.parts.any_supernet(), data.shape)
    for scheme in uncounted:
        cost = costs.cost(scheme)
        counts = MeasuredNetwork(params=cost.params, macs=cost.macs)
        known = known.with_network(str(scheme), counts)
    return replace(known, train_images=len(data.train_and_valid))
