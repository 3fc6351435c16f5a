"""`sat-optuna enumerate` as a user runs it."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.studies import STUDY, command, environment, make_study, sat_optuna, trials

DEEP = STUDY.replace("blocks = [2, 2, 2]", "blocks = [6, 6, 6]")


@pytest.mark.slow
def test_all_schemes_are_the_searchs_own_scores(tmp_path):
    folder = make_study(tmp_path)
    said = sat_optuna("enumerate", "tiny", cwd=tmp_path, code=1).stderr
    assert "has 0 of 2 epochs; run: sat-optuna pretrain tiny" in said
    sat_optuna("pretrain", "tiny", cwd=tmp_path)
    done = sat_optuna("enumerate", "tiny", "--top", "3", cwd=tmp_path)
    assert "64 schemes on 60 images and 32 to calibrate on: 63 branch passes instead of 384" in (
        done.stderr
    )
    assert "64 schemes scored, in" in done.stderr
    assert "enumerate: 64 schemes have" in done.stderr
    columns = ["role", "scheme", "connections", "accuracy", "percentile", "reward"]
    assert done.stdout.split()[:6] == columns
    assert done.stderr.strip().endswith(f"{folder}/enumeration.npz; next: sat-optuna search tiny")
    roles = [line.split()[0:2] for line in done.stdout.splitlines()[1:6]]
    assert roles == [["best", "1"], ["best", "2"], ["best", "3"], ["plain", roles[3][1]],
                     ["full", "se"]]  # fmt: skip
    with np.load(folder / "enumeration.npz") as arrays:
        values = dict(zip(map(tuple, arrays["schemes"].tolist()), arrays["values"], strict=True))
    sat_optuna("search", "tiny", "--no-mlflow", cwd=tmp_path)
    rows = trials(tmp_path)
    assert len(rows) == 9
    for row in rows:
        choices = tuple(int(digit) for digit in row["scheme"].replace("-", ""))
        assert row["reward"] == values[choices]
    again = sat_optuna("enumerate", "tiny", "--format", "json", cwd=tmp_path)
    assert "64 schemes done already, in" in again.stderr
    assert json.loads(again.stdout)["schemes"] == 64
    # Other weights are another evaluation.
    text = (folder / "study.toml").read_text().replace("seed = 0", "seed = 1")
    (folder / "study.toml").write_text(text)
    said = sat_optuna("enumerate", "tiny", cwd=tmp_path, code=1).stderr
    assert "was made with another configuration: seed: 0 is stored, 1 is given" in said


@pytest.mark.slow
def test_limits_are_said_in_one_sentence_with_the_cost(tmp_path):
    make_study(tmp_path, text=DEEP.replace("epochs = 2", "epochs = 1"))
    sat_optuna("pretrain", "tiny", cwd=tmp_path)
    said = sat_optuna("enumerate", "tiny", cwd=tmp_path, code=1).stderr
    assert "the network has 262,144 schemes, more than the limit of 65,536; all of" in said
    assert "branch passes instead of 4,718,592" in said
    assert "raise the limit for that, or search them" in said
    said = sat_optuna("enumerate", "tiny", "--memory", "1", cwd=tmp_path, code=1).stderr
    assert "1 MB of memory given" in said or "262,144 schemes" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_enumeration_that_is_ended_goes_on(tmp_path, number):
    text = STUDY.replace("blocks = [2, 2, 2]", "blocks = [4, 4, 4]")
    folder = make_study(tmp_path, text=text)
    sat_optuna("pretrain", "tiny", cwd=tmp_path)
    child = subprocess.Popen(
        command("enumerate", "tiny"), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    journal = folder / "work" / "enumeration.jsonl"
    deadline = time.monotonic() + 240
    while not journal.exists() or journal.stat().st_size < 10_000:
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, number)
    _, said = child.communicate(timeout=60)
    if number == signal.SIGINT:
        assert child.returncode == 130
        assert "Traceback" not in said
    kept = len(journal.read_bytes().splitlines()) - 1
    assert kept >= 1024
    done = sat_optuna("enumerate", "tiny", cwd=tmp_path)
    assert "4,096 schemes scored, in" in done.stderr
    assert f"{kept:,} of them are there already" in done.stderr
    broken = (folder / "enumeration.json").read_text()
    journal.unlink()
    (folder / "work" / "done" / "enumeration.json").unlink()
    sat_optuna("enumerate", "tiny", cwd=tmp_path)
    assert (folder / "enumeration.json").read_text() == broken
