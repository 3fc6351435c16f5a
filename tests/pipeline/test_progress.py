"""The progress bar: drawn in a terminal, written as lines into a log file."""

import os
import re
import subprocess
import sys

import pytest

from sat_optuna.cli.console import Console
from sat_optuna.events import Event
from sat_optuna.pipeline.progress import _words, progress_bar


def test_a_log_file_gets_a_line_when_a_step_begins_and_when_it_is_done(capsys):
    show = progress_bar()
    for done in range(3):
        show(Event(step="fit", done=done, total=2, message=f"loss {3 - done}"))
    show(Event(step="fit", done=2, total=2, finished=True))
    show(Event(step="report", done=0, total=1))
    show(Event(step="report", done=1, total=1))
    assert capsys.readouterr().err == "fit 0/2: loss 3\nfit 2/2: loss 1\nreport 1/1\n"


def test_a_terminal_gets_a_bar_for_each_step(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    show = progress_bar()
    for step, total in (("search", 9), ("retrain", 3)):
        for done in range(total + 1):
            show(Event(step=step, done=done, total=total, message=f"{step} best {done}"))
        show(Event(step=step, done=total, total=total, finished=True))
    show(Event(step="report", done=1, total=1, finished=True))  # there is nothing to wait for
    drawn = capsys.readouterr().err
    for text in ("9/9", "search best 9", "3/3", "retrain best 3"):
        assert text in drawn
    assert "report" not in drawn
    assert drawn.count("\x1b[?25h") == drawn.count("\x1b[?25l") == 2  # the cursor is back


def test_a_bar_that_is_closed_gives_the_cursor_back(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    show = progress_bar()
    show(Event(step="search", done=1, total=9))
    show.close()
    show.close()
    assert capsys.readouterr().err.count("\x1b[?25h") == 1


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("sat_optuna.pipeline.progress.monotonic", lambda: self.now)

    def shown(self, show, event, *, after):
        self.now += after
        show(event)


def lines_of(capsys, clock, events):
    """What a log file holds after events, each so many seconds after the one before."""
    show = progress_bar()
    for after, event in events:
        clock.shown(show, event, after=after)
    show.close()
    return capsys.readouterr().err.splitlines()


def search(done, **more):
    return Event(step="search", done=done, total=100, **more)


def test_pace_and_time_left_are_of_this_process_and_of_work_alone(capsys, monkeypatch):
    """A resumed search: neither its first 50 trials nor the minute of getting ready count."""
    found = {"message": "best reward 60.402", "best": "110-010-001"}
    events = [(0, search(50, message="getting ready")), (60, search(50, **found))]
    events += [(10, search(done, **found)) for done in range(51, 54)]
    assert lines_of(capsys, Clock(monkeypatch), events) == [
        "search 50/100: getting ready",
        "search 51/100, 10 s/trial, 8 min left: best reward 60.402: 110-010-001",
    ]


@pytest.mark.parametrize(
    ("step", "each", "said"),
    [
        ("search", 0.5, "2.0 trials/s, 30 s left"),
        ("search", 40.0, "40 s/trial, 40 min left"),
        ("pretrain", 1000.0, "17 min/epoch, 16.7 h left"),
        ("retrain", 9000.0, "2.5 h/network, 6.2 days left"),
        ("anything", 5.0, "5.0 s/step, 5 min left"),
    ],
)
def test_pace_and_time_left_in_words(step, each, said, monkeypatch):
    show, clock = progress_bar(), Clock(monkeypatch)
    for done in range(41):
        clock.shown(show, Event(step=step, done=done, total=100), after=each)
    assert ", ".join(show._tempo()) == said


def test_nothing_is_said_before_a_second_of_work(monkeypatch):
    show, clock = progress_bar(), Clock(monkeypatch)
    for done in range(90):
        clock.shown(show, search(done), after=0.01)
    assert show._tempo() == []
    for done in range(90, 100):
        clock.shown(show, search(done), after=0.05)
    assert show._tempo() == ["71 trials/s", "0 s left"]
    clock.shown(show, search(100), after=0.05)
    assert show._tempo() == ["in 1 s"]


def test_a_batch_whose_trials_end_together_does_not_mend_the_pace(monkeypatch):
    show, clock = progress_bar(), Clock(monkeypatch)
    show(search(0))
    for batch in range(5):
        clock.now += 80
        for done in range(8 * batch + 1, 8 * batch + 9):
            clock.shown(show, search(done), after=0.001)
        assert show._tempo() == ["10 s/trial", f"{round((92 - 8 * batch) * 10 / 60)} min left"]


def test_the_pace_is_of_what_was_done_lately(monkeypatch):
    """Another program took the cores for the first hour."""
    show, clock = progress_bar(), Clock(monkeypatch)
    for done in range(61):
        clock.shown(show, search(done), after=60)
    for done in range(61, 91):
        clock.shown(show, search(done), after=20)
    assert show._tempo() == ["20 s/trial", "3 min left"]


def test_within_an_epoch_there_is_progress_too(capsys, monkeypatch):
    """In a log file a line now and then, with what is left of epochs that take an hour."""

    def within(share):
        said = f"epoch 1: step {share * 100:.0f} of 100"
        return Event(step="pretrain", done=0, total=4, share=share, message=said)

    events = [(0, within(0.0)), *((360.0, within(tenth / 10)) for tenth in range(1, 4))]
    assert lines_of(capsys, Clock(monkeypatch), events) == [
        "pretrain 0/4: epoch 1: step 0 of 100",
        "pretrain 0/4, 60 min/epoch, 3.9 h left: epoch 1: step 10 of 100",
        "pretrain 0/4, 60 min/epoch, 3.8 h left: epoch 1: step 20 of 100",
        "pretrain 0/4, 60 min/epoch, 3.7 h left: epoch 1: step 30 of 100",
    ]


LONG = "001110011100111001-110011100111001110-011100011001110001"


@pytest.mark.parametrize("columns", [100, 60, 40])
def test_no_line_is_wider_than_the_terminal(columns, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    show, clock = progress_bar(), Clock(monkeypatch)
    for done in (40, 41, 42):
        event = search(done, message="best reward 60.402", best=LONG)
        clock.shown(show, event, after=40)
    clock.shown(show, Event(step="search random", done=7, total=1000), after=1)
    show.close()
    drawn = capsys.readouterr().err
    assert not re.search(r"\x1b\[[0-9;]*m", drawn)  # no colour
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", drawn))
    assert max(map(len, lines)) <= columns
    (line,) = {line.rstrip() for line in lines if "42/100" in line}
    assert line.endswith("42/100 40 s/trial 39 min left")
    assert ("━" in line) == (columns > 40)
    dots = [word for line in lines for word in line.split() if set(word) <= set("●○")]
    assert dots[-3:] == ["".join("○●"[int(digit)] for digit in stage) for stage in LONG.split("-")]


def test_kinds_are_told_apart_and_words_stay_words(monkeypatch):
    for best, said in (("120-001", "①②○ ○○①"), ("plain is best", "plain is best")):
        assert said in _words(Event(step="search", done=1, total=2, best=best), drawn=True)
        assert best in _words(Event(step="search", done=1, total=2, best=best), drawn=False)


def test_what_is_printed_in_between_has_its_own_line(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = Console(quiet=False, verbose=True)
    with console.following() as show:
        show(search(1, message="best reward 1"))
        console.remark("the store is locked")
        show(search(2, message="best reward 2"))
    drawn = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", capsys.readouterr().err)
    assert "the store is locked" in [line.strip() for line in re.split(r"[\r\n]+", drawn)]
    assert "2/100" in drawn


def test_a_traceback_is_not_painted_over():
    program = """
from sat_optuna.events import Event
from sat_optuna.pipeline.progress import progress_bar
progress_bar()(Event(step="fit", done=1, total=3))
1 / 0
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"FORCE_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr.endswith("ZeroDivisionError: division by zero\n\x1b[?25h")
