"""The real servers, each in a process of its own, asked over HTTP."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import requests

from sat_optuna.errors import ServerError
from sat_optuna.files import sqlite_url
from sat_optuna.tracking import MLflowLog
from sat_optuna.tracking.servers import serve_dashboard, serve_mlflow

optuna.logging.set_verbosity(optuna.logging.WARNING)

SECONDS = 120  # a machine may be slow


@contextlib.contextmanager
def serving(
    function: str, argument: object, cwd: Path
) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """Run a server on a free port and yield (process, URL); it is gone afterwards."""
    code = (
        f"import sys; from sat_optuna.tracking.servers import {function} as serve;"
        "serve(sys.argv[1], port=0, on_ready=lambda url: print(url, flush=True));"
        "print('ended')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(argument)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            url = server.stdout.readline().strip()
            assert url, server.stderr.read()
            yield server, url
        finally:
            server.terminate()  # it ends its children itself; a kill would leave them
            try:
                server.wait(60)
            finally:
                server.kill()


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def ended(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def storage(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(
        storage=url, study_name="small", sampler=optuna.samplers.RandomSampler(seed=0)
    )

    def objective(trial):
        return sum(
            trial.suggest_categorical(f"s1.b{i:02d}", ("none", "se")) == "se" for i in range(3)
        )

    study.optimize(objective, n_trials=4)
    return url


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "mlruns"
    log = MLflowLog(folder)
    log.open_study("small", "u1")
    for number, scheme in enumerate(("110-001", "010-111")):
        artifact = ("ticket.json", f'{{"scheme": "{scheme}"}}')
        log.log_trial(number, scheme=scheme, state="COMPLETE", artifact=artifact)
    log.close_study()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_optuna_dashboard_shows_blocks_as_categorical_parameters(storage, tmp_path, number):
    with serving("serve_dashboard", storage, tmp_path) as (server, url):
        assert url.startswith("http://127.0.0.1:")
        (study,) = requests.get(f"{url}/api/studies", timeout=SECONDS).json()["study_summaries"]
        assert study["study_name"] == "small"
        detail = requests.get(
            f"{url}/api/studies/{study['study_id']}?after=0", timeout=SECONDS
        ).json()
        space = {item["name"]: item["distribution"] for item in detail["union_search_space"]}
        assert sorted(space) == ["s1.b00", "s1.b01", "s1.b02"]
        for distribution in space.values():
            assert distribution["type"] == "CategoricalDistribution"
            choices = {choice["value"] for choice in distribution["choices"]}
            assert choices == {"none", "se"}
        assert len(detail["trials"]) == 4
        assert "<title>" in requests.get(f"{url}/dashboard/", timeout=SECONDS).text
        server.send_signal(number)
        assert server.communicate(timeout=60) == ("ended\n", "")
        assert server.returncode == 0


@pytest.mark.slow
def test_optuna_dashboard_answers_pages_of_this_machine_alone(storage, tmp_path):
    with serving("serve_dashboard", storage, tmp_path) as (_, url):
        port = url.rpartition(":")[2]
        studies = f"{url}/api/studies"
        for headers in (
            {"Host": "evil.example"},
            {"Host": "[::"},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
        ):
            assert requests.get(studies, headers=headers, timeout=SECONDS).status_code == 403
            deleted = requests.delete(f"{studies}/1", headers=headers, timeout=SECONDS)
            assert deleted.status_code == 403
        here = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
        answer = requests.get(studies, headers=here, timeout=SECONDS)
        for page in (f"{url}/dashboard/", studies):
            shown = requests.get(page, timeout=SECONDS).headers
            assert shown["X-Frame-Options"] == "DENY"
            assert "frame-ancestors 'none'" in shown["Content-Security-Policy"]
        assert len(answer.json()["study_summaries"]) == 1


@pytest.mark.slow
def test_mlflow_lists_trials_as_child_runs_with_their_scheme(root, tmp_path):
    with serving("serve_mlflow", root, tmp_path) as (server, url):
        api = f"{url}/api/2.0/mlflow"
        experiment = requests.get(
            f"{api}/experiments/get-by-name?experiment_name=small", timeout=SECONDS
        ).json()["experiment"]["experiment_id"]
        runs = requests.post(
            f"{api}/runs/search", json={"experiment_ids": [experiment]}, timeout=SECONDS
        ).json()["runs"]
        tags = {
            run["info"]["run_id"]: {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
            for run in runs
        }
        (parent,) = [run for run, tag in tags.items() if tag["sat.kind"] == "study"]
        children = {
            tag["scheme"]: run
            for run, tag in tags.items()
            if tag.get("mlflow.parentRunId") == parent
        }
        assert sorted(children) == ["010-111", "110-001"]
        ticket = requests.get(
            f"{url}/get-artifact?path=ticket.json&run_uuid={children['010-111']}", timeout=SECONDS
        )
        assert ticket.json() == {"scheme": "010-111"}
        for foreign in ("evil.example", "10.evil.example", "192.168.1.7", "172.16.evil.example"):
            for page in (url, f"{api}/experiments/get-by-name?experiment_name=small"):
                answer = requests.get(page, headers={"Host": foreign}, timeout=SECONDS)
                assert answer.status_code == 403, foreign
        for ours in ("localhost", "localhost:8000", "127.0.0.1:8000"):  # a tunnel's end, too
            answer = requests.get(url, headers={"Host": ours}, timeout=SECONDS)
            assert answer.status_code == 200

        processes = family(server.pid)
        assert 3 <= len(processes) <= 5
        server.send_signal(signal.SIGTERM)
        assert server.communicate(timeout=60) == ("ended\n", "")
        assert server.returncode == 0
        wait_until(lambda: all(ended(pid) for pid in processes))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlruns"]


@pytest.mark.slow
def test_a_server_that_is_killed_leaves_no_mlflow_behind(root, tmp_path):
    with serving("serve_mlflow", root, tmp_path) as (server, _):
        processes = family(server.pid)
        server.kill()
        server.wait()
        wait_until(lambda: all(ended(pid) for pid in processes))


@pytest.mark.slow
def test_the_ui_of_a_copied_project_shows_its_own_artifacts(root, tmp_path):
    copied = tmp_path / "a copy"
    shutil.copytree(root, copied / "mlruns")
    (path,) = (p for p in copied.glob("mlruns/**/ticket.json") if "010-111" in p.read_text())
    path.write_text('{"scheme": "mine"}')
    with serving("serve_mlflow", copied / "mlruns", tmp_path) as (_, url):
        run = path.parents[1].name
        asked = f"{url}/get-artifact?path=ticket.json&run_uuid={run}"
        assert requests.get(asked, timeout=SECONDS).json() == {"scheme": "mine"}


@pytest.mark.slow
def test_an_mlflow_server_that_dies_is_reported(root, tmp_path):
    with serving("serve_mlflow", root, tmp_path) as (server, _):
        (mlflow,) = (
            pid
            for pid in family(server.pid)
            if b"mlflow\0ui\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        os.kill(mlflow, signal.SIGKILL)
        _, said = server.communicate(timeout=60)
        assert server.returncode == 1
        assert "ServerError: the MLflow server has ended with code -9" in said


@pytest.mark.slow
def test_mlflow_says_why_it_does_not_start(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").touch()
    monkeypatch.setenv("MLFLOW_UVICORN_OPTS", "--nonsense")
    with pytest.raises(ServerError, match="the MLflow server ended with code"):
        serve_mlflow(tmp_path, port=0)


@pytest.fixture
def busy_port():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_dashboard_port_in_use(storage, busy_port):
    with pytest.raises(ServerError, match=f"port {busy_port} of 127.0.0.1 is in use.*--port"):
        serve_dashboard(storage, port=busy_port)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_mlflow_port_in_use(tmp_path, busy_port, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(ServerError, match=f"port {busy_port} of 127.0.0.1 is in use.*--port"):
        serve_mlflow(tmp_path, port=busy_port)


@pytest.mark.parametrize("port", [70_000, -1])
def test_a_port_that_is_none(storage, port, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(ServerError, match=f"cannot listen on port {port} .*--port"):
        serve_dashboard(storage, port=port)
    with pytest.raises(ServerError, match=f"cannot listen on port {port} .*--port"):
        serve_mlflow(tmp_path, port=port)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "::", "example.org", ""])
def test_only_loopback_is_served(host):
    with pytest.raises(ServerError, match="no password"):
        serve_dashboard("sqlite://", host=host)
    with pytest.raises(ServerError, match="no password"):
        serve_mlflow("mlruns", host=host)


def test_a_study_in_a_folder_of_any_name_is_served(tmp_path):
    name = "what? my%20project {x}#"
    (tmp_path / name).mkdir()
    url = sqlite_url(tmp_path / name / "study.db")
    optuna.create_study(study_name="here", storage=url)
    with serving("serve_dashboard", url, tmp_path) as (_, served):
        studies = requests.get(f"{served}/api/studies", timeout=SECONDS).json()
    assert [study["study_name"] for study in studies["study_summaries"]] == ["here"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_storage_that_is_no_database(tmp_path):
    (tmp_path / "study.db").write_text("not a database " * 100)
    with pytest.raises(ServerError, match=r"cannot read sqlite:.*not a database") as caught:
        serve_dashboard(f"sqlite:///{tmp_path}/study.db", port=0)
    assert "\n" not in str(caught.value)


def test_no_runs_yet(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ServerError, match=r"holds no mlflow.db: no run was logged"):
        serve_mlflow(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_runs_on_a_server_have_its_ui(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    with pytest.raises(ServerError, match=r"http://tracking.example:5000, which has a UI"):
        serve_mlflow(tmp_path)


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:secret@tracking.example:5000",
        "http://me:se@cr/et@tracking.example:5000",
        "http://secret@tracking.example:5000",
    ],
)
def test_a_password_is_shown_nowhere(tmp_path, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ServerError, match=r"//tracking.example:5000, which has") as caught:
        serve_mlflow(tmp_path)
    assert not any(part in str(caught.value) for part in ("secret", "se@cr", "me:"))
    with pytest.raises(ServerError) as caught:
        serve_dashboard("postgresql+nothing://me:se@cret@db.example/x?password=secret", port=0)
    assert "secret" not in str(caught.value)
    assert "cret@" not in str(caught.value)


def test_ipv6_loopback_is_served_too(storage):
    seen = []

    def ready(url):
        seen.append(url)
        raise KeyboardInterrupt

    with contextlib.suppress(ServerError):  # a container without IPv6
        serve_dashboard(storage, host="::1", port=0, on_ready=ready)
    assert all(url.startswith("http://[::1]:") for url in seen)
