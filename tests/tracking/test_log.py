"""MLflow's log book against a real SQLite store."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import optuna
import pytest

from sat_optuna.errors import SatOptunaError, SatOptunaWarning
from sat_optuna.processes import is_dead, worker_name
from sat_optuna.ticket import Measure
from sat_optuna.tracking import (
    MLflowLog,
    Network,
    Patience,
    TrackingError,
    UsedData,
    end_stale_runs,
    stale_runs,
    store_uri,
    studies_in,
)
from tests import forks
from tests.tracking.lost_servers import KINDS, lost_server

if TYPE_CHECKING:
    from mlflow.entities import Run

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def root(tmp_path, empty_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mlruns"
    folder.mkdir()
    shutil.copy(empty_store, folder)
    return folder


def runs_of(root: Path, name: str = "study", kind: str = "trial") -> "list[Run]":
    """All runs of one kind, read through a client of the test's own."""
    from mlflow import MlflowClient

    client = MlflowClient(store_uri(root))
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return sorted(
        client.search_runs([experiment.experiment_id], f"tags.`sat.kind` = '{kind}'"),
        key=lambda run: run.data.tags["mlflow.runName"],
    )


def history(root: Path, run: "Run", key: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    return [
        (point.step, point.value)
        for point in MlflowClient(store_uri(root)).get_metric_history(run.info.run_id, key)
    ]


def text_of(run: "Run", name: str) -> str:
    return Path(unquote(run.info.artifact_uri.removeprefix("file://")), name).read_text()


def opened(root: Path, name: str = "study", uuid: str = "u1") -> MLflowLog:
    log = MLflowLog(root)
    log.open_study(name, uuid)
    return log


def test_importing_the_module_imports_no_mlflow():
    code = "import sys, sat_optuna.tracking.servers; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("'mlflow'", "'optuna'", "'torch'", "'sqlalchemy'"):
        assert heavy not in done.stdout


def test_a_study_is_a_parent_run_and_its_trials_are_children(root):
    log = MLflowLog(root)
    config = {"seed": 0, "search": {"trials": 60, "sampler": "policy"}}
    parent = log.open_study("study", "u1", config=config)
    child = log.log_trial(
        17,
        scheme="110-010-001",
        state="COMPLETE",
        metrics={"accuracy": 97.5, "params": 12_000},
        params={"s1.b00": "se", "s1.b01": "none"},
        curves={"loss": [2.0, 1.0, 0.5]},
        artifact=("ticket.json", '{"scheme": "110-010-001"}'),
    )
    (study,) = runs_of(root, kind="study")
    assert study.info.run_id == parent
    assert study.info.status == "RUNNING"
    assert study.info.run_name == "search"
    assert study.data.params == {
        "seed": "0",
        "search.trials": "60",
        "search.sampler": "policy",
    }
    assert '"trials": 60' in text_of(study, "config.json")
    (trial,) = runs_of(root)
    assert trial.info.run_id == child
    assert trial.info.status == "FINISHED"
    assert trial.info.run_name == "#017 110-010-001"
    tags = trial.data.tags
    assert tags["mlflow.parentRunId"] == parent
    assert (tags["scheme"], tags["sat.trial"]) == ("110-010-001", "17")
    assert tags["sat.study_uuid"] == "u1"
    assert trial.data.params == {"s1.b00": "se", "s1.b01": "none"}
    assert trial.data.metrics == {"accuracy": 97.5, "parameters": 12_000, "loss": 0.5}
    assert history(root, trial, "loss") == [(1, 2.0), (2, 1.0), (3, 0.5)]
    assert text_of(trial, "ticket.json") == '{"scheme": "110-010-001"}'


@pytest.mark.parametrize(
    ("state", "status"), [("COMPLETE", "FINISHED"), ("PRUNED", "FINISHED"), ("FAIL", "FAILED")]
)
def test_status_follows_the_state_of_the_trial(root, state, status):
    opened(root).log_trial(0, scheme="1", state=state)
    (run,) = runs_of(root)
    assert run.info.status == status
    assert run.data.tags["sat.state"] == state


def test_a_trial_that_has_not_ended_is_refused(root):
    log = opened(root)
    with pytest.raises(TrackingError, match="trial 3 1 is RUNNING; log it once it is COMPLETE"):
        log.log_trial(3, scheme="1", state="RUNNING")
    assert runs_of(root) == []


def test_a_run_lasts_as_long_as_its_trial(root):
    started = datetime.now() - timedelta(hours=1)
    ended = started + timedelta(minutes=20)
    opened(root).log_trial(0, scheme="1", state="COMPLETE", started=started, ended=ended)
    (run,) = runs_of(root)
    assert run.info.end_time - run.info.start_time == 20 * 60 * 1000


def test_logging_twice_doubles_nothing(root):
    first = opened(root)
    ids = [
        first.log_trial(n, scheme="10", state="COMPLETE", metrics={"value": 1.0}) for n in range(3)
    ]
    again = [
        first.log_trial(n, scheme="10", state="COMPLETE", metrics={"value": 1.0}) for n in range(3)
    ]
    other = opened(root)
    assert other.log_trial(1, scheme="10", state="COMPLETE", metrics={"value": 1.0}) == ids[1]
    assert again == ids
    assert len(runs_of(root)) == 3
    assert len(runs_of(root, kind="study")) == 1


PLAIN, TICKET = Network("plain", "00", "f1"), Network("ticket", "10", "f1")


def test_retrainings_are_nested_in_the_summary_of_their_network(root):
    log = opened(root)
    plain = log.begin_summary(PLAIN, params={"epochs": 6, "s1.b00": "none"})
    (summary,) = runs_of(root, kind="summary")
    assert (summary.info.run_id, summary.info.status) == (plain, "RUNNING")
    moment = datetime.now() - timedelta(hours=1)
    times: dict[str, Any] = {"started": moment, "ended": moment + timedelta(minutes=5)}
    run_id = log.log_retraining(PLAIN, seed=2, summary=plain, metrics={"params": 7.0}, **times)
    assert log.log_retraining(PLAIN, seed=2, summary=plain) == run_id
    (run,) = runs_of(root, kind="retraining")
    assert run.info.run_name == "seed 2 plain"
    assert run.data.tags["mlflow.parentRunId"] == plain
    assert (run.data.tags["sat.role"], run.data.tags["sat.seed"]) == ("plain", "2")
    assert run.data.params == {"role": "plain", "scheme": "00", "seed": "2"}
    assert run.data.metrics == {"parameters": 7.0}
    assert run.info.end_time - run.info.start_time == 5 * 60 * 1000


def test_a_summary_says_what_it_was_told_last_and_one_of_an_earlier_ticket_is_called_so(root):
    log = opened(root)
    earlier = log.begin_summary(Network("ticket", "01", "f1"))
    log.end_summary(earlier, Network("ticket", "01", "f1"), metrics={"test_accuracy": 1.0})
    run_id = log.begin_summary(TICKET, params={"epochs": 6})
    for accuracy, verdict in ((97.0, "holds"), (98.0, "fails")):
        assert log.begin_summary(TICKET, params={"epochs": 6}) == run_id
        log.end_summary(
            run_id,
            TICKET,
            metrics={"test_accuracy": accuracy, "params": 5.0},
            verdicts={"faster": verdict},
            sections={"Result": f"{accuracy} %", "Verdicts": f"- faster: {verdict}"},
            ticket="{}",
        )
    log.keep_summaries([run_id])
    (run,) = runs_of(root, kind="summary")
    assert run.info.run_name == "ticket 10"
    assert run.info.status == "FINISHED"
    assert "mlflow.parentRunId" not in run.data.tags
    assert run.data.params == {"role": "ticket", "scheme": "10", "epochs": "6"}
    assert run.data.metrics == {"test_accuracy": 98.0, "parameters": 5.0}
    assert run.data.tags["verdict.faster"] == "fails"
    note = "## Result\n\n98.0 %\n\n## Verdicts\n\n- faster: fails\n\n"
    assert run.data.tags["mlflow.note.content"] == note
    assert text_of(run, "ticket.json") == "{}"
    (former,) = runs_of(root, kind="former summary")
    assert former.info.run_id == earlier


def test_the_summaries_of_a_dead_process_are_ended(root):
    from mlflow import MlflowClient

    log = opened(root)
    run_id = log.begin_summary(TICKET)
    MlflowClient(store_uri(root)).set_tag(run_id, "sat.worker", f"{worker_name()}0")
    assert log.end_stale_runs() == 1
    (run,) = runs_of(root, kind="summary")
    assert run.info.status == "KILLED"
    assert log.begin_summary(TICKET) == run_id
    (run,) = runs_of(root, kind="summary")
    assert run.info.status == "RUNNING"


def test_the_view_of_an_experiment_chooses_the_summaries_the_best_first(root):
    from mlflow import MlflowClient

    log = MLflowLog(root)
    log.open_study("study", "u1", measure=Measure("log_loss", "nats", "lower"), running=False)
    assert studies_in(root) == {"study": log.experiment}
    assert runs_of(root, kind="study")[0].info.status == "RUNNING"  # made now, so not ended yet
    log.close_study()
    log.open_study("study", "u1", running=False)
    assert runs_of(root, kind="study")[0].info.status == "FINISHED"
    run_id = log.open_study("study", "u1")
    MlflowClient(log.uri).set_tag(run_id, "sat.worker", f"{worker_name()}0")  # it was killed
    log.open_study("study", "u1", running=False)
    log.close_study()
    assert runs_of(root, kind="study")[0].info.status == "FINISHED"
    log.open_study("study", "u1", running=False)
    log.describe_study({"Result": "It pays."}, summary="It pays.")
    client = MlflowClient(log.uri)
    client.set_experiment_tag(log.experiment, "mlflow.note.content", "It pays.\n\nMine.")
    log.describe_study({"Result": "It does not."}, summary="It does not.")
    tags = client.get_experiment(log.experiment).tags
    assert tags["mlflow.note.content"] == "It does not.\n\nMine."
    state = json.loads(json.loads(tags["mlflow.sharedViewState.tickets"])["state"])
    assert state["orderByKey"] == "metrics.`test_accuracy`"
    assert not state["orderByAsc"]
    found = client.search_runs([log.experiment], state["searchFilter"])
    assert found == []


def test_what_a_study_used_and_wrote_is_in_its_run(root, tmp_path):
    log = opened(root)
    for name in ("report.md", "ticket.png"):
        (tmp_path / name).write_text(name)
    log.log_files(log.study_run, [tmp_path / "report.md"])
    log.log_files(log.study_run, [tmp_path / "ticket.png"], folder="figures")
    log.log_text(log.study_run, "environment.json", "{}")
    for _ in range(2):
        log.log_data([log.study_run], UsedData("digits", "a" * 64, "study.toml", {"train": 9}))
    (run,) = runs_of(root, kind="study")
    assert text_of(run, "report.md") == "report.md"
    assert text_of(run, "figures/ticket.png") == "ticket.png"
    assert text_of(run, "environment.json") == "{}"
    assert run.inputs is not None
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits", "a" * 36)


@pytest.mark.parametrize("own", ["", "My own words.", "Mine.\n\n## Also mine\n\nof the trial"])
def test_what_was_found_is_a_section_of_the_description_and_a_users_words_are_kept(root, own):
    from mlflow import MlflowClient

    log = MLflowLog(root)
    parent_id = log.open_study("study", "uuid-1")
    client = MlflowClient(log.uri)
    if own:
        client.set_tag(parent_id, "mlflow.note.content", own)
    log.log_blocks("- SE pays at s1.b00", {"s1.b00.se": 0.9})
    log.log_blocks("- SE hurts at s1.b00", {"s1.b00.se": -0.8, "s2.b00.se": 0.1})
    log.close_study()
    (parent,) = runs_of(root, kind="study")
    above = f"{own}\n\n" if own else ""
    written = "## Block by block\n\n- SE hurts at s1.b00\n\n"
    assert parent.data.tags["mlflow.note.content"] == above + written
    assert parent.data.metrics == {"effect.s1.b00.se": -0.8, "effect.s2.b00.se": 0.1}


def test_a_study_is_closed_and_opened_again(root):
    log = opened(root)
    log.close_study("FAILED")
    assert runs_of(root, kind="study")[0].info.status == "FAILED"
    with pytest.raises(TrackingError, match="no study is open"):
        log.log_trial(0, scheme="1", state="COMPLETE")
    log.open_study("study", "u1")
    assert runs_of(root, kind="study")[0].info.status == "RUNNING"
    log.close_study()
    (run,) = runs_of(root, kind="study")
    assert run.info.status == "FINISHED"


def test_a_config_may_change_where_a_param_may_not(root):
    log = MLflowLog(root)
    log.open_study("study", "u1", config={"search": {"trials": 10}})
    log.open_study("study", "u1", config={"search": {"trials": 40}, "seed": 1})
    (run,) = runs_of(root, kind="study")
    assert run.data.params == {"search.trials": "10", "seed": "1"}
    assert '"trials": 40' in text_of(run, "config.json")


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("", ["study", "study (it's \"u2)", "study (third-st)"]),
        ("other", ["study", "study (other)", "study (third-st)"]),
    ],
)
def test_studies_of_one_name_do_not_mix(root, place, names):
    for uuid in ("u1", 'it\'s "u2"', "third-study", "u1"):
        log = MLflowLog(root)
        log.open_study("study", uuid, place=place)
        log.log_trial(0, scheme="1", state="COMPLETE", artifact=("ticket.json", uuid))
    for name, uuid in zip(names, ("u1", 'it\'s "u2"', "third-study"), strict=True):
        (parent,) = runs_of(root, name, kind="study")
        assert parent.data.tags["sat.study_uuid"] == uuid
        (trial,) = runs_of(root, name)
        assert text_of(trial, "ticket.json") == uuid
    assert len(list((root / "artifacts").iterdir())) == 3


def test_a_renamed_experiment_is_the_studys_all_the_same(root):
    from mlflow import MlflowClient

    client = MlflowClient(store_uri(root))
    opened(root).log_trial(0, scheme="1", state="COMPLETE")
    named = client.get_experiment_by_name("study")
    assert named is not None
    client.rename_experiment(named.experiment_id, "my own name")
    opened(root).log_trial(1, scheme="1", state="COMPLETE")
    assert client.get_experiment_by_name("study") is None
    assert numbers(root, "my own name") == ["0", "1"]
    opened(root, uuid="u2")  # the name is free for another study
    assert client.get_experiment_by_name("study") is not None
    assert len(runs_of(root, "my own name", kind="study")) == 1


@pytest.mark.parametrize("uuids", [(), ("u1",), ("u0",), ("u0", "u1")])
def test_an_experiment_that_says_not_whose_it_is_is_asked(root, uuids):
    """One that a user made, or an earlier version, which wrote no tag and let studies share."""
    from mlflow import MlflowClient

    client = MlflowClient(store_uri(root))
    made = client.create_experiment("study")
    for uuid in uuids:
        client.create_run(made, tags={"sat.kind": "study", "sat.study_uuid": uuid})
    opened(root, uuid="u1").log_trial(0, scheme="1", state="COMPLETE")
    ours = "study (u1)" if uuids == ("u0",) else "study"
    assert numbers(root, ours) == ["0"]
    studies = {run.data.tags["sat.study_uuid"] for run in runs_of(root, ours, kind="study")}
    assert studies == ({"u1"} if ours != "study" else {"u1", *uuids})


def test_more_than_one_request_holds_arrives_whole(root):
    params = {f"p{i:03d}": i for i in range(250)}
    curve = [float(i) for i in range(1700)]
    opened(root).log_trial(0, scheme="1", state="COMPLETE", params=params, curves={"loss": curve})
    (run,) = runs_of(root)
    assert len(run.data.params) == 250
    assert history(root, run, "loss") == [(i + 1, value) for i, value in enumerate(curve)]


def test_nothing_lands_beside_the_folder(root, tmp_path):
    log = opened(root, name="a/../b ü")
    log.log_trial(0, scheme="1", state="COMPLETE", artifact=("ticket.json", "{}"))
    log.close_study()
    assert [path.name for path in tmp_path.iterdir()] == ["mlruns"]
    kept = {"artifacts", "mlflow.db", "mlflow.db-journal"}  # the last is of SQLite, emptied
    assert {path.name for path in root.iterdir()} == kept
    assert len(list((root / "artifacts").iterdir())) == 1


def test_artifacts_lie_under_the_name_of_the_study(root):
    opened(root).log_trial(0, scheme="1", state="COMPLETE", artifact=("ticket.json", "{}"))
    assert len(list((root / "artifacts" / "study").rglob("ticket.json"))) == 1


def test_a_moved_folder_keeps_its_artifacts(root, tmp_path):
    log = opened(root)
    log.log_trial(0, scheme="1", state="COMPLETE", artifact=("ticket.json", "old"))
    moved = tmp_path / "elsewhere" / "mlruns"
    shutil.copytree(root, moved)
    shutil.rmtree(root / "artifacts")
    log = opened(moved)
    log.log_trial(1, scheme="1", state="COMPLETE", artifact=("ticket.json", "new"))
    assert [text_of(run, "ticket.json") for run in runs_of(moved)] == ["old", "new"]
    assert not (root / "artifacts").exists()


def test_the_artifacts_of_somebody_elses_experiment_stay_where_they_are(root, tmp_path):
    from mlflow import MlflowClient

    place = (tmp_path / "elsewhere" / "artifacts" / "mine").as_uri()
    client = MlflowClient(store_uri(root))
    experiment = client.create_experiment("mine", place)
    run = client.create_run(experiment)
    opened(root)
    assert client.get_experiment(experiment).artifact_location == place
    assert client.get_run(run.info.run_id).info.artifact_uri.startswith(place)


def test_the_environment_wins(root, tmp_path, empty_store, monkeypatch):
    other = tmp_path / "other.db"
    shutil.copy(empty_store, other)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    log = opened(root)
    log.log_trial(0, scheme="1", state="COMPLETE")
    assert log.uri == f"sqlite:///{other}"
    assert len(runs_of(root)) == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(AssertionError):  # no such experiment in the folder's own store
        runs_of(root)


# --- what a killed process leaves ---------------------------------------------------------------

KILLED = """
import os, signal, sys
from sat_optuna.tracking import MLflowLog, whole_runs
from mlflow import MlflowClient

whole_runs.REVISION = "that of a later MLflow"  # so that runs are written step by step
call = sys.argv[2]
log = MLflowLog(sys.argv[1])
log.open_study("study", "u1")
log.log_trial(0, scheme="10", state="COMPLETE", metrics={"value": 1.0})
real = getattr(MlflowClient, call)
def die(*args, **kwargs):
    if sys.argv[3] == "after":
        real(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(MlflowClient, call, die)
log.log_trial(1, scheme="01", state="COMPLETE", metrics={"value": 2.0}, params={"s1.b00": "se"},
              curves={"loss": [3.0, 2.0]}, artifact=("ticket.json", "{}"))
"""


def killed_in(root: Path, call: str, when: str) -> None:
    done = forks.python("-c", KILLED, str(root), call, when, cwd=root.parent, env=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "when"),
    [
        ("create_run", "before"),
        ("create_run", "after"),
        ("log_batch", "after"),
        ("set_terminated", "after"),
    ],
)
@pytest.mark.parametrize("ended", [False, True])
def test_a_log_broken_off_by_kill_is_completed(root, call, when, ended):
    killed_in(root, call, when)
    log = opened(root)
    half = [run for run in runs_of(root) if run.info.status == "RUNNING"]
    assert len(half) == (call == "log_batch" or (call, when) == ("create_run", "after"))
    if ended:
        assert log.end_stale_runs() == len(half)
        left = {run.info.status for run in runs_of(root)}
        assert left == {"FINISHED", *(["KILLED"] if half else [])}
        assert log.end_stale_runs() == 0
    for number, scheme in enumerate(("10", "01")):
        log.log_trial(
            number,
            scheme=scheme,
            state="COMPLETE",
            metrics={"value": number + 1.0},
            params={"s1.b00": "se"},
            curves={"loss": [3.0, 2.0]},
            artifact=("ticket.json", "{}"),
        )
    first, second = runs_of(root)
    assert [first.info.status, second.info.status] == ["FINISHED", "FINISHED"]
    assert second.data.metrics == {"value": 2.0, "loss": 2.0}
    assert second.data.params == {"s1.b00": "se"}
    assert history(root, second, "loss") == [(1, 3.0), (2, 2.0)]
    assert text_of(second, "ticket.json") == "{}"
    assert len(runs_of(root, kind="study")) == 1


def test_the_run_of_a_living_process_is_left_alone(root):
    log = opened(root)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        from mlflow import MlflowClient

        run_id = log.log_trial(0, scheme="1", state="COMPLETE")
        client = MlflowClient(store_uri(root))
        client.set_tag(run_id, "sat.worker", worker_name(other.pid))
        client.update_run(run_id, status="RUNNING")
        assert opened(root).end_stale_runs() == 0
        assert opened(root).log_trial(0, scheme="1", state="COMPLETE") == run_id
        assert runs_of(root)[0].info.status == "RUNNING"
    assert opened(root).end_stale_runs() == 1
    assert runs_of(root)[0].info.status == "KILLED"  # whether it was complete nobody knows
    assert opened(root).log_trial(0, scheme="1", state="COMPLETE") == run_id
    assert runs_of(root)[0].info.status == "FINISHED"


@pytest.mark.slow
def test_a_store_whose_making_was_killed_is_made_again(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "mlruns"
    code = "import sys; from sat_optuna.tracking import MLflowLog; MLflowLog(sys.argv[1])"
    with subprocess.Popen([sys.executable, "-c", code, root]) as child:
        deadline = time.monotonic() + 120
        while not list(root.glob(".new-*/mlflow.db")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        child.kill()
    assert not (root / "mlflow.db").exists()
    opened(root).log_trial(0, scheme="1", state="COMPLETE")
    assert len(runs_of(root)) == 1


@pytest.mark.slow
def test_two_processes_may_make_the_store_at_once(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "mlruns"
    code = (
        "import sys; from sat_optuna.tracking import MLflowLog; log = MLflowLog(sys.argv[1]);"
        "which = sys.argv[2]; log.open_study('study-' + which, which);"
        "log.log_trial(0, scheme='1', state='FAIL')"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, root, str(i)]) for i in range(2)]
    assert [child.wait(120) for child in both] == [0, 0]
    assert [len(runs_of(root, name=f"study-{i}")) for i in range(2)] == [1, 1]


def test_a_worker_is_dead_only_where_that_is_sure():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        name = worker_name(child.pid)
        assert not is_dead(name)
    assert is_dead(name)
    assert not is_dead(worker_name())
    assert is_dead(worker_name() + "0")  # its number belongs to another process now
    assert not is_dead("elsewhere/1/x")
    assert not is_dead("")


# --- as a callback of Optuna --------------------------------------------------------------------


def objective(trial):
    choice = trial.suggest_categorical("s1.b00", ("none", "se"))
    trial.set_user_attr("scheme", "1" if choice == "se" else "0")
    trial.set_user_attr("accuracy", 90.0 + trial.number)
    trial.set_user_attr("odd (%)", 1)
    trial.set_user_attr("sat:policy", 3)
    for step in range(2):
        trial.report(float(step), step)
    if trial.number == 1:
        raise optuna.TrialPruned
    if trial.number == 2:
        raise ZeroDivisionError
    return 90.0 + trial.number


def study_in(tmp_path: Path, **options: Any) -> optuna.Study:
    return optuna.create_study(
        storage=f"sqlite:///{tmp_path}/study.db",
        study_name="study",
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(seed=0),
        **options,
    )


def test_the_log_is_a_callback(root, tmp_path):
    study = study_in(tmp_path)
    study.set_user_attr("sat:uuid", "abc")
    log = MLflowLog(root)
    study.optimize(objective, n_trials=4, callbacks=[log], catch=ZeroDivisionError)
    runs = runs_of(root)
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED", "FAILED", "FINISHED"]
    assert [run.data.tags["scheme"] for run in runs] == [
        trial.user_attrs["scheme"] for trial in study.trials
    ]
    assert runs[0].data.params == study.trials[0].params
    assert runs[0].data.metrics == {
        "value": 90.0,
        "accuracy": 90.0,
        "odd ___": 1.0,
        "intermediate": 1.0,
    }
    assert "value" not in runs[2].data.metrics
    assert {run.data.tags["sat.study_uuid"] for run in runs} == {"abc"}
    log.close_study()  # a search's run is written once a second, and at its end
    (search,) = runs_of(root, kind="study")
    assert history(root, search, "reward") == [(0, 90.0), (3, 93.0)]
    assert history(root, search, "best_accuracy") == [(0, 90.0), (3, 90.0)]  # it minimises
    assert search.data.tags["best scheme"] == study.best_trial.user_attrs["scheme"]


def test_what_a_killed_process_kept_from_the_run_of_the_search_is_told_by_the_next(root, tmp_path):
    """It had logged the trials themselves; and nothing is told twice."""
    study = study_in(tmp_path, direction="maximize")
    study.optimize(objective, n_trials=5, catch=ZeroDivisionError)
    log = opened(root, uuid="study")
    for trial in study.trials:
        log.log_optuna(study, trial)
    (search,) = runs_of(root, kind="study")
    assert history(root, search, "reward") == []
    for _ in range(2):
        log = opened(root, uuid="study")
        assert log.catch_up(study) == 0
        assert history(root, search, "reward") == [(0, 90.0), (3, 93.0), (4, 94.0)]
        assert history(root, search, "best_reward") == [(0, 90.0), (3, 93.0), (4, 94.0)]


LONG = "x" * 9000


def test_what_is_over_mlflows_limits_is_cut_with_a_mark_and_the_rest_is_kept(root):
    """Keys of 250 letters, params of 6,000 and tags of 8,000; paths; two names that become one."""
    numbers = {
        "k" * 300: 1.0,
        "k" * 299: 2.0,
        "a//b": 3.0,
        "a__b": 4.0,
        "../up": 5.0,
        "/": 6.0,
        "": 7.0,
        "lone \ud800": 8.0,
        "odd (%)": 9.0,
        "odd [%]": 10.0,
        "huge": 10**400,
        "small": -(10**400),
    }

    def of_a_user(trial: optuna.Trial) -> float:
        trial.suggest_categorical("p" * 300, (LONG, "b"))
        trial.suggest_categorical("surrogate", ("\ud800 text",))
        for number in range(150):
            trial.suggest_float(f"x{number}", 0, 1)
        trial.set_user_attr("scheme", LONG)
        for name, value in numbers.items():
            trial.set_user_attr(name, value)
        return 1.0

    sampler = optuna.samplers.RandomSampler(seed=3)
    study = optuna.create_study(study_name="study" * 60, sampler=sampler)
    study.enqueue_trial({"p" * 300: LONG})
    log = MLflowLog(root, study_name="study")
    with warnings.catch_warnings():
        warnings.simplefilter("error", SatOptunaWarning)
        study.optimize(of_a_user, n_trials=2, callbacks=[log])
        log.close_study()
    assert not log.is_behind
    runs = runs_of(root)
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    for run in runs:
        assert len(run.data.params) == 152
        assert max(map(len, (*run.data.params, *run.data.metrics))) == 250
        told = {value for key, value in run.data.metrics.items() if not key.startswith("value")}
        assert told >= {float(number) for number in range(1, 11)}
        assert run.data.metrics["huge"] > 1e308
        assert run.data.metrics["small"] < -1e308
        assert run.data.metrics["odd ___"] == 9.0
        assert run.data.tags["scheme"].endswith("... (cut by sat_optuna from 9,000 characters)")
    (param,) = [value for key, value in runs[0].data.params.items() if key.startswith("ppp")]
    assert (len(param), param[-45:]) == (6000, "... (cut by sat_optuna from 9,000 characters)")
    assert runs[0].data.params["surrogate"] == r"\ud800 text"
    assert opened(root, uuid="study" * 60).catch_up(study) == 0  # they are known by their keys


def test_the_callback_logs_what_an_earlier_process_did_not(root, tmp_path):
    study = study_in(tmp_path)
    study.optimize(objective, n_trials=1, callbacks=[MLflowLog(root)])
    study.optimize(objective, n_trials=2, catch=ZeroDivisionError)  # nobody logs these
    study.optimize(objective, n_trials=1, callbacks=[MLflowLog(root, study_name="study")])
    assert [run.data.tags["sat.trial"] for run in runs_of(root)] == ["0", "1", "2", "3"]
    log = opened(root, uuid="study")
    assert log.catch_up(study) == 0


def test_an_objective_with_two_values_and_no_scheme(root, tmp_path):
    study = study_in(tmp_path, directions=["maximize", "minimize"])
    study.optimize(lambda trial: (1.0, 2.0), n_trials=1, callbacks=[MLflowLog(root)])
    (run,) = runs_of(root)
    assert run.data.metrics == {"value_0": 1.0, "value_1": 2.0}
    assert run.info.run_name == "#000"


def test_threads_share_a_log(root):
    study = optuna.create_study(study_name="study", sampler=optuna.samplers.RandomSampler(seed=0))
    log = MLflowLog(root)
    study.optimize(
        lambda trial: trial.suggest_float("x", 0, 1), n_trials=8, n_jobs=4, callbacks=[log]
    )
    assert len(runs_of(root)) == 8
    assert len(runs_of(root, kind="study")) == 1
    assert threading.active_count() < 20


@pytest.mark.slow
@pytest.mark.parametrize(("tail", "status"), [("", "FINISHED"), ("1 / 0", "FAILED")])
def test_the_callback_closes_the_study_when_the_process_exits(root, tmp_path, tail, status):
    code = f"""
import optuna, sys
from sat_optuna.tracking import MLflowLog
study = optuna.create_study(study_name="study")
study.optimize(lambda trial: 1.0, n_trials=1, callbacks=[MLflowLog(sys.argv[1])])
{tail}
"""
    done = subprocess.run(
        [sys.executable, "-c", code, root], capture_output=True, text=True, check=False
    )
    assert runs_of(root, kind="study")[0].info.status == status
    assert "mlflow" not in done.stderr.lower()
    assert "alembic" not in done.stderr.lower()


ODD_FOLDERS = ["what?", "50%", "my%20project", "%41", "a#b;c", "ünï côdé", "{x}", "a&b=c@d:e"]


@pytest.mark.parametrize("name", ODD_FOLDERS)
def test_a_folder_of_any_name_holds_its_store_and_its_artifacts(
    name, tmp_path, empty_store, monkeypatch
):
    """Nothing lands beside it, nor in a folder of the name as a URL would escape it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / name / "mlruns"
    root.mkdir(parents=True)
    shutil.copy(empty_store, root)
    for _ in range(2):  # also where it is found again
        log = opened(root)
        log.log_trial(0, scheme="1", state="COMPLETE", artifact=("ticket.json", "{}"))
    (run,) = runs_of(root)
    assert [path.read_text() for path in (root / "artifacts").rglob("ticket.json")] == ["{}"]
    assert run.data.tags["sat.state"] == "COMPLETE"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    kept = {"artifacts", "mlflow.db", "mlflow.db-journal"}  # the last is of SQLite, emptied
    assert {path.name for path in root.iterdir()} == kept


@pytest.mark.slow  # MLflow takes seconds to make its tables
@pytest.mark.parametrize("name", ODD_FOLDERS[:4])
def test_a_folder_of_any_name_gets_a_store(name, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    opened(tmp_path / name / "mlruns")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert runs_of(tmp_path / name / "mlruns") == []


# --- a store that fails -------------------------------------------------------------------------


def scored(trial: optuna.Trial) -> float:
    return float(trial.suggest_categorical("s1.b00", ("none", "se")) == "se")


def numbers(root: Path, name: str = "study") -> list[str]:
    return sorted(run.data.tags["sat.trial"] for run in runs_of(root, name))


@pytest.mark.parametrize("patience", [0.0, 600.0])
def test_a_store_that_takes_nothing_for_a_while_ends_no_search(root, patience):
    """Its artifacts' folder is in the way at trial 1; all are there at the latest at the end."""
    log = MLflowLog(root)
    log.patience = patience
    study = optuna.create_study(study_name="study")
    warned = pytest.warns(SatOptunaWarning, match=r"cannot log trial 1.*logged later")

    def in_the_way(study: optuna.Study, trial: Any) -> None:
        if trial.number == 1:
            (root / "artifacts").mkdir()
            (root / "mlflow.db").rename(root / "away.db")
            (root / "mlflow.db").mkdir()
        if trial.number == 3:
            (root / "mlflow.db").rmdir()
            (root / "away.db").rename(root / "mlflow.db")

    with warned:
        study.optimize(scored, n_trials=5, callbacks=[in_the_way, log])
    assert numbers(root) == (["0"] if patience else ["0", "1", "2", "3", "4"])
    log._close_at_exit()
    assert numbers(root) == ["0", "1", "2", "3", "4"]
    assert not log.is_behind


def test_a_store_that_answers_slowly_is_left_for_later(root):
    log = MLflowLog(root)
    log.slow = -1.0  # any trial takes longer
    study = optuna.create_study(study_name="study")
    with pytest.warns(SatOptunaWarning, match=r"took \d+ s to log trial 0; the search goes on"):
        study.optimize(scored, n_trials=4, callbacks=[log])
    assert (numbers(root), log.is_behind) == (["0"], True)
    log.slow = float("inf")  # for one who has time, as `doctor --fix`
    assert log.catch_up(study) == 3
    assert (numbers(root), log.is_behind) == (["0", "1", "2", "3"], False)
    log.close_study()


def test_a_store_that_fails_again_is_left_alone_for_longer():
    wait, waits = Patience(), list[int]()
    seen = [wait.is_over]
    for _ in range(8):
        wait.failed(60.0)
        waits.append(round(wait._until - time.monotonic()))
        seen.append(wait.is_over)
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert seen == [True] + 8 * [False]
    wait.worked()
    wait.failed(0.0)
    assert wait.is_over


@pytest.mark.slow  # MLflow waits 20 s for the lock
@pytest.mark.parametrize("at", [-1, 0, 1])
def test_a_locked_store_ends_no_search_from_python(root, at):
    """Locked before there is a log, when it opens its study, or later: all is logged at last."""
    other = sqlite3.connect(root / "mlflow.db", isolation_level=None, check_same_thread=False)
    if at < 0:
        other.execute("BEGIN EXCLUSIVE")
    log = MLflowLog(root)
    study = optuna.create_study(study_name="study")

    def locking(study: optuna.Study, trial: Any) -> None:
        if trial.number == at:
            other.execute("BEGIN EXCLUSIVE")

    def letting_go(study: optuna.Study, trial: Any) -> None:
        if trial.number == max(at, 0):
            other.execute("ROLLBACK")
            log.patience, log._wait = 0.0, Patience()

    with pytest.warns(SatOptunaWarning, match=r"database is locked; the search goes on"):
        study.optimize(scored, n_trials=3, callbacks=[locking, log, letting_go])
    other.close()
    assert numbers(root) == ["0", "1", "2"]


@pytest.mark.slow  # MLflow waits 20 s for the lock
@pytest.mark.parametrize("held", ["always", "until the trials are done"])
def test_what_a_locked_store_lacks_is_logged_at_exit_or_by_the_next_process(root, tmp_path, held):
    code = """
import optuna, sys
from sat_optuna.tracking import MLflowLog
study = optuna.create_study(study_name="study", storage=sys.argv[2], load_if_exists=True)
study.optimize(lambda trial: 1.0, n_trials=2, callbacks=[MLflowLog(sys.argv[1])])
print("done", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code, str(root), f"sqlite:///{tmp_path / 'study.db'}"]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with contextlib.closing(sqlite3.connect(root / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with subprocess.Popen(command, text=True, **pipes) as searching:
            assert searching.stdout is not None
            assert searching.stdout.readline() == "done\n"
            if held == "until the trials are done":
                other.execute("ROLLBACK")
            _, said = searching.communicate()
    assert searching.returncode == 0
    assert "Traceback" not in said
    assert said.count("database is locked; the search goes on, and its trials are logged l") == 1
    missing = (
        "database is locked; the trials that MLflow lacks are in the study, and the next proc"
    )
    assert said.count(missing) == (held == "always")
    if held == "always":
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    assert numbers(root) == [str(number) for number in range(4 if held == "always" else 2)]


@pytest.mark.slow  # MLflow waits 20 s for the lock
def test_a_locked_store_is_one_sentence(root):
    log = opened(root)
    other = sqlite3.connect(root / "mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(TrackingError) as caught:
            log.log_trial(4, scheme="1", state="COMPLETE")
    finally:
        other.close()
    message = str(caught.value)
    assert "\n" not in message
    assert "cannot read the runs" in message
    assert "database is locked" in message
    assert "--no-mlflow" in message
    log.log_trial(4, scheme="1", state="COMPLETE")
    assert len(runs_of(root)) == 1


def test_a_file_that_is_no_database_is_said_at_once(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_text("not a database " * 100)
    began = time.monotonic()
    with pytest.raises(TrackingError, match="file is not a database"):
        MLflowLog(tmp_path)
    assert time.monotonic() - began < 60
    assert capfd.readouterr().err == ""


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match="Not a directory"):
        MLflowLog(tmp_path / "file" / "mlruns")


def test_an_artifact_that_cannot_be_written_is_logged_later(root):
    log = opened(root)
    (root / "artifacts").write_text("in the way")
    arguments: dict[str, Any] = {"scheme": "1", "state": "COMPLETE"}
    arguments["artifact"] = ("ticket.json", "{}")
    with pytest.raises(TrackingError, match="cannot log trial 0 1 in MLflow's store sqlite"):
        log.log_trial(0, **arguments)
    (root / "artifacts").unlink()
    log.log_trial(0, **arguments)
    (run,) = runs_of(root)
    assert (run.info.status, text_of(run, "ticket.json")) == ("FINISHED", "{}")


def test_a_deleted_experiment_says_how_to_bring_it_back(root):
    from mlflow import MlflowClient

    opened(root)
    client = MlflowClient(store_uri(root))
    experiment = client.get_experiment_by_name("study")
    assert experiment is not None
    number = experiment.experiment_id
    client.delete_experiment(number)
    command = f"mlflow experiments restore --experiment-id {number}"
    with pytest.raises(TrackingError) as caught:
        opened(root)
    assert caught.value.what == (
        "experiment study was deleted in MLflow (bring it back with: "
        f"MLFLOW_TRACKING_URI=sqlite:///{root}/mlflow.db {command})"
    )


@pytest.mark.slow  # MLflow's command imports all of MLflow
def test_the_command_that_is_told_brings_a_deleted_experiment_back(root, tmp_path):
    from mlflow import MlflowClient

    opened(root)
    client = MlflowClient(store_uri(root))
    (experiment,) = client.search_experiments(filter_string="name = 'study'")
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(TrackingError) as caught:
        opened(root)
    command = caught.value.what.partition("(bring it back with: ")[2].removesuffix(")")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    subprocess.run(["sh", "-c", command], env=environment, cwd=tmp_path, check=True)
    opened(root).log_trial(0, scheme="1", state="COMPLETE")
    assert numbers(root) == ["0"]


def test_the_old_file_store_is_refused_in_one_sentence(root, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "old"))
    with pytest.raises(TrackingError, match="cannot open the log") as caught:
        MLflowLog(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_server_is_one_sentence_and_ends_no_search(root, monkeypatch, kind):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0" if kind == "sleeps" else "1")
    study = optuna.create_study(study_name="study")
    with lost_server(kind) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        log = MLflowLog(root)
        with pytest.raises(SatOptunaError, match=r"cannot open study study .*--no-mlflow") as told:
            log.open_study("study", "u1")
        assert "\n" not in str(told.value)
        assert "secret" not in str(told.value)
        with pytest.warns(SatOptunaWarning, match=r"; the search goes on, and its ") as warned:
            study.optimize(scored, n_trials=5, callbacks=[log])
    assert len(warned) == 1  # it is left alone after that
    assert len(study.trials) == 5
    assert log.is_behind
    log._followed = None  # nothing more to say at the exit of the tests


@pytest.mark.slow
def test_what_the_user_has_set_stays(tmp_path, empty_store):
    root = tmp_path / "mlruns"
    root.mkdir()
    shutil.copy(empty_store, root)
    code = (
        "import os, sys; from sat_optuna.tracking import MLflowLog; MLflowLog(sys.argv[1]);"
        "print(os.environ['MLFLOW_LOGGING_LEVEL'], os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    )
    environment = {**os.environ, "MLFLOW_LOGGING_LEVEL": "ERROR"}
    environment.pop("MLFLOW_DISABLE_TELEMETRY", None)
    done = subprocess.run(
        [sys.executable, "-c", code, root],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["ERROR", "true"]


def test_stale_runs_are_those_of_dead_processes_in_all_experiments(root):
    from mlflow import MlflowClient

    client = MlflowClient(store_uri(root))
    dead = f"{worker_name()}0"
    living, elsewhere = worker_name(), "another-machine/1/x"
    parents = {}
    for name, worker in (("a", dead), ("b", living), ("c", elsewhere), ("d", dead)):
        parents[name] = MLflowLog(root).open_study(name, f"uuid-{name}")
        client.set_tag(parents[name], "sat.worker", worker)
    log = opened(root, "b", "uuid-b")
    trial = log.log_trial(0, scheme="1", state="FAIL")
    client.set_tag(trial, "sat.worker", dead)  # killed after its last number, before its end
    client.update_run(trial, status="RUNNING")
    foreign = client.create_run(client.create_experiment("a user's own")).info.run_id
    left = ["#000 1", "search", "search"]
    assert sorted(stale_runs(root)) == left
    assert sorted(end_stale_runs(root)) == left
    assert (stale_runs(root), end_stale_runs(root)) == ([], [])
    ids = (*parents.values(), trial, foreign)
    assert [client.get_run(run_id).info.status for run_id in ids] == [
        *("KILLED", "RUNNING", "RUNNING", "KILLED", "KILLED", "RUNNING")
    ]


def test_a_store_without_running_runs_is_looked_at_without_mlflow(root, tmp_path):
    code = (
        "import sys; from sat_optuna.tracking import end_stale_runs, stale_runs\n"
        "print([*end_stale_runs(sys.argv[1]), *stale_runs(sys.argv[2])], 'mlflow' in sys.modules)"
    )
    asked = [sys.executable, "-c", code, str(root), str(tmp_path / "none")]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert done.stdout == "[] False\n"
    assert not (tmp_path / "none").exists()
