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
            assert running_trials(broken)
            opened_in_the_dashboard(tmp_path / "broken")
            assert running_trials(broken) == []
    assert kills >= 1
    sat_optuna(*arguments, cwd=tmp_path / "broken")
    assert told(broken) == told(unbroken)
    assert len(told(broken)) == TRIALS


def running_trials(folder):
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


def running(project):
    """How many of MLflow's runs and of the search's trials are RUNNING."""
    counts = []
    for file, table, column in (
        ("mlruns/mlflow.db", "runs", "status"),
        ("studies/tiny/study.db", "trials", "state"),
    ):
        query = f"SELECT COUNT(*) FROM {table} WHERE {column} = 'RUNNING'"
        with closing(sqlite3.connect(project / file, timeout=60)) as db:
            counts.append(db.execute(query).fetchone()[0])
    return tuple(counts)


def killed(project, *arguments, when):
    """Run a command, and kill it with -9 as soon as something is so."""
    with subprocess.Popen(
        command(*arguments),
        cwd=project,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as child:
        deadline = time.monotonic() + 240
        while not when():
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.02)
        child.kill()


def seen_in_ui(project):
    """Start `ui`, and end it once the page is there; return what it said."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with subprocess.Popen(
        command("ui", "--port", port),
        cwd=project,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("MLflow: http://127.0.0.1:")
        left = running(project)
        child.terminate()
        _, said = child.communicate(timeout=60)
    return left, said


@pytest.mark.slow
def test_no_run_and_no_trial_stays_running_after_kill_9_of_search_and_of_retrain(tmp_path):
    project, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    folder = make_study(unbroken)
    longer = (
        (folder / "study.toml").read_text().replace("epochs = 1\nworkers", "epochs = 9\nworkers")
    )
    (folder / "study.toml").write_text(longer)
    sat_optuna("pretrain", "tiny", cwd=unbroken)
    shutil.copytree(unbroken, project)
    sat_optuna("search", "tiny", "--trials", str(TRIALS), "--no-mlflow", cwd=unbroken)

    def logs():  # a trial is logged, and others are under way
        log = project / "mlruns" / "mlflow.db"
        return log.exists() and count(project / "studies" / "tiny") > 6 and running(project)[0]

    killed(project, "search", "tiny", "--trials", str(TRIALS), when=logs)
    runs, trials = running(project)
    assert runs >= 1
    assert trials >= 1
    copies = {}
    for name in ("doctor", "ui"):
        copies[name] = tmp_path / name
        shutil.copytree(project, copies[name])
    left, said = seen_in_ui(copies["ui"])
    assert left == (0, 0)
    assert "ended the runs of dead processes: search" in said
    assert "were left by a dead process and wait now" in said
    fixed = sat_optuna("doctor", "--fix", cwd=copies["doctor"]).stdout
    assert "were left by a dead process and wait now" in " ".join(fixed.split())
    assert "logged its trials to sqlite:///" in fixed
    for place in (copies["doctor"], copies["ui"], project):
        if place != project:
            assert running(place) == (0, 0)
        sat_optuna("search", "tiny", "--trials", str(TRIALS), cwd=place)
        assert running(place) == (0, 0)
        assert told(place / "studies" / "tiny") == told(folder)
        assert not (place / "studies" / "tiny" / "work" / "mlflow-owed.json").exists()

    def trains():  # a network is trained, and the next is under way
        results = list(project.glob("studies/tiny/work/retrain/*/*.json"))
        return len(results) >= 1 and running(project)[0] >= 1

    killed(project, "retrain", "tiny", when=trains)
    assert running(project)[0] >= 1
    shutil.rmtree(copies["doctor"])
    shutil.copytree(project, copies["doctor"])
    shutil.rmtree(copies["ui"])
    shutil.copytree(project, copies["ui"])
    sat_optuna("doctor", "--fix", cwd=copies["doctor"])
    assert running(copies["doctor"]) == (0, 0)
    # The search has nothing to do, and sees that its store was left in disorder.
    sat_optuna("search", "tiny", "--trials", str(TRIALS), cwd=copies["ui"])
    assert running(copies["ui"]) == (0, 0)
    sat_optuna("retrain", "tiny", cwd=project)
    assert running(project) == (0, 0)
    assert not (project / "studies" / "tiny" / "work" / "mlflow-owed.json").exists()


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
