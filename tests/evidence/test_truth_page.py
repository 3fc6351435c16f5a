"""The page of a truth table tells what was planted into the table."""

import itertools

import numpy as np
import pytest

from sat_optuna.evidence.truth import TruthTable
from sat_optuna.evidence.truth_page import truth_markdown


def table(*, missing: int = 0, noise: float = 1.0) -> TruthTable:
    """Of 5 blocks: attention in either of the first two is worth 50 points, and else nothing."""
    rng = np.random.default_rng(3)
    choices = np.array(list(itertools.product((0, 1), repeat=5)), np.uint8)
    true = 40 + 50.0 * (choices[:, 0] | choices[:, 1])
    valid = np.full((33, 8), np.nan)
    valid[:32, :2] = true[:, None] + rng.normal(0, noise, (32, 2))
    for row in (0, 31):
        valid[row] = true[row] + rng.normal(0, noise, 8)
    valid[32] = 60 + rng.normal(0, noise, 8)
    valid[5 : 5 + missing, 0] = np.nan
    shape = valid.shape
    return TruthTable(
        choices=np.vstack([choices, np.full((1, 5), 2, np.uint8)]),
        seeds=tuple(range(8)),
        valid=valid,
        test=valid - 1,
        valid_loss=valid,
        test_loss=valid,
        train_accuracy=np.where(np.isnan(valid), np.nan, 99.0),
        seconds=valid,
        machine=np.zeros(shape, np.int16),
        params=np.zeros(33, np.int64),
        macs=np.zeros(33, np.int64),
        manifest={
            "name": "planted",
            "what": "every placement of srm",
            "stages": [3, 2],
            "kinds": ["srm"],
            "seeds": [0, 1],
            "reference_seeds": list(range(8)),
            "references": {"plain": "000-00", "full": "111-11", "constant": "222-22"},
            "classes": 10,
        },
    )


def test_the_planted_blocks_and_references_are_told():
    text = truth_markdown(table(), command="sat-optuna truth planted")
    first = text.splitlines()[2]
    assert first.startswith("**srm at s1.b0")
    assert "2 of 5 effects are told from 0" in first
    assert "Made by `sat-optuna truth planted`" in text
    row = next(
        line for line in text.splitlines() if line.startswith("| constant | `222-22` | 8 |")
    )
    assert float(row.split("|")[4].split()[0]) == pytest.approx(60, abs=1)
    assert float(row.split("|")[5].split()[0]) == pytest.approx(59, abs=1)  # on test
    pair = next(line for line in text.splitlines() if line.startswith("| s1.b00 s1.b01 | srm srm"))
    assert float(pair.split("|")[3].split()[0]) == pytest.approx(-50, abs=2)
    assert "supernet" not in text


def test_missing_trainings_are_said_and_the_rest_is_used():
    text = truth_markdown(table(missing=3))
    assert "81 trainings, 3 are missing" in text
    assert "2 of 5 effects are told from 0" in text


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "word"), [(1.0, "The supernet ranks"), (500, "misleads here")])
def test_whether_the_supernet_misleads_is_in_the_first_line(noise, word):
    made = table()
    rng = np.random.default_rng(1)
    scores = made.valid[:32, 0] + rng.normal(0, noise, (5, 32))
    text = truth_markdown(made, {"iid, 40 epochs": scores, "other": scores[:, ::-1]})
    assert word in text.splitlines()[2]
    assert "| iid, 40 epochs | 5 |" in text
    assert ("The highest tau has: iid, 40 epochs." in text) == (noise == 1)
