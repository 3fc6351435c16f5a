"""`sat-optuna show`: draw a ticket and say what it costs, beside plain and full."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sat_optuna.cli.console import Console
from sat_optuna.errors import TicketError, errors_as
from sat_optuna.pipeline.open import open_ticket
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Ticket

if TYPE_CHECKING:
    from sat_optuna.cost.timing import Estimate
    from sat_optuna.supernet.supernet import Supernet

__all__ = ["picture", "show"]

_COUNTS = {
    "params": "parameters",
    "macs": "multiply-adds an image",
    "elementwise": "element-wise operations an image",
}


def picture(scheme: Scheme, kinds: Sequence[str]) -> str:
    """Return a scheme as lines of text, a stage a line."""
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
    """Draw a ticket's file, and its cost beside that of no attention and of attention everywhere.

    TICKET is a ticket's JSON file or an exported .safetensors.
    Counts are exact. Latency is measured now, the three networks taking turns, with 95 % intervals
    of the increments.
    """
    from sat_optuna.cost.timing import check_rounds

    found = open_ticket(ticket)
    check_rounds(rounds)
    supernet = _supernet(found)
    stages = found.scheme.stages
    schemes = {
        "plain": Scheme.uniform(stages, 0),
        "ticket": found.scheme,
        "full": Scheme.uniform(stages, 1),
    }
    costs: dict[str, Any] = {"counts": _count(supernet, found, schemes)}
    if latency:
        with console.progress("latency", rounds) as bar:
            costs["latency"] = _time(
                supernet, found, schemes, batch=batch, rounds=rounds, on_round=bar.advance
            )
    if format == "json":
        document = {"ticket": json.loads(found.to_json()), "costs": costs}
        console.result(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _print(console, found, costs)


def _supernet(ticket: Ticket) -> "Supernet":
    """Build the network that the ticket's scheme is of."""
    from sat_optuna.supernet.materialise import supernet_of
    from sat_optuna.training.precision import pick_device

    remedy = "correct its backbone_settings"
    with errors_as(TicketError, "the ticket's network cannot be built here", remedy):
        return supernet_of(ticket, seed=ticket.seed).to(pick_device())


def _count(
    supernet: "Supernet", ticket: Ticket, schemes: Mapping[str, Scheme]
) -> dict[str, dict[str, float | None]]:
    """Return, by what is counted, plain, ticket and full, and how they compare."""
    from sat_optuna.cost.operations import CostModel

    model = CostModel(supernet, ticket.input_shape)
    costs = {role: model.cost(scheme) for role, scheme in schemes.items()}
    counts = {}
    for what in _COUNTS:
        plain, found, full = (getattr(costs[role], what) for role in ("plain", "ticket", "full"))
        counts[what] = {
            "plain": plain,
            "ticket": found,
            "full": full,
            "ticket_increment_percent": 100 * (found - plain) / plain,
            "full_increment_percent": 100 * (full - plain) / plain,
            "share_of_full": (found - plain) / (full - plain) if full > plain else None,
        }
    return counts


def _time(
    supernet: "Supernet",
    ticket: Ticket,
    schemes: Mapping[str, Scheme],
    *,
    batch: int,
    rounds: int,
    on_round: Callable[[], None],
) -> dict[str, Any]:
    """Measure plain, ticket and full in turn; a scheme that is two of them is measured once."""
    import torch

    from sat_optuna.cost.timing import increment, network_ms, share_of_increment
    from sat_optuna.supernet.materialise import materialise
    from sat_optuna.training.precision import pick_device

    nets = {str(scheme): materialise(supernet, scheme) for scheme in schemes.values()}
    remedy = "give a smaller --batch, or --no-latency"
    with errors_as(TicketError, f"batch {batch} cannot be run here", remedy):
        passed = network_ms(
            nets, ticket.input_shape, batch=batch, rounds=rounds, on_round=on_round
        )
    times = {role: passed[str(scheme)] for role, scheme in schemes.items()}
    plain, found, full = times["plain"], times["ticket"], times["full"]
    return {
        **{f"{role}_ms": statistics.median(values) for role, values in times.items()},
        **_ends("ticket_increment_percent", increment(found, plain), 100),
        **_ends("full_increment_percent", increment(full, plain), 100),
        **_ends("share_of_full", share_of_increment(found, full, plain), 1),
        "batch": batch,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "device": pick_device().type,
    }


def _ends(name: str, estimate: "Estimate | None", scale: float) -> dict[str, float | None]:
    if estimate is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    value, low, high = (scale * end for end in (estimate.value, estimate.low, estimate.high))
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _print(console: Console, ticket: Ticket, costs: Mapping[str, Any]) -> None:
    settings = ", ".join(f"{k} {v}" for k, v in ticket.backbone_settings.items() if v is not None)
    console.result(f"{ticket.role} {ticket.scheme} of {ticket.backbone} ({settings})")
    console.result(picture(ticket.scheme, [spec.kind for spec in ticket.attention]))
    several = len(ticket.attention) > 1
    console.result(
        f"density {ticket.scheme.density:.2f}"
        + (f"; full is {ticket.attention[0].kind.upper()} in every block" if several else "")
    )
    rows = [_counted(_COUNTS[what], row) for what, row in costs["counts"].items()]
    timed = costs.get("latency")
    if timed:
        rows.append(_timed(timed))
    console.rows(rows, tuple(rows[0]), "table")
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
    for score in ticket.scores:
        console.result(
            f"{score.split} accuracy {score.value:.2f} %, seed {score.seed}, {score.epochs} epochs"
        )
    origin = f"study {ticket.study}" + ("" if ticket.trial is None else f", trial {ticket.trial}")
    console.result(f"data {ticket.dataset} {ticket.dataset_fingerprint[:16]}, {origin}")


def _counted(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Make a printed row of counts."""
    share = row["share_of_full"]
    return {
        "": name,
        **{role: row[role] for role in ("plain", "ticket", "full")},
        "ticket over plain": f"{row['ticket_increment_percent']:+.2f} %",
        "full over plain": f"{row['full_increment_percent']:+.2f} %",
        "share of full's increment": None if share is None else f"{share:.2f}",
    }


def _timed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Make the printed row of milliseconds."""

    def with_ends(name: str, form: str) -> str | None:
        if row[name] is None:
            return None
        value, low, high = (form.format(row[name + end]) for end in ("", "_low", "_high"))
        return f"{value} ({low} to {high})"

    return {
        "": "latency, ms a batch",
        **{role: row[f"{role}_ms"] for role in ("plain", "ticket", "full")},
        "ticket over plain": with_ends("ticket_increment_percent", "{:+.1f} %"),
        "full over plain": with_ends("full_increment_percent", "{:+.1f} %"),
        "share of full's increment": with_ends("share_of_full", "{:.2f}"),
    }
