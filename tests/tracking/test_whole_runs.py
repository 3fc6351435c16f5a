"""Runs written whole into MLflow's file: they are those that MLflow's client writes."""

import math
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sat_optuna.tracking import MLflowLog, Network, TrackingError, store_uri, whole_runs
from tests import forks

BEGAN = datetime(2026, 1, 2, 3, 4, 5, 678_000).astimezone()


@pytest.fixture
def root(tmp_path, empty_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "mlruns"
    folder.mkdir()
    shutil.copy(empty_store, folder)
    return folder


def opened(root: Path) -> MLflowLog:
    log = MLflowLog(root)
    log.open_study("study", "u1")
    return log


def log_odd_runs(log: MLflowLog) -> list[str]:
    """Log what has stretched MLflow's rules."""
    times: dict[str, Any] = {"started": BEGAN, "ended": BEGAN + timedelta(seconds=3)}
    return [
        log.log_trial(
            0,
            scheme="10",
            state="COMPLETE",
            metrics={"accuracy": 97.5, "odd (%)": -0.0, "nan": math.nan, "huge": 10**400},
            params={"s1.b00": "se", "long": "x" * 9_000, "odd (%)": None, "": "é"},
            curves={"loss": [2.0, math.inf, -math.inf, math.nan], "accuracy": [99.0, 1.0]},
            artifact=("ticket.json", '{"é": 1}'),
            **times,
        ),
        log.log_trial(1, scheme="0" * 300, state="PRUNED", curves={"loss": [1.0, 1.0]}, **times),
        log.log_trial(2, scheme="", state="FAIL", **times),
        log.log_retraining(
            Network("plain", "00", "ab"), seed=3, summary="a parent", metrics={"macs": 7}, **times
        ),
    ]


def all_of(root: Path, run_id: str) -> dict[str, Any]:
    """Return what MLflow tells of a run, but for what differs each time."""
    from mlflow import MlflowClient

    client = MlflowClient(store_uri(root))
    run = client.get_run(run_id)
    info = {key: str(value).replace(run_id, "ID") for key, value in dict(run.info).items()}
    points = {
        key: [repr((p.value, p.timestamp, p.step)) for p in client.get_metric_history(run_id, key)]
        for key in run.data.metrics
    }
    latest = {key: repr(value) for key, value in run.data.metrics.items()}
    files = {
        file.path: Path(client.download_artifacts(run_id, file.path)).read_text("utf-8")
        for file in client.list_artifacts(run_id)
    }
    return {
        "info": info,
        "params": run.data.params,
        "tags": run.data.tags,
        "latest": latest,
        "points": points,
        "files": files,
        "inputs": str(run.inputs),
    }


def test_a_run_is_the_one_that_mlflows_client_writes(root, monkeypatch):
    log = opened(root)
    here = log_odd_runs(log)
    with closing(sqlite3.connect(root / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE tags SET value = 'moved ' || value WHERE key = 'sat.key'")
    monkeypatch.setattr(whole_runs, "REVISION", "that of a later MLflow")
    log = opened(root)
    by_client = log_odd_runs(log)
    assert not set(here) & set(by_client)
    for ours, theirs in zip(here, by_client, strict=True):
        found, wanted = all_of(root, ours), all_of(root, theirs)
        found["tags"]["sat.key"] = found["tags"]["sat.key"].removeprefix("moved ")
        assert found == wanted


def test_a_trial_is_written_once(root):
    ids = log_odd_runs(opened(root))
    assert log_odd_runs(opened(root)) == ids


KILLED = """
import os, signal, sys
from sat_optuna.tracking import MLflowLog, whole_runs
def kill(value):
    os.kill(os.getpid(), signal.SIGKILL)
whole_runs._stored = kill  # in the middle of a run's rows
log = MLflowLog(sys.argv[1])
log.open_study("study", "u1")
log.log_trial(0, scheme="10", state="COMPLETE", metrics={"value": 1.0}, artifact=("a.txt", "x"))
"""


def test_a_kill_in_the_middle_leaves_no_run(root):
    done = forks.python("-c", KILLED, str(root), cwd=root.parent, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr
    count = "SELECT count(*) FROM runs"
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        assert connection.execute(count).fetchone() == (1,)  # the search's own
        log = opened(root)
        assert log.end_stale_runs() == 0
        log.log_trial(0, scheme="10", state="COMPLETE", metrics={"value": 1.0})
        assert connection.execute(count).fetchone() == (2,)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE experiments SET lifecycle_stage = 'deleted'",
        "UPDATE experiments SET artifact_location = 'mlflow-artifacts:/1'",
        "UPDATE experiments SET artifact_location = NULL",
    ],
)
def test_what_is_not_known_here_is_left_to_the_client(root, change):
    opened(root)
    database = root / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        (number,) = connection.execute(
            "SELECT experiment_id FROM experiments WHERE name = 'study'"
        ).fetchone()
        connection.execute(change)
    run = whole_runs.WholeRun(
        name="#0", status="FINISHED", started_ms=0, ended_ms=1, tags={}, params={}, points=[]
    )
    assert whole_runs.write_whole(database, str(number), run) is None
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)


def test_a_folder_of_artifacts_that_cannot_be_written_is_one_sentence(root):
    log = opened(root)
    shutil.rmtree(root / "artifacts", ignore_errors=True)
    (root / "artifacts").write_text("in the way")
    with pytest.raises(TrackingError, match=r"^cannot log trial 0 10 in MLflow's store .*: .*; "):
        log.log_trial(0, scheme="10", state="COMPLETE", artifact=("ticket.json", "{}"))
    (root / "artifacts").unlink()
    log.log_trial(0, scheme="10", state="COMPLETE", artifact=("ticket.json", "{}"))
    assert [path.read_text() for path in root.rglob("ticket.json")] == ["{}"]
