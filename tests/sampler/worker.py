"""A process that works on a study of twelve parameters: `python -m tests.sampler.worker ...`.

    search STORAGE PRESET TOTAL AT.AFTER
        Take over what a dead worker left, then ask until there are TOTAL trials. In trial AT,
        after AFTER parameters, the process kills itself with -9; AT -1: never.
    share STORAGE PRESET
        For each number on stdin make so many trials, at 0 look at the policy; each time say which
        policy was seen at which version.
    optimize STORAGE PRESET AT
        Go on as Optuna does, until the process kills itself with -9 in the middle of trial AT.

STORAGE is `sqlite:FILE`, opened as the command line does, or `journal:FILE`; or Optuna's database
as it is, `quiet:FILE`, with a heartbeat, `heartbeat:FILE`, or one that also tries a dead worker's
scheme again, `retry:FILE`.
"""

import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sat_optuna.config.config import StudyConfig
from sat_optuna.sampler import PolicyGradientSampler
from sat_optuna.search.storage import open_storage
from sat_optuna.search.study import create_study

__all__ = ["BATCHES", "NAMES", "SAMPLERS", "bits", "objective", "open_study", "sampler_of"]

SEED = 5
KINDS = ("none", "se", "sge")
NAMES = [f"s{i // 4}.b{i % 4:02}" for i in range(12)]
BATCHES = {"default": 1, "paper": 3}
SAMPLERS = {
    "default": lambda: PolicyGradientSampler(seed=SEED),
    "paper": lambda: PolicyGradientSampler(seed=SEED, preset="paper"),
    "no seed": lambda: PolicyGradientSampler(),
    "replicates": lambda: PolicyGradientSampler(seed=SEED, replicates=3),
    "budget": lambda: PolicyGradientSampler(
        seed=SEED, search_space=dict.fromkeys(NAMES, KINDS), max_connections=7
    ),
}


def sampler_of(preset: str) -> PolicyGradientSampler:
    return SAMPLERS[preset]()


def open_study(storage: str, preset: str) -> optuna.Study:
    """Open a study, or make it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kind, _, path = storage.partition(":")
    sampler = sampler_of(preset)
    if kind == "sqlite":
        return create_study(open_storage(Path(path)), "s", config=StudyConfig(), sampler=sampler)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(path))
        if kind == "journal"
        else beating(path, kind),
        study_name="s",
        direction="maximize",
        sampler=sampler,
        load_if_exists=True,
    )


def beating(path: str, kind: str) -> RDBStorage:
    return RDBStorage(
        f"sqlite:///{path}",
        heartbeat_interval=None if kind == "quiet" else 1,
        grace_period=None if kind == "quiet" else 2,
        heartbeat_stale_trial_callback=(
            RetryHeartbeatStaleTrialCallback() if kind == "retry" else None
        ),
    )


def objective(trial: optuna.Trial, *, dies_after: int = -1) -> float:
    """Score a scheme: linear, with pairs; all 3^12 values differ enough to be learned from."""
    picked: list[int] = []
    for name in NAMES:
        if len(picked) == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        picked.append(KINDS.index(trial.suggest_categorical(name, KINDS)))
    if dies_after == len(NAMES):
        os.kill(os.getpid(), signal.SIGKILL)
    alone = sum((7 * i % 12 - 4) * choice for i, choice in enumerate(picked))
    pairs = sum(a * b * (-1 if i % 2 else 1) for i, (a, b) in enumerate(pairwise(picked)))
    return alone + 1.5 * pairs


def until(number: int, path: str, trial: optuna.Trial) -> float:
    """Score a trial; in that of a number wait for a heartbeat and die."""
    if trial.number < number:
        return objective(trial)
    with closing(sqlite3.connect(path)) as database:
        beats = "SELECT COUNT(*) FROM trial_heartbeats WHERE trial_id = ?"
        while not database.execute(beats, (trial._trial_id,)).fetchone()[0]:
            time.sleep(0.05)
    return objective(trial, dies_after=5)


def search(study: optuna.Study, total: int, number: int, after: int) -> None:
    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        trial = optuna.trial.Trial(study, left._trial_id)
        study.tell(trial, objective(trial))
    while len(study.get_trials(deepcopy=False)) < total:
        trial = study.ask()
        dies_after = after if trial.number == number else -1
        study.tell(trial, objective(trial, dies_after=dies_after))


def bits(policy: Mapping[str, Mapping[Any, float]]) -> dict[str, list[str]]:
    """Return a policy's probabilities digit for digit."""
    return {name: [p.hex() for p in row.values()] for name, row in policy.items()}


def learned(study: optuna.Study, batch: int) -> int:
    """Return the number of whole batches of finished trials before the first unfinished one."""
    trials = study.get_trials(deepcopy=False)
    running = (t.number for t in trials if not t.state.is_finished())
    return next(running, len(trials)) // batch


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def share(study: optuna.Study, preset: str) -> None:
    study.sampler = sampler = sampler_of(preset)
    seen: dict[int, dict[str, list[str]]] = {}

    def look() -> None:
        version = learned(study, BATCHES[preset])
        policy = bits(sampler.policy(study))
        if version == learned(study, BATCHES[preset]):  # nobody finished a batch meanwhile
            seen[version] = policy

    say("ready")
    for line in sys.stdin:
        for _ in range(int(line)):
            trial = study.ask()
            value = objective(trial)
            for _ in range(trial.number % 3):  # some overtake others
                look()
            study.tell(trial, value)
        if line == "0\n":
            look()
        say(json.dumps(seen))


if __name__ == "__main__":
    action, storage, preset, *rest = sys.argv[1:]
    if action == "search":
        number, after = rest[1].split(".")
        search(open_study(storage, preset), int(rest[0]), int(number), int(after))
    elif action == "optimize":
        path = storage.partition(":")[2]
        open_study(storage, preset).optimize(partial(until, int(rest[0]), path))
    else:
        share(open_study(storage, preset), preset)
