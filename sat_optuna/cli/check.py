"""`sat-optuna check`: every fault of study.toml and of the data at once."""

from collections.abc import Iterator
from itertools import islice

import click

from sat_optuna.cli.console import Console
from sat_optuna.data.examined import Examined
from sat_optuna.pipeline.folder import StudyFolder, find_study

__all__ = ["check"]

_NAMED = 20  # classes whose counts are shown


@click.command(epilog="Example: sat-optuna check mine; next: sat-optuna run mine")
@click.argument("study")
@click.pass_obj
def check(console: Console, *, study: str) -> None:
    """Show every fault of study.toml and of the data at once; trains nothing.

    The study's [plugins] are run, for they register what it names.
    """
    opened = StudyFolder(find_study(study))
    if opened.plugins:
        console.remark(f"running the study's plugins: {', '.join(map(str, opened.plugins))}")
    checked = opened.check()
    stages, data = checked.stages, checked.data
    choices = (len(opened.config.attention.kinds) + 1) ** sum(stages)
    for line in _lines(data):
        console.result(line)
    what = f"ticket {checked.given}" if checked.given else f"{choices:,} schemes"
    console.result(
        f"{opened.folder / 'study.toml'} has no fault: {sum(stages)} blocks in stages "
        f"{stages}, {what}; next: sat-optuna run {opened.argument}"
    )


def _lines(data: Examined) -> Iterator[str]:
    """Yield what the data hold: classes and counts of each part, the images' size, remarks."""
    for part, images in data.images.items():
        counts = data.counts.get(part)
        if not counts:
            said = data.maps.get(part)
            yield f"{part}: {images:,} images" + (f", {said}" if said else "")
            continue
        largest, share = data.majority(part)
        named = ", ".join(f"{name} {count:,}" for name, count in islice(counts.items(), _NAMED))
        more = f", ... of {len(counts)} classes" if len(counts) > _NAMED else ""
        yield (
            f"{part}: {images:,} images, {named}{more}; always saying {largest} "
            f"would score {share:.1%}"
        )
    if data.shape:
        channels, height, width = data.shape
        yield f"images: {height} x {width} pixels, {channels} channels"
    yield from (f"data: {remark}" for remark in data.remarks)
