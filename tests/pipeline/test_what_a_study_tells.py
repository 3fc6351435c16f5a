"""What search, enumerate and report say of a study: where nothing differs, what was pruned."""

import csv
import json

import pytest

from sat_optuna.search.storage import open_storage
from sat_optuna.search.study import load_study
from sat_optuna.ticket import Ticket
from tests.studies import STUDY, make_study, sat_optuna

# timm starts the last norm of each block at zero, and ECA starts as the identity.
BLIND = """
[data]
limit = 100
[network]
backbone = "timm:resnet10t"
[attention]
kinds = ["eca"]
eca = { identity = true }
[train]
lr = 0.00001
[pretrain]
epochs = 1
[search]
trials = 6
batch = 3
calibration = 32
[retrain]
epochs = 1
"""
PRUNED = STUDY.replace(
    "trials = 9", 'trials = 12\nobjective = "train"\nepochs = 2\npruner = "median"'
).replace("[train]", '[attention]\nkinds = ["se", "sge"]\nsge = { groups = 4 }\n[train]')


@pytest.mark.slow
def test_a_study_in_which_nothing_can_differ_says_so_at_every_step(tmp_path):
    folder = make_study(tmp_path, text=BLIND)
    warned = "4 of 4 blocks of timm:resnet10t begin with a branch that adds nothing"
    assert warned in sat_optuna("check", "tiny", cwd=tmp_path).stderr
    ran = sat_optuna("run", "tiny", "--no-mlflow", cwd=tmp_path)
    assert warned in ran.stderr
    nothing = "no scheme differed, so nothing can be told: 6 schemes have 1 distinct accuracy"
    assert f"search: {nothing}" in ran.stdout
    report = (folder / "report.md").read_text()
    assert report.split("\n\n")[1].startswith("**Nothing can be told**: all 6 schemes that")
    assert nothing in report
    assert "| pays |" not in report
    assert "+0.00 to +0.00" not in report
    assert "(+0.00" not in report
    listed = json.loads(sat_optuna("enumerate", "tiny", "--format", "json", cwd=tmp_path).stdout)
    assert listed["distinct_accuracies"] == 1
    assert listed["spread"].startswith("no scheme differed, so nothing can be told: 16 schemes")
    assert (listed["majority"], listed["chance"]) == (10.0, 10.0)
    assert [row["percentile"] for row in listed["controls"].values()] == [50.0, 50.0]
    # The report that is written now is of the enumeration.
    sat_optuna("report", "tiny", cwd=tmp_path)
    assert "choices of all 16 schemes" in (folder / "report.md").read_text()
    again = sat_optuna("report", "tiny", cwd=tmp_path).stdout
    assert f"done already, {folder}/report.md; for a browser {folder}/report.html" in again


@pytest.mark.slow
def test_pruned_trials_are_counted_and_the_control_is_not_pruned(tmp_path):
    folder = make_study(tmp_path, text=PRUNED)
    sat_optuna("run", "tiny", "--no-mlflow", cwd=tmp_path)
    searched, random = (
        [trial.state.name for trial in load_study(open_storage(folder / "study.db"), name).trials]
        for name in ("tiny", "tiny.random")
    )
    assert random == ["COMPLETE"] * 12
    pruned = searched.count("PRUNED")
    assert pruned > 0
    report = (folder / "report.md").read_text()
    number = Ticket.load(folder / "tickets" / "ticket.json").trial
    counted = f"12 ({12 - pruned} complete, {pruned} pruned)"
    assert f", by trial {number} of {counted}" in report
    rows = list(csv.DictReader((folder / "figures" / "trials.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == searched + random
    assert [int(row["number"]) for row in rows[:12]] == list(range(12))
    for role, scheme in (("full-se", "11-11-11"), ("full-sge", "22-22-22")):
        assert str(Ticket.load(folder / "tickets" / f"{role}.json").scheme) == scheme
        assert f"| {role} | `{scheme}` |" in report
    # 12 random schemes for 13 terms of least squares.
    assert "Only random schemes could tell it, and the control has 12;" in report
