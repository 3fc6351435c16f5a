"""Training a ticket and its controls, the same seeds for all, several at a time."""

import contextlib
import multiprocessing
import os
import signal
import struct
import sys
import threading
import time
import warnings
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from multiprocessing import connection
from multiprocessing.context import SpawnContext, SpawnProcess
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

import torch
from torch import nn

from sat_optuna.backbones.weights import WeightsError
from sat_optuna.config.config import RetrainConfig, StudyConfig, TrainConfig
from sat_optuna.config.limits import checked
from sat_optuna.config.plugins import load_plugins
from sat_optuna.data import load_configured
from sat_optuna.data.images import Images
from sat_optuna.data.loaders import UserImages, training_images
from sat_optuna.data.split import Split
from sat_optuna.errors import DataError, SatOptunaWarning, TrainingError
from sat_optuna.evaluate import evaluate_network
from sat_optuna.evaluate.network import calibration_batches, check_metric
from sat_optuna.events import Event, OnEvent, ignore
from sat_optuna.evidence.constants import real_ticket
from sat_optuna.evidence.results import (
    RetrainJob,
    RetrainResult,
    retrain_fingerprint,
    write_result,
)
from sat_optuna.processes import cores
from sat_optuna.supernet.constants import start_constants
from sat_optuna.supernet.materialise import build_network, materialise, supernet_of
from sat_optuna.supernet.weights import load_weights
from sat_optuna.tasks import TASKS, Metric, Task, as_metric, as_task, build_task
from sat_optuna.tasks.classification import CLASSIFICATION
from sat_optuna.ticket import Ticket
from sat_optuna.training.loop import (
    EVENT_SECONDS,
    Checkpoint,
    Training,
    fit,
    fit_together,
)
from sat_optuna.training.precision import pick_device
from sat_optuna.training.step import together_for

__all__ = [
    "begun",
    "in_processes",
    "load_data",
    "metric_of",
    "processes_for",
    "retrain",
    "run_jobs",
    "tell_share",
]

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")
# Trained at the same time, by one process; each job with its number among all.
_Group: TypeAlias = Mapping[int, tuple[RetrainJob, Ticket]]


def retrain(
    ticket: Ticket,
    data: Split | UserImages,
    *,
    epochs: int,
    seed: int,
    config: TrainConfig | None = None,
    weights: str | PathLike[str] | None = None,
    checkpoint: Checkpoint | None = None,
    on_event: OnEvent = ignore,
    task: Task | str = "",
) -> nn.Module:
    """Train a ticket's network from scratch, or from trained weights, and return it.

    The factors of constant kinds start as of `supernet.constants.start_constants`.

    Args:
        ticket: what to build.
        data: of a Split the training and the validation part are used, the test part is not; or
            images as `fit` takes them.
        epochs: passes over them, at least 1.
        seed: of weights, order and augmentation.
        config: optimiser, schedule, augmentation, precision.
        weights: a file that the network without attention starts from, as of `load_weights`; the
            file that the ticket names by its digest, where it names one. None: from scratch.
        checkpoint: kept after each epoch and continued from.
        on_event: told as of `fit`; the step is "retrain", and what is made in the end the network.
        task: as of `fit`; the one that the ticket's study names if empty.

    Raises:
        ConfigError: `epochs` is below 1.
        DataError, CheckpointError, TrainingError: as of `fit`.
        UnknownName: the backbone or an attention module is not registered here.
        WeightsError: the weights are not the ticket's, or of another network.
    """
    checked("retrain", RetrainConfig, {"epochs": epochs})
    whole = data.train_and_valid if isinstance(data, Split) else data
    named: dict[str, Any] = dict(ticket.config.get("task", {}))
    task = task or (build_task(**named) if named else CLASSIFICATION)
    net, body = begun(ticket, whole, seed=seed, weights=weights, task=task)

    def tell(event: Event) -> None:
        on_event(replace(event, step="retrain", made=net if event.finished else event.made))

    fit(
        net,
        whole,
        epochs=epochs,
        seed=seed,
        config=config,
        body=body,
        checkpoint=checkpoint,
        on_event=tell,
        task=task,
    )
    return net


def begun(
    ticket: Ticket,
    images: UserImages,
    *,
    seed: int,
    task: Task | str = CLASSIFICATION,
    weights: str | PathLike[str] | None = None,
) -> tuple[nn.Module, Collection[str]]:
    """Return a ticket's network where its images are or go, and the names of what was loaded.

    What is not loaded is drawn by the seed. Constant kinds start where the fresh modules rescale
    to, on images that the study's seed draws of those to train on, not augmented.
    """
    device = images.device if isinstance(images, Images) else pick_device()
    net, body = _fresh(ticket, device, seed=seed, weights=weights)
    if real := real_ticket(ticket):
        twin, _ = _fresh(real, device, seed=seed, weights=weights)
        targets = as_task(task).targets
        seen = training_images(images, device=device, targets=targets)
        start_constants(net, twin, calibration_batches(seen, seed=ticket.seed))
    return net, body


def _fresh(
    ticket: Ticket, device: torch.device, *, seed: int, weights: str | PathLike[str] | None
) -> tuple[nn.Module, Collection[str]]:
    """Return a ticket's network as its seed draws it, and the names of what was loaded."""
    if weights is None:
        return build_network(ticket, seed=seed).to(device), ()
    net = supernet_of(ticket, seed=seed)
    loaded = load_weights(net, weights)
    if ticket.weights not in (None, loaded.digest):
        raise WeightsError(
            f"weights {weights} are not those that the ticket was found with: their SHA-256 is "
            f"{loaded.digest[:16]} and was {str(ticket.weights)[:16]}; bring that file back, or "
            "make a new study"
        )
    return materialise(net, ticket.scheme).to(device), loaded.body


def run_jobs(
    jobs: Sequence[tuple[RetrainJob, Ticket]],
    *,
    workers: int,
    plugins: Sequence[Path] = (),
    weights: Path | None = None,
    on_share: Callable[[float], object] = lambda _share: None,
) -> Generator[RetrainResult, None, None]:
    """Run jobs in parallel processes, and yield each result as it comes.

    Each process uses as many threads as the study's `threads` says. Where there is a GPU one
    process trains them, small networks several at a time. A job that was stopped goes on from its
    checkpoint.

    Args:
        jobs: what to train, each with the ticket that says how to build it.
        workers: processes at the same time; 0 for as many as the cores have threads for.
        plugins: Python files that each process runs first.
        weights: what all start from, as of `retrain`.
        on_share: told now and then how much of the jobs under way is done: 1.5 is one and a half.

    Raises:
        TrainingError: a process was killed, or a loss is no longer finite.
    """
    if not jobs:
        return
    config = jobs[0][0].config
    params = max(ticket.params for _, ticket in jobs)
    count, together = processes_for(config, params=params, workers=workers)
    groups = [range(n, min(n + together, len(jobs))) for n in range(0, len(jobs), together)]
    count = min(len(groups), count)
    try:
        yield from in_processes(
            ({number: jobs[number] for number in group} for group in groups),
            partial(_run, plugins=tuple(plugins), weights=weights),
            workers=count,
            threads=config.threads,
            on_share=on_share,
        )
    except BrokenProcessPool as error:
        raise TrainingError(
            f"one of {count} retraining processes was killed, for want of memory perhaps; set "
            "retrain.workers lower and run the same command again, which goes on from here"
        ) from error


def processes_for(config: StudyConfig, *, params: int, workers: int) -> tuple[int, int]:
    """Return how many processes train at the same time, and how many networks each of them.

    Args:
        config: of the study.
        params: parameters of the largest network.
        workers: processes that are asked for; 0 for as many as the cores have threads for. A GPU
            has one.
    """
    device = pick_device(config.device)
    together = together_for(config.train, device, params=params)
    if device.type == "cuda":
        return 1, together
    return workers or max(1, cores() // config.threads), together


_STARTING = threading.Lock()


class _Worker(SpawnProcess):
    """A process that is begun without running the caller's script again.

    Otherwise a script that calls `run_study` would need a main guard: multiprocessing runs the
    main module of the parent in each process that it spawns. What workers run is found by its
    module's name.
    """

    def start(self) -> None:
        """Start the process; a terminal's Ctrl-C is its parent's to hear, which ends it.

        For that moment the main module has neither a file nor a spec, which is all that a spawned
        process learns of it; other threads find in it what they always do.
        """
        with _STARTING:
            main = sys.modules["__main__"]
            shown = ModuleType("__main__")
            vars(shown).update({**vars(main), "__spec__": None})
            vars(shown).pop("__file__", None)
            sys.modules["__main__"] = shown
            before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # it inherits that
            try:
                super().start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                sys.modules["__main__"] = main


class _SpawnContext(SpawnContext):
    """Spawns workers, and knows which it has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[_Worker] = []

    def Process(self, *args: Any, **kwargs: Any) -> _Worker:  # type: ignore[override]  # noqa: N802
        """Make a worker."""
        self.begun.append(_Worker(*args, **kwargs))
        return self.begun[-1]


def in_processes(
    todo: Iterable[Mapping[int, _Job]],
    run: Callable[[Mapping[int, _Job]], list[_Result]],
    *,
    workers: int,
    threads: int,
    on_share: Callable[[float], object] = lambda _share: None,
) -> Generator[_Result, None, None]:
    """Run groups of jobs in spawned processes, and yield each result as it comes.

    Args:
        todo: the groups, each job with its number; one is taken when a process is free for it.
        run: does the jobs of a group, in a process that goes on with the next one; it may call
            `tell_share`.
        workers: processes at the same time.
        threads: of each process.
        on_share: told now and then how much of the jobs under way is done: 1.5 is one and a half.

    Raises:
        BrokenProcessPool: a process was killed.
    """
    context = _SpawnContext()
    heard, told = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(threads, told)
    )
    waiting = iter(todo)
    running: dict[Future[list[_Result]], Mapping[int, _Job]] = {}
    shares: dict[int, float] = {}

    def fill() -> None:
        while len(running) < workers and (group := next(waiting, None)):
            running[pool.submit(run, group)] = group

    try:
        fill()
        while running:
            finished, _ = wait(running, timeout=EVENT_SECONDS, return_when=FIRST_COMPLETED)
            while heard.poll():
                number, share = _SHARE.unpack(heard.recv_bytes())
                shares[number] = share
            for future in finished:
                del running[future]
            fill()  # first, so that no process waits for whoever takes the results
            for future in finished:
                yield from future.result()
            on_share(
                sum(shares.get(number, 0.0) for group in running.values() for number in group)
            )
    finally:
        if running:  # interrupted, or a job failed: the others go on from their checkpoints
            for worker in context.begun:
                worker.terminate()
        pool.shutdown(cancel_futures=True)


_SHARE = struct.Struct("id")  # a job's number, and how much of it is done
_told: list[connection.Connection] = []  # of this worker: where it says that


def _start_worker(threads: int, told: connection.Connection) -> None:
    torch.set_num_threads(threads)
    # Nobody may read for a while, and a training must not wait for that.
    os.set_blocking(told.fileno(), False)
    _told.append(told)

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


_data: dict[str, Split] = {}  # of this worker, which trains job after job on the same data


def load_data(config: StudyConfig, fingerprint: str) -> Split:
    """Return a study's data, which a worker reads once.

    Args:
        config: of the study.
        fingerprint: of the data that it was searched on.

    Raises:
        DataError: they are other data now.
    """
    key = retrain_fingerprint(config)
    if key not in _data:
        device = str(pick_device(config.device))
        _data[key] = load_configured(config.data, seed=config.seed, device=device)
    data = _data[key]
    if data.fingerprint != fingerprint:
        raise DataError(
            f"data set {data.name} is not the one that the ticket was searched on: its "
            f"fingerprint is {data.fingerprint[:16]} and was {fingerprint[:16]}; bring the files "
            "back, or make a new study"
        )
    return data


def tell_share(number: int, event: Event) -> None:
    """Say in a worker how much of a job is done.

    So few bytes come whole or, where the pipe is full, not at all.
    """
    with contextlib.suppress(BlockingIOError, BrokenPipeError):
        _told[0].send_bytes(_SHARE.pack(number, (event.done + event.share) / event.total))


def _run(group: _Group, *, plugins: tuple[Path, ...], weights: Path | None) -> list[RetrainResult]:
    """Train jobs together, then test and write each, in a worker."""
    started = time.time()
    load_plugins(plugins)
    trainings = [_training(number, *item, weights) for number, item in group.items()]
    for (job, ticket), training in zip(group.values(), trainings, strict=True):
        if (metric := metric_of(job.config)).name != "accuracy":  # before hours of training
            data = load_data(job.config, ticket.dataset_fingerprint)
            check_metric(metric, training.task, _scored_on(job, data), outputs=data.classes)
    histories = fit_together(trainings)
    results = []
    for (job, ticket), training, history in zip(group.values(), trainings, histories, strict=True):
        metric = metric_of(job.config)
        asked = [] if metric.name == "accuracy" else [metric]
        images = _scored_on(job, load_data(job.config, ticket.dataset_fingerprint))
        tested = evaluate_network(training.net, images, task=training.task, metrics=asked)
        results.append(
            RetrainResult(
                job.scheme,
                job.seed,
                tested.accuracy,
                tested.n,
                history,
                tested.class_hits,
                tested.class_counts,
                tested.scores.get(metric.name),
                started,
                time.time(),
            )
        )
        write_result(job, results[-1])
    return results


def _scored_on(job: RetrainJob, data: Split) -> Images:
    return data.valid if job.split == "valid" else data.test


def metric_of(config: StudyConfig) -> Metric:
    """Return what the networks of a study are scored by."""
    return as_metric(config.search.metric, TASKS.get(config.task.name))


def _training(number: int, job: RetrainJob, ticket: Ticket, weights: Path | None) -> Training:
    data = load_data(job.config, ticket.dataset_fingerprint)
    identity = f"{retrain_fingerprint(job.config)} {job.scheme} seed {job.seed}"
    task = build_task(job.config.task.name, class_weights=job.config.task.class_weights)
    images = data.train_and_valid
    if job.split == "valid":
        images, identity = data.train, f"{identity} without validation"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SatOptunaWarning)  # the caller has said what is loaded
        net, body = begun(ticket, images, seed=job.seed, weights=weights, task=task)
    return Training(
        net,
        images,
        body=body,
        epochs=job.config.retrain.epochs,
        seed=job.seed,
        config=job.config.train,
        checkpoint=Checkpoint(job.weights_path, identity),
        on_event=partial(tell_share, number),
        task=task,
    )
