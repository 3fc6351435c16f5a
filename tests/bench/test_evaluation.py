"""The evaluation benchmark on networks of three blocks: what it counts, not how fast it is."""

import json

import pytest

from sat_optuna.bench import evaluation
from sat_optuna.bench.evaluation import bench_evaluation
from sat_optuna.bench.evaluation_cases import CASES, GROWTH, Case, networks_of, schemes_of
from sat_optuna.bench.evaluation_report import evaluation_markdown
from sat_optuna.cli import main
from sat_optuna.errors import UnknownName
from sat_optuna.evaluate import Evaluator
from sat_optuna.events import Event


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(evaluation, "HONEST_PAIRS", 6)
    monkeypatch.setitem(CASES, "m3", Case((1, 1, 1)))
    monkeypatch.setitem(CASES, "few", Case((1, 1, 1), schemes=5, images=0.5))


@pytest.mark.usefixtures("small")
def test_rows_say_what_was_timed():
    said: list[Event] = []
    document = bench_evaluation(
        cases=("m3", "few"), images=8, rounds=2, sample=2, on_event=said.append
    )
    titles = ["m3", "m3, calibrated", "few", "few, calibrated"] * 2
    assert said == [
        Event(step="bench evaluation", done=done, total=8, message=title)
        for done, title in enumerate(titles, start=1)
    ]
    shown = ("case", "m", "schemes", "images", "calibration", "branch_passes", "timed")
    assert [tuple(row[name] for name in shown) for row in document["rows"]] == [
        ("m3", 3, 8, 8, 0, 7, 4),
        ("m3", 3, 8, 8, 4, 7, 4),
        ("few", 3, 5, 4, 0, document["rows"][2]["branch_passes"], 4),
        ("few", 3, 5, 4, 2, document["rows"][2]["branch_passes"], 4),
    ]
    for row in document["rows"]:
        assert row["faster_low"] <= row["faster"] <= row["faster_high"]
        assert (row["floor_s"] is None) == (row["floor_share"] is None) == (row["calibration"] > 0)
    for title in ("without calibration", "with calibration"):
        ratio = document["score_over_network"][title]
        assert 0 < ratio["low"] <= ratio["ratio"] <= ratio["high"]
    page = evaluation_markdown(json.loads(json.dumps(document)))
    assert page.count("\n| m3 |") == page.count("\n| few |") == 2
    assert "6 pairs, median with its 95 % interval" in page


@pytest.mark.parametrize("name", ["m8", "m16", "m54"])
def test_the_named_cases_are_what_they_say(name):
    case = CASES[name]
    net, images, calibration = networks_of(case.blocks, 4, calibrated=True)
    schemes = list(schemes_of(Evaluator(net, images, calibration=calibration), case))
    assert len(schemes) == len(set(schemes)) == (case.schemes or 2 ** sum(case.blocks))
    assert sum(net.stages) == int(name[1:])
    assert not CASES.keys() & GROWTH.keys()


def test_an_unknown_case_is_one_sentence():
    with pytest.raises(UnknownName, match="no case 'm10'; did you mean 'm1"):
        bench_evaluation(cases=["m10"])


@pytest.mark.usefixtures("small")
def test_the_command_writes_both_files(tmp_path, capsys):
    out = tmp_path / "e.json"
    arguments = ["bench", "evaluation", "--cases", "m3", "--images", "4", "--rounds", "1"]
    assert main([*arguments, "--sample", "2", "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads(out.read_text())
    assert f"{out} and {tmp_path / 'e.md'} written" in printed.err
    assert "| m3 |" in (tmp_path / "e.md").read_text()
