"""`sat-optuna ticket`: write the best scheme as a ticket."""

from shlex import quote

import click

from sat_optuna.cli.console import Console
from sat_optuna.cli.show import picture
from sat_optuna.pipeline.folder import StudyFolder, find_study
from sat_optuna.pipeline.passengers import known_passengers
from sat_optuna.ticket import Ticket

__all__ = ["ticket"]


@click.command(epilog="Example: sat-optuna ticket mine; next: sat-optuna retrain mine")
@click.argument("study")
@click.option("--trial", type=click.IntRange(min=0), help="Another trial than the best.")
@click.option(
    "--front", is_flag=True, help="Each scheme of the front, where the study has objectives."
)
@click.pass_obj
def ticket(console: Console, *, study: str, trial: int | None, front: bool) -> None:
    """Write the best trial's scheme to tickets/trial-N.json, before any retraining.

    Where validation images are held back from the search, what it can do without is shown too.

    With --front each scheme that no other one beats in all objectives at once, to
    tickets/front-SCHEME.json.
    """
    opened = StudyFolder(find_study(study))
    if front and trial is not None:
        raise click.UsageError("--front and --trial given; give one of them")
    if front:
        tickets = opened.front()
        paths = [t.save(opened.tickets / f"front-{t.scheme}.json") for t in tickets]
        for path, point in zip(paths, tickets, strict=True):
            console.result(f"{path}: {_worth(point)}")
        console.result(f"{len(paths)} written; next: sat-optuna show {quote(str(paths[0]))}")
        return
    found = opened.ticket(trial)
    path = found.save(opened.tickets / f"trial-{found.trial}.json")
    kinds = [spec.kind for spec in found.attention]
    console.result(picture(found.scheme, kinds))
    if left := known_passengers(opened, found.scheme):
        console.result(f"passengers: {left}")
        if left.dropped:
            console.result(picture(left.candidate, kinds))
    console.result(f"{path} written; next: sat-optuna show {quote(str(path))}")


def _worth(ticket: Ticket) -> str:
    """Return what a ticket is worth and costs, in words."""
    seen = [f"{score.split} accuracy {score.value:.2f} %" for score in ticket.scores]
    timed = [] if ticket.latency_ms is None else [f"{ticket.latency_ms:.2f} ms a batch"]
    counted = [f"{ticket.params:,} parameters", f"{ticket.macs:,} multiply-adds"]
    return ", ".join([*seen, *timed, *counted])
