"""Supernets beside a truth table: their scores are those of the study's own, and work goes on."""

import json

import numpy as np
import pytest

import sat_optuna as sat
from sat_optuna.errors import StudyError
from sat_optuna.evidence.supernet_scores import SupernetScores
from sat_optuna.pipeline import truth_supernets
from sat_optuna.pipeline.truth_supernets import score_supernets
from tests.studies import make_study

TEXT = """
seed = 1
[data]
limit = 100
[network]
width = 4
stem_stride = 4
blocks = [1, 1, 1]
[train]
batch = 32
[pretrain]
epochs = 2
[search]
calibration = 32
[truth]
seeds = [0, 1]
reference_seeds = [0, 1]
[retrain]
epochs = 1
"""
RECIPES = (
    "iid, 2 epochs",
    "iid, 1 epochs",
    "iid, 4 epochs",
    "antithetic, 2 epochs",
    "balanced, 2 epochs",
)


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    def in_this_process(todo, run, **_more):
        for jobs in todo:
            yield from run(jobs)

    monkeypatch.setattr(truth_supernets, "in_processes", in_this_process)


@pytest.mark.slow
def test_scores_are_those_of_the_studys_supernet_and_are_gone_on_with(tmp_path):
    study = sat.open_study(make_study(tmp_path, text=TEXT))
    told = []

    def stop(event):
        told.append(event)
        if event.done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_supernets(study, seeds=2, workers=1, on_event=stop)
    part = SupernetScores.load(study.folder)
    assert part is not None
    assert len(part.scores) == 2 * 7  # each supernet is read with and without calibration
    told.clear()
    whole = score_supernets(study, seeds=2, workers=1, on_event=told.append)
    assert [event.done for event in told] == [8, 9, 10, 10]
    names = [name for one in RECIPES for name in (one, f"{one}, not recalibrated")]
    assert set(whole.by_recipe) == set(names)
    assert {rows.shape for rows in whole.by_recipe.values()} == {(2, 8)}
    study.pretrain()
    expected = study.enumerate().scores.scores
    assert np.array_equal(whole.scores["iid, 2 epochs", 1], expected)  # of the study's own seed
    page = study.truth(workers=1).page
    assert page is not None
    text = page.read_text()
    assert "## Do supernet scores rank the truth?" in text
    assert all(f"| {name} | 2 |" in text for name in names)


@pytest.mark.parametrize("change", ["npz", "configuration"])
def test_what_does_not_belong_together_is_refused(tmp_path, change):
    folder = make_study(tmp_path, text=TEXT)
    SupernetScores({("iid, 2 epochs", 0): np.zeros(8)}, {"seed": 1}).save(folder)
    said = "supernets.json was made with another configuration: "
    if change == "npz":
        (folder / "supernets.npz").write_bytes(b"other")
        said = "supernets.npz is not what supernets.json was written for; bring both"
    with pytest.raises(StudyError, match=said):
        score_supernets(sat.open_study(folder), seeds=1, workers=1, on_event=print)


def test_scores_are_read_as_they_were_written(tmp_path):
    rows = {("b", 1): np.arange(4.0), ("a", 0): np.ones(4), ("b", 0): np.zeros(4)}
    SupernetScores(rows, {"seed": 0}).save(tmp_path)
    read = SupernetScores.load(tmp_path)
    assert read is not None
    assert np.array_equal(read.by_recipe["b"], [[0, 0, 0, 0], [0, 1, 2, 3]])
    assert json.loads((tmp_path / "supernets.json").read_text())["decided"] == {"seed": 0}
    assert SupernetScores.load(tmp_path / "nowhere") is None
