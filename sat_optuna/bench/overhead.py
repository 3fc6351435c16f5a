"""What a sampler costs a trial: ask and tell in memory, beside RandomSampler in the same run.

A study of 54 choices of two and N finished trials, added with random schemes and the values of
ticket54; then rounds in which each sampler asks and tells once, in turn, so that what else the
machine does falls on all. Each sampler lives through all rounds, as in `study.optimize`; its first
round, in which it reads the N trials, counts apart.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import create_trial

from sat_optuna.bench.contenders import make_contender
from sat_optuna.bench.pool import one_thread_pool
from sat_optuna.bench.problems import Problem, make_problem
from sat_optuna.sampler import PolicyGradientSampler

__all__ = ["HISTORIES", "bench_overhead"]

HISTORIES = (250, 500, 1000, 2000, 4000)
_MEASURED = 1000  # the history at which all samplers are timed, and for the full number of rounds
_SAMPLERS: dict[str, Callable[[], BaseSampler]] = {
    "random": lambda: RandomSampler(seed=0),
    "default": lambda: PolicyGradientSampler(seed=0),
    "paper": lambda: PolicyGradientSampler(seed=0, preset="paper"),
    "nsga2": lambda: NSGAIISampler(seed=0, population_size=20),
    "tpe": lambda: TPESampler(seed=0),
}
_GROWTH = ("random", "default")


def bench_overhead(
    *,
    histories: tuple[int, ...] = HISTORIES,
    rounds: int = 200,
    on_history: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Time samplers on studies of several lengths, in a process of its own with one thread.

    Args:
        histories: finished trials; at 1,000 all samplers are timed, else the default and random.
        rounds: asks and tells of each sampler.
        on_history: called after each length.

    Returns:
        A row a sampler and length: sampler, trials, first_ms, median_ms, p95_ms, cpu_ms (the
        median of CPU times, which other work on the machine disturbs less), and beyond_ms and
        beyond_cpu_ms, the medians less random's.
    """
    rows: list[dict[str, Any]] = []
    with one_thread_pool(1) as pool:
        for trials in histories:
            names = tuple(_SAMPLERS) if trials == _MEASURED else _GROWTH
            rows += pool.submit(_timed, names, trials, rounds).result()
            if on_history:
                on_history(f"{trials} trials")
    return rows


def _timed(names: tuple[str, ...], trials: int, rounds: int) -> list[dict[str, Any]]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    problem = make_problem("ticket54", 0)
    space = make_contender("random").space(problem)
    studies = [_study(_SAMPLERS[name](), problem, space, trials) for name in names]
    times = np.array(
        [
            [_ask_and_tell(study, problem, space, number) for study in studies]
            for number in range(rounds + 1)
        ]
    )
    medians = np.median(times[1:], axis=0)  # (samplers, 2)
    return [
        {
            "sampler": name,
            "trials": trials,
            "first_ms": round(float(times[0, place, 0]), 3),
            "median_ms": round(float(median[0]), 3),
            "p95_ms": round(float(np.quantile(times[1:, place, 0], 0.95)), 3),
            "cpu_ms": round(float(median[1]), 3),
            "beyond_ms": round(float(median[0] - medians[0, 0]), 3),
            "beyond_cpu_ms": round(float(median[1] - medians[0, 1]), 3),
        }
        for place, (name, median) in enumerate(zip(names, medians, strict=True))
    ]


def _study(
    sampler: BaseSampler, problem: Problem, space: dict[str, BaseDistribution], trials: int
) -> Study:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    schemes = np.random.default_rng(0).integers(2, size=(trials, len(space)))
    study.add_trials(
        [
            create_trial(
                params=dict(zip(space, scheme.tolist(), strict=True)),
                distributions=space,
                value=problem.truth(scheme),
            )
            for scheme in schemes
        ]
    )
    return study


def _ask_and_tell(
    study: Study, problem: Problem, space: dict[str, BaseDistribution], number: int
) -> tuple[float, float]:
    """Return the milliseconds of an ask and its tell, by the clock and of CPU."""
    start, cpu = time.perf_counter(), time.thread_time()
    trial = study.ask(space)
    asked, cpu_asked = time.perf_counter() - start, time.thread_time() - cpu
    reward = problem.evaluate(np.array([trial.params[name] for name in space]), number)
    start, cpu = time.perf_counter(), time.thread_time()
    study.tell(trial, reward)
    told, cpu_told = time.perf_counter() - start, time.thread_time() - cpu
    return 1e3 * (asked + told), 1e3 * (cpu_asked + cpu_told)
