"""`sat-optuna transfer`: a ticket on other data, another network, another task."""

from pathlib import Path
from shlex import quote

import click

from sat_optuna.cli.console import Console
from sat_optuna.cli.said import steps_of
from sat_optuna.cli.search import NO_MLFLOW

__all__ = ["transfer"]


@click.command(
    epilog="Example: sat-optuna transfer studies/quickstart/tickets/ticket.json --task "
    "segmentation --data cued-seg"
)
@click.argument("ticket", type=click.Path(path_type=Path))
@click.option(
    "--task",
    type=click.Choice(["classification", "segmentation", "counting"]),
    required=True,
    help="What is learnt there; it chooses head, metric and margin.",
)
@click.option("--data", required=True, help="See: sat-optuna ls datasets.")
@click.option("--root", default="", help="Folder of the data, where they lie in one.")
@click.option("--backbone", default="", help="Another network than the ticket's, deeper perhaps.")
@click.option("--width", type=click.IntRange(min=1), help="Of a CIFAR ResNet; default: as it is.")
@click.option("--stem-stride", type=click.IntRange(1, 4), help="Of a CIFAR ResNet; as it is.")
@click.option(
    "--init",
    type=click.Choice(["scratch", "weights"]),
    default="scratch",
    show_default=True,
    help="weights: all networks start from those of the source study's plain network.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Of each training; the source's.")
@click.option("--seeds", default="", help="Such as 0,1,2,3, which they are by default.")
@click.option(
    "--controls",
    type=click.Choice(["few", "full"]),
    default="few",
    show_default=True,
    help="Random tickets: 3, or 20 and the placements that need no search.",
)
@click.option("--study", default="", help="Name of the study; default: transfer-SOURCE-DATA.")
@click.option("--no-run", is_flag=True, help="Write the study alone, to be edited and run.")
@NO_MLFLOW
@click.pass_obj
def transfer(
    console: Console,
    *,
    ticket: Path,
    task: str,
    data: str,
    root: str,
    backbone: str,
    width: int | None,
    stem_stride: int | None,
    init: str,
    epochs: int | None,
    seeds: str,
    controls: str,
    study: str,
    no_run: bool,
    no_mlflow: bool,
) -> None:
    """Take a ticket to other data, another network or another task, and see whether it pays.

    TICKET is a ticket's JSON file or an exported .safetensors. A study is made whose ticket is
    given, studies/transfer-SOURCE-DATA, and run: the ticket, plain, full, its constant control and
    random tickets of its density are trained with the same seeds. `run`, `retrain`, `report` and
    `evidence` go on with it, and so does the same command; its study.toml may be edited.

    A stage of another depth takes the choices of the source's blocks at the nearest relative
    position; the new ticket says so.
    """
    from sat_optuna.evidence.controls import other_arrangements
    from sat_optuna.pipeline.given import RANDOM_TICKETS
    from sat_optuna.pipeline.transfer import make_transfer

    made = make_transfer(
        ticket,
        task=task,
        data=data,
        root=root,
        backbone=backbone,
        width=width or 0,
        stem_stride=stem_stride or 0,
        init=init,
        epochs=epochs or 0,
        seeds=_seeds(seeds),
        study=study,
    )
    if no_run:
        console.result(
            f"{made.folder / 'study.toml'} written; edit it, then: sat-optuna check "
            f"{made.argument}, sat-optuna run {made.argument}"
        )
        return
    with steps_of(made, console) as on_event:
        result = made.run(mlflow=not no_mlflow, on_event=on_event)
        found = made.evidence(seeds=4, on_event=on_event) if controls == "full" else None
    claims = found.claims if found else result.verdicts
    for claim in claims:
        console.result(claim.line())
    if found is None:
        others = other_arrangements(result.tickets["ticket"].scheme)
        few = f"{RANDOM_TICKETS} random tickets decide nothing; 20 and " * (
            others > RANDOM_TICKETS
        )
        console.remark(
            f"transfer: {few}more controls: sat-optuna evidence {made.argument} --seeds 4"
        )
    console.remark(f"transfer: next: sat-optuna show {quote(str(made.tickets / 'ticket.json'))}")


def _seeds(text: str) -> tuple[int, ...]:
    """Read seeds such as "0,1,2,3".

    Raises:
        BadParameter: they are none.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise click.BadParameter(
            f"{text!r} is no list of seeds; give whole numbers such as 0,1,2,3",
            param_hint="--seeds",
        )
    return tuple(map(int, parts))
