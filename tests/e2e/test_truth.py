"""A truth table made by two processes, one of which is killed, is that of one that never was."""

import os
import signal
import subprocess
import time

import numpy as np
import optuna
import pytest

import sat_optuna as sat
from tests.e2e.test_kill import alive, count
from tests.pipeline.test_truth import same
from tests.studies import TRUTH, command, environment, make_study, sat_optuna


def begin(project, **more):
    return subprocess.Popen(
        command("truth", "tiny", "--workers", "1"),
        cwd=project,
        env=environment(),
        text=True,
        start_new_session=True,
        **more,
    )


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed_make_the_table_of_one(tmp_path):
    alone = make_study(tmp_path / "alone", text=TRUTH)
    done = sat_optuna("truth", "tiny", "--workers", "1", cwd=tmp_path / "alone")
    assert "truth: 12 trainings now, 12 of 12 in " in done.stdout
    shared = make_study(tmp_path / "shared", text=TRUTH)
    killed = begin(tmp_path / "shared", stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while count(shared) < 3:  # the first is kept then
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    both = [begin(tmp_path / "shared", stdout=subprocess.PIPE) for _ in range(2)]
    said = [child.communicate(timeout=300)[0] for child in both]
    assert [child.returncode for child in both] == [0, 0]
    new = [int(text.split()[1]) for text in said]
    assert 9 <= sum(new) <= 11
    same(sat.load_truth(shared), sat.load_truth(alone))
    study = sat.open_study(shared)
    trials = optuna.load_study(study_name="tiny.truth", storage=study.storage).trials
    assert len({(t.user_attrs["scheme"], t.user_attrs["seed"]) for t in trials}) == len(trials)
    while alive(killed.pid):  # its workers end with it
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_an_interrupt_says_what_is_done_and_leaves_a_part_table(tmp_path):
    # Long enough for the rest not to be done before this busy machine sends the signal.
    folder = make_study(tmp_path, text=TRUTH.replace("epochs = 1", "epochs = 200"))
    child = begin(tmp_path, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while count(folder) < 3:
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal's Ctrl-C
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert f"of 12 trainings are done and in {folder / 'truth.npz'}" in said
    assert "the same command takes a study up again" in said
    assert "Traceback" not in said
    with pytest.warns(match="trainings of truth table 'tiny' are missing"):
        table = sat.load_truth(folder)
    assert 1 <= (~np.isnan(table.valid)).sum() < 12
    while alive(child.pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)
