"""`sat-optuna compare`: studies side by side, and why some cannot be paired."""

import json
from dataclasses import replace
from functools import cache

import pytest
from click.testing import CliRunner
from scipy import stats

from sat_optuna.cli import sat_optuna as group
from sat_optuna.config.config import DataConfig, RetrainConfig, StudyConfig
from sat_optuna.errors import StudyError
from sat_optuna.pipeline.comparison import compare_studies
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Score
from tests.networks import tiny_supernet
from tests.tickets import ticket_of

TICKET = {"a": [91.0, 92.0, 93.5], "b": [90.0, 90.5, 91.0]}


@cache
def any_ticket():
    return ticket_of(tiny_supernet(), Scheme.parse("10-010-1"))


def study(folder, name, *, config=None, accuracies=(91.0, 92.0, 93.5), seeds=(0, 1, 2), **change):
    made = folder / "studies" / name
    (made / "tickets").mkdir(parents=True)
    (made / "study.toml").write_text("")
    schemes = {"plain": "00-000-0", "ticket": "10-010-1", "full": "11-111-1"}
    for role, scheme in schemes.items():
        scores = tuple(
            Score(split="test", value=value, seed=seed, epochs=2)
            for seed, value in zip(seeds, accuracies, strict=True)
        )
        ticket = replace(any_ticket(), scheme=Scheme.parse(scheme))
        config_of = (config or StudyConfig()).to_dict()
        found = replace(ticket, role=role, scores=scores, config=config_of, **change)
        found.save(made / "tickets" / f"{role}.json")
    return made


def compare(*arguments, code=0):
    done = CliRunner().invoke(group, ["compare", *arguments])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_studies_of_the_same_training_are_paired_by_seed(place):
    for name, values in TICKET.items():
        study(place, name, accuracies=values)
    found = compare_studies(["a", "b"])
    assert [(r["study"], r["network"]) for r in found.rows] == [
        (name, role) for name in "ab" for role in ("plain", "ticket", "full")
    ]
    assert {r["connections"] for r in found.rows} == {"0 of 6", "3 of 6", "6 of 6"}
    (entry,) = found.differences
    theirs = stats.ttest_rel(TICKET["a"], TICKET["b"])
    assert entry.control == "b"
    assert entry.difference.mean == pytest.approx(5 / 3)
    assert entry.p == pytest.approx(theirs.pvalue)
    low, high = theirs.confidence_interval()
    assert (entry.difference.low, entry.difference.high) == pytest.approx((low, high))
    assert found.remarks == ()
    printed = compare("a", "b").stdout
    assert f"ticket of a minus ticket of b: +1.67 points ({low:+.2f} to {high:+.2f})" in printed
    rows = json.loads(compare("a", "b", "--format", "json").stdout)
    assert rows == [dict(row) for row in found.rows]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dataset_fingerprint": "ff"}, "they saw other data, two of "),
        (
            {"config": StudyConfig(retrain=RetrainConfig(epochs=3))},
            "they were trained with other values of retrain.epochs",
        ),
        ({"seeds": (0, 1, 3)}, r"their networks have the seeds [0, 1, 2] and [0, 1, 3]"),
    ],
)
def test_what_was_trained_otherwise_is_shown_and_not_paired(place, change, why):
    study(place, "a")
    study(place, "b", **change)
    found = compare_studies(["a", "b"])
    assert found.differences == ()
    assert len(found.rows) == 6
    assert found.remarks[0].startswith(f"a and b cannot be paired: {why}")


def test_keys_that_studies_are_compared_over_and_places_of_data_do_not_matter(place):
    study(place, "a")
    moved = StudyConfig(data=DataConfig(root="/elsewhere"), threads=1)
    study(place, "b", config=moved)
    assert len(compare_studies(["a", "b"]).differences) == 1


def test_other_numbers_of_threads_are_said(place):
    study(place, "a")
    study(place, "b", config=StudyConfig(threads=2))
    assert "other numbers of threads: a 1, b 2" in " ".join(compare_studies(["a", "b"]).remarks)


def test_studies_of_one_name_are_called_by_their_folders(place):
    one, other = study(place / "x", "mine"), study(place / "y", "mine")
    found = compare_studies([one, other])
    assert {row["study"] for row in found.rows} == {str(one), str(other)}


def test_what_cannot_be_compared_is_one_sentence(place):
    study(place, "a")
    bare = place / "studies" / "bare"
    bare.mkdir()
    (bare / "study.toml").write_text("")
    for given, why in (
        (["a"], "studies 'a' given; give two studies at least"),
        (["a", "a"], "studies 'a', 'a' given"),
        (["a", "bare"], "study 'bare' has no ticket with controls yet; run: sat-optuna run bare"),
    ):
        with pytest.raises(StudyError, match=why):
            compare_studies(given)
        (line,) = compare(*given, code=1).stderr.splitlines()
        assert why in line
