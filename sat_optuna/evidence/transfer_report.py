"""The report of a ticket that was given to a study: what it is worth on other data or networks."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from sat_optuna.errors import TicketError
from sat_optuna.evidence.claims import LOOKS, over_random
from sat_optuna.evidence.controls import RANDOM_SCHEMES, other_arrangements
from sat_optuna.evidence.maps import MapResults
from sat_optuna.evidence.pages import write_page
from sat_optuna.evidence.retrained import (
    OnTest,
    came_to,
    draw_networks,
    how_made,
    legend,
    measured_in,
    networks_parts,
    paired_by_seed,
    scores_of,
    what_can_be_said,
    where_of,
)
from sat_optuna.evidence.verdicts import claims_of, claims_text, margin_of, runs_of
from sat_optuna.ticket import Measure, Source, Ticket

__all__ = ["write_transfer_report"]


def write_transfer_report(
    folder: str | PathLike[str],
    tickets: Mapping[str, Ticket],
    *,
    images: int,
    latency: str,
    hardware: str,
    tested: OnTest | None = None,
    curves: Mapping[str, Sequence[Sequence[float]]] | None = None,
    maps: MapResults | None = None,
) -> Path:
    """Write report.md and report.html with their figures.

    Args:
        folder: the study's.
        tickets: by role, the ticket first, which names its source; plain and full among them, each
            with test scores of the same seeds.
        images: number of test images.
        latency: how latency was measured, a sentence.
        hardware: what it ran on.
        tested: what else is known of the test; None where nothing is.
        curves: by role, for each seed the training accuracy of each epoch, per cent; None where it
            is not known.
        maps: trivial rules and test images, of networks that answer with maps; else None.

    Returns:
        The path of report.md.

    Raises:
        TicketError: the ticket names no source, or the seeds of the tickets differ.
        WriteError: a file could not be written.
    """
    folder, ticket = Path(folder), tickets["ticket"]
    if ticket.source is None:
        raise TicketError(
            f"the ticket of {folder.name} names no ticket that it was carried over from; write "
            "its report with write_report"
        )
    measure, scores, runs = measured_in(tickets), scores_of(tickets), runs_of(tickets)
    differences = paired_by_seed(tickets, scores, images, measure)
    largest = tested.part.majority if tested else 0.0
    curves = curves or {}
    draw_networks(
        folder / "figures", tickets, images=images, curves=curves, largest=largest, maps=maps
    )
    parts = [
        f"# {folder.name}: does a ticket of {ticket.source.dataset} pay on {ticket.dataset}?",
        claims_text((*claims_of(tickets), over_random(runs))),
        f"{_carried(ticket, ticket.source)} {came_to(ticket, differences, scores, measure)}",
        "![the ticket](figures/ticket.png)",
        legend(ticket, controlled="constant" in tickets),
        *networks_parts(
            tickets,
            images=images,
            latency=latency,
            tested=tested,
            curves=bool(curves),
            maps=maps,
        ),
        "## What can be said",
        what_can_be_said(tickets, differences, scores, images, measure),
        _random(ticket, tickets),
        "## How it was measured",
        how_made(
            ticket,
            hardware,
            measure,
            found=_found(ticket.source, runs.amount(margin_of(ticket)), measure),
            of="`tickets/*.json` beside this file",
        ),
    ]
    return write_page(folder / "report.md", "\n\n".join(parts) + "\n")


def _carried(ticket: Ticket, source: Source) -> str:
    """Return what was carried from where to where, and what became of it; a sentence."""
    of = f" of study `{source.study}`" if source.study else ""
    went = f"The ticket `{source.scheme}`{of}, made on {source.dataset} in {source.backbone}, "
    if ticket.scheme == source.scheme:
        went += f"was carried to {ticket.dataset} in {ticket.backbone} as it is"
    else:
        before, now = source.scheme, ticket.scheme
        went += (
            f"became `{now}` on {ticket.dataset} in {ticket.backbone}, {now.connections} of "
            f"{len(now.choices)} blocks in the place of {before.connections} of "
            f"{len(before.choices)}"
        )
    return f"{went}: attention {where_of(ticket)}. Nothing was searched here."


def _random(ticket: Ticket, tickets: Mapping[str, Ticket]) -> str:
    """Return how many random tickets there are, and where to have more; a sentence."""
    count = sum(role.startswith("random-") for role in tickets)
    several = f"The {count} random tickets have" if count > 1 else "The random ticket has"
    have = f"{several} the ticket's number of connections at other blocks"
    evidence = f"`sat-optuna evidence {ticket.study} --seeds {LOOKS[0]}` trains"
    if count == other_arrangements(ticket.scheme):
        return (
            f"{have}: all that there are, so their ranks are no sample's. {evidence} the "
            "placements that one would try without a search."
        )
    return (
        f"{have}. So few describe, and decide nothing: {evidence} {RANDOM_SCHEMES} of them, or "
        "all where there are fewer, and the placements that one would try without a search."
    )


def _found(source: Source, margin: str, measure: Measure) -> list[str]:
    uuid = f", uuid `{source.study_uuid}`" if source.study_uuid else ""
    return [
        f"source: ticket `{source.scheme}` of study `{source.study}`{uuid}",
        f"rule: {source.rule}",
        f"margin: against full the ticket may lose {margin} of {measure.title} "
        "(evidence.margin of study.toml)",
    ]
