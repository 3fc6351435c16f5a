"""What the first proposal costs after a study was opened again, beside reading the study alone.

A study in SQLite of N finished trials with 54 choices of two, as a search leaves it. Each time a
fresh process opens a copy of the file, and either reads all trials or asks for a trial and its
first parameter.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import create_trial

from sat_optuna.bench.contenders import make_contender
from sat_optuna.bench.pool import one_thread_pool
from sat_optuna.bench.problems import make_problem
from sat_optuna.sampler import PolicyGradientSampler
from sat_optuna.sampler.storage import POLICY_KEY

__all__ = ["READERS", "READING", "ROUNDS", "bench_reopening"]

READING = "(reading alone)"
ROUNDS = 5
_SAMPLERS: dict[str, Callable[[], BaseSampler]] = {
    "random": lambda: RandomSampler(seed=0),
    "tpe": lambda: TPESampler(seed=0),
    "default": lambda: PolicyGradientSampler(seed=0),
    "paper": lambda: PolicyGradientSampler(seed=0, preset="paper"),
}
READERS = (READING, *_SAMPLERS)
_NAME = "reopening"


def bench_reopening(
    *,
    trials: int = 1000,
    rounds: int = ROUNDS,
    on_opening: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Time the first proposal of a process.

    Args:
        trials: finished ones in the study.
        rounds: in each, every sampler opens the study once, in turn.
        on_opening: called after each opening.

    Returns:
        A row for reading alone and one a sampler: median_ms and most_ms over the rounds, and
        beyond_ms, the median less that of reading.
    """
    times: dict[str, list[float]] = {name: [] for name in READERS}
    with tempfile.TemporaryDirectory() as folder:
        made, opened = Path(folder) / "made.db", Path(folder) / "opened.db"
        with one_thread_pool(1) as pool:
            pool.submit(_make, made, trials).result()
        for _ in range(rounds):
            for name, found in times.items():
                shutil.copyfile(made, opened)
                with one_thread_pool(1) as pool:
                    found.append(pool.submit(_opened, opened, name).result())
                if on_opening:
                    on_opening(name)
    reading = median(times[READING])
    return [
        {
            "sampler": name,
            "trials": trials,
            "rounds": rounds,
            "median_ms": round(median(found), 1),
            "most_ms": round(max(found), 1),
            "beyond_ms": round(median(found) - reading, 1),
        }
        for name, found in times.items()
    ]


def _make(file: Path, trials: int) -> None:
    """Write a study with random schemes, their values, and the records of their proposals."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    problem = make_problem("ticket54", 0)
    space = make_contender("random").space(problem)
    study = optuna.create_study(
        storage=f"sqlite:///{file}", study_name=_NAME, direction="maximize"
    )
    schemes = np.random.default_rng(0).integers(2, size=(trials, len(space)))
    for number, scheme in enumerate(schemes):
        params = dict(zip(space, scheme.tolist(), strict=True))
        record = {"n": number, "v": number, "lp": -len(space) * np.log(2), "x": params}
        study.add_trial(
            create_trial(
                params=params,
                distributions=space,
                value=problem.truth(scheme),
                system_attrs={POLICY_KEY: record},
            )
        )


def _opened(file: Path, name: str) -> float:
    """Open the study and read it, or let a sampler propose; return the milliseconds of both."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    problem = make_problem("ticket54", 0)
    parameter, *_ = make_contender("random").space(problem)
    sampler = None if name == READING else _SAMPLERS[name]()
    start = time.perf_counter()
    study = optuna.load_study(storage=f"sqlite:///{file}", study_name=_NAME, sampler=sampler)
    if sampler is None:
        study.get_trials(deepcopy=False)
    else:
        study.ask().suggest_categorical(parameter, problem.choices[0])
    return 1e3 * (time.perf_counter() - start)
