"""`sat-optuna evidence`: what a study's claims are worth."""

import click

from sat_optuna.cli.console import Console
from sat_optuna.cli.said import steps_of
from sat_optuna.pipeline.folder import open_study

__all__ = ["evidence"]


@click.command(epilog="Example: sat-optuna evidence mine --seeds 8; first: sat-optuna run mine")
@click.argument("study")
@click.option(
    "--seeds",
    type=click.Choice(["4", "8", "16", "32"]),
    help="Train what the claims lack, up to so many seeds; without it nothing is trained.",
)
@click.option("--format", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def evidence(console: Console, *, study: str, seeds: str | None, format: str) -> None:
    """Say whether each claim holds, fails or is not decided, with its numbers.

    C1 accuracy kept against full, C2 faster, C3 smaller, C4 better than other schemes of its
    density, C5 how many schemes beat full or lose to plain, C6 how near the best of all it is.
    T1 bounds what dropping modules changes, T4 says how alike their attention is. All that was
    measured is kept in evidence/runs.json beside study.toml, and the claims are computed
    from that file alone; evidence.md and evidence.json hold them.

    With --seeds the networks that the claims lack are trained, the ticket and each control with
    the same seeds: plain, full, the constant control, random schemes of the ticket's density, the
    first and the last blocks, every other, the last of each stage, and the best random scheme of
    as many as the search had trials. The same command goes on where it was stopped.
    """
    opened = open_study(study)
    with steps_of(opened, console) as on_event:
        found = opened.evidence(seeds=int(seeds) if seeds else None, on_event=on_event)
    if format == "json":
        console.result(found.page.with_suffix(".json").read_text(encoding="utf-8").rstrip())
    else:
        console.result(found.headline)
        for claim in found.claims:
            console.result(claim.line())
        for line in found.theory:
            console.result(line)
    for remark in found.remarks:
        console.remark(f"evidence: {remark}")
    console.remark(f"evidence: {found.page} written, from {found.runs}")
