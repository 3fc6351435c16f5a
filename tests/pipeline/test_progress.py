"""The progress bar: drawn in a terminal, written as lines into a log file."""

from sat_optuna.events import Event
from sat_optuna.pipeline.progress import progress_bar


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
