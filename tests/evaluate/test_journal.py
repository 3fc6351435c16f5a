"""Results on the disk: kept through kills, full disks and Ctrl-C, and never mixed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from sat_optuna.errors import WriteError
from sat_optuna.evaluate import Evaluator
from sat_optuna.evaluate.journal import Journal, JournalError
from sat_optuna.events import Event, ignore
from sat_optuna.scheme import Scheme
from tests.evaluate.scoring import chunks, some_images
from tests.full_disk import room_for
from tests.networks import tiny_supernet

IMAGES = some_images(23)
CALIBRATION = chunks(7, 5)


def evaluator(net=None, images=IMAGES, calibration=CALIBRATION, chunk=9):
    return Evaluator(net or tiny_supernet(), images, calibration=calibration, chunk=chunk)


def score_into(path, one, schemes, on_event=ignore):
    return Journal(path, one).score(schemes, on_event=on_event)


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr("sat_optuna.evaluate.evaluator.UNIT", 16)


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


def test_results_come_back_as_they_were(tmp_path):
    one = evaluator()
    got = score_into(tmp_path / "r.jsonl", one, one.all_schemes())
    assert {s: r.evaluation for s, r in got.items()} == one.score_all()
    again = Journal(tmp_path / "r.jsonl", one).held
    assert again == got
    result = got[Scheme.parse("01-010-1")]
    assert int(result.mask().sum()) == result.hits
    assert len(lines(tmp_path / "r.jsonl")) == 65


def test_what_is_there_is_not_scored_again_and_a_cut_line_is_dropped(tmp_path):
    one, path = evaluator(), tmp_path / "r.jsonl"
    whole = score_into(path, one, one.all_schemes())
    kept = lines(path)
    path.write_bytes(b"".join(kept[:30]) + kept[30][:-9])
    said: list[Event] = []
    assert score_into(path, one, one.all_schemes(), on_event=said.append) == whole
    assert [event.done for event in said] == list(range(30, 65))
    assert {(event.step, event.total) for event in said} == {("enumerate", 64)}
    assert sorted(lines(path)) == sorted(kept)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda: evaluator(tiny_supernet(seed=1)), "weights"),
        (lambda: evaluator(tiny_supernet(["eca"])), "kinds and weights"),
        (lambda: evaluator(tiny_supernet(blocks=(2, 2, 2))), "stages and weights"),
        (lambda: evaluator(images=some_images(24)), "images"),
        (lambda: evaluator(calibration=chunks(12)), "calibration"),
    ],
)
def test_results_of_another_evaluation_are_refused(tmp_path, change, what):
    one, other = evaluator(), change()
    score_into(tmp_path / "r.jsonl", one, one.all_schemes()[:3])
    with pytest.raises(JournalError, match=rf"holds results of another {what} than is here now"):
        score_into(tmp_path / "r.jsonl", other, other.all_schemes())


def test_a_file_goes_on_with_the_chunk_that_it_was_begun_with(tmp_path):
    small, large, path = evaluator(chunk=8), evaluator(), tmp_path / "r.jsonl"
    asked = small.all_schemes()
    score_into(path, small, asked[:16])
    head = json.loads(lines(path)[0])
    assert (head["chunk"], head["unit"]) == (8, 16)
    got = score_into(path, large, asked)
    assert {s: r.evaluation for s, r in got.items()} == small.score_all() != large.score_all()
    path.unlink()
    score_into(path, large, asked[:16])
    with pytest.raises(
        JournalError,
        match=r"results of 9 images a pass, and 8 is the most that is allowed now; allow as many",
    ):
        score_into(path, small, asked)


def test_a_file_of_the_first_release_goes_on(tmp_path):
    one, path = evaluator(), tmp_path / "r.jsonl"
    whole = score_into(path, one, one.all_schemes())
    head, *kept = lines(path)
    old = json.loads(head)
    del old["unit"]
    path.write_bytes(json.dumps(old).encode() + b"\n" + b"".join(kept[:32]))
    assert score_into(path, one, one.all_schemes()) == whole


@pytest.mark.parametrize("line", [b"{}", b"[]", b"\xff", b'{"scheme": "0", "right": "AA=="}'])
def test_a_line_that_is_no_result_is_one_sentence(tmp_path, line):
    one, path = evaluator(), tmp_path / "r.jsonl"
    score_into(path, one, one.all_schemes()[:3])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(JournalError, match=r"r\.jsonl, line 5 is no result; remove the line"):
        score_into(path, one, one.all_schemes())
    path.write_bytes(line + b"\n")
    with pytest.raises(JournalError, match="does not begin as a file of results does"):
        score_into(path, one, one.all_schemes())


@pytest.mark.parametrize("content", ['{"mine": [1, 2, 3]}', "no line end", " "])
def test_a_file_of_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(JournalError, match="does not begin as a file of results does; move it"):
        Journal(path, evaluator())
    assert path.read_text() == content


def test_a_first_line_that_a_kill_cut_is_begun_anew(tmp_path):
    path, one = tmp_path / "results.jsonl", evaluator()
    Journal(path, one)
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    Journal(path, one)
    assert path.read_bytes() == whole


def test_impossible_numbers_are_no_result(tmp_path):
    one, path = evaluator(), tmp_path / "r.jsonl"
    score_into(path, one, one.all_schemes()[:1])
    head, line = lines(path)
    record = json.loads(line)
    path.write_bytes(head + json.dumps({**record, "hits": record["hits"] + 1}).encode() + b"\n")
    with pytest.raises(JournalError, match="line 2 is no result"):
        score_into(path, one, one.all_schemes())


def test_a_full_disk_is_one_sentence_and_the_file_stays_valid(tmp_path):
    one, path = evaluator(), tmp_path / "r.jsonl"
    with room_for(3000), pytest.raises(WriteError, match=r"r\.jsonl.*results before are kept"):
        score_into(path, one, one.all_schemes())
    held = Journal(path, one).held
    assert 0 < len(held) < 64
    assert len(held) % 16 == 0  # whole units
    assert path.read_bytes().endswith(b"\n")
    whole = score_into(path, one, one.all_schemes())
    assert {s: r.evaluation for s, r in whole.items()} == one.score_all()


def test_ctrl_c_keeps_what_is_done(tmp_path):
    one, path = evaluator(), tmp_path / "r.jsonl"

    def interrupt(event):
        if event.done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_into(path, one, one.all_schemes(), on_event=interrupt)
    assert len(Journal(path, one).held) == 32
    whole = score_into(path, one, one.all_schemes())
    assert {s: r.evaluation for s, r in whole.items()} == one.score_all()


PROGRAM = """
import sys
from pathlib import Path
from sat_optuna.evaluate import evaluator as module
module.UNIT = 16
from tests.evaluate.test_journal import evaluator, score_into
one = evaluator()
score_into(Path(sys.argv[1]), one, one.all_schemes())
"""


@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_one_that_never_was(tmp_path):
    path = tmp_path / "r.jsonl"
    kills = 0
    while kills < 3:
        child = subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)])
        deadline = time.monotonic() + 120
        before = path.stat().st_size if path.exists() else 0
        while child.poll() is None and (path.stat().st_size if path.exists() else 0) <= before:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        if child.poll() is not None:
            break
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        kills += 1
    assert kills
    one = evaluator()
    whole = score_into(path, one, one.all_schemes())
    assert {s: r.evaluation for s, r in whole.items()} == one.score_all()


def test_networks_of_any_dtype_are_told_apart(tmp_path):
    net = tiny_supernet()
    more = torch.zeros(3, dtype=torch.bfloat16)
    net.register_buffer("more", more, persistent=False)
    Journal(tmp_path / "r.jsonl", evaluator(net, calibration=[]))
    more[1] = 1
    with pytest.raises(JournalError, match="another weights"):
        Journal(tmp_path / "r.jsonl", evaluator(net, calibration=[]))


@pytest.mark.parametrize("metric", ["auroc", "balanced_accuracy"])
def test_scores_of_a_metric_are_kept_and_are_no_others(tmp_path, metric):
    net = tiny_supernet(blocks=(1, 1, 1))
    one = Evaluator(net, IMAGES, calibration=CALIBRATION, chunk=9, metric=metric)
    path = tmp_path / "r.jsonl"
    got = score_into(path, one, one.all_schemes())
    assert Journal(path, one).held == got
    assert {scheme: result.score for scheme, result in got.items()} == {
        scheme: score.score(metric) for scheme, score in one.score_all().items()
    }
    for other in ("accuracy", "macro_f1"):
        with pytest.raises(
            JournalError, match=r"holds results of another (task and )?metric than"
        ):
            Journal(path, Evaluator(net, IMAGES, calibration=CALIBRATION, chunk=9, metric=other))
