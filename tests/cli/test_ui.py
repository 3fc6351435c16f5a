"""`sat-optuna ui`: what it puts right and prints, and when it does not start."""

import shutil
import socket

import pytest
from click.testing import CliRunner

from sat_optuna.cli import sat_optuna as group
from sat_optuna.cli.ui import links
from sat_optuna.processes import worker_name
from sat_optuna.tracking import MLflowLog, store_uri, table_link


@pytest.fixture
def root(tmp_path, empty_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_store, tmp_path / "mlruns")
    return tmp_path / "mlruns"


def test_the_links_are_of_the_studies_the_latest_first(root):
    experiments = {}
    for name in ("first", "second"):
        log = MLflowLog(root)
        log.open_study(name, name)
        experiments[name] = log.experiment
        log.close_study()
    url = "http://127.0.0.1:1"
    expected = [f"{name}: {table_link(url, experiments[name])}" for name in ("second", "first")]
    assert links(root, url) == expected
    assert links(root, url, most=1) == [expected[0], "and 1 earlier study, listed on the page"]


def test_runs_of_dead_processes_are_ended_before_a_port_in_use_is_said(root):
    from mlflow import MlflowClient

    log = MLflowLog(root)
    run_id = log.open_study("mine", "u1")
    client = MlflowClient(store_uri(root))
    client.set_tag(run_id, "sat.worker", f"{worker_name()}0")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        done = CliRunner().invoke(group, ["ui", "--port", port])
    assert done.exit_code == 1
    assert "ended the runs of dead processes: search\n" in done.stderr
    assert f"port {port} of 127.0.0.1 is in use" in done.stderr
    assert client.get_run(run_id).info.status == "KILLED"
