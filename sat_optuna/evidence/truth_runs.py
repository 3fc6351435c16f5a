"""The trainings of a truth table: a scheme from scratch, scored on what it never saw.

A network is trained on the training part alone, without the validation images, and scored after
the last epoch on the validation and on the test part. Nothing but these numbers is kept of it.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sat_optuna.config.config import StudyConfig
from sat_optuna.config.plugins import load_plugins
from sat_optuna.data.split import Split
from sat_optuna.errors import TrainingError
from sat_optuna.evaluate import evaluate_network
from sat_optuna.events import Event, OnEvent
from sat_optuna.evidence.retrain import begun, load_data, metric_of, tell_share
from sat_optuna.scheme import Scheme
from sat_optuna.tasks import MetricError, build_task
from sat_optuna.ticket import Ticket
from sat_optuna.training.loop import Training, fit_together
from sat_optuna.training.precision import pick_device

__all__ = ["TruthJob", "TruthResult", "seconds_of", "train_entries"]

_TIMED_S = 2.0  # of the first training, to know how long all take


@dataclass(frozen=True, slots=True)
class TruthJob:
    """One training of a truth table.

    Attributes:
        ticket: the network, its scheme and the data.
        seed: of weights, order and augmentation.
        config: the study's.
    """

    ticket: Ticket
    seed: int
    config: StudyConfig


@dataclass(frozen=True, slots=True)
class TruthResult:
    """What one training gave; NaN where there is nothing.

    Attributes:
        scheme, seed: which it was.
        valid, test: the study's metric after the last epoch, an accuracy in per cent.
        valid_loss, test_loss: mean of the task's loss, of a classification the log-loss, nats.
        train_accuracy: per cent of augmented training images right in the steps of the last epoch.
        seconds: of a core that training and scoring took; on a GPU, of a clock.
        error: why there is no result.
    """

    scheme: Scheme
    seed: int
    valid: float = math.nan
    test: float = math.nan
    valid_loss: float = math.nan
    test_loss: float = math.nan
    train_accuracy: float = math.nan
    seconds: float = math.nan
    error: str = ""


def train_entries(
    group: Mapping[int, TruthJob], *, plugins: tuple[Path, ...]
) -> list[TruthResult]:
    """Train jobs together, in a worker, and score each.

    One whose loss or metric is not finite has that as its error; the same would come of it again.
    """
    load_plugins(plugins)
    try:
        return _entries(group)
    except (MetricError, TrainingError) as error:
        if len(group) == 1:
            (job,) = group.values()
            return [TruthResult(job.ticket.scheme, job.seed, error=str(error))]
        alone = ({number: job} for number, job in group.items())
        return [result for one in alone for result in train_entries(one, plugins=plugins)]


def _entries(group: Mapping[int, TruthJob]) -> list[TruthResult]:
    clock = _clock(next(iter(group.values())).config)
    started = clock()
    trainings = []
    for number, job in group.items():
        data = load_data(job.config, job.ticket.dataset_fingerprint)
        trainings.append(_training(job, data, partial(tell_share, number)))
    histories = fit_together(trainings)
    results = []
    for job, training, history in zip(group.values(), trainings, histories, strict=True):
        data, metric = load_data(job.config, job.ticket.dataset_fingerprint), metric_of(job.config)
        asked = [] if metric.name == "accuracy" else [metric]
        valid, test = (
            evaluate_network(training.net, part, task=training.task, metrics=asked)
            for part in (data.valid, data.test)
        )
        accuracy = history[-1].accuracy
        results.append(
            TruthResult(
                job.ticket.scheme,
                job.seed,
                valid=valid.score(metric.name),
                test=test.score(metric.name),
                valid_loss=valid.loss,
                test_loss=test.loss,
                train_accuracy=math.nan if accuracy is None else accuracy,
            )
        )
    seconds = (clock() - started) / len(group)
    return [replace(result, seconds=seconds) for result in results]


def _clock(config: StudyConfig) -> Callable[[], float]:
    """Return what counts seconds: of the cores, which other work on them does not make more."""
    return time.perf_counter if pick_device(config.device).type == "cuda" else time.process_time


def _training(job: TruthJob, data: Split, on_event: OnEvent) -> Training:
    config = job.config
    task = build_task(config.task.name, class_weights=config.task.class_weights)
    return Training(
        begun(job.ticket, data.train, seed=job.seed, task=task)[0],
        data.train,
        epochs=config.retrain.epochs,
        seed=job.seed,
        config=config.train,
        on_event=on_event,
        task=task,
    )


class _EnoughError(Exception):
    """The first steps of a training were timed."""


def seconds_of(job: TruthJob, data: Split) -> float:
    """Return about how many seconds of a core a training takes, from its first steps.

    Args:
        job: the training; nothing of it is kept.
        data: that it is trained on.
    """
    clock, until = _clock(job.config), time.monotonic() + _TIMED_S
    marks: list[tuple[float, float]] = []

    def on_event(event: Event) -> None:
        marks.append((clock(), (event.done + event.share) / event.total))
        # The first steps, which allocate and choose kernels, are not counted.
        if len(marks) > 2 and time.monotonic() > until:
            raise _EnoughError

    try:
        with suppress(_EnoughError):
            fit_together([_training(job, data, on_event)])
    except TrainingError:  # told after an epoch
        marks.append((clock(), max(marks[-1][1], 1 / job.config.retrain.epochs)))
    first = marks[1] if len(marks) > 2 and marks[-1][1] > marks[1][1] else marks[0]
    return (marks[-1][0] - first[0]) / (marks[-1][1] - first[1])
