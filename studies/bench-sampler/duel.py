"""The duel of samplers: equal budgets, paired seeds, and every finished run kept at once.

    python studies/bench-sampler/duel.py --problems ticket54,nk16 --rivals default,tpe --seeds 20

A run asks and tells an Optuna study in memory, to be maximised, from an empty history. Some rivals
are made anew for each trial (`rivals.py`), which costs them time; `overhead.py` measures times.
"""

import contextlib
import math
import platform
import statistics
import time
import warnings
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution

from comparison import Results, compared
from lookup import Ints
from pool import one_thread_pool
from problems import PROBLEMS, Problem, make_problem
from report import ablation_markdown, draw_curves, table_markdown
from rivals import RIVALS, Rival, make_rival
from runs import Run, add_run, read_runs
from sat_optuna import PolicyGradientSampler
from sat_optuna.errors import DataError, SatOptunaError
from sat_optuna.files import write_text

__all__ = ["main", "play", "versions_used"]


def play(problem_name: str, rival_name: str, seed: int) -> Run:
    """Let a rival search a problem until the budget, or the CPU time it may take, is used up."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    problem, rival = make_problem(problem_name, seed), make_rival(rival_name)
    with warnings.catch_warnings():
        # That a sampler is experimental, or Sobol' points come in numbers other than 2^k.
        warnings.simplefilter("ignore")
        trials, study = _searched(problem, rival, seed)
    path: list[tuple[int, float]] = []
    best = -math.inf
    for number, trial in enumerate(trials, start=1):
        if trial.reward > best:
            best = trial.reward
            path.append((number, problem.truth(trial.scheme)))
    recommended = None
    if isinstance(study.sampler, PolicyGradientSampler):
        recommended = problem.truth(trials[study.sampler.recommend(study).number].scheme)
    return Run(
        problem=problem_name,
        rival=rival_name,
        seed=seed,
        evaluations=problem.evaluations,
        version=rival.version,
        done=len(trials),
        path=tuple(path),
        value=path[-1][1],
        recommended=recommended,
        distinct=len({trial.scheme.tobytes() for trial in trials}) / len(trials),
        ms=round(1e3 * statistics.median(trial.s for trial in trials), 4),
        cpu_s=round(sum(trial.cpu_s for trial in trials), 3),
        versions=versions_used(),
    )


class _Trial(NamedTuple):
    scheme: Ints  # (n,) indices of choices
    reward: float
    s: float  # of ask and tell
    cpu_s: float


def _searched(problem: Problem, rival: Rival, seed: int) -> tuple[list[_Trial], optuna.Study]:
    space = rival.space(problem)
    study = optuna.create_study(direction="maximize", sampler=rival.make(space, seed))
    codes = [d.choices if isinstance(d, CategoricalDistribution) else () for d in space.values()]
    trials: list[_Trial] = []
    while len(trials) < problem.evaluations and sum(t.cpu_s for t in trials) <= rival.cap_s:
        number = len(trials)
        if rival.renewed:
            drawn = int(np.random.default_rng([seed, number]).integers(2**32))
            study.sampler = rival.make(space, drawn)
        start, cpu = time.perf_counter(), time.process_time()
        trial = study.ask(space)
        asked, cpu_asked = time.perf_counter() - start, time.process_time() - cpu
        chosen = zip(codes, (trial.params[name] for name in space), strict=True)
        scheme = np.array([c.index(value) if c else value for c, value in chosen])
        reward = problem.evaluate(scheme, number)
        start, cpu = time.perf_counter(), time.process_time()
        study.tell(trial, reward)
        told, cpu_told = time.perf_counter() - start, time.process_time() - cpu
        trials.append(_Trial(scheme, reward, asked + told, cpu_asked + cpu_told))
    return trials, study


def versions_used() -> dict[str, str]:
    """Return the versions of what decides a run beside its sampler."""
    packages = ("sat_optuna", "optuna", "numpy", "scipy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


@cache
def _budget(problem: str) -> int:
    return make_problem(problem, 0).evaluations


def _played(tasks: Collection[tuple[str, str, int]], workers: int) -> Generator[Run]:
    """Yield the runs of a problem, rival and seed each, as they end."""
    if tasks:
        with one_thread_pool(min(workers, len(tasks))) as pool:
            for future in as_completed([pool.submit(play, *task) for task in tasks]):
                yield future.result()


def _missing(
    runs: Iterable[Run], problems: Iterable[str], versions: Mapping[str, str], seeds: int
) -> list[tuple[str, str, int]]:
    """Return problem, rival and seed of the runs that are still to be made, seed by seed."""
    held = {(run.problem, run.rival, run.seed): run.version for run in runs}
    asked = [(p, r, seed) for seed in range(seeds) for p in problems for r in versions]
    for problem, rival, seed in asked:
        made = held.get((problem, rival, seed), versions[rival])
        if made != versions[rival]:
            raise DataError(
                f"there are runs of {rival!r} made by {made!r}, now {versions[rival]!r}; remove "
                "those lines of runs.jsonl or choose another --out"
            )
    return [task for task in asked if task not in held]


def _names(_context: click.Context, _option: click.Parameter, text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(__file__).parent,
    help="Folder; its runs.jsonl holds each finished run; default: that of this program.",
)
@click.option(
    "--problems",
    default=",".join(PROBLEMS),
    callback=_names,
    help="With commas; truth:NAME is a truth table, truth:NAME-noisy one training a scheme, "
    "table:FILE an NPZ file of sat-optuna enumerate; default: all but these.",
)
@click.option(
    "--rivals",
    default=",".join(RIVALS),
    callback=_names,
    help="With commas; default:pairs=false+ranks=false is a variant; default: all, no variants.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=30, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Processes; default: 1.")
def main(
    *, out: Path, problems: Sequence[str], rivals: Sequence[str], seeds: int, workers: int
) -> None:
    """Compare samplers on problems of categorical choices, with equal budgets and paired seeds.

    Makes the runs that runs.jsonl does not hold yet, each with one thread, then writes table.md,
    curves.png and, where there are variants, ablation.md, of all its runs of the problem's budget.
    """
    log = out / "runs.jsonl"
    try:
        for problem in problems:
            _budget(problem)  # what is wrong with a name or file is said at once
        versions = {rival: make_rival(rival).version for rival in rivals}
        runs = [run for run in read_runs(log) if run.evaluations == _budget(run.problem)]
        left = _missing(runs, problems, versions, seeds)
        click.echo(f"{len(left)} runs are to be made", err=True)
        with contextlib.closing(_played(left, workers)) as played:
            for done, run in enumerate(played, start=1):
                add_run(log, run)
                runs.append(run)
                click.echo(f"{done}/{len(left)} {run.problem} {run.rival} {run.seed}", err=True)
        _report(out, runs)
    except BrokenProcessPool as error:
        raise click.ClickException(
            "a worker process was ended from outside, perhaps for lack of memory; the same "
            "command goes on from what is finished"
        ) from error
    except SatOptunaError as error:
        raise click.ClickException(str(error)) from error


def _report(out: Path, runs: Sequence[Run]) -> None:
    results = Results(runs)
    comparisons = compared(results)
    written = [write_text(out / "table.md", table_markdown(results, comparisons))]
    if any(":" not in run.rival for run in runs):  # curves are of rivals, not of variants
        written.append(draw_curves(out / "curves.png", runs))
    if ablation := ablation_markdown(comparisons):
        written.append(write_text(out / "ablation.md", ablation))
    click.echo(f"{', '.join(map(str, written))} written", err=True)


if __name__ == "__main__":
    main()
