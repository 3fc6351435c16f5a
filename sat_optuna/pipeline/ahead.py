"""Plain and full trained while the study is searched, by cores that would do nothing meanwhile.

Which networks these are is known before the search; they come out as the retraining step makes
them, to the bit, and it finds them done.
"""

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sat_optuna.errors import SatOptunaWarning, one_line
from sat_optuna.evidence.results import RetrainJob, retrain_fingerprint
from sat_optuna.files import sha256_of
from sat_optuna.pipeline.outcome import networks_step
from sat_optuna.scheme import Scheme

if TYPE_CHECKING:
    from sat_optuna.pipeline.folder import StudyFolder
    from sat_optuna.ticket import Ticket

__all__ = ["training_ahead"]


class _StoppedError(Exception):
    """The block that the networks are trained beside is over."""


@contextlib.contextmanager
def training_ahead(study: "StudyFolder") -> Iterator[None]:
    """Train plain and full in other processes while the block runs, where a core is left for it.

    What is not finished when the block ends has its checkpoints, and the retraining goes on from
    them. What fails here is a warning, for it is tried there again.
    """
    workers = _idle_cores(study)
    jobs = _jobs(study) if workers else []
    if not jobs:
        yield
        return
    over, failed = threading.Event(), list[Exception]()
    weights = study.weights_path if study.config.retrain.start == "weights" else None

    def on_share(_share: float) -> None:
        if over.is_set():
            raise _StoppedError

    def train() -> None:
        from sat_optuna.evidence.retrain import run_jobs

        step = networks_step(study.config)
        running = run_jobs(
            jobs, workers=workers, plugins=study.plugins, weights=weights, on_share=on_share
        )
        done = {(job.scheme, job.seed): job for job, _ in jobs}
        try:
            with contextlib.closing(running) as results:
                for result in results:
                    job = done[result.scheme, result.seed]
                    paths = (job.result_path, job.weights_path)
                    study.records.add(step, {path.name: sha256_of(path) for path in paths})
        except _StoppedError:
            pass
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=train, name="training ahead")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if failed:
            warnings.warn(
                f"plain and full could not be trained while the study was searched "
                f"({one_line(failed[0])}); the retraining tries again",
                SatOptunaWarning,
                stacklevel=3,
            )


def _idle_cores(study: "StudyFolder") -> int:
    """Return how many processes may train beside this one; 0 where there is no use in it."""
    config = study.config
    begun = study.records.get("pretrain") if study.uses_supernet else None
    if (begun and begun.finished) or study.has_search() or config.search.objective == "folded":
        return 0  # before torch is imported
    from sat_optuna.evidence.retrain import processes_for
    from sat_optuna.training.precision import pick_device

    if pick_device(config.device).type == "cuda":  # which the search has for itself
        return 0
    if config.data.workers:  # processes that decode images have the cores, and are forks of this
        return 0
    return processes_for(config, params=0, workers=config.retrain.workers)[0] - 1


def _jobs(study: "StudyFolder") -> "list[tuple[RetrainJob, Ticket]]":
    """Return the retrainings of plain and full that have no result yet."""
    stages, config = study.parts.check_fit(), study.config
    known = study.records.get(networks_step(config))
    folder = study.work / "retrain" / retrain_fingerprint(config)
    jobs = []
    for seed in config.retrain.seeds:
        for choice in range(len(config.attention.kinds) + 1):
            ticket = study.parts.ticket(Scheme.uniform(stages, choice))
            job = RetrainJob(ticket.scheme, seed, config, folder)
            if known is None or job.result_path.name not in known.made:
                jobs.append((job, ticket))
    return jobs
