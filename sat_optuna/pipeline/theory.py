"""The theory on a study's own network, kept in evidence/theory.json beside its other evidence."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sat_optuna.errors import StudyError
from sat_optuna.evidence.results import kept_in, retrain_fingerprint
from sat_optuna.files import write_text
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Ticket

if TYPE_CHECKING:
    from sat_optuna.evidence.theory import Theory
    from sat_optuna.pipeline.folder import StudyFolder

__all__ = ["theory_lines"]


def theory_lines(study: "StudyFolder") -> tuple[str, ...]:
    """Return what T1 and T4 come to on a study's full network, a line each.

    They are computed once, with the weights of the first seed in work/, and then read from
    evidence/theory.json, which is committed. Where neither is there, the line says what to do.

    Args:
        study: one whose ticket and full network were retrained.

    Raises:
        StudyError: it has no ticket yet.
    """
    path = study.tickets / "ticket.json"
    if not path.is_file():
        raise StudyError(
            f"study {study.name!r} has no ticket yet; run: sat-optuna run {study.argument}"
        )
    ticket, kept = Ticket.load(path), study.folder / "evidence" / "theory.json"
    kinds = [spec.kind for spec in ticket.attention]
    if any(choice > 1 for choice in ticket.scheme.choices):
        return (
            f"T1 and T4 are not computed: the ticket mixes kinds ({', '.join(kinds)}), and the "
            "full networks of the study have one each",
        )
    decided = {
        "ticket": str(ticket.scheme),
        "kind": kinds[0],
        "data": ticket.dataset_fingerprint,
        "recipe": retrain_fingerprint(ticket.config),
    }
    if (metric := study.config.search.metric) != "accuracy":
        decided["metric"] = metric
    if kept.is_file():
        stored = json.loads(kept.read_text(encoding="utf-8"))
        if stored["decided"] == decided:
            return tuple(stored["lines"])
    tested = [score.seed for score in ticket.scores if score.split == "test"]
    scheme, seed = Scheme.uniform(ticket.scheme.stages, 1), (tested or [0])[0]
    folder = study.work / "retrain" / retrain_fingerprint(ticket.config)
    if not kept_in(folder, scheme, seed)[1].is_file():  # told without torch
        return (
            f"T1 and T4 are not computed: the weights of `{scheme}` are not in work/; make them "
            f"with: sat-optuna retrain {study.argument}",
        )
    try:
        found = _computed(study, ticket, scheme, seed)
    except StudyError as error:
        return (f"T1 and T4 are not computed: {error}",)
    document = {"decided": decided, "lines": found.lines(), **_numbers(found)}
    write_text(kept, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return tuple(document["lines"])


def _computed(study: "StudyFolder", ticket: Ticket, scheme: Scheme, seed: int) -> "Theory":
    """Compute it with the full network's weights.

    Raises:
        StudyError: they are not those that the retraining made, or full.json is not there.
    """
    from sat_optuna.evidence.theory import theory
    from sat_optuna.export.weights import load_weights
    from sat_optuna.pipeline.ticket_weights import TicketFile

    names = ("full", f"full-{ticket.attention[0].kind}")
    paths = [study.tickets / f"{name}.json" for name in names]
    full = next((TicketFile(path) for path in paths if path.is_file()), None)
    if full is None:
        raise StudyError(f"{paths[0]} is not there; run: sat-optuna retrain {study.argument}")
    network = load_weights(full.ticket, full.retrained(scheme, seed))
    data = study.parts.data
    device = data.train.device
    task, metric = study.parts.task, study.parts.metric
    return theory(
        network.to(device), data, ticket.scheme, seed=ticket.seed, task=task, metric=metric
    )


def _numbers(found: "Theory") -> dict[str, Any]:
    """Return what lies behind the lines, in values of JSON."""
    bound = found.bound
    return {
        "bound": None if bound is None else {**asdict(bound), "scheme": str(bound.scheme)},
        "singles": [asdict(single) for single in found.singles],
        "dispersion_ticket": None if found.rival is None else str(found.rival),
        "correlations": {" ".join(pair): r for pair, r in found.redundancy.pairs.items()},
    }
