"""What a sampler costs: `python studies/bench-sampler/overhead.py` writes overhead.md."""

import itertools
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import optuna

from duel import versions_used
from pool import one_thread_pool
from problems import make_problem
from report import markdown
from rivals import make_rival
from sat_optuna.files import write_text

__all__ = ["Cost", "ask_and_tell", "first_proposal", "overhead_markdown"]

_PREFACE = """\
# What a sampler costs

- ms a trial: ask and tell in memory, 54 parameters of two choices, on a study of so many finished
  trials; median and 95th percentile of 200 trials, in which the samplers take turns.
- ms to the first proposal: a new process opens a SQLite file of so many finished trials of 54
  parameters and asks for a trial and its first parameter; median and greatest of 5, without the
  imports. What random takes is the reading of the study.

"""
_PROBLEM = make_problem("ticket54", 0)
_SPACE = make_rival("random").space(_PROBLEM)
_NAME = "overhead"


class Cost(NamedTuple):
    """One measurement of one sampler on a study of so many trials: its median and high end."""

    what: str
    sampler: str
    trials: int
    median: float
    high: float


def _study(name: str, storage: str | None = None) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = make_rival(name).make(_SPACE, 0)
    return optuna.create_study(
        storage=storage,
        sampler=sampler,
        study_name=_NAME,
        direction="maximize",
        load_if_exists=True,
    )


def _trial(study: optuna.Study) -> float:
    """Make a trial; return the milliseconds of ask and tell."""
    start = time.perf_counter()
    trial = study.ask(_SPACE)
    asked = time.perf_counter() - start
    reward = _PROBLEM.truth(np.array([trial.params[name] for name in _SPACE]))
    start = time.perf_counter()
    study.tell(trial, reward)
    return 1e3 * (asked + time.perf_counter() - start)


def _history(name: str, trials: int) -> list[optuna.trial.FrozenTrial]:
    """Return the trials of a search."""
    study = _study(name)
    for _ in range(trials):
        _trial(study)
    return study.trials


def ask_and_tell(names: Sequence[str], *, trials: int, rounds: int = 200) -> list[Cost]:
    """Time the trials of samplers; the first, in which a sampler reads the study, is left out."""
    history, studies = _history("random", trials), [_study(name) for name in names]
    for study in studies:
        study.add_trials(history)
    times = [[_trial(study) for study in studies] for _ in range(rounds + 1)]
    ends = np.quantile(times[1:], (0.5, 0.95), axis=0).tolist()
    return [Cost("ms a trial", name, trials, *of) for name, *of in zip(names, *ends, strict=True)]


def first_proposal(names: Sequence[str], *, trials: int = 1000, rounds: int = 5) -> list[Cost]:
    """Time the first proposal of new processes on a study that our sampler has searched."""
    times: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        made, opened = Path(folder) / "made.db", Path(folder) / "opened.db"
        _study("random", f"sqlite:///{made}").add_trials(_history("default", trials))
        for _, name in itertools.product(range(rounds), names):
            shutil.copyfile(made, opened)
            with one_thread_pool(1) as pool:
                times[name].append(pool.submit(_opened, opened, name).result())
    what = "ms to the first proposal"
    return [Cost(what, name, trials, median(ms), max(ms)) for name, ms in times.items()]


def _opened(file: Path, name: str) -> float:
    start = time.perf_counter()
    trial = _study(name, f"sqlite:///{file}").ask()
    trial.suggest_categorical(next(iter(_SPACE)), _PROBLEM.choices[0])
    return 1e3 * (time.perf_counter() - start)


def overhead_markdown(rows: Sequence[Cost], made: str) -> str:
    """Return the table.

    Args:
        rows: with one of random for each measurement and number of trials.
        made: with what and where they were measured.
    """
    random = {(row.what, row.trials): row.median for row in rows if row.sampler == "random"}
    cells = []
    for row in rows:
        times = (row.median, row.high, row.median - random[row.what, row.trials])
        cells.append([row.what, row.sampler, str(row.trials), *(f"{ms:.2f}" for ms in times)])
    head = ["what", "sampler", "trials", "median", "high", "beyond random"]
    return f"{_PREFACE}{markdown(head, cells)}\nMade with {made}.\n"


def main() -> None:
    """Measure all rows, which takes some minutes, and write them."""
    rows: list[Cost] = []
    with one_thread_pool(1) as pool:
        for trials in (250, 500, 1000, 2000, 4000):
            names = ["random", "default"] + (["paper", "nsga2", "tpe"] if trials == 1000 else [])
            rows += pool.submit(ask_and_tell, names, trials=trials).result()
    rows += first_proposal(["random", "tpe", "default", "paper"])
    used = ", ".join(f"{name} {number}" for name, number in versions_used().items())
    machine = f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores"
    text = overhead_markdown(rows, f"{used}, on {machine}")
    write_text(Path(__file__).with_name("overhead.md"), text)


if __name__ == "__main__":
    main()
