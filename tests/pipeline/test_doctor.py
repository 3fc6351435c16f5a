"""The doctor against real installations, stores and databases, one left by a dead process."""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest

import sat_optuna
from sat_optuna.pipeline.doctor import Finding, examine

# Asks three trials under the name given, tells the first, and waits to be killed.
LEAVE = """
import sys
from pathlib import Path
from sat_optuna.config.config import StudyConfig
from sat_optuna.processes import worker_name
from sat_optuna.search.space import WORKER_KEY
from sat_optuna.search.storage import open_storage
from sat_optuna.search.study import build_sampler, create_study
folder = Path(sys.argv[1])
for name, left in ((folder.name, 2), (folder.name + ".random", 1), (folder.name + ".truth", 1)):
    sampler = build_sampler("random", seed=0, batch=8)
    storage = open_storage(folder / "study.db")
    study = create_study(storage, name, config=StudyConfig(), sampler=sampler)
    study.tell(study.ask(), 1.0)
    for _ in range(left):
        study.ask().set_user_attr(WORKER_KEY, worker_name())
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def found(root, *folders):
    return list(examine(folders, root / "mlruns"))


def about(findings, subject):
    return [finding for finding in findings if finding.subject == subject]


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """A study whose process was killed, and what the doctor said while it was alive."""
    folder = tmp_path_factory.mktemp("studies") / "mine"
    folder.mkdir()
    command = [sys.executable, "-c", LEAVE, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        alive = found(folder.parent, folder)
        process.kill()
    return folder, alive


def test_versions_device_and_store_of_this_installation(root):
    findings = found(root)
    assert all(finding.state == "ok" for finding in findings)
    assert about(findings, "torch") == [Finding("torch", "ok", version("torch"))]
    (python,) = about(findings, "python")
    assert python.finding.endswith(f" at {sys.executable}")
    (device,) = about(findings, "device")
    assert device.finding.startswith(("CPU, ", "GPU "))
    (store,) = about(findings, "mlflow store")
    assert store.finding.startswith(f"sqlite:///{(root / 'mlruns').resolve()}")
    assert store.finding.endswith("(not made yet: no study was logged)")
    assert not (root / "mlruns").exists()  # looking makes nothing


def test_a_package_that_is_missing_is_named(root):
    packages = root / "packages"  # this environment but for mlflow
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith("mlflow-"):
            (packages / entry.name).symlink_to(entry)
    program = (
        "from pathlib import Path; from sat_optuna.pipeline.doctor import examine\n"
        "print(next(f.finding for f in examine((), Path('x')) if f.state == 'look'))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env=os.environ | {"PYTHONPATH": f"{packages}:{Path(sat_optuna.__file__).parents[1]}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "not installed; run: pip install mlflow\n"


def test_a_store_elsewhere_is_shown_without_its_password(root, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example/runs")
    (store,) = about(found(root), "mlflow store")
    assert store.finding == "https://mlflow.example/runs (a server, which was not asked)"


def test_a_study_that_was_not_searched_says_how(root):
    (study,) = about(found(root, root / "mine"), "study mine")
    said = f"not searched yet; run: sat-optuna run {root / 'mine'}"
    assert (study.state, study.finding) == ("ok", said)


def test_trials_of_a_living_process_are_left_alone(left):
    folder, alive = left
    (search,) = about(alive, "study mine")
    assert search == Finding("study mine", "ok", f"finished trials: 1, in {folder / 'study.db'}")


def test_trials_of_a_dead_process_are_found_in_the_search_its_control_and_its_table(root, left):
    folder, _ = left
    findings = found(root, folder)
    fine, stale = about(findings, "study mine")
    assert fine.state == "ok"
    assert stale.state == "look"
    assert stale.finding == (
        "a dead process left the trials [1, 2] unfinished, which holds up the sampler; "
        f"finish them with: sat-optuna search {folder}"
    )
    _, control = about(findings, "study mine.random")
    assert control.state == "look"
    assert "trials [1] " in control.finding
    assert control.finding.endswith(f"finish them with: sat-optuna retrain {folder}")
    _, truth = about(findings, "study mine.truth")
    assert truth.finding == (
        "a dead process left the trials [1] unfinished; "
        f"finish them with: sat-optuna truth {folder}"
    )


def test_a_database_that_is_none_is_a_finding_not_a_crash(root):
    for name, content in (("text", b"not a database, by far" * 100), ("empty", b"")):
        folder = root / name
        folder.mkdir()
        (folder / "study.db").write_bytes(content)
    broken, empty = (about(found(root, root / n), f"study {n}") for n in ("text", "empty"))
    assert [finding.state for finding in broken + empty] == ["look", "ok"]
    assert f"cannot open {root / 'text' / 'study.db'}" in broken[0].finding
    assert "not searched yet; run: sat-optuna run " in empty[0].finding


def test_a_study_under_another_name_is_said(root, left):
    folder, _ = left
    moved = Path(shutil.copytree(folder, root / "other"))
    (study,) = about(found(root, moved), "study other")
    assert study.state == "look"
    assert "holds no study 'other'; it holds: mine, mine.random" in study.finding
