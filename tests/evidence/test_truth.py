"""Truth tables as files: what is read is what was written, and nothing else is."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

import sat_optuna as sat
from sat_optuna import files
from sat_optuna.errors import SatOptunaWarning, StudyError
from sat_optuna.evidence import truth, truth_page
from sat_optuna.evidence.truth import TruthTable

NAN = math.nan


def table_of(valid, seeds=(0, 1), **manifest):
    """A table of one kind in two blocks: 00, 01, 10, 11 and the constant control 22."""
    valid = np.array(valid)
    choices = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 2]], dtype=np.uint8)
    known = {
        "name": "made", "stages": [1, 1], "kinds": ["se"], "seeds": [0], "reference_seeds": [0, 1],
        "references": {"plain": "0-0", "full": "1-1", "constant": "2-2"}, "failed": [],
        "machines": [{}], "measure": {"name": "accuracy", "unit": "%", "better": "higher"},
    }  # fmt: skip
    return TruthTable(
        choices=choices, seeds=seeds, valid=valid, test=valid + 1, valid_loss=valid / 100,
        test_loss=valid / 50, train_accuracy=valid + 2, seconds=valid,
        machine=np.where(np.isnan(valid), -1, 0).astype(np.int16), params=np.arange(5),
        macs=np.arange(5), manifest=known | manifest,
    )  # fmt: skip


VALID = [[50.0, 52.0], [60.0, NAN], [61.0, NAN], [70.0, 71.0], [55.0, 58.0]]


def test_what_is_read_is_what_was_written(tmp_path):
    table = table_of(VALID)
    npz, path = table.save(tmp_path)
    for given in (tmp_path, npz, path, str(tmp_path)):
        read = sat.load_truth(given)
        for name in ("choices", "valid", "test", "valid_loss", "test_loss", "train_accuracy",
                     "seconds", "machine", "params", "macs"):  # fmt: skip
            np.testing.assert_array_equal(getattr(read, name), getattr(table, name))
            assert getattr(read, name).dtype == getattr(table, name).dtype
        assert read.seeds == (0, 1)
    before = npz.read_bytes(), path.read_bytes()
    read = sat.load_truth(tmp_path)
    read.save(tmp_path)
    assert read.manifest["trainings"] == {"done": 8, "missing": 0}
    assert (npz.read_bytes(), path.read_bytes()) == before


def test_columns_of_balanced_schemes_and_of_references():
    table = table_of(VALID)
    assert table.balanced.choices.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert table.balanced.valid.tolist() == [[50.0], [60.0], [61.0], [70.0]]
    assert table.balanced.test.tolist() == [[51.0], [61.0], [62.0], [71.0]]
    assert table.balanced.seeds == (0,)
    assert table.reference("constant") == {0: 55.0, 1: 58.0}
    assert table.reference("full", "test") == {0: 71.0, 1: 72.0}
    assert table.missing == 0
    assert [str(scheme) for scheme in table.schemes] == ["0-0", "0-1", "1-0", "1-1", "2-2"]
    with pytest.raises(StudyError, match="no reference 'ful'; give one of: plain, full, constant"):
        table.reference("ful")
    with pytest.raises(StudyError, match=r"no scheme 1-2; its 5 schemes have the stages \(1, 1\)"):
        table.row("1-2")


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize(("better", "sign"), [("higher", 1), ("lower", -1)])
def test_signed_values_and_references_are_the_higher_the_better(part, better, sign):
    measure = {"name": "made", "unit": "", "better": better}
    found = table_of(VALID, measure=measure).signed(part)
    off = part == "test"
    assert found.choices.shape == (4, 2)
    assert found.values.tolist() == [[sign * (v + off)] for v in (50, 60, 61, 70)]
    assert found.references["plain"] == {0: sign * (50 + off), 1: sign * (52 + off)}
    assert found.paired("full") == ([sign * (71 + off)], [sign * (70 + off)])


@pytest.mark.parametrize(
    ("row", "column", "missing"),
    [(1, 0, 1), (0, 0, 1), (4, 1, 1), (1, 1, 0)],  # a scheme's, plain's, constant's, none's
)
def test_missing_trainings_are_used_around_and_said(tmp_path, row, column, missing, recwarn):
    valid = np.array(VALID)
    valid[row, column] = NAN
    table = table_of(valid)
    table.save(tmp_path)
    assert sat.load_truth(tmp_path).missing == missing
    said = [str(w.message) for w in recwarn if w.category is SatOptunaWarning]
    assert (
        said
        == ["1 of 8 trainings of truth table 'made' are missing; what is computed uses the others"]
        * missing
    )


def test_changed_bytes_are_refused(tmp_path):
    npz, path = table_of(VALID).save(tmp_path)
    kept, manifest = npz.read_bytes(), path.read_text()
    npz.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(
        StudyError, match=r"truth.npz is not what truth.json was written for: its "
    ):
        sat.load_truth(tmp_path)
    npz.write_bytes(kept)
    path.write_text("{")
    with pytest.raises(StudyError, match="is no manifest of a truth table"):
        sat.load_truth(tmp_path)
    path.write_text(manifest.replace('"schema": 1', '"schema": 2'))
    with pytest.raises(StudyError, match="was written by a later version, in its schema 2"):
        sat.load_truth(tmp_path)
    path.write_text(manifest)
    assert sat.load_truth(tmp_path).missing == 0
    npz.unlink()
    with pytest.raises(StudyError, match=r"holds truth.json alone, and a truth table is"):
        sat.load_truth(tmp_path)


@pytest.mark.parametrize(("writes", "held"), [(1, 50.0), (2, 51.0)])
def test_a_kill_between_the_files_leaves_a_table(tmp_path, monkeypatch, writes, held):
    table_of(VALID).save(tmp_path)
    left = iter(range(writes))  # of manifest, npz and manifest

    def ended(path, write):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return files.write_atomically(path, write)

    with monkeypatch.context() as patch:
        patch.setattr(truth, "write_atomically", ended)
        patch.setattr(
            truth, "write_text", lambda path, text: ended(path, lambda p: p.write_text(text))
        )
        with pytest.raises(KeyboardInterrupt):
            table_of(np.array(VALID) + 1).save(tmp_path)
    assert sat.load_truth(tmp_path).valid[0, 0] == held
    table_of(np.array(VALID) + 2).save(tmp_path)
    assert "sha256_before" not in json.loads((tmp_path / "truth.json").read_text())


def test_a_table_is_found_by_its_name_from_below(tmp_path, monkeypatch):
    table_of(VALID).save(tmp_path / "studies" / "truth-made-up")
    inside = tmp_path / "studies" / "truth-made-up" / "figures"
    inside.mkdir()
    for folder in (tmp_path, tmp_path / "studies", inside):
        monkeypatch.chdir(folder)
        assert sat.load_truth("made-up").seeds == sat.load_truth("truth-made-up").seeds == (0, 1)
    with pytest.raises(
        StudyError, match=r"no truth table 'made-upp'.*did you mean 'made-up'.*known:"
    ):
        sat.load_truth("made-upp")
    with pytest.raises(StudyError, match=r"holds no truth table; make one with: sat-optuna truth"):
        TruthTable.load(tmp_path)


@pytest.mark.parametrize("supernets", [{"iid": np.arange(12.0).reshape(3, 4)}, None])
def test_the_figures_of_a_table_have_its_means_references_and_ranks(
    tmp_path, monkeypatch, supernets
):
    drawn = {}

    def kept(path, *given, **named):
        drawn[path.name] = (given, named)

    monkeypatch.setattr(truth_page, "draw_truth", kept)
    monkeypatch.setattr(truth_page, "draw_ranking", kept)
    table = table_of([[50, 52], [60, NAN], [NAN, NAN], [70, 72], [55, 58]], seeds=(0, 1))
    table = replace(table, manifest=table.manifest | {"seeds": [0, 1]})
    truth_page.draw_truth_figures(tmp_path, table, supernets)
    (means, marked), named = drawn["truth.png"]
    np.testing.assert_array_equal(means, [51, 60, NAN, 71])
    assert marked == {"plain": 51, "full": 71, "constant": 56.5}
    assert named == {"score": "validation accuracy from scratch, %, mean of 2 seeds"}
    assert ("ranking.png" in drawn) == (supernets is not None)
    if supernets:
        (scores, truths, at), named = drawn["ranking.png"]
        assert scores.tolist() == [4, 5, 6, 7]
        np.testing.assert_array_equal(truths, means)
        assert at == {"plain": 0, "full": 3}
        assert named["tau"][0] == pytest.approx(1)
