"""What comes after all schemes of a folded study are scored: costs, choices, test, tickets."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from sat_optuna.events import OnEvent
from sat_optuna.files import sha256_of
from sat_optuna.pipeline.done import Done
from sat_optuna.ticket import Score, Ticket

if TYPE_CHECKING:
    from pathlib import Path

    from sat_optuna.evidence.enumeration import Enumeration
    from sat_optuna.evidence.folding import Kept
    from sat_optuna.pipeline.folder import StudyFolder
    from sat_optuna.search.objective import FoldedObjective, SupernetObjective

__all__ = ["folding"]

_LATENCY_ROUNDS, _ROUNDS = 11, 31


def folding(
    study: "StudyFolder",
    scores: "Enumeration",
    objective: "SupernetObjective | None",
    *,
    on_event: OnEvent,
) -> dict[str, Any]:
    """Write folded.md with its figure, and a ticket for each number of points; once.

    Args:
        study: whose record of the enumeration is written.
        scores: of all schemes.
        objective: that scored them; None to build it where it is needed.
        on_event: told of the rounds in which latency is measured.

    Returns:
        The fields `folded` and `kept` of Enumerated.
    """
    from sat_optuna.evidence.folding import POINTS

    page = study.folder / "folded.md"
    paths = {points: study.tickets / f"within-{points:g}.json" for points in POINTS}
    files = {path.name: path for path in (page, study.folder / "folded.json", *paths.values())}
    enumerated = study.records.get("enumeration") or Done({})
    decided = {**enumerated.decided, "enumeration": dict(enumerated.made)}
    if not study.records.is_current("folded", decided, files):
        used = objective or study.parts.supernet_objective(cache=0)
        _write(study, scores, cast("FoldedObjective", used), paths, on_event)
        made = {name: sha256_of(path) for name, path in files.items()}
        study.records.write("folded", Done(decided, made, finished=True))
    return {"folded": page, "kept": {points: Ticket.load(path) for points, path in paths.items()}}


def _write(
    study: "StudyFolder",
    scores: "Enumeration",
    objective: "FoldedObjective",
    paths: "dict[float, Path]",
    on_event: OnEvent,
) -> None:
    from sat_optuna.cost.latency import fit_latency
    from sat_optuna.evidence.folding import fold_report, times_of

    net, shape, batch = objective.net, objective.data.shape, study.config.search.latency_batch

    def told(event: Any) -> None:
        on_event(replace(event, step="costs"))

    latency = study.parts.latency or fit_latency(
        net, shape, batch=batch, rounds=_LATENCY_ROUNDS, on_event=told
    )
    found = fold_report(objective, scores, points=tuple(paths), latency=latency)
    times = times_of(
        net,
        shape,
        [kept.scheme for kept in found.kept],
        batch=batch,
        rounds=_ROUNDS,
        on_event=told,
    )
    found.write(study.folder, times=times)
    for kept in found.kept:
        _ticket(study, objective, kept).save(paths[kept.points])


def _ticket(study: "StudyFolder", objective: "FoldedObjective", kept: "Kept") -> Ticket:
    from sat_optuna.training.checkpoint import versions

    net, data, config = objective.net, objective.data, study.config
    cost = objective.costs.cost(kept.scheme)
    measured = {"valid": kept.accuracy, "test": kept.test_accuracy}
    return Ticket(
        role="ticket",
        scheme=kept.scheme,
        backbone=net.backbone_name,
        backbone_settings=dict(net.backbone_settings),
        attention=net.specs,
        classes=data.classes,
        input_shape=data.shape,
        dataset=data.name,
        dataset_fingerprint=data.fingerprint,
        seed=config.seed,
        params=cost.params,
        macs=cost.macs,
        scores=tuple(
            Score(split=split, value=value, seed=config.seed, epochs=config.pretrain.epochs)
            for split, value in measured.items()
            if value is not None
        ),
        study=study.name,
        versions=versions(),
        config=config.to_dict(),
        inputs=data.inputs,
        weights=study.weights_digest,
    )
