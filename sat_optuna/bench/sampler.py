"""Samplers against each other: equal budgets, paired seeds, every finished run kept at once.

A run asks and tells an Optuna study in memory, to be maximised, from an empty history. Rivals of
Optuna's are made anew for each trial, seeded by (seed, trial number); that costs some of them
time, so look to `bench/overhead.py` for times.
"""

import contextlib
import math
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution

from sat_optuna.bench.contenders import Contender, make_contender
from sat_optuna.bench.pool import one_thread_pool
from sat_optuna.bench.problems import PROBLEMS, Problem, make_problem
from sat_optuna.bench.runs import Run, RunLog, Task
from sat_optuna.sampler import PolicyGradientSampler

__all__ = ["DEFAULT_PROBLEMS", "DEFAULT_RIVALS", "bench_sampler", "play", "versions_used"]

DEFAULT_PROBLEMS = PROBLEMS.names()
DEFAULT_RIVALS = (
    "default",
    "paper",
    "random",
    "tpe",
    "nsga2",
    "gp",
    "qmc",
    "cmaes",
    "one-plus-one",
    "regularised-evolution",
)


def bench_sampler(
    log: Path,
    *,
    problems: Sequence[str] = DEFAULT_PROBLEMS,
    rivals: Sequence[str] = DEFAULT_RIVALS,
    seeds: int = 30,
    evaluations: int | None = None,
    cap_s: float = 300.0,
    workers: int = 1,
    on_run: Callable[[str], None] | None = None,
) -> list[Run]:
    """Make the runs that a file does not hold yet.

    Args:
        log: the file, JSON lines; each run is added as it ends.
        problems: names of `PROBLEMS`, or `table:FILE`.
        rivals: names of `CONTENDERS`, or variants.
        seeds: 0 to this number less one, for each problem and rival.
        evaluations: of each run; None for the problem's own.
        cap_s: seconds of CPU that a time-capped rival may take for a run.
        workers: processes, each of one thread; 0 to run in this one.
        on_run: called after each run with what it was; also for those not done again.

    Returns:
        All runs of the file that have this budget.

    Raises:
        UnknownName: no such problem, rival or setting.
        BenchError: a missing package, or a file that holds something else.
        WriteError: the file cannot be written.
    """
    versions = {rival: _version(make_contender(rival), cap_s) for rival in rivals}
    budgets = {name: _budget(name) for name in problems}
    tasks = [
        Task(problem, rival, seed, evaluations or budget, cap_s)
        for seed in range(seeds)
        for problem, budget in budgets.items()
        for rival in rivals
    ]
    runs = RunLog(log)
    left = runs.missing((task, versions[task.rival]) for task in tasks)
    tell = on_run or (lambda _note: None)
    for _ in range(len(tasks) - len(left)):
        tell("done before")
    with contextlib.closing(_played(left, workers)) as played:
        for run in played:
            runs.append(run)
            tell(f"{run.problem} {run.rival} {run.seed}")
    names = {run.problem for run in runs.runs}
    asked = {name: evaluations or _budget(name) for name in names}
    return [run for run in runs.runs if run.evaluations == asked[run.problem]]


def _budget(problem: str) -> int:
    return make_problem(problem, 0).evaluations


def _version(contender: Contender, cap_s: float) -> str:
    return contender.version + (f", {cap_s:g} s" if contender.capped else "")


def _played(tasks: Sequence[Task], workers: int) -> Generator[Run]:
    """Yield the runs of tasks as they end."""
    if not workers or not tasks:
        yield from map(play, tasks)
        return
    with one_thread_pool(min(workers, len(tasks))) as pool:
        for future in as_completed([pool.submit(play, task) for task in tasks]):
            yield future.result()


def play(task: Task) -> Run:
    """Make a run."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    problem, contender = make_problem(task.problem, task.seed), make_contender(task.rival)
    with warnings.catch_warnings():
        # That a sampler is experimental, or Sobol' points come in numbers other than 2^k.
        warnings.simplefilter("ignore")
        study, rewards, schemes, ms, cpu_s = _searched(task, problem, contender)
    truths = [problem.truth(scheme) for scheme in schemes]
    path: list[tuple[int, float]] = []
    best = -math.inf
    for place, (reward, truth) in enumerate(zip(rewards, truths, strict=True), start=1):
        if reward > best:
            best = reward
            path.append((place, truth))
    recommended = None
    if isinstance(study.sampler, PolicyGradientSampler):
        recommended = truths[study.sampler.recommend(study).number]
    return Run(
        problem=task.problem,
        rival=task.rival,
        seed=task.seed,
        evaluations=task.evaluations,
        version=_version(contender, task.cap_s),
        done=len(schemes),
        path=tuple(path),
        value=path[-1][1],
        recommended=recommended,
        distinct=len({scheme.tobytes() for scheme in schemes}) / len(schemes),
        ms=round(statistics.median(ms), 4),
        cpu_s=round(cpu_s, 3),
        versions=versions_used(),
    )


def _searched(task: Task, problem: Problem, contender: Contender) -> tuple[Any, ...]:
    """Return the study, rewards, schemes, each trial's ms, and the CPU seconds of them all."""
    space = contender.space(problem)
    sampler_of = contender.start(space, task.seed)
    study = optuna.create_study(direction="maximize")
    codes = [d.choices if isinstance(d, CategoricalDistribution) else () for d in space.values()]
    rewards: list[float] = []
    schemes: list[Any] = []
    ms: list[float] = []
    cpu_s = 0.0
    for number in range(task.evaluations):
        if contender.capped and cpu_s > task.cap_s:
            break
        study.sampler = sampler_of(number)
        start, cpu = time.perf_counter(), time.process_time()
        trial = study.ask(space)
        asked, cpu_asked = time.perf_counter() - start, time.process_time() - cpu
        chosen = zip(codes, (trial.params[name] for name in space), strict=True)
        scheme = np.array([c.index(value) if c else value for c, value in chosen])
        reward = problem.evaluate(scheme, number)
        start, cpu = time.perf_counter(), time.process_time()
        study.tell(trial, reward)
        ms.append(1e3 * (asked + time.perf_counter() - start))
        cpu_s += cpu_asked + time.process_time() - cpu
        rewards.append(reward)
        schemes.append(scheme)
    return study, rewards, schemes, ms, cpu_s


def versions_used() -> dict[str, str]:
    """Return the versions of what decides a run beside its sampler."""
    packages = ("sat_optuna", "optuna", "numpy", "scipy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
