"""`sat-optuna show`: draw a ticket and say what it costs."""

from collections.abc import Sequence
from pathlib import Path

import click

from sat_optuna.cli.console import Console
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Ticket

__all__ = ["picture", "show"]


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
@click.option("--format", type=click.Choice(["table", "json"]), default="table")
@click.pass_obj
def show(console: Console, *, ticket: Path, format: str) -> None:
    """Draw a ticket's file and its cost."""
    found = Ticket.load(ticket)
    if format == "json":
        console.result(found.to_json().rstrip("\n"))
        return
    settings = ", ".join(f"{k} {v}" for k, v in found.backbone_settings.items() if v is not None)
    console.result(f"{found.role} {found.scheme} of {found.backbone} ({settings})")
    console.result(picture(found.scheme, [spec.kind for spec in found.attention]))
    console.result(
        f"density {found.scheme.density:.2f}, {found.params:,} parameters, {found.macs:,} "
        "multiply-adds an image (convolutions and matrix products)"
        + (f", {found.latency_ms:.2f} ms a batch" if found.latency_ms is not None else "")
    )
    for score in found.scores:
        console.result(
            f"{score.split} accuracy {score.value:.2f} %, seed {score.seed}, {score.epochs} epochs"
        )
    origin = f"study {found.study}" + ("" if found.trial is None else f", trial {found.trial}")
    console.result(f"data {found.dataset} {found.dataset_fingerprint[:16]}, {origin}")
