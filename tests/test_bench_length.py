"""The program for the length of trainings: what it compares, and its committed table."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

import lengths
import sat_optuna as sat

ROOT = Path(__file__).parents[1]


def test_the_best_of_a_part_table_is_of_those_with_all_seeds():
    whole = sat.load_truth(ROOT / "studies" / "truth-cued-digits-srm")
    best = lengths.compared(whole)["best"]
    assert best == "110-010-00"
    valid = whole.valid.copy()
    valid[whole.row(best), 1] = np.nan
    valid[whole.row("000-000-10")] = np.nan
    part = lengths.compared(replace(whole, valid=valid))
    assert part["plain"] == "000-000-00"
    assert part["full"] == "111-111-11"
    seeds = [whole.seeds.index(seed) for seed in (0, 1)]
    means = np.where(np.isfinite(valid[:, seeds]).all(axis=1), valid[:, seeds].mean(axis=1), 0)
    assert part["best"] == str(whole.schemes[int(means.argmax())])


def test_the_table_is_of_the_trainings():
    rows = json.loads((lengths.HERE / "lengths.json").read_text(encoding="utf-8"))
    assert lengths.table(rows) == (lengths.HERE / "table.md").read_text(encoding="utf-8")
