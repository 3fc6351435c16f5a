"""Tasks and metrics by name; importing this package imports no torch and no scikit-learn."""

from dataclasses import replace
from typing import Any

from sat_optuna.errors import UnknownName
from sat_optuna.registry import Registry, nearest
from sat_optuna.tasks.contract import Metric, MetricError, Task

__all__ = [
    "METRICS",
    "TASKS",
    "Metric",
    "MetricError",
    "Task",
    "as_metric",
    "as_task",
    "build_task",
    "metrics_of",
]

TASKS: Registry[Task] = Registry("task")
TASKS.add("classification", "sat_optuna.tasks.classification:CLASSIFICATION")
TASKS.add("multi-label", "sat_optuna.tasks.multilabel:MULTI_LABEL")
TASKS.add("regression", "sat_optuna.tasks.regression:REGRESSION")
TASKS.add("segmentation", "sat_optuna.tasks.segmentation:SEGMENTATION")
TASKS.add("counting", "sat_optuna.tasks.counting:COUNTING")

METRICS: Registry[Metric] = Registry("metric")
METRICS.add("accuracy", "sat_optuna.tasks.classification:ACCURACY")
METRICS.add("balanced_accuracy", "sat_optuna.tasks.classification:BALANCED_ACCURACY")
METRICS.add("macro_f1", "sat_optuna.tasks.classification:MACRO_F1")
METRICS.add("auroc", "sat_optuna.tasks.classification:AUROC")
METRICS.add("log_loss", "sat_optuna.tasks.classification:LOG_LOSS")
METRICS.add("map", "sat_optuna.tasks.multilabel:MEAN_AVERAGE_PRECISION")
METRICS.add("macro_auroc", "sat_optuna.tasks.multilabel:MACRO_AUROC")
METRICS.add("mae", "sat_optuna.tasks.regression:MAE")
METRICS.add("rmse", "sat_optuna.tasks.regression:RMSE")
METRICS.add("r2", "sat_optuna.tasks.regression:R2")
METRICS.add("miou", "sat_optuna.tasks.segmentation:MIOU")
METRICS.add("pixel_accuracy", "sat_optuna.tasks.segmentation:PIXEL_ACCURACY")
METRICS.add_family("iou_", "sat_optuna.tasks.segmentation:class_iou")
METRICS.add_family("class_accuracy_", "sat_optuna.tasks.classification:class_accuracy")


def build_task(name: str, *, class_weights: str = "none") -> Task:
    """Return the task of a name.

    >>> build_task("classification", class_weights="balanced").class_weights
    'balanced'

    Args:
        name: one of `TASKS.names()`.
        class_weights: "none", or "balanced" for a loss in which all classes weigh the same.

    Raises:
        UnknownName: no task of that name.
        DataError: a task without classes has no weights of them.
    """
    task = TASKS.get(name)
    return (
        task if class_weights == task.class_weights else replace(task, class_weights=class_weights)
    )


def as_task(given: Task | str) -> Task:
    """Return the task that was given, or the one of that name."""
    return TASKS.get(given) if isinstance(given, str) else given


def as_metric(given: Metric | str, task: Task) -> Metric:
    """Return the metric that was given or named, or the task's usual one for the empty text.

    Raises:
        UnknownName: no such metric, or none of this task.
        MetricError: it is registered under another name than its own.
    """
    metric = METRICS.get(given or task.metric) if isinstance(given, str) else given
    if isinstance(given, str) and given not in ("", metric.name):
        raise MetricError(
            f"metric {given!r} is registered with the name {metric.name!r}; give both one name"
        )
    if not _fits(metric, task):
        known = metrics_of(task)
        raise UnknownName(
            f"{metric.name!r} is no metric of the task {task.name}"
            f"{nearest(metric.name, known) or ';'} its metrics: {', '.join(known)}"
        )
    return metric


def _fits(metric: Metric, task: Task) -> bool:
    """Tell whether a metric names a task, or one of the same targets that keeps the same."""
    others = [TASKS.get(name) for name in metric.tasks if name in TASKS]
    return task.name in metric.tasks or any(
        other.targets == task.targets and (metric.keeps == "right" or other.state is task.state)
        for other in others
    )


def metrics_of(task: Task | str) -> tuple[str, ...]:
    """Return the names of a task's metrics, those of families aside.

    >>> metrics_of("regression")
    ('mae', 'r2', 'rmse')
    """
    task = as_task(task)
    named: list[Any] = [(name, METRICS.get(name)) for name in METRICS.single_names()]
    return tuple(name for name, metric in named if _fits(metric, task))
