"""Training a ticket and its controls from scratch, the same seeds for all, several at a time."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import connection
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from sat_optuna.config.config import RetrainConfig, StudyConfig, TrainConfig
from sat_optuna.config.limits import checked
from sat_optuna.config.plugins import load_plugins
from sat_optuna.data import load_configured
from sat_optuna.data.images import Images
from sat_optuna.data.loaders import UserImages
from sat_optuna.data.split import Split
from sat_optuna.errors import DataError, TrainingError
from sat_optuna.evaluate import accuracy
from sat_optuna.events import Event, OnEvent, ignore
from sat_optuna.evidence.results import (
    RetrainJob,
    RetrainResult,
    retrain_fingerprint,
    write_result,
)
from sat_optuna.supernet.materialise import TicketNetwork, build_network
from sat_optuna.ticket import Ticket
from sat_optuna.training.checkpoint import EpochRecord
from sat_optuna.training.loop import Checkpoint, fit
from sat_optuna.training.precision import pick_device

__all__ = ["retrain", "run_jobs"]


def retrain(
    ticket: Ticket,
    data: Split | UserImages,
    *,
    epochs: int,
    seed: int,
    config: TrainConfig | None = None,
    checkpoint: Checkpoint | None = None,
    on_event: OnEvent = ignore,
) -> TicketNetwork:
    """Train a ticket's network from scratch and return it.

    Args:
        ticket: what to build.
        data: of a Split the training and the validation part are used, the test part is not; or
            images as `fit` takes them.
        epochs: passes over them, at least 1.
        seed: of weights, order and augmentation.
        config: optimiser, schedule, augmentation, precision.
        checkpoint: kept after each epoch and continued from.
        on_event: told as of `fit`; the step is "retrain", and what is made in the end the network.

    Raises:
        ConfigError: `epochs` is below 1.
        DataError, CheckpointError, TrainingError: as of `fit`.
        UnknownName: the backbone or an attention module is not registered here.
    """
    checked("retrain", RetrainConfig, {"epochs": epochs})
    whole = data.train_and_valid if isinstance(data, Split) else data
    device = whole.device if isinstance(whole, Images) else pick_device()
    net = build_network(ticket, seed=seed).to(device)

    def tell(event: Event) -> None:
        on_event(replace(event, step="retrain", made=net if event.finished else event.made))

    fit(net, whole, epochs=epochs, seed=seed, config=config, checkpoint=checkpoint, on_event=tell)
    return net


def run_jobs(
    jobs: Sequence[tuple[RetrainJob, Ticket]], *, workers: int, plugins: Sequence[Path] = ()
) -> Generator[RetrainResult, None, None]:
    """Run jobs in parallel processes, and yield each result as it comes.

    A small network gains nothing from a second thread, so each process uses one; where there is a
    GPU the jobs share it one after the other. A job that was stopped goes on from its checkpoint.

    Args:
        jobs: what to train, each with the ticket that says how to build it.
        workers: processes at the same time; 0 for one a core.
        plugins: Python files that each process runs first.

    Raises:
        TrainingError: a process was killed, or a loss is no longer finite.
    """
    if not jobs:
        return
    alone = pick_device().type == "cuda"
    count = 1 if alone else min(len(jobs), workers or _cores())
    try:
        yield from _in_processes(jobs, count, tuple(plugins))
    except BrokenProcessPool as error:
        raise TrainingError(
            f"one of {count} retraining processes was killed, for want of memory perhaps; set "
            "retrain.workers lower and run the same command again, which goes on from here"
        ) from error


def _cores() -> int:
    """Return the cores that this process may use, which a container makes fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Worker(SpawnProcess):
    """A process that is begun without running the caller's script again.

    Otherwise a script that calls `run_study` would need a main guard: multiprocessing runs the
    main module of the parent in each process that it spawns. What workers run is found by its
    module's name.
    """

    def start(self) -> None:
        """Start the process."""
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            super().start()
        finally:
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


def _in_processes(
    todo: Iterable[tuple[RetrainJob, Ticket]], workers: int, plugins: tuple[Path, ...]
) -> Iterator[RetrainResult]:
    context = _SpawnContext()
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    running: set[Future[RetrainResult]] = {pool.submit(_run, *item, plugins) for item in todo}
    try:
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    finally:
        if running:  # interrupted, or a job failed: the others go on from their checkpoints
            for worker in context.begun:
                worker.terminate()
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


_data: dict[str, Split] = {}  # of this worker, which trains job after job on the same data


def _load(config: StudyConfig) -> Split:
    key = retrain_fingerprint(config)
    if key not in _data:
        _data[key] = load_configured(config.data, seed=config.seed, device=str(pick_device()))
    return _data[key]


def _run(job: RetrainJob, ticket: Ticket, plugins: tuple[Path, ...]) -> RetrainResult:
    """Train, test and write one job, in a worker."""
    load_plugins(plugins)
    data = _load(job.config)
    if data.fingerprint != ticket.dataset_fingerprint:
        raise DataError(
            f"data set {data.name} is not the one that the ticket was searched on: its "
            f"fingerprint is {data.fingerprint[:16]} and was {ticket.dataset_fingerprint[:16]}; "
            "bring the files back, or make a new study"
        )
    identity = f"{retrain_fingerprint(job.config)} {job.scheme} seed {job.seed}"
    checkpoint = Checkpoint(job.weights_path, identity)
    net = retrain(
        ticket,
        data,
        epochs=job.config.retrain.epochs,
        seed=job.seed,
        config=job.config.train,
        checkpoint=checkpoint,
    )
    record = checkpoint.record() or {"history": []}
    history = [EpochRecord(**entry) for entry in record["history"]]
    tested = accuracy(net, data.test)
    result = RetrainResult(job.scheme, job.seed, tested, len(data.test), tuple(history))
    write_result(job, result)
    return result
