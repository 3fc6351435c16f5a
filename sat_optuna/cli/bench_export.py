"""`sat-optuna bench export`: how far exported files are from their networks."""

from pathlib import Path

import click

from sat_optuna.cli.console import FORMAT, Console

__all__ = ["export"]


@click.command(
    epilog="Example: sat-optuna bench export --backbone resnet50 --out studies/bench-export/m.json"
)
@click.option("--backbone", default="resnet50", show_default=True, help="As in ls backbones.")
@click.option("--modules", default="", help="As in ls modules, with commas; default: all our own.")
@click.option(
    "--resolution", type=click.IntRange(min=1), default=224, show_default=True, help="Pixels."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON file, rewritten after each export; what it holds is not done again.",
)
@FORMAT
@click.pass_obj
def export(
    console: Console,
    *,
    backbone: str,
    modules: str,
    resolution: int,
    out: Path | None,
    format: str,
) -> None:
    """Export every module in every format, load it back and compare.

    The networks carry the module in every block and have drawn weights. Differences are relative
    to the largest logit.
    """
    from sat_optuna.attention import ATTENTION
    from sat_optuna.bench.export import bench_export

    asked = [name.strip() for name in modules.split(",") if name.strip()]
    names = asked or ATTENTION.single_names()
    with console.following() as on_event:
        document = bench_export(
            backbone, modules=names, side=resolution, out=out, on_event=on_event
        )
    columns = ("module", "sharing", "format", "batch", "difference", "bytes", "seconds")
    rows = document["rows"]
    if format == "table":  # a table's three decimals would print every difference as 0.000
        rows = [row | {"difference": f"{row['difference']:.1e}"} for row in rows]
    console.rows(rows, columns, format)
    if out:
        console.remark(f"{out} written")
