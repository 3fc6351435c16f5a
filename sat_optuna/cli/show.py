"""`sat-optuna show`: draw a ticket, and its cost beside that of plain and of full."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sat_optuna.cli.console import Console
from sat_optuna.errors import TicketError, errors_as
from sat_optuna.pipeline.reading import open_ticket, tickets_beside
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Ticket

__all__ = ["picture", "show"]

_COUNTS = {
    "params": "parameters",
    "macs": "multiply-adds an image",
    "elementwise": "element-wise operations an image",
}


def picture(scheme: Scheme, kinds: Sequence[str]) -> str:
    """Return a scheme as text, one line for each stage.

    >>> print(picture(Scheme.parse("10-02"), ["se", "eca"]))
    stage 1  [SE ] [ · ]
    stage 2  [ · ] [ECA]
    """
    names = ("·", *(kind.upper() for kind in kinds))
    width = max(len(name) for name in names)
    return "\n".join(
        f"stage {stage}  " + " ".join(f"[{names[choice]:^{width}}]" for choice in choices)
        for stage, choices in enumerate(scheme.by_stage(), start=1)
    )


@click.command(epilog="Example: sat-optuna show studies/quickstart/tickets/ticket.json")
@click.argument("ticket", type=click.Path(path_type=Path))
@click.option("--latency/--no-latency", default=True, show_default=True, help="Measure it now.")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True)
@click.option("--format", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def show(
    console: Console, *, ticket: Path, latency: bool, batch: int, rounds: int, format: str
) -> None:
    """Draw a ticket, and show its cost beside that of no attention and of attention everywhere.

    TICKET is a ticket's JSON file or an exported .safetensors.
    Counts are exact. Latency is measured now: the three networks take turns, and increments have
    95 % intervals. Of a retrained ticket beside its controls the verdicts are shown too.
    """
    from sat_optuna.cost.timing import check_rounds
    from sat_optuna.evidence.verdicts import claims_of, headline, row_of
    from sat_optuna.pipeline.ticket_costs import TicketCosts

    found = open_ticket(ticket)
    check_rounds(rounds)
    measured = TicketCosts(found)
    costs: dict[str, Any] = {"counts": measured.counts(), "fulls": measured.fulls()}
    if latency:
        remedy = "give a smaller --batch, or --no-latency"
        with (
            console.following() as on_event,
            errors_as(TicketError, f"batch {batch} cannot be run here", remedy),
        ):
            costs["latency"] = measured.latency(batch=batch, rounds=rounds, on_event=on_event)
    beside = tickets_beside(ticket, found)
    claims = claims_of(beside) if beside else ()
    if format == "json":
        document = {
            "ticket": json.loads(found.to_json()),
            "costs": costs,
            "verdicts": [row_of(claim) for claim in claims],
        }
        console.result(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _print(console, found, costs)
        if claims:
            console.result(headline(claims).replace("**", ""))
        for claim in claims:
            console.result(claim.line())


def _print(console: Console, ticket: Ticket, costs: Mapping[str, Any]) -> None:
    settings = ", ".join(f"{k} {v}" for k, v in ticket.backbone_settings.items() if v is not None)
    console.result(f"{ticket.role} {ticket.scheme} of {ticket.backbone} ({settings})")
    kinds = [spec.kind for spec in ticket.attention]
    console.result(picture(ticket.scheme, kinds))
    console.result(
        f"density {ticket.scheme.density:.2f}"
        + ("" if ticket.scheme.connections else ": no block carries attention")
        + (f"; full is {kinds[0].upper()} in every block" if len(kinds) > 1 else "")
    )
    rows = [_counted(_COUNTS[what], row) for what, row in costs["counts"].items()]
    timed = costs.get("latency")
    if timed:
        rows.append(_timed(timed))
    console.rows(rows, tuple(rows[0]), "table")
    for kind in kinds[1:]:
        full = costs["fulls"][kind]
        console.result(
            f"full of {kind.upper()}: "
            + ", ".join(f"{full[what]:,} {name}" for what, name in _COUNTS.items())
        )
    if timed:
        console.result(
            f"latency: median of {timed['rounds']} passes in turn, batch {timed['batch']}, "
            f"threads {timed['threads']}, on {timed['device']}; in brackets 95 % intervals"
        )
    counted = {what: row["ticket"] for what, row in costs["counts"].items()}
    if (ticket.params, ticket.macs) != (counted["params"], counted["macs"]):
        console.result(
            f"the file says {ticket.params:,} parameters and {ticket.macs:,} multiply-adds; its "
            "network has the above"
        )
    if ticket.latency_ms is not None:
        console.result(f"when the ticket was made: {ticket.latency_ms:.2f} ms a batch")
    if ticket.weights:
        console.result(f"trained weights that the study started from: SHA-256 {ticket.weights}")
    for score in ticket.scores:
        console.result(
            f"{score.split} {score.measure.title} {score.measure.text(score.value)}, "
            f"seed {score.seed}, {score.epochs} epochs"
        )
    origin = f"study {ticket.study}" + ("" if ticket.trial is None else f", trial {ticket.trial}")
    console.result(f"data {ticket.dataset} {ticket.dataset_fingerprint[:16]}, {origin}")


def _counted(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Make a printed row of counts."""
    share = row["share_of_full"]
    return {
        "": name,
        **{role: row[role] for role in ("plain", "ticket", "full")},
        "ticket over plain": f"{row['ticket_increment_percent']:+z.2f} %",
        "full over plain": f"{row['full_increment_percent']:+z.2f} %",
        "share of full's increment": None if share is None else f"{share:z.2f}",
    }


def _timed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Make the printed row of milliseconds."""
    from sat_optuna.cost.timing import interval_text

    return {
        "": "latency, ms a batch",
        **{role: row[f"{role}_ms"] for role in ("plain", "ticket", "full")},
        "ticket over plain": interval_text(row, "ticket_increment_percent", "{:+z.1f} %"),
        "full over plain": interval_text(row, "full_increment_percent", "{:+z.1f} %"),
        "share of full's increment": interval_text(row, "share_of_full", "{:z.2f}"),
    }
