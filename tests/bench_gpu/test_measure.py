"""Results of several GPUs are kept apart; what was not measured is said, and made up for."""

import importlib
import json
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "studies" / "bench-gpu"


@pytest.fixture
def measure(monkeypatch, tmp_path):
    """The program, beside which nothing lies yet, with measurements of no work."""
    monkeypatch.syspath_prepend(FOLDER)
    program = importlib.import_module("measure")
    monkeypatch.setattr(program, "HERE", tmp_path / "here")
    (tmp_path / "here").mkdir()

    def quick(*, cut):
        yield {"ms": 1, "cut": cut}

    def slow(*, cut):
        yield {"ms": 2}
        time.sleep(60)

    def broken(*, cut):
        yield {"ms": 3}
        raise ValueError("what failed")

    made = {"quick": quick, "slow": slow, "broken": broken, "last": quick}
    monkeypatch.setattr(
        program, "MEASUREMENTS", {name: program.Measurement(one, 1) for name, one in made.items()}
    )
    return program


def on_card(program, monkeypatch, card):
    facts = program.where() | {"card": card, "driver": card[-1]}
    monkeypatch.setattr(program, "where", lambda: facts)


def test_a_card_has_a_file_and_a_section_of_its_own(measure, monkeypatch, tmp_path):
    on_card(measure, monkeypatch, "NVIDIA H100 80GB HBM3")
    assert not measure.run(measure.HERE, cut=False)
    on_card(measure, monkeypatch, "NVIDIA H200")
    assert measure.run(tmp_path / "out", cut=False, only=["last"])
    here, out = ({p.name for p in folder.iterdir()} for folder in (measure.HERE, tmp_path / "out"))
    assert here == {"nvidia-h100-80gb-hbm3.json", "table.md"}
    assert out == {"nvidia-h200.json", "table.md"}
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    first, second = text.index("\n## NVIDIA H100 80GB HBM3\n"), text.index("\n## NVIDIA H200\n")
    assert first < text.index("### Quick\n\n| ms | cut |\n| - | - |\n| 1 | False |\n") < second
    assert "\n| 2 |\n\nNot whole: OutOfTime: not done after 1 s\n" in text[:second]
    assert "\n| 3 |\n\nNot whole: ValueError: what failed\n" in text[:second]
    assert text[second:].count("###") == 1


def test_what_a_card_lacks_is_measured_and_the_rest_is_kept(measure, monkeypatch, tmp_path):
    on_card(measure, monkeypatch, "one")
    assert measure.run(measure.HERE, cut=False, only=["quick"])
    monkeypatch.setitem(measure.MEASUREMENTS, "quick", None)  # is not asked again
    monkeypatch.setattr(measure, "LEAST", 2)
    assert not measure.run(tmp_path, cut=False, seconds=2.5, resume=True)
    found = json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))
    assert {name: len(rows) for name, rows in found["results"].items()} == {
        "quick": 1,
        "slow": 1,
        "broken": 0,
        "last": 0,
    }
    assert found["failed"] == {
        "slow": "OutOfTime: not done after 1 s",
        "broken": "not reached",
        "last": "not reached",
    }
    assert [run["card"] for run in found["earlier"]] == ["one"]
    on_card(measure, monkeypatch, "two")
    assert not measure.run(tmp_path, cut=False, only=["broken"], resume=True)
    other = json.loads((tmp_path / "two.json").read_text(encoding="utf-8"))
    assert (list(other["results"]), "earlier" in other) == (["broken"], False)


def test_the_committed_table_is_of_the_committed_results(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    table = importlib.import_module("measure").table
    documents = [json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))]
    said = (FOLDER / "table.md").read_text(encoding="utf-8")
    assert {*said.split("\n## ")} == {*table(documents).split("\n## ")}
