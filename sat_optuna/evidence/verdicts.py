"""A ticket's verdicts: the claims that stand at the head of a report, of its tickets' numbers.

What is compared lies in the tickets' JSON: test scores and training accuracies by seed, the rounds
of the timing, parameters. So whoever has a study's tickets/ finds the same verdicts.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from sat_optuna.config.config import EvidenceConfig
from sat_optuna.evidence.claims import Claim, Runs, three_conditions
from sat_optuna.ticket import Ticket

__all__ = [
    "claims_of",
    "claims_text",
    "conditions_of",
    "headline",
    "margin_of",
    "row_of",
    "runs_of",
]

_CONDITIONS = ("faster", "smaller", "accuracy kept")
_BLIND = "input-independent scaling (its constant control)"
_NO_CONTROL = "no constant control was retrained"


def runs_of(tickets: Mapping[str, Ticket]) -> Runs:
    """Return what a ticket and its controls reached, as claims are made of it.

    Args:
        tickets: by role, the ticket among them, with test scores of one metric.
    """
    ticket = tickets["ticket"]
    scores = {
        split: {
            role: {s.seed: s.value for s in found.scores if s.split == split}
            for role, found in tickets.items()
        }
        for split in ("test", "train")
    }
    measures = [score.measure for score in ticket.scores if score.split == "test"]
    return Runs(
        accuracy=scores["test"],
        classes=ticket.classes,
        images=ticket.images.get("test", 0),
        train_accuracy=scores["train"],
        schemes={role: str(found.scheme) for role, found in tickets.items()},
        params={role: found.params for role, found in tickets.items()},
        latency={
            role: found.latency_rounds
            for role, found in tickets.items()
            if len(found.latency_rounds) == len(ticket.latency_rounds) > 0
        },
        **({"measure": measures[0]} if measures else {}),
        budget=_budget(ticket),
    )


def _budget(ticket: Ticket) -> str:
    """Return what the networks were trained with: "20 epochs of 6,000 images"."""
    epochs = {score.epochs for score in ticket.scores if score.split == "test"}
    if len(epochs) != 1:
        return ""
    count = epochs.pop()
    said = f"{count} epoch{'s' * (count > 1)}"
    if images := ticket.images.get("train"):
        said += f" of {images:,} images"
    fine = ticket.config.get("retrain", {}).get("start") == "weights"
    return f"{said} from the given weights" if fine else said


def margin_of(ticket: Ticket) -> float:
    """Return what a ticket may lose against full, of its study's configuration."""
    return float(ticket.config.get("evidence", {}).get("margin", EvidenceConfig().margin))


def claims_of(tickets: Mapping[str, Ticket]) -> tuple[Claim, ...]:
    """Return the verdicts on a ticket: the three conditions, over plain, over constant, pays.

    Args:
        tickets: by role, the ticket and plain among them, as of `runs_of`.
    """
    return conditions_of(runs_of(tickets), margin=margin_of(tickets["ticket"]))


def conditions_of(runs: Runs, *, margin: float) -> tuple[Claim, ...]:
    """Return the same of runs; where there is no constant control, that says why.

    Args:
        runs: of the ticket and plain at least.
        margin: how much worse than full the ticket may be, in the metric's unit.
    """
    found = three_conditions(runs, margin=margin)
    if "constant" in runs.accuracy:
        return found
    why = _NO_CONTROL
    if not set(runs.schemes["ticket"]) - {"0", "-"}:
        why = "the ticket is plain, which has no constant control"
    return tuple(
        replace(claim, why=why, more_seeds=None, p=math.nan, test="", seeds=0)
        if claim.name in ("over constant", "attention pays") and claim.verdict != "fails"
        else claim
        for claim in found
    )


def headline(claims: tuple[Claim, ...]) -> str:
    """Return what the verdicts come to, a few sentences of Markdown.

    "Attention pays" is said only where the ticket beats its constant control too, and "rescaling
    explains it" only where that control beats plain, and is better than the ticket or, by its
    interval, behind it by less than the margin.
    """
    by_name = {claim.name: claim for claim in claims}
    plain, constant = by_name["over plain"], by_name["over constant"]
    pays = by_name["attention pays"].verdict
    if pays == "holds":
        said = f"**Attention pays** under this budget: the ticket beats plain and {_BLIND} too."
    elif plain.verdict == "fails" and not plain.test:
        said = "**Attention pays nowhere** that the search found: the ticket is the plain network."
    elif plain.verdict == pays == "fails":
        said = "**Attention does not pay** under this budget: plain is better than the ticket."
    elif plain.verdict != "holds":
        said = "**Whether attention pays is not decided** under this budget."
        if constant.verdict == pays == "fails":
            said = f"**Attention does not pay** under this budget: {_BLIND} is better."
    else:
        said = f"**The ticket beats plain**; {_rescaling(by_name)}"
    failed = [name for name in _CONDITIONS if by_name[name].verdict == "fails"]
    said += f" **Failed: {', '.join(failed)}.**" if failed else ""
    starts = max(claim.failed_starts.get("ticket", 0) for claim in claims)
    runs = f"{starts} run{'s' * (starts > 1)}"
    return said + (f" **{runs} of the ticket failed to start.**" if starts else "")


def _rescaling(by_name: Mapping[str, Claim]) -> str:
    """Return what is known of why a ticket beats plain that does not beat the control too."""
    constant, margin = by_name["over constant"], by_name["accuracy kept"].margin
    if constant.why == _NO_CONTROL:
        return f"whether by attention or by rescaling is not known, for {_NO_CONTROL}."
    if math.isnan(constant.effect):
        return f"whether by attention or by rescaling is not known: {constant.why}."
    if by_name["attention pays"].verdict == constant.verdict == "fails":
        return f"**rescaling explains it**: {_BLIND} is better still."
    if constant.control_over_plain == "holds" and constant.high < margin:
        return (
            f"**rescaling explains it**: {_BLIND} beats plain too, and is less than the margin "
            "behind the ticket."
        )
    return "whether by attention or by rescaling is not decided under this budget."


def claims_text(claims: tuple[Claim, ...]) -> str:
    """Return the verdicts in Markdown: what they come to, and a line each."""
    lines = "\n".join(f"- {claim.line()}" for claim in claims)
    return f"{headline(claims)}\n\n{lines}"


def row_of(claim: Claim) -> dict[str, Any]:
    """Return a claim as JSON values, with its line; what is not known is None."""
    fields = {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in asdict(claim).items()
    }
    return {**fields, "line": claim.line()}
