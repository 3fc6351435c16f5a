"""The file of runs."""

import pytest

from runs import add_run, read_runs
from sat_optuna.errors import DataError, WriteError
from tests.bench_sampler.made import run


def test_the_curve_by_hand():
    got = run(path=((1, 1.0), (3, 2.0), (5, 4.0)), evaluations=6)
    assert got.curve().tolist() == [1, 1, 2, 2, 4, 4]


def test_runs_are_read_as_they_were_written(tmp_path):
    log = tmp_path / "folder" / "runs.jsonl"
    assert read_runs(log) == []
    made = [run(seed=seed, recommended=1 / 3) for seed in range(3)]
    for one in made:
        add_run(log, one)
    assert read_runs(log) == made


def test_a_last_line_that_a_kill_cut_is_dropped(tmp_path):
    log = tmp_path / "runs.jsonl"
    for seed in range(2):
        add_run(log, run(seed=seed))
    content = log.read_bytes()
    log.write_bytes(content[:-40])
    assert read_runs(log) == [run(seed=0)]
    add_run(log, run(seed=1))
    assert log.read_bytes() == content


@pytest.mark.parametrize("line", ['{"a": 1}', "no JSON", "[]"])
def test_a_line_that_is_no_run_is_named(tmp_path, line):
    log = tmp_path / "runs.jsonl"
    add_run(log, run())
    log.write_text(log.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"line 2 is no run of the duel .*; remove the line"):
        read_runs(log)


def test_impossible_numbers_are_no_run(tmp_path):
    log = tmp_path / "runs.jsonl"
    add_run(log, run(path=((2, 0.5),)))
    with pytest.raises(DataError, match="line 1 is no run"):
        read_runs(log)


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"cannot write .*; choose another --out"):
        read_runs(tmp_path / "file" / "runs.jsonl")
    with pytest.raises(WriteError, match="cannot write"):
        add_run(tmp_path, run())
