"""`sat-optuna truth`: every scheme of a study from scratch, several seeds each, as a table."""

import math

import click

from sat_optuna.cli.console import Console
from sat_optuna.errors import StudyError
from sat_optuna.events import Event
from sat_optuna.pipeline.folder import open_study
from sat_optuna.pipeline.results import CheckedEntry

__all__ = ["truth"]


@click.command(epilog="Example: sat-optuna truth mine --workers 2")
@click.argument("study")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=0,
    help="Trainings at the same time; default: as many as the cores take.",
)
@click.option(
    "--limit-hours",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    help="Refuse what would take more core-hours.",
)
@click.option(
    "--supernets",
    type=click.IntRange(min=0),
    default=0,
    help="Supernets of each recipe that score every scheme, to see how far they rank the truth.",
)
@click.option(
    "--verify",
    is_flag=False,
    flag_value=5,
    type=click.IntRange(min=1),
    metavar="[N]",
    help="Train N random entries again, 5 unless said, and compare them with the table.",
)
@click.option("--seed", default=0, show_default=True, help="Draws the entries to verify.")
@click.pass_obj
def truth(
    console: Console,
    *,
    study: str,
    workers: int,
    limit_hours: float,
    supernets: int,
    verify: int | None,
    seed: int,
) -> None:
    """Train every scheme from scratch with the seeds of [truth], for truth.npz and truth.json.

    Networks see the training part alone and are scored on the validation and on the test part. The
    same command goes on after any end, from the table too; several of them share the work.
    """
    from sat_optuna.search.storage import show_warnings_alone

    opened = open_study(study)
    if not console.verbose:
        show_warnings_alone()
    if verify:
        with console.following(_checked) as on_event:
            found = opened.verify_truth(verify, seed=seed, workers=workers, on_event=on_event)
        if wrong := [entry for entry in found if not entry.agrees]:
            raise StudyError(
                f"{len(wrong)} of {len(found)} entries of the truth table of {opened.name!r} did "
                "not come out again; see whether other versions or another machine made it"
            )
        return
    done, total = 0, 0
    try:
        with console.following() as show:

            def on_event(event: Event) -> None:
                nonlocal done, total
                done, total = event.done, event.total
                show(event)

            made = opened.truth(
                workers=workers,
                limit_hours=limit_hours,
                supernets=supernets,
                on_event=on_event,
            )
    except KeyboardInterrupt:
        console.remark(
            f"truth: {done:,} of {total:,} trainings are done and in {opened.folder / 'truth.npz'}"
        )
        raise
    table = made.table
    total = int(table.planned.sum())
    left = f"; other processes train {made.elsewhere} more" if made.elsewhere else ""
    count = len(table.manifest["failed"])
    failed = f", {count} failed" if count else ""
    then = f"read {made.page}, or " if made.page else ""
    console.result(
        f"truth: {made.new:,} trainings now, {total - table.missing:,} of {total:,} in "
        f"{made.folder / 'truth.npz'}{failed}{left}; next: {then}"
        f'sat.load_truth("{made.folder}")'
    )


def _checked(event: Event) -> str | None:
    entry = event.made
    if not isinstance(entry, CheckedEntry):
        return None
    noise = entry.noise["valid"]
    known = "unknown" if math.isnan(noise) else f"{noise:.2f}"
    if entry.is_equal:
        verdict = "equal, each bit"
    elif entry.agrees:
        verdict = f"within the noise, a standard deviation of {known} between seeds"
    elif entry.same_machine:
        verdict = "DIFFERENT, on the machine that made it"
    else:
        verdict = f"DIFFERENT, by more than the noise, a standard deviation of {known}"
    return (
        f"{entry.scheme} seed {entry.seed}: valid {entry.stored['valid']:.2f}, now "
        f"{entry.again['valid']:.2f}; test {entry.stored['test']:.2f}, now "
        f"{entry.again['test']:.2f}: {verdict}"
    )
