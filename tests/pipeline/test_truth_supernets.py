"""Supernets beside a truth table: their scores are those of the study's own, and work goes on."""

import json
import threading
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

import sat_optuna as sat
from sat_optuna import files
from sat_optuna.errors import StudyError, TrainingError
from sat_optuna.evidence import truth
from sat_optuna.evidence.supernet_scores import SupernetScores, decided_by, recipes
from sat_optuna.pipeline import truth as making
from sat_optuna.pipeline import truth_supernets
from sat_optuna.pipeline.folder import StudyFolder
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


@pytest.mark.parametrize("change", ["npz", "json", "configuration"])
def test_what_does_not_belong_together_is_refused(tmp_path, change):
    folder = make_study(tmp_path, text=TEXT)
    SupernetScores({("iid, 2 epochs", 0): np.zeros(8)}, {"seed": 3}).save(folder)
    said = "supernets.json was made with another configuration: .*seed: 3 is stored, 1 is"
    if change == "npz":
        (folder / "supernets.npz").write_bytes(b"other")
        said = "supernets.npz is not what supernets.json was written for: its SHA-256 is"
    elif change == "json":
        (folder / "supernets.json").write_text("{")
        said = "supernets.json is no manifest of supernet scores"
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


def test_scores_of_an_earlier_version_are_gone_on_with(tmp_path):
    """Their rows are named in the JSON, and all keys of the search decided them."""
    study = sat.open_study(make_study(tmp_path, text=TEXT))
    rows = {(recipe, 0): np.full(8, 7.0) for recipe in recipes(study.config)}
    stored = decided_by(study.config) | {"search.sampler": "tpe"}
    stored |= {"the data's fingerprint": study.parts.data.fingerprint}
    document = {"rows": [{"recipe": r, "seed": s} for r, s in rows], "decided": stored}
    truth.save_checked(
        study.folder / "supernets.npz", {"scores": np.array([*rows.values()])}, document
    )
    held = score_supernets(study, seeds=1, workers=1, on_event=print)  # trains nothing
    assert held.scores.keys() == rows.keys()
    assert all(np.array_equal(held.scores[key], rows[key]) for key in rows)


@pytest.mark.parametrize(
    ("change", "decides"),
    [
        ({"sampler": "tpe"}, False),
        ({"sparsity_weight": 0.5}, False),
        ({"held_back": 0.25}, False),
        ({"trials": 9}, False),
        ({"calibration": 64}, True),
        ({"calibration_chunk": 16}, True),
        ({"metric": "log_loss"}, True),
    ],
)
def test_only_what_scores_read_decides_them(tmp_path, change, decides):
    config = sat.open_study(make_study(tmp_path, text=TEXT)).config
    changed = replace(config, search=replace(config.search, **change))
    assert (decided_by(changed) != decided_by(config)) == decides


def test_a_kill_between_the_files_leaves_the_scores_and_their_names(tmp_path, monkeypatch):
    old, new = {("a", 0): np.zeros(4)}, {("b", 1): np.ones(4), ("a", 0): np.zeros(4)}
    SupernetScores(old, {}).save(tmp_path)
    for left, expected in ((1, old), (2, new)):
        writes = iter(range(left))  # of JSON, npz and JSON

        def ended(path, write, writes=writes):
            if next(writes, None) is None:
                raise KeyboardInterrupt
            return files.write_atomically(path, write)

        with monkeypatch.context() as patch:
            patch.setattr(truth, "write_atomically", ended)
            patch.setattr(
                truth, "write_text", lambda p, t, w=ended: w(p, lambda f: f.write_text(t))
            )
            with pytest.raises(KeyboardInterrupt):
                SupernetScores(new, {}).save(tmp_path)
        read = SupernetScores.load(tmp_path)
        assert read is not None
        assert [*read.scores] == [*expected]
        assert all(np.array_equal(read.scores[key], expected[key]) for key in expected)


def test_two_processes_train_no_supernet_twice_and_lose_none(tmp_path, monkeypatch):
    folder = make_study(tmp_path, text=TEXT)
    trained, waits, ran = [], threading.Event(), []

    def told(job, _data):
        trained.append((job.recipe, job.seed))
        return {job.recipe: np.zeros(8)}

    def second():
        def heard(event):
            if "another process" in event.message:
                waits.set()

        ran.append(score_supernets(sat.open_study(folder), seeds=2, workers=1, on_event=heard))

    monkeypatch.setattr(truth_supernets, "scores_of", told)
    other = threading.Thread(target=second)

    def while_the_first_is_at_work(event):
        if event.done == 1:
            other.start()
            assert waits.wait(60)

    study = sat.open_study(folder)
    score_supernets(study, seeds=1, workers=1, on_event=while_the_first_is_at_work)
    other.join()
    wanted = [(name, seed) for seed in (0, 1) for name in RECIPES]
    assert trained == wanted
    read = SupernetScores.load(folder)
    assert read is not None
    assert set(read.scores) == set(ran[0].scores) == set(wanted)


@pytest.mark.parametrize("command", ["supernets", "truth", "verify"])
def test_a_killed_process_is_said(tmp_path, monkeypatch, command):
    def killed(*_given, **_named):
        return (raising() for _ in range(1))

    def raising():
        raise BrokenProcessPool("gone")

    for module in (truth_supernets, making):
        monkeypatch.setattr(module, "in_processes", killed)
    study = sat.open_study(make_study(tmp_path, text=TEXT))
    does: dict[str, tuple[Any, str]] = {
        "supernets": (partial(score_supernets, seeds=1, on_event=print), "the supernets"),
        "truth": (StudyFolder.truth, "the truth table"),
        "verify": (partial(StudyFolder.verify_truth, entries=1), "the truth table"),
    }
    work, what = does[command]
    if command == "verify":
        with pytest.raises(TrainingError):
            study.truth(workers=3)  # which leaves an empty table
    with pytest.raises(TrainingError, match=f"one of 3 processes of {what} was killed.*again$"):
        work(study, workers=3)
