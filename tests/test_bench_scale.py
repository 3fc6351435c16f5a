"""The program for the cost of a long search: that it runs, and its committed table."""

import json
import shutil

import pytest

import scale
from sat_optuna.search.storage import open_storage
from sat_optuna.search.study import finished_trials, load_study


def test_the_table_is_of_the_figures():
    held = json.loads((scale.HERE / "scale.json").read_text(encoding="utf-8"))
    assert scale.table(held) == (scale.HERE / "table.md").read_text(encoding="utf-8")
    assert list(held["parts"]) == list(scale.PARTS)


@pytest.mark.slow
def test_a_short_search_is_made_logged_and_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "WORK", tmp_path / "work")
    monkeypatch.setattr(scale, "STUDY", tmp_path / "work" / "studies" / "scale")
    monkeypatch.setattr(scale, "TRIALS", 12)
    monkeypatch.setattr(scale, "AT", (6, 12))
    monkeypatch.setattr(scale, "NEAR", 4)
    chromium = shutil.which("chromium")
    rows = [row for measure in scale.PARTS.values() for row in measure()]
    assert [(row["what"].partition(":")[0], row["trials"]) for row in rows] == [
        ("search, a trial", 6),
        ("search, a trial", 12),
        ("MLflow, a trial", 6),
        ("MLflow, a trial", 12),
        ("trials --top 20", 12),
        *[("dashboard, first answer", 12)] * 3,
        *[("MLflow, first page", 12)] * 2,
        *[(f"{page}, the page, in Chromium", 12) for page in ("dashboard", "MLflow") if chromium],
    ]
    assert all(row["wall_ms"] > 0 for row in rows)
    trials = finished_trials(load_study(open_storage(scale.STUDY / "study.db"), "scale"))
    assert [len(trial.params) for trial in trials] == [54] * 12
    assert len({trial.user_attrs["scheme"] for trial in trials}) == 12
