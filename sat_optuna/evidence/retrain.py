"""Training a ticket and its controls from scratch, the same seeds for all, several at a time."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path

import torch

from sat_optuna.config.config import StudyConfig, TrainConfig
from sat_optuna.config.plugins import load_plugins
from sat_optuna.data import load_configured
from sat_optuna.data.split import Split
from sat_optuna.errors import TrainingError
from sat_optuna.evaluate import accuracy
from sat_optuna.evidence.results import (
    RetrainJob,
    RetrainResult,
    read_result,
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
    data: Split,
    *,
    epochs: int,
    seed: int,
    config: TrainConfig | None = None,
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> TicketNetwork:
    """Train a ticket's network from scratch on train + validation and return it.

    Args:
        ticket: what to build.
        data: its training and validation part are used, its test part is not.
        epochs: passes over them.
        seed: of weights, order and augmentation.
        config: optimiser, schedule, augmentation, precision.
        checkpoint: kept after each epoch and continued from.
        on_epoch: called after each epoch.
    """
    net = build_network(ticket, seed=seed).to(data.train.device)
    fit(
        net,
        data.train_and_valid,
        epochs=epochs,
        seed=seed,
        config=config,
        checkpoint=checkpoint,
        on_epoch=on_epoch,
    )
    return net


def run_jobs(
    jobs: Sequence[tuple[RetrainJob, Ticket]],
    *,
    workers: int,
    plugins: Sequence[Path] = (),
    on_result: Callable[[RetrainResult], None] | None = None,
) -> list[RetrainResult]:
    """Run the jobs that have no result yet, in parallel processes, and return all results.

    A small network gains nothing from a second thread, so each process uses one; where there is a
    GPU the jobs share it one after the other.

    Args:
        jobs: what to train, each with the ticket that says how to build it.
        workers: processes at the same time; 0 for one a core.
        plugins: Python files that each process runs first.
        on_result: called in this process with each result made now.
    """
    todo = [(job, ticket) for job, ticket in jobs if read_result(job) is None]
    if todo:
        alone = pick_device().type == "cuda"
        count = 1 if alone else min(len(todo), workers or _cores())
        try:
            for result in _in_processes(todo, count, tuple(plugins)):
                if on_result:
                    on_result(result)
        except BrokenProcessPool as error:
            raise TrainingError(
                f"one of {count} retraining processes was killed, for want of memory perhaps; set "
                "retrain.workers lower and run the same command again, which goes on from here"
            ) from error
    results = [read_result(job) for job, _ in jobs]
    return [result for result in results if result is not None]


def _cores() -> int:
    """Return the cores that this process may use, which a container makes fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _in_processes(
    todo: Iterable[tuple[RetrainJob, Ticket]], workers: int, plugins: tuple[Path, ...]
) -> Iterator[RetrainResult]:
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(plugins,),
    )
    running: set[Future[RetrainResult]] = {pool.submit(_run, *item) for item in todo}
    try:
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    finally:
        if running:  # interrupted, or a job failed: the others go on from their checkpoints
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()
        pool.shutdown(cancel_futures=True)


def _start_worker(plugins: Iterable[Path]) -> None:
    torch.set_num_threads(1)
    load_plugins(plugins)

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


def _run(job: RetrainJob, ticket: Ticket) -> RetrainResult:
    """Train, test and write one job, in a worker."""
    data = _load(job.config)
    checkpoint = Checkpoint(job.weights_path, retrain_fingerprint(job.config))
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
