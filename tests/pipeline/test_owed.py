"""A study beside an MLflow store that fails, and what `doctor --fix` logs later."""

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import warnings

import pytest
from click.testing import CliRunner

from sat_optuna.cli import sat_optuna as command_line
from sat_optuna.errors import SatOptunaWarning
from sat_optuna.pipeline.doctor import examine
from sat_optuna.pipeline.fixing import fix
from sat_optuna.pipeline.folder import open_study
from sat_optuna.pipeline.owed import Owed
from sat_optuna.processes import worker_name
from sat_optuna.tracking import MLflowLog, store_uri
from tests.pipeline.test_mlflow_log import TEXT, logged
from tests.read_only import read_only
from tests.studies import make_study, sat_optuna
from tests.tracking.lost_servers import lost_server

ALL = [0, 1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A project with a study that was pretrained."""
    project = tmp_path_factory.mktemp("pretrained")
    open_study(make_study(project, text=TEXT)).pretrain()
    return project


@pytest.fixture
def study(tmp_path, pretrained, empty_store, monkeypatch):
    """That study in a project of the test's own, whose store holds no run."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = tmp_path / "project"
    shutil.copytree(pretrained, project)
    shutil.copy(empty_store, project / "mlruns")
    monkeypatch.chdir(project)
    return open_study(project / "studies" / "tiny")


def searched(study):
    """Search, and return what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert (study.search().trials, study.search().new) == (6, 0)
    assert {warning.category for warning in caught} <= {SatOptunaWarning}
    return [str(warning.message) for warning in caught]


def looked_at(study):
    """What the doctor finds of the study that wants a hand."""
    found = examine([study.folder], study.mlruns)
    return [f.finding for f in found if f.state == "look" and f.subject == "study tiny"]


def fixed(study):
    """What `doctor --fix` says, a state and a sentence each."""
    return [(f.state, f.finding) for f in fix([study.folder], study.mlruns)]


@pytest.mark.parametrize("kind", ["nobody listens", "403"])
def test_a_search_beside_a_lost_server_goes_on_and_notes_what_is_owed(study, monkeypatch, kind):
    with lost_server(kind) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        said = searched(study)
    shown = address.replace("me:secret@", "")
    assert len(said) == 3  # at the search's begin and end, and once by the second
    for text in said:
        assert text.startswith(f"cannot open study tiny in MLflow's store {shown}: ")
        assert text.endswith(
            "; the study goes on without it, and what it lacks is logged later: by the same "
            "command, or by sat-optuna doctor --fix"
        )
    note = Owed(study).path.read_text()
    assert "secret" not in note + "".join(said)
    (debt,) = json.loads(note).values()
    assert (debt["store"], debt["parts"], debt["worker"]) == (shown, ["trials"], "")
    (found,) = looked_at(study)
    assert found.startswith(f"{shown} lacks its trials since ")
    assert found.endswith("; log them with: sat-optuna doctor --fix")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (found,) = looked_at(study)
    assert found.endswith("set MLFLOW_TRACKING_URI to that store and run: sat-optuna doctor --fix")
    assert fixed(study) == []  # nothing is owed to the store of now
    assert searched(study) == []
    assert logged(study.project) == ALL
    assert [*json.loads(Owed(study).path.read_text()).values()] == [debt]


def deleted(study):
    from mlflow import MlflowClient

    log = MLflowLog(study.mlruns)
    log.open_study("tiny", study.optuna_study().user_attrs["sat:uuid"])
    log.close_study()
    client = MlflowClient(log.uri)
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    client.delete_experiment(experiment.experiment_id)
    return lambda: client.restore_experiment(experiment.experiment_id)


def in_the_way(study):
    (study.mlruns / "artifacts").write_text("")
    return (study.mlruns / "artifacts").unlink


def no_database(study):
    (study.mlruns / "mlflow.db").rename(study.mlruns / "away")
    (study.mlruns / "mlflow.db").write_text("no database at all" * 100)
    return lambda: (study.mlruns / "away").rename(study.mlruns / "mlflow.db")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (deleted, "(bring it back with: MLFLOW_TRACKING_URI=sqlite:///"),
        (in_the_way, "Not a directory: "),
        (no_database, "file is not a database"),
    ],
)
def test_what_a_store_lacks_is_logged_by_doctor_fix_once_it_is_well(study, broken, said):
    study.search(mlflow=False)
    mend = broken(study)
    warned = searched(study)
    assert len(warned) == 2  # one a command
    assert all(said in text and "doctor --fix" in text for text in warned)
    (debt,) = looked_at(study)
    assert said in debt
    [(state, left)] = [row for row in fixed(study) if "lacks its" in row[1]]
    assert state == "look"
    assert left.endswith("; see to that store and run the same command again")
    mend()
    done = CliRunner().invoke(command_line, ["doctor", "tiny", "--fix", "--format", "json"])
    assert done.exit_code == 0, done.output
    rows = [row for row in json.loads(done.stdout) if row["state"] != "ok"]
    assert rows == [
        {
            "subject": "study tiny",
            "state": "fixed",
            "finding": f"logged its trials to {store_uri(study.mlruns)}",
        }
    ]
    assert logged(study.project) == ALL
    assert not Owed(study).path.exists()
    assert searched(study) == []


@pytest.mark.slow
def test_a_folder_of_runs_that_is_read_only_ends_no_search(study):
    for place in (study.project, *study.project.rglob("*")):
        place.chmod(0o777)
    with read_only(study.mlruns):
        said = searched(study)
    assert all("readonly database" in text or "unable to open" in text for text in said)
    # In a process of its own: MLflow keeps the connection that can only read.
    done = sat_optuna("doctor", "--fix", cwd=study.project).stdout
    assert f"logged its trials to {store_uri(study.mlruns)}" in done
    assert logged(study.project) == ALL


def test_a_folder_of_runs_that_was_moved_away_is_made_anew_or_brought_back(study, empty_store):
    assert searched(study) == []
    study.mlruns.rename(study.project / "away")
    study.mlruns.mkdir()
    shutil.copy(empty_store, study.mlruns)
    assert logged(study.project) == []
    assert searched(study) == []
    shutil.rmtree(study.mlruns)
    (study.project / "away").rename(study.project / "mlruns")
    assert logged(study.project) == ALL
    assert searched(study) == []


def test_a_study_that_is_being_run_is_left_alone(study):
    study.search(mlflow=False)
    Owed(study).owe("trials", "the server was away")
    held, free = threading.Event(), threading.Event()

    def hold():
        with open_study(study.folder).locked():
            held.set()
            free.wait()

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    try:
        [(state, said)] = fixed(study)
    finally:
        free.set()
        other.join()
    assert (state, "is being run by another process" in said) == ("look", True)
    assert fixed(study) == [("fixed", f"logged its trials to {store_uri(study.mlruns)}")]


def test_the_note_of_what_is_owed(study, monkeypatch):
    owed = Owed(study)

    def here():
        debt = owed.here
        assert debt is not None
        return debt

    owed.pay("trials")
    assert owed.here is None
    owed.begin("trials")
    assert (here().worker, here().is_left) == (worker_name(), False)
    assert owed.lacks("trials")
    assert not owed.lacks("retrainings")
    note = json.loads(owed.path.read_text())
    (row,) = note.values()
    row["worker"] += "0"  # that process is dead
    owed.path.write_text(json.dumps(note))
    assert owed.lacks("retrainings")  # its runs may be in any state
    assert str(here()).endswith("(the process that logged them was killed)")
    owed.begin("retrainings")
    owed.pay("retrainings")
    assert (here().parts, here().worker) == (("trials",), "")
    assert owed.lacks("trials")
    assert not owed.lacks("retrainings")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@h/runs")
    other = Owed(study)
    assert other.here is None
    other.owe("retrainings", "cannot reach http://me:secret@h/runs")
    assert [debt.store for debt in other.elsewhere] == [here().store]
    assert "secret" not in other.path.read_text()
    other.pay("retrainings")
    owed.pay("trials")
    assert not owed.path.exists()
    for damaged in ("", "[]", '{"a": 1}', '{"a": {"parts": []}}'):
        owed.path.write_text(damaged)
        assert (owed.here, list(owed.elsewhere)) == (None, [])


def test_databases_of_two_studies_of_one_name_are_told_apart(study, tmp_path, monkeypatch):
    """Two projects, one store: each study has its own experiment and its own artifacts."""
    shared = tmp_path / "shared.db"
    shutil.copy(study.mlruns / "mlflow.db", shared)
    other = tmp_path / "elsewhere"
    shutil.copytree(study.project, other)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shared}")
    for folder in (study.folder, other / "studies" / "tiny"):
        assert searched(open_study(folder)) == []
    with sqlite3.connect(shared) as store:
        rows = store.execute(
            "SELECT e.name, count(*) FROM experiments e JOIN runs USING (experiment_id) GROUP BY 1"
        ).fetchall()
    assert rows == [("tiny", 7), ("tiny (elsewhere)", 7)]


@pytest.mark.slow
def test_retrainings_and_report_beside_a_lost_server_are_logged_by_doctor_fix(study, monkeypatch):
    """Through a server that is away, then a real one at the same address."""
    text = (study.folder / "study.toml").read_text()
    retrain = "[retrain]\nepochs = 1\nseeds = [0, 1, 2]\nworkers = 1\n"
    (study.folder / "study.toml").write_text(text + retrain)
    store = store_uri(study.mlruns)
    with lost_server("nobody listens") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.warns(SatOptunaWarning) as warned:
            made = open_study(study.folder).run()
        (debt,) = looked_at(study)
    assert made.report is not None
    assert "lacks its trials and retrainings since" in debt
    told = [str(warning.message) for warning in warned]
    assert sum(text.startswith("cannot open study tiny in MLflow's store") for text in told) == 4
    serving = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", address[-5:]],
        env=os.environ | {"MLFLOW_BACKEND_STORE_URI": store} | QUICK,
        cwd=study.project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 120
        while not answers(address):
            assert time.monotonic() < until
            assert serving.poll() is None
            time.sleep(0.2)
        said = fixed(study)
    finally:
        serving.terminate()
        serving.wait(60)
    shown = address.replace("me:secret@", "")
    assert said == [("fixed", f"logged its trials and retrainings to {shown}")]
    assert looked_at(study) == []
    with sqlite3.connect(study.mlruns / "mlflow.db") as database:
        kinds = "SELECT value, count(*) FROM tags WHERE key = 'sat.kind' GROUP BY 1"
        found = dict(database.execute(kinds).fetchall())
    roles = len({str(ticket.scheme) for ticket in made.tickets.values()})
    assert found == {"study": 1, "trial": 6, "summary": roles, "retraining": 3 * roles}


QUICK = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def answers(address):
    host, port = address.rpartition("@")[2].split(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False
