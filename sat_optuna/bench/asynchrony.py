"""How often schemes are proposed twice when several processes work on one study at once.

Each process asks, evaluates and tells until the study has its trials; nobody waits for another. An
evaluation takes a random time, so trials end in another order than they began. The study is a
journal file: SQLite would take longer to write 54 parameters than the evaluations last.
"""

import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from sat_optuna.bench.contenders import make_contender
from sat_optuna.bench.pool import one_thread_pool
from sat_optuna.bench.problems import make_problem
from sat_optuna.sampler import PolicyGradientSampler

__all__ = ["ASYNCHRONOUS", "PROBLEMS", "SEEDS", "bench_asynchrony"]

PROBLEMS = ("ticket16", "ticket54")
SEEDS = 3

# Ours have the study's seed in each process, Optuna's one of their own, or all would draw alike.
ASYNCHRONOUS: dict[str, Callable[[int, int], BaseSampler]] = {
    "random": lambda seed, process: RandomSampler(seed=_own(seed, process)),
    "tpe": lambda seed, process: TPESampler(seed=_own(seed, process)),
    "tpe, constant_liar": lambda seed, process: TPESampler(
        seed=_own(seed, process), constant_liar=True
    ),
    "default": lambda seed, _process: PolicyGradientSampler(seed=seed),
    "paper": lambda seed, _process: PolicyGradientSampler(seed=seed, preset="paper"),
}
_NAME = "asynchrony"


def bench_asynchrony(
    *,
    problems: Sequence[str] = PROBLEMS,
    workers: int = 4,
    trials: int = 200,
    seeds: int = SEEDS,
    pause_ms: float = 20.0,
    on_study: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Search with several processes of one thread each, and count what was proposed twice.

    Args:
        problems: names of the benchmark's problems.
        workers: processes on a study.
        trials: of each study; those that processes begin beyond it are not counted.
        seeds: studies of each sampler and problem.
        pause_ms: mean of the time an evaluation takes, exponentially distributed.
        on_study: called after each study.

    Returns:
        A row a problem and sampler: repeats_percent, the share of trials whose scheme a trial of
        smaller number has, most_percent, its greatest over the seeds, and at_work, how many other
        trials ran on average when one began.
    """
    rows: list[dict[str, Any]] = []
    with one_thread_pool(workers) as pool, tempfile.TemporaryDirectory() as folder:
        for problem, name in itertools.product(problems, ASYNCHRONOUS):
            found = []
            for seed in range(seeds):
                file = Path(folder) / f"{len(rows)}-{seed}.journal"
                work = partial(_work, file, name, problem, seed, trials=trials, pause_ms=pause_ms)
                found.append(_searched(pool, file, work, workers)[:trials])
                if on_study:
                    on_study(f"{problem} {name}")
            rows.append(
                {"problem": problem, "sampler": name, "workers": workers, "seeds": seeds}
                | _counted(found)
            )
    return rows


def _own(seed: int, process: int) -> int:
    return int(np.random.default_rng([seed, process]).integers(2**32))


def _searched(
    pool: Executor, file: Path, work: Callable[[int], None], count: int
) -> list[FrozenTrial]:
    """Let so many processes work on a new study; return its trials by number."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=_journal(file), study_name=_NAME, direction="maximize")
    for future in [pool.submit(work, process) for process in range(count)]:
        future.result()
    return study.get_trials(deepcopy=False)


def _work(
    file: Path,
    name: str,
    problem_name: str,
    seed: int,
    process: int,
    *,
    trials: int,
    pause_ms: float,
) -> None:
    """Ask, evaluate and tell until the study has its trials; one process of several."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # no word of waits for the lock
    problem = make_problem(problem_name, seed)
    space = make_contender("random").space(problem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that something is experimental
        study = optuna.load_study(
            storage=_journal(file), study_name=_NAME, sampler=ASYNCHRONOUS[name](seed, process)
        )
        while len(study.get_trials(deepcopy=False)) < trials:
            trial = study.ask(space)
            values = [trial.params[parameter] for parameter in space]
            chosen = zip(problem.choices, values, strict=True)
            scheme = np.array([choices.index(value) for choices, value in chosen])
            pause = np.random.default_rng([seed, trial.number]).exponential(pause_ms)
            time.sleep(pause / 1e3)
            study.tell(trial, problem.evaluate(scheme, trial.number))


def _journal(file: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(file)))


def _counted(studies: Sequence[Sequence[FrozenTrial]]) -> dict[str, Any]:
    """Return what is reported of studies that differ by their seed alone."""
    shares = [
        100 * (1 - len({tuple(sorted(t.params.items())) for t in trials}) / len(trials))
        for trials in studies
    ]
    beside = [_at_work(trial, trials) for trials in studies for trial in trials]
    return {
        "trials": len(studies[0]),
        "repeats_percent": round(fmean(shares), 2),
        "most_percent": round(max(shares), 2),
        "at_work": round(fmean(beside), 2),
    }


def _at_work(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """Return how many trials of smaller number were not finished when one began."""
    begun = trial.datetime_start
    return sum(
        other.datetime_complete is None or begun is None or other.datetime_complete > begun
        for other in trials[: trial.number]
    )
