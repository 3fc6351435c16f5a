"""Several studies side by side: their tickets, what they cost and what they score."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sat_optuna.config.config import decided
from sat_optuna.errors import StudyError
from sat_optuna.evidence.statistics import Comparison, compare, summarise
from sat_optuna.pipeline.folder import StudyFolder, find_study
from sat_optuna.ticket import Ticket

__all__ = ["ROLES", "ComparedStudies", "compare_studies"]

# The networks of a study that are shown; a study of several kinds has a full network of each.
ROLES = ("plain", "constant", "ticket", "full")
# Sections of study.toml that may differ between studies which are paired.
_ASKED_ABOUT = ("attention.", "network.", "plugins.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedStudies:
    """Several studies side by side.

    Attributes:
        rows: a network each: study, role, scheme, connections, kinds, test accuracy in per cent
            with the 95 % interval of Student's t over its n seeds, parameters, multiply-adds, and
            the latency that was measured with the study.
        names: what the rows call the studies, in the order given.
        differences: the first study's ticket minus that of each other study that trained its
            networks as the first did, paired by seed; `control` is the other study's name.
        remarks: what cannot be compared and why, a sentence each.
    """

    names: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    differences: tuple[Comparison, ...]
    remarks: tuple[str, ...]


def compare_studies(studies: Sequence[str | Path]) -> ComparedStudies:
    """Compare the tickets of studies, as `sat-optuna compare` does.

        compare_studies(["se", "sge"]).differences

    The tickets' files are read and nothing else, so committed studies can be compared.

    Args:
        studies: two at least: folders, study.toml files, or names of folders under studies/.

    Raises:
        StudyError: there are fewer than two, one is given twice or has no ticket yet.
    """
    folders = [find_study(study) for study in studies]
    if len(set(folders)) < max(2, len(folders)):
        given = ", ".join(repr(str(study)) for study in studies) or "none"
        raise StudyError(f"studies {given} given; give two studies at least, each of them once")
    names = _names(folders)
    found = {name: _tickets(folder) for name, folder in zip(names, folders, strict=True)}
    first, *others = found
    faults = {name: _unlike(found[first]["ticket"], found[name]["ticket"]) for name in others}
    comparable = {n: _scores(found[n]["ticket"]) for n in others if not faults[n]}
    return ComparedStudies(
        names=tuple(found),
        rows=tuple(row for name, tickets in found.items() for row in _rows(name, tickets)),
        differences=tuple(compare(_scores(found[first]["ticket"]), comparable)),
        remarks=(
            *(
                f"{first} and {n} cannot be paired: {fault}"
                for n, fault in faults.items()
                if fault
            ),
            *_threads({name: tickets["ticket"] for name, tickets in found.items()}),
        ),
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: its own, or its whole path where two have the same."""
    own = [folder.name for folder in folders]
    return [n if own.count(n) == 1 else str(f) for n, f in zip(own, folders, strict=True)]


def _tickets(folder: Path) -> dict[str, Ticket]:
    study = StudyFolder(folder)
    found = {path.stem: Ticket.load(path) for path in sorted(study.tickets.glob("*.json"))}
    shown = [r for r in found if r in ROLES or r.startswith("full-")]
    if "ticket" not in found or "plain" not in found:
        raise StudyError(
            f"study {study.name!r} has no ticket with controls yet; run: "
            f"sat-optuna run {study.argument}"
        )
    order = sorted(shown, key=lambda role: ROLES.index(role.partition("-")[0]))
    return {role: found[role] for role in order}


def _scores(ticket: Ticket) -> list[float]:
    """Return the test scores in the order of their seeds."""
    scores = sorted((s for s in ticket.scores if s.split == "test"), key=lambda s: s.seed)
    return [score.value for score in scores]


def _rows(name: str, tickets: Mapping[str, Ticket]) -> Iterator[dict[str, Any]]:
    for role, ticket in tickets.items():
        scheme = ticket.scheme
        values = _scores(ticket)
        spread = summarise(values) if values else None
        several = spread is not None and spread.n > 1
        yield {
            "study": name,
            "network": role,
            "scheme": str(scheme),
            "connections": f"{scheme.connections} of {len(scheme.choices)}",
            "kinds": " ".join(spec.kind for spec in ticket.attention),
            "accuracy": spread and spread.mean,
            "low": max(spread.low, 0.0) if spread and several else None,
            "high": min(spread.high, 100.0) if spread and several else None,
            "n": len(values),
            "params": ticket.params,
            "macs": ticket.macs,
            "latency_ms": ticket.latency_ms,
        }


def _threads(tickets: Mapping[str, Ticket]) -> Iterator[str]:
    counts = {name: ticket.config.get("threads", 1) for name, ticket in tickets.items()}
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{name} {count}" for name, count in counts.items())
        yield f"the latencies were measured with other numbers of threads: {each}"


def _unlike(first: Ticket, other: Ticket) -> str:
    """Return why two tickets cannot be paired seed by seed; nothing where they can be."""
    if first.dataset_fingerprint != other.dataset_fingerprint:
        named = first.dataset != other.dataset
        what = f"{first.dataset} and {other.dataset}" if named else f"two of {first.dataset}"
        return f"they saw other data, {what}"
    one, two = (decided(ticket.config, "retrain") for ticket in (first, other))
    apart = [key for key in sorted(one.keys() | two.keys()) if one.get(key) != two.get(key)]
    if apart := [key for key in apart if not key.startswith(_ASKED_ABOUT)]:
        return f"they were trained with other values of {', '.join(apart)}"
    seeds = [sorted(s.seed for s in t.scores if s.split == "test") for t in (first, other)]
    if seeds[0] != seeds[1] or not seeds[0]:
        return f"their networks have the seeds {seeds[0]} and {seeds[1]}"
    return ""
