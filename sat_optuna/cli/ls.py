"""`sat-optuna ls`: what can be named."""

from typing import Any

import click

from sat_optuna.cli.console import FORMAT, Console
from sat_optuna.cli.workspace import STUDIES

__all__ = ["ls"]


def _studies() -> list[dict[str, Any]]:
    rows = []
    for path in sorted(STUDIES.glob("*/study.toml")):
        folder = path.parent
        report = folder / "report.md"
        rows.append(
            {
                "name": folder.name,
                "searched": (folder / "study.db").exists(),
                "report": str(report) if report.exists() else None,
            }
        )
    return rows


def _names(what: str) -> list[dict[str, Any]]:
    from sat_optuna.attention import ATTENTION
    from sat_optuna.backbones import BACKBONES, backbone_stages
    from sat_optuna.data import DATASETS

    if what == "backbones":
        return [
            {"name": name, "blocks": " ".join(map(str, backbone_stages(name)))}
            for name in BACKBONES.names()
        ]
    registry = ATTENTION if what == "modules" else DATASETS
    return [{"name": name} for name in registry.names()]


@click.command(epilog="Example: sat-optuna ls backbones --format json")
@click.argument("what", type=click.Choice(["modules", "backbones", "datasets", "studies"]))
@FORMAT
@click.pass_obj
def ls(console: Console, *, what: str, format: str) -> None:
    """List what study.toml can name, or the studies here."""
    rows = _studies() if what == "studies" else _names(what)
    columns = {"backbones": ("name", "blocks"), "studies": ("name", "searched", "report")}
    console.rows(rows, columns.get(what, ("name",)), format)
    if what == "studies" and not rows and format == "table":
        console.remark(f"no study under {STUDIES.resolve()}; make one with: sat-optuna new NAME")
