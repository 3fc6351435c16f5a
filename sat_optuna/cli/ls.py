"""`sat-optuna ls`: the names that study.toml can use, and the studies."""

from typing import Any

import click

from sat_optuna.cli.console import FORMAT, Console
from sat_optuna.pipeline.folder import STUDIES

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


def _modules() -> list[dict[str, Any]]:
    from sat_optuna.attention import ATTENTION, describe

    rows = []
    for kind in ATTENTION.names():
        about = describe(kind)
        rows.append(
            {
                "name": kind,
                "sharing": " ".join(about.sharings),
                "params_at_64": about.params_at_64,
                "paper": about.paper,
            }
        )
    return rows


def _backbones() -> list[dict[str, Any]]:
    from sat_optuna.backbones import BACKBONES, backbone_stages

    return [
        {"name": name, "blocks": " ".join(map(str, backbone_stages(name) or ()))}
        for name in BACKBONES.names()
    ]


def _datasets() -> list[dict[str, Any]]:
    from sat_optuna.data import DATASETS

    return [{"name": name} for name in DATASETS.names()]


def _metrics() -> list[dict[str, Any]]:
    from sat_optuna.tasks import METRICS, TASKS, metrics_of

    return [
        {
            "task": task,
            "name": metric.name,
            "unit": metric.unit,
            "better": metric.better,
        }
        for task in TASKS.names()
        for metric in map(METRICS.get, metrics_of(task))
    ]


_LISTS = {
    "modules": (_modules, ("name", "sharing", "params_at_64", "paper")),
    "backbones": (_backbones, ("name", "blocks")),
    "datasets": (_datasets, ("name",)),
    "metrics": (_metrics, ("task", "name", "unit", "better")),
    "studies": (_studies, ("name", "searched", "report")),
}
_REMARKS = {
    "modules": "params_at_64: parameters of one module for features of 64 channels; also 'own', "
    "the attention that a network's blocks carry themselves, and 'constant:KIND', a learnt factor "
    "a channel for any input, the control of any kind",
    "metrics": "also class_accuracy_N, the accuracy on the images of class N, counted from 0, and "
    "those of a study's [plugins]",
    "backbones": "also timm:NAME for any network of timm's resnet, resnetv2, regnet, convnext, "
    "mobilenetv3 and efficientnet families, where timm is installed, and a study's [plugins]",
}


@click.command(epilog="Example: sat-optuna ls backbones --format json")
@click.argument("what", type=click.Choice(list(_LISTS)))
@FORMAT
@click.pass_obj
def ls(console: Console, *, what: str, format: str) -> None:
    """List the names that study.toml can use, or the studies in this folder."""
    make, columns = _LISTS[what]
    rows = make()
    console.rows(rows, columns, format)
    if format != "table":
        return
    if what in _REMARKS:
        console.remark(_REMARKS[what])
    if what == "studies" and not rows:
        console.remark(f"no study under {STUDIES.resolve()}; make one with: sat-optuna new NAME")
