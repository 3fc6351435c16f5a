"""A search killed with -9, again and again, ends as one that never was."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from contextlib import closing

import numpy as np
import pytest

from sat_optuna.search.storage import open_storage
from sat_optuna.search.study import load_study
from tests.studies import command, environment, make_study, sat_optuna

TRIALS = 40


def told(folder):
    study = load_study(open_storage(folder / "study.db"), folder.name)
    return [
        (t.number, t.state.name, t.params, t.value, t.user_attrs["accuracy"]) for t in study.trials
    ]


@pytest.mark.slow
def test_a_killed_search_ends_with_the_trials_of_an_unbroken_one(tmp_path):
    unbroken = make_study(tmp_path / "unbroken")
    sat_optuna("pretrain", "tiny", cwd=tmp_path / "unbroken")
    broken = tmp_path / "broken" / "studies" / "tiny"
    shutil.copytree(tmp_path / "unbroken", tmp_path / "broken")
    arguments = ("search", "tiny", "--trials", str(TRIALS), "--no-mlflow")
    sat_optuna(*arguments, cwd=tmp_path / "unbroken")
    rng, kills = np.random.default_rng(0), 0
    while kills < 5:
        before = count(broken)
        child = subprocess.Popen(
            command(*arguments),
            cwd=tmp_path / "broken",
            env=environment(),
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while count(broken) <= before and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(float(rng.uniform(0, 0.2)) if kills else 0)  # on a fast machine it soon ends
        if child.poll() is not None:
            break
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        kills += 1
        if kills == 1:
            assert running(broken)
            opened_in_the_dashboard(tmp_path / "broken")
            assert running(broken) == []
    assert kills >= 1
    sat_optuna(*arguments, cwd=tmp_path / "broken")
    assert told(broken) == told(unbroken)
    assert len(told(broken)) == TRIALS


def running(folder):
    study = load_study(open_storage(folder / "study.db"), folder.name)
    return [trial.number for trial in study.trials if trial.state.name == "RUNNING"]


def opened_in_the_dashboard(project):
    """As `sat-optuna dashboard` does it, which then ends because its port is in use."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        said = sat_optuna("dashboard", "tiny", "--port", port, cwd=project, code=1).stderr
    assert "were left by a dead process and wait now" in said
    assert "finished under their numbers by: sat-optuna search tiny" in said


def count(folder):
    """The trials in the database, read without Optuna, whose storage would make tables in it."""
    try:
        with closing(sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True)) as db:
            return db.execute("SELECT COUNT(*) FROM trials").fetchone()[0]
    except sqlite3.Error:
        return 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_retraining_leaves_no_process_and_goes_on(tmp_path, number):
    folder = make_study(tmp_path)
    text = (folder / "study.toml").read_text()
    longer = text.replace("epochs = 1\nworkers = 1", "epochs = 30\nworkers = 2")
    (folder / "study.toml").write_text(longer)
    sat_optuna("pretrain", "tiny", cwd=tmp_path)
    sat_optuna("search", "tiny", "--no-mlflow", cwd=tmp_path)
    child = subprocess.Popen(
        command("retrain", "tiny", "--no-mlflow"),
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("work/retrain/*/*.safetensors")):
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(number)  # to the parent alone, as `kill` does
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "the same command takes a study up again" in said
    assert "Traceback" not in said
    while alive(child.pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def alive(group):
    """Whether any process of a group is left that still runs."""
    listed = subprocess.run(
        ["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True
    ).stdout
    rows = (line.split() for line in listed.splitlines())
    return any(int(pgid) == group and not state.startswith("Z") for pgid, state in rows)
