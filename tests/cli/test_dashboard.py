"""`sat-optuna dashboard` of one study, of several and of all."""

import re
import shutil
import signal
import socket
import subprocess

import optuna
import pytest
import requests
from click.testing import CliRunner

from sat_optuna.cli import sat_optuna as group
from sat_optuna.search.storage import open_storage
from tests.studies import command, environment, make_study

SECONDS = 120


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Three studies: two that were begun, with a trial that was left, and one that was not."""
    for name in ("one", "two", "new"):
        folder = make_study(tmp_path, name)
        if name != "new":
            storage = open_storage(folder / "study.db")
            study = optuna.create_study(storage=storage, study_name=name)
            study.tell(study.ask(), 1.0)
            study.ask()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def busy():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield str(holder.getsockname()[1])


def error(*arguments):
    done = CliRunner().invoke(group, ["dashboard", *arguments])
    assert done.exit_code == 1, done.output
    assert "Traceback" not in done.output
    return done.stderr


def states(project, name):
    study = optuna.load_study(
        storage=open_storage(project / "studies" / name / "study.db"), study_name=name
    )
    return [trial.state.name for trial in study.trials]


@pytest.mark.parametrize(
    ("asked", "closed"),
    [(("one",), ("one",)), (("one", "studies/one", "two"), ("one", "two")), ((), ("one", "two"))],
)
def test_it_says_what_dead_processes_left_and_that_a_port_is_in_use(project, busy, asked, closed):
    said = error(*asked, "--port", busy)
    for name in ("one", "two"):
        left = f"trials [1] of study '{name}' were left by a dead process and wait now"
        assert (left in said) == (name in closed)
        assert (f"under their numbers by: sat-optuna search {name}" in said) == (name in closed)
        waits = "WAITING" if name in closed else "RUNNING"
        assert states(project, name) == ["COMPLETE", waits]
    assert f"port {busy} of 127.0.0.1 is in use" in said


def test_one_that_was_not_searched_is_an_error_only_where_it_was_asked_for(project, busy):
    said = error("one", "new", "--port", busy)
    assert "no search was run yet" in said
    assert "sat-optuna run new" in said
    assert "no study 'three'" in error("one", "three", "--port", busy)


def test_without_any_study_it_says_what_makes_one(project, busy):
    broken = project / "studies" / "new" / "study.db"
    broken.write_bytes(b"no database at all" * 100)
    assert f"left out: cannot open {broken}" in error("--port", busy)
    for name in ("one", "two"):
        shutil.rmtree(project / "studies" / name)
    assert "none of the studies here can be shown; run one: sat-optuna run" in error(
        "--port", busy
    )
    broken.unlink()
    said = "no study under studies/ was searched yet; run one: sat-optuna run STUDY"
    assert said in error("--port", busy)


@pytest.mark.slow
def test_all_studies_are_served_together_and_one_alone_can_be_changed(project):
    other = project / "other" / "one"
    shutil.copytree(project / "studies" / "one", other)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def served(*arguments):
        with subprocess.Popen(
            command("dashboard", *arguments, "--port", port),
            cwd=project,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            try:
                assert server.stdout is not None
                (url,) = re.findall(r"http://[\d.:]+", server.stdout.readline())
                listed = requests.get(f"{url}/api/studies", timeout=SECONDS).json()
                found = {s["study_name"]: s["study_id"] for s in listed["study_summaries"]}
                number = next(iter(found.values()))
                gone = requests.delete(f"{url}/api/studies/{number}", json={}, timeout=SECONDS)
            finally:
                server.send_signal(signal.SIGTERM)
        return sorted(found), gone.status_code

    assert served() == (["one", "two"], 403)
    both = sorted(f"one ({folder})" for folder in (project / "studies" / "one", other))
    assert served("one", str(other)) == (both, 403)
    assert served("two") == (["two"], 204)
    assert states(project, "one") == ["COMPLETE", "WAITING"]
