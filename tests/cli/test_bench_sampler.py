"""`sat-optuna bench sampler` as a user runs it."""

import csv
import io
import json

import pytest
from click.testing import CliRunner

from sat_optuna.cli import sat_optuna as group

TINY = ("--problems", "nk16,ticket16", "--rivals", "default,random,default:batch=2")
SMALL = (*TINY, "--seeds", "2", "--evaluations", "6", "--workers", "0")


def bench(*arguments, code=0):
    done = CliRunner().invoke(
        group, ["bench", "sampler", *arguments], auto_envvar_prefix="SAT_OPTUNA"
    )
    assert done.exit_code == code, done.output
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


def test_rows_and_files(folder):
    done = bench(*SMALL, "--out", str(folder))
    standings, comparisons = done.stdout.split("\n\n")
    assert standings.split()[:4] == ["problem", "rival", "seeds", "evaluations"]
    assert len(standings.splitlines()) == 7
    assert len(comparisons.splitlines()) == 5
    assert "p Holm" in comparisons
    files = [folder / name for name in ("table.md", "curves.png", "ablation.md")]
    assert f"{', '.join(map(str, files))} written" in done.stderr
    table = files[0]
    assert "## nk16" in table.read_text()
    assert len((folder / "runs.jsonl").read_text().splitlines()) == 12


def test_a_rerun_is_of_what_is_there_and_formats_differ(folder):
    bench(*SMALL, "--out", str(folder))
    before = (folder / "runs.jsonl").read_bytes(), (folder / "table.md").read_bytes()
    document = json.loads(bench(*SMALL, "--out", str(folder), "--format", "json").stdout)
    assert {row["rival"] for row in document["standings"]} == set(TINY[3].split(","))
    assert document["comparisons"][0]["difference"].keys() == {"value", "low", "high"}
    text = bench(*SMALL, "--out", str(folder), "--format", "csv").stdout
    assert len(list(csv.DictReader(io.StringIO(text)))) == 6
    after = (folder / "runs.jsonl").read_bytes(), (folder / "table.md").read_bytes()
    assert before == after


def test_variants_alone_have_a_table_and_no_curves(tmp_path):
    done = bench(*SMALL, "--rivals", "paper:rnd=false", "--out", str(tmp_path))
    assert f"{tmp_path / 'table.md'} written" in done.stderr
    assert "paper:rnd=false" in (tmp_path / "table.md").read_text()
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--problems", "nk61"), "no problem 'nk61'; did you mean 'nk16'?"),
        (("--rivals", "defualt"), "no rival 'defualt'; did you mean 'default'?"),
        (("--rivals", "paper:rdn=false"), "option 'rdn' given; known are"),
        (("--problems", "table:none.csv"), "cannot read table none.csv: No such file"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, options, words):
    done = bench(*SMALL, *options, "--out", str(tmp_path / "new"), code=1)
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    done = bench(*SMALL, "--out", str(tmp_path / "file" / "under"), code=1)
    assert "cannot write" in done.stderr
    assert "choose another --out" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_numbers_out_of_range_are_usage_errors(tmp_path):
    for option in ("--seeds", "--evaluations", "--cap"):
        assert "not in the range" in bench(option, "0", code=2).stderr


@pytest.fixture
def measured(monkeypatch):
    """What takes minutes, in no time: a row a part."""
    asked = {"sampler": "random", "trials": 10, "median_ms": 1.5, "beyond_ms": 0.0}
    reopened = {"sampler": "(reading alone)", "beyond_ms": 2.5}
    together = {"problem": "nk16", "sampler": "tpe", "repeats_percent": 4.5}
    parts = {"overhead": asked, "reopening": reopened, "asynchrony": together}
    for name, row in parts.items():
        monkeypatch.setattr(
            f"sat_optuna.bench.{name}.bench_{name}", lambda _row=row, **_given: [_row]
        )
    return list(parts.values())


def test_overhead_is_three_tables_of_its_own(tmp_path, measured):
    done = bench("--overhead", "--out", str(tmp_path))
    asked, reopened, together = done.stdout.split("\n\n")
    assert asked.split() == [*measured[0], "random", "10", "1.500", "0.000"]
    assert reopened.split() == [*measured[1], "(reading", "alone)", "2.500"]
    assert together.split() == [*measured[2], "nk16", "tpe", "4.500"]
    document = json.loads((tmp_path / "overhead.json").read_text())
    assert [document[part] for part in ("ask_and_tell", "reopening", "asynchrony")] == [
        [row] for row in measured
    ]
    assert document["versions"].keys() > {"optuna", "numpy"}
    text = (tmp_path / "overhead.md").read_text()
    assert "| random | 10 | 1.5 | 0.0 |" in text
    assert "| (reading alone) | 2.5 |" in text
    assert "| nk16 | tpe | 4.5 |" in text
    assert f"Made with python {document['versions']['python']}, " in text
    assert not (tmp_path / "runs.jsonl").exists()


def test_overhead_in_other_formats(tmp_path, measured):
    printed = bench("--overhead", "--out", str(tmp_path), "--format", "json").stdout
    assert printed == (tmp_path / "overhead.json").read_text()
    printed = bench("--overhead", "--out", str(tmp_path), "--format", "csv").stdout
    assert printed == "sampler,trials,median_ms,beyond_ms\nrandom,10,1.5,0.0\n"


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("sat_optuna.bench.overhead.bench_overhead", lambda **_given: 1 / 0)
    (tmp_path / "file").write_text("")
    done = bench("--overhead", "--out", str(tmp_path / "file" / "under"), code=1)
    assert "cannot write" in done.stderr
