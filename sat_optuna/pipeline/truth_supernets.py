"""Supernets of several seeds and recipes score every scheme of a study, beside its truth table."""

from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from sat_optuna.config.config import differences
from sat_optuna.config.plugins import load_plugins
from sat_optuna.errors import StudyError, TrainingError
from sat_optuna.events import Event, OnEvent
from sat_optuna.evidence.retrain import in_processes, load_data, processes_for
from sat_optuna.evidence.supernet_scores import (
    SupernetJob,
    SupernetScores,
    Values,
    decided_by,
    read_keys,
    recipes,
    scores_of,
)
from sat_optuna.pipeline.done import plain

if TYPE_CHECKING:
    from sat_optuna.pipeline.folder import StudyFolder

__all__ = ["score_supernets", "telling_of_kills"]


def score_supernets(
    study: "StudyFolder", *, seeds: int, workers: int, on_event: OnEvent
) -> SupernetScores:
    """Train the supernets that are missing, score all schemes in each, and write what they say.

    Args:
        study: the folder; supernets.npz and supernets.json in it are gone on with.
        seeds: supernets of each recipe, their seeds counted from 0.
        workers: processes at the same time; 0 for as many as the cores have threads for.
        on_event: told after each supernet.

    Raises:
        StudyError: what is there was made with another configuration.
        TrainingError: a process was killed.
    """
    study.work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(study.work / "supernets.lock")  # it dies with the process
    try:
        lock.acquire(blocking=False)
    except Timeout:
        waits = "another process scores supernets; this one goes on after it"
        on_event(Event(step="supernets", done=0, total=1, message=waits))
        lock.acquire()
    try:  # what the other has made is read now, so that nobody trains or writes it twice
        return _score(study, seeds=seeds, workers=workers, on_event=on_event)
    finally:
        lock.release()


def _score(study: "StudyFolder", *, seeds: int, workers: int, on_event: OnEvent) -> SupernetScores:
    config, fingerprint = study.config, study.parts.data.fingerprint
    now: dict[str, Any] = plain({**decided_by(config), "the data's fingerprint": fingerprint})
    held = SupernetScores.load(study.folder) or SupernetScores({}, now)
    if changed := differences(read_keys(held.decided), now):
        raise StudyError(
            f"{study.folder / 'supernets.json'} was made with another configuration: "
            f"{'; '.join(changed)}; restore that to continue it, or move it away"
        )
    jobs = [
        SupernetJob(name, recipe, seed, config, fingerprint)
        for seed in range(seeds)
        for name, recipe in recipes(config).items()
    ]
    todo = [job for job in jobs if (job.recipe, job.seed) not in held.scores]
    scores, done = dict(held.scores), len(jobs) - len(todo)
    count, _ = processes_for(config, params=0, workers=workers)
    with telling_of_kills(count, "the supernets"):
        running = in_processes(
            ({number: job} for number, job in enumerate(todo)),
            partial(_run, plugins=study.plugins),
            workers=count,
            threads=config.threads,
        )
        with closing(running) as results:
            for key, found in results:
                scores |= {(recipe, key[1]): row for recipe, row in found.items()}
                held = SupernetScores(scores, now)
                held.save(study.folder)
                done += 1
                said = f"{key[0]}, seed {key[1]}: best {max(found[key[0]]):.2f}"
                on_event(Event(step="supernets", done=done, total=len(jobs), message=said))
    on_event(Event(step="supernets", done=len(jobs), total=len(jobs), made=held, finished=True))
    return held


@contextmanager
def telling_of_kills(count: int, what: str) -> Iterator[None]:
    """Say what to do where one of some processes is killed.

    Raises:
        TrainingError: one is.
    """
    try:
        yield
    except BrokenProcessPool as error:
        raise TrainingError(
            f"one of {count} processes of {what} was killed, for want of memory perhaps; give "
            "fewer --workers and run the same command again"
        ) from error


def _run(
    group: Mapping[int, SupernetJob], *, plugins: tuple[Path, ...]
) -> list[tuple[tuple[str, int], dict[str, Values]]]:
    load_plugins(plugins)
    return [
        ((job.recipe, job.seed), scores_of(job, load_data(job.config, job.data_fingerprint)))
        for job in group.values()
    ]
