"""`sat-optuna trials` and `doctor` while another process holds a trial, and after its death."""

import csv
import json
import subprocess
import sys

import pytest

from sat_optuna.config.config import StudyConfig
from sat_optuna.errors import SatOptunaWarning
from sat_optuna.search.storage import open_storage
from sat_optuna.search.study import build_sampler, create_study, run_trials
from tests import forks
from tests.cli.test_commands import run
from tests.studies import environment, make_study, sat_optuna

SEARCH = """
import sys
from pathlib import Path
from sat_optuna.config.config import StudyConfig
from sat_optuna.processes import worker_name
from sat_optuna.search.space import WORKER_KEY, suggest_scheme
from sat_optuna.search.storage import open_storage
from sat_optuna.search.study import build_sampler, create_study
sampler = build_sampler("policy", seed=0, batch=4)
storage = open_storage(Path(sys.argv[1]))
study = create_study(storage, "tiny", config=StudyConfig(), sampler=sampler)
for number in range(int(sys.argv[2])):
    trial = study.ask()
    trial.set_user_attr(WORKER_KEY, worker_name())
    trial.set_user_attr("scheme", str(suggest_scheme(trial, (2, 2), ("se",))))
    if len(sys.argv) > 3 and number == int(sys.argv[3]):
        print("holding", flush=True)
        sys.stdin.read()
    study.tell(trial, float(number))
"""


@pytest.fixture
def held(tmp_path):
    """A project whose trial 2 a live process holds, while another has finished 3 to 6."""
    db = make_study(tmp_path) / "study.db"
    program = ("-c", SEARCH, str(db))
    with subprocess.Popen(
        [sys.executable, *program, "3", "2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        done = forks.python(*program, "4", cwd=tmp_path, env=environment())
        assert done.returncode == 0, done.stderr
        yield tmp_path, process
        process.kill()


def looks(project):
    printed = sat_optuna("doctor", "--format", "json", cwd=project).stdout
    return [
        row["finding"]
        for row in json.loads(printed)
        if row["subject"] == "study tiny" and row["state"] == "look"
    ]


WAITING = "and the sampler learns nothing from the finished trials 3-6 until it ends"


def test_trials_names_a_held_trial_with_those_that_wait(held):
    project, process = held
    done = sat_optuna("trials", "tiny", cwd=project)
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [
        [str(number), "RUNNING" if number == 2 else "COMPLETE"] for number in range(7)
    ]
    assert done.stderr.startswith(f"trial 2 is being run by process {process.pid} of ")
    assert done.stderr.endswith(f"{WAITING}\n")
    process.kill()
    process.wait()
    done = sat_optuna("trials", "tiny", cwd=project)
    assert done.stderr == (
        "DEAD trials [2] are finished under their numbers by: sat-optuna search tiny\n"
    )


def test_trials_says_why_a_trial_failed(tmp_path, monkeypatch):
    """Three values that are none of a block, of other types, and one that is."""
    monkeypatch.chdir(tmp_path)
    db = make_study(tmp_path) / "study.db"
    sampler = build_sampler("random", seed=0, batch=4)
    study = create_study(open_storage(db), "tiny", config=StudyConfig(), sampler=sampler)
    for value in (1, "sge", 0.5, "se"):
        study.enqueue_trial({"s1.b00": value})
    with pytest.warns(SatOptunaWarning, match="becomes FAIL"):
        run_trials(study, lambda _: 1.0, trials=4, batch=4, stages=(2,), kinds=("se",))
    table = run("trials", "tiny").stdout.splitlines()
    rows = json.loads(run("trials", "tiny", "--format", "json").stdout)
    listed = list(csv.DictReader(run("trials", "tiny", "--format", "csv").stdout.splitlines()))
    for number, value in enumerate(("1", "'sge'", "0.5")):
        error = rows[number]["error"]
        assert value in error
        assert "s1.b00" in error
        assert listed[number]["error"] == error
        assert table[-3 + number] == f"trial {number} is FAIL: {error}"
    assert rows[3]["error"] is None
    assert len(table) == 1 + 4 + 3


@pytest.mark.slow
def test_doctor_names_it_too_and_says_what_to_do(held):
    project, process = held
    (finding,) = looks(project)
    assert finding.startswith(f"trial 2 is being run by process {process.pid} of ")
    assert f"{WAITING}; wait for it, or end the process" in finding
    assert finding.endswith("finish it with: sat-optuna search tiny")
    process.kill()
    process.wait()
    (finding,) = looks(project)
    assert finding.startswith("a dead process left the trials [2] unfinished")


@pytest.mark.parametrize(
    ("top", "numbers"), [(1, [2]), (3, [2, 4, 1]), (99, [2, 4, 1, 0, 3])], ids=str
)
def test_the_top_are_the_highest_rewards_first(tmp_path, monkeypatch, top, numbers):
    """Of equal rewards the earlier trial comes first, and one without a reward last."""
    monkeypatch.chdir(tmp_path)
    db = make_study(tmp_path) / "study.db"
    sampler = build_sampler("random", seed=0, batch=4)
    study = create_study(open_storage(db), "tiny", config=StudyConfig(), sampler=sampler)
    for reward in (1.0, 2.0, 5.5, None, 5.5):
        trial = study.ask()
        if reward is not None:
            trial.set_user_attr("reward", reward)
        study.tell(trial, reward or 0.0)
    rows = json.loads(run("trials", "tiny", "--top", str(top), "--format", "json").stdout)
    assert [row["number"] for row in rows] == numbers
    table = run("trials", "tiny", "--top", str(top)).stdout.splitlines()[1:]
    assert [int(line.split()[0]) for line in table] == numbers
    assert "0 is not in the range x>=1" in run("trials", "tiny", "--top", "0", code=2).stderr
