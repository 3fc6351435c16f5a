"""The page of a truth table tells what was planted into the table."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from sat_optuna.evidence import truth_page
from sat_optuna.evidence.ranking import Tau
from sat_optuna.evidence.truth import TruthTable
from sat_optuna.evidence.truth_page import draw_truth_figures, truth_markdown


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
            "measure": {"name": "accuracy", "unit": "%", "better": "higher"},
        },
    )


def test_the_planted_blocks_and_references_are_told():
    text = truth_markdown(table(), command="sat-optuna truth planted")
    first = text.splitlines()[2]
    assert first.startswith("**srm at s1.b0")
    assert "2 of 5 effects are significantly different from 0" in first
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
    assert "2 of 5 effects are significantly different from 0" in text


LOSS = {"name": "log_loss", "unit": "nats", "better": "lower"}


def of_loss(made: TruthTable) -> TruthTable:
    """The same table upside down: a loss of 10 less the hundredth part of the accuracy."""
    manifest = {**made.manifest, "measure": LOSS}
    return replace(made, valid=10 - made.valid / 100, test=10 - made.test / 100, manifest=manifest)


def rows_of(text: str, first: str) -> list[list[str]]:
    """The cells of a table's rows, up to its end, from the row that begins with a text."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(first))
    end = next(i for i, line in enumerate([*lines[at:], ""]) if not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[at:][:end]]


def test_a_loss_is_told_for_the_better_and_in_its_own_unit():
    text, usual = truth_markdown(of_loss(table())), truth_markdown(table())
    assert "log loss nats**" in text.splitlines()[2]
    assert "2 of 5 effects are significantly different from 0" in text
    assert "points" not in text
    assert "accuracy" not in text
    effect = float(rows_of(text, "| s1.b00 | srm")[0][2].split()[0])
    assert effect == pytest.approx(0.25, abs=0.02)  # for the better
    plain, full, constant = rows_of(text, "| plain | `000-00`")
    assert float(full[3].split()[0]) == pytest.approx(9.1, abs=0.02)
    assert float(full[5]) > float(full[3].split()[0]) > float(constant[3].split()[0]) - 0.4
    assert float(plain[3].split()[0]) > float(full[3].split()[0])
    # The shares are the same, however they are measured.
    for first in ("| worse than plain", "| better than full |"):
        assert rows_of(text, first)[0][1] == rows_of(usual, first)[0][1]
    assert rows_of(text, "| 1 | ")[0][1] == rows_of(usual, "| 1 | ")[0][1]
    assert rows_of(text, "| 0 | 1 |")[0][2].startswith("9.6")


def test_by_density_counts_schemes_and_not_their_noise():
    """Where 2 or more of 5 blocks lift a scheme above full, at k = 1 two of five do."""
    made = table(noise=0.5)
    choices = made.choices[:32]
    true = np.where(choices[:, :2].any(axis=1), 95.0, 40.0)
    true[31] = 70.0  # full itself is worse
    noise = made.valid[:32] - np.where(choices[:, :2].any(axis=1), 90.0, 40.0)[:, None]
    noise[31] = made.valid[31] - 90
    made.valid[:32] = true[:, None] + noise
    rows = rows_of(truth_markdown(made), "| 1 | 0.")
    shares = {row[0]: [float(row[1].split()[0]), row[2], float(row[3].split()[0])] for row in rows}
    assert shares["1"] == [0.40, "2 of 5", 1.0]  # of 60 draws, 5 are all
    assert shares["2"] == [0.70, "7 of 10", 1.0]
    assert shares["4"] == [1.0, "5 of 5", 1.0]


def test_a_part_table_of_too_few_schemes_has_a_page():
    made = table()
    made.valid[3:31] = np.nan
    scores = {"one": np.random.default_rng(0).normal(size=(5, 32))}
    text = truth_markdown(made, scores)
    assert "The schemes are too few to tell a block's effect." in text
    assert "| one | 5 |" in text
    assert "nan" not in text


def test_scores_that_rank_nothing_are_not_spoken_of(tmp_path, monkeypatch):
    ranked = []
    monkeypatch.setattr(truth_page, "draw_truth", lambda *_given, **_named: None)
    monkeypatch.setattr(truth_page, "draw_ranking", lambda *_given, **named: ranked.append(named))
    made = table()
    nothing = {"equal": np.zeros((5, 32))}
    text = truth_markdown(made, nothing)
    assert "nan" not in text
    assert "tau with the truth" not in text
    own = nothing | {"own": made.valid[None, :32, 0]}
    text = truth_markdown(made, own)
    assert "| equal | 5 | ranks nothing |" in text
    assert "nan" not in text
    draw_truth_figures(tmp_path, made, nothing)
    assert not ranked
    draw_truth_figures(tmp_path, of_loss(made), own)
    assert [named["score"] for named in ranked] == [
        "validation log loss in the supernet, nats, mean of 1 (own)"
    ]
    assert ranked[0]["tau"][0] > 0.4


@pytest.mark.parametrize(
    ("highs", "said"),
    [
        ({}, ""),
        (
            {"a": 0.4},
            "Of supernets a ranks best: Kendall's tau with the truth is 0.20 (0.10 to 0.4",
        ),
        ({"a": math.nan}, "Of supernets a ranks best: Kendall's tau with the truth is 0.20."),
        ({"a": 0.29, "b": 0.31, "c": 0.25}, "(0.10 to 0.29); 2 of 3 recipes mislead."),
        ({"a": 0.29, "b": 0.25}, "**No recipe ranks the schemes, supernets mislead here**: a has"),
    ],
)
def test_supernets_mislead_where_tau_is_surely_low(highs, said):
    taus = {
        name: Tau(0.2 - at / 100, math.nan if math.isnan(high) else 0.1, high, 5, 2, 32)
        for at, (name, high) in enumerate(highs.items())
    }
    assert said in " ".join(truth_page._of_recipes(taus))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noises", "said"),
    [
        ((1, 500), "Of supernets r0 ranks best: Kendall's tau with the truth is 0."),
        ((500, 1), "Of supernets r1 ranks best: Kendall's tau with the truth is 0."),
        ((500, 900), "**No recipe ranks the schemes, supernets mislead here**: r"),
    ],
)
def test_the_first_line_speaks_of_all_recipes(noises, said):
    made, rng = table(), np.random.default_rng(1)
    scores = {
        f"r{at}": made.valid[:32, 0] + rng.normal(0, noise, (8, 32))
        for at, noise in enumerate(noises)
    }
    text = truth_markdown(made, scores)
    first = text.splitlines()[2]
    assert said in first
    assert ("; 1 of 2 recipes mislead." in first) == (1 in noises)
    best = first.split("**: ")[-1].removeprefix("Of supernets ").split()[0]
    if 1 in noises:
        assert f"\nr{noises.index(1)} has the highest tau.\n" in text
    else:
        assert f"\n{best} has the highest tau.\n" in text
    few = truth_markdown(made, {name: rows[:4] for name, rows in scores.items()})
    assert "mislead" not in few  # of four supernets no end is known
