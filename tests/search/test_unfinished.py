"""Trials that dead processes left, and those of live ones that others wait behind."""

import subprocess
import sys

import optuna
import pytest
from optuna.trial import TrialState

from sat_optuna.processes import worker_name
from sat_optuna.sampler import PolicyGradientSampler
from sat_optuna.search.space import WORKER_KEY
from sat_optuna.search.storage import open_storage
from sat_optuna.search.unfinished import (
    Blocker,
    blocking_trials,
    release_stale,
    stale_trials,
)


@pytest.fixture
def other():
    """A live process."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def study():
    return study_with(PolicyGradientSampler(seed=0))


def study_with(sampler: optuna.samplers.BaseSampler, storage=None) -> optuna.Study:
    study = optuna.create_study(direction="maximize", sampler=sampler, storage=storage)
    tell(study, asked(study))
    return study


def asked(study: optuna.Study, worker: str | None = None) -> optuna.Trial:
    trial = study.ask()
    trial.suggest_categorical("s1.b00", ("none", "se"))
    if worker:
        trial.set_user_attr(WORKER_KEY, worker)
    return trial


def tell(study: optuna.Study, trial: optuna.Trial) -> None:
    study.tell(trial, float(trial.number))


def test_stale_is_what_a_dead_process_left(study, other):
    dead = subprocess.run(
        [sys.executable, "-c", "from sat_optuna.processes import worker_name as w; print(w())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    for worker in (dead, None, "an-earlier-container/1/2", worker_name(other.pid)):
        asked(study, worker)
    assert [t.number for t in stale_trials(study)] == [1, 2, 3]


def test_a_live_trial_blocks_only_what_is_finished_behind_it(study, other):
    worker = worker_name(other.pid)
    first, second = asked(study, worker), asked(study, worker)
    assert blocking_trials(study) == []
    ends = [asked(study) for _ in range(6)]
    tell(study, ends[0])
    study.tell(ends[1], state=TrialState.FAIL)
    tell(study, ends[4])
    waiting = (3, 4, 7)
    assert blocking_trials(study) == [Blocker(n, worker, waiting) for n in (1, 2)]
    assert str(blocking_trials(study)[0]) == (
        f"trial 1 is being run by process {other.pid} of {worker.split('/')[0]}, and the sampler "
        "learns nothing from the finished trials 3-4, 7 until it ends"
    )
    tell(study, first)
    assert [blocker.number for blocker in blocking_trials(study)] == [2]
    tell(study, second)
    assert blocking_trials(study) == []


def test_a_dead_trial_is_stale_and_no_blocker(study, other):
    asked(study, worker_name(other.pid))
    tell(study, asked(study))
    assert [blocker.number for blocker in blocking_trials(study)] == [1]
    other.kill()
    other.wait()
    assert blocking_trials(study) == []
    assert [t.number for t in stale_trials(study)] == [1]


def test_a_sampler_of_optunas_waits_for_no_trial(other):
    study = study_with(optuna.samplers.TPESampler(seed=0))
    asked(study, worker_name(other.pid))
    tell(study, asked(study))
    assert blocking_trials(study) == []


def test_released_trials_wait_under_their_numbers_and_live_ones_are_left_alone(tmp_path, other):
    study = study_with(PolicyGradientSampler(seed=0), open_storage(tmp_path / "study.db"))
    asked(study, worker_name(other.pid))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    dead = worker_name(ended.pid)
    ended.wait()
    # One of somebody's own program names no worker, and another machine cannot be seen.
    for worker in (dead, None, "another-machine/1/2"):
        asked(study, worker)
    born = study.ask().number  # killed before it had a worker and a parameter
    before = [(t.number, t.params) for t in study.trials]
    assert release_stale(study) == [2, born]
    states = ["COMPLETE", "RUNNING", "WAITING", "RUNNING", "RUNNING", "WAITING"]
    assert [t.state.name for t in study.trials] == states
    assert [(t.number, t.params) for t in study.trials] == before
    assert release_stale(study) == []
    assert [study.ask().number for _ in range(3)] == [2, born, born + 1]
