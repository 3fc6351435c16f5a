"""The program `duel.py` as a user runs it."""

import doctest
import importlib
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import duel
from runs import add_run, read_runs
from tests.bench_sampler.made import run, save_truth, untimed

FOLDER = Path(__file__).parents[2] / "studies" / "bench-sampler"
RIVALS = "default,random,default:batch=2"


@pytest.fixture
def called(tmp_path, table):
    """Runs the program on a table of 27 schemes; what is given last counts."""

    def call(*arguments, code=0, out=tmp_path / "out"):
        given = ["--out", str(out), "--problems", table, "--rivals", RIVALS, "--seeds", "2"]
        done = CliRunner().invoke(duel.main, [*given, *arguments])
        assert done.exit_code == code, done.output
        assert done.stdout == ""
        return done.stderr

    return call


def test_several_processes_make_runs_and_files(called, tmp_path):
    said = called("--workers", "2")
    files = [tmp_path / "out" / name for name in ("table.md", "curves.png", "ablation.md")]
    assert said.splitlines()[0] == "6 runs are to be made"
    assert said.splitlines()[-1] == f"{', '.join(map(str, files))} written"
    assert len(said.splitlines()) == 8
    assert "27 schemes" in files[0].read_text()
    runs = read_runs(tmp_path / "out" / "runs.jsonl")
    assert {(one.rival, one.seed) for one in runs} == {
        (rival, seed) for rival in RIVALS.split(",") for seed in range(2)
    }
    for one in runs:
        assert untimed(one) == untimed(duel.play(one.problem, one.rival, one.seed))


def test_a_rerun_makes_only_what_is_missing(called, tmp_path):
    log, table = tmp_path / "out" / "runs.jsonl", tmp_path / "out" / "table.md"
    called("--rivals", "random")
    before = log.read_bytes(), table.read_bytes()
    assert "0 runs are to be made" in called("--rivals", "random")
    assert (log.read_bytes(), table.read_bytes()) == before
    whole = [untimed(one) for one in read_runs(log)]
    log.write_bytes(before[0][:-40])  # a kill within a line costs that run alone
    assert "5 runs are to be made" in called("--rivals", "random,qmc", "--seeds", "3")
    first, *_ = before[0].splitlines(keepends=True)
    assert log.read_bytes().startswith(first)
    runs = read_runs(log)
    keys = [(one.problem, one.rival, one.seed) for one in runs]
    assert len(keys) == len(set(keys)) == 6
    assert [untimed(one) for one in runs if one.rival == "random"][:2] == whole


def test_an_interrupt_keeps_what_is_done_and_ends_the_workers(called, tmp_path, monkeypatch):
    def stop(log, one):
        add_run(log, one)
        raise KeyboardInterrupt

    monkeypatch.setattr(duel, "add_run", stop)
    called("--seeds", "50", code=1)
    assert len(read_runs(tmp_path / "out" / "runs.jsonl")) == 1
    for child in multiprocessing.active_children():
        child.join(timeout=60)
    assert not multiprocessing.active_children()


def test_a_worker_that_was_ended_is_one_sentence(called, monkeypatch):
    def kill(_log, _run):
        for child in multiprocessing.active_children():
            child.kill()

    monkeypatch.setattr(duel, "add_run", kill)
    said = called("--seeds", "50", code=1).splitlines()[-1]
    assert said.startswith("Error: a worker process was ended from outside, perhaps for lack of")
    assert said.endswith("the same command goes on from what is finished")


def test_variants_alone_have_a_table_and_no_curves(called, tmp_path):
    assert called("--rivals", "paper:rnd=false").endswith("table.md written\n")
    assert "paper:rnd=false" in (tmp_path / "out" / "table.md").read_text()
    assert not (tmp_path / "out" / "curves.png").exists()


def test_runs_of_another_version_are_not_mixed(called, tmp_path, table):
    old = run(table, "default", version="policy-gradient/old 1", evaluations=27)
    add_run(tmp_path / "runs.jsonl", old)
    said = called(out=tmp_path, code=1)
    assert "runs of 'default' made by 'policy-gradient/old 1', now 'policy-gradient/def" in said
    assert "remove those lines of runs.jsonl or choose another --out" in said


def test_runs_of_another_budget_count_for_nothing(called, tmp_path, table):
    add_run(tmp_path / "runs.jsonl", run(table, "random", evaluations=4))
    assert "1 runs are to be made" in called("--rivals", "random", "--seeds", "1", out=tmp_path)
    assert "| random | 1 | 27 |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--problems", "nk61"), "no problem 'nk61'; did you mean 'nk16'?"),
        (("--rivals", "defualt"), "no rival 'defualt'; did you mean 'default'?"),
        (("--rivals", "paper:rdn=false"), "option 'rdn' given; known are"),
        (("--problems", "table:none.npz"), "table none.npz cannot be read"),
        (("--problems", "truth:none-noisy"), "no truth table 'none'"),
    ],
)
def test_bad_input_is_one_sentence(called, tmp_path, options, words):
    said = called(*options, code=1)
    assert words in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_partly_trained_truth_table_is_one_sentence(called, tmp_path):
    folder = save_truth(tmp_path / "half", missing=((4, 0),))
    said = called("--problems", f"truth:{folder}", code=1)
    assert said.startswith(f"Error: truth table '{folder}' lacks 1 of the 32 trainings")
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(called, tmp_path):
    (tmp_path / "file").write_text("")
    said = called(out=tmp_path / "file" / "under", code=1)
    assert "cannot write" in said
    assert "choose another --out" in said
    assert len(said.strip().splitlines()) == 1


def test_numbers_out_of_range_are_usage_errors(called):
    for option in ("--seeds", "--workers"):
        assert "not in the range" in called(option, "0", code=2)


def test_the_program_runs_from_anywhere(tmp_path):
    done = subprocess.run(
        [sys.executable, FOLDER / "duel.py", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Compare samplers on problems of categorical choices" in done.stdout


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_the_examples_are_true(file):
    assert doctest.testmod(importlib.import_module(file.stem)).failed == 0
