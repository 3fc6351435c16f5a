"""What is printed into a real terminal of 80 or 120 columns, and into a pipe."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from tests.studies import environment

SCHEME = "110100101001011010-001011010010110100-101101001011010010"
ENDS = ("110100101001011010-", "001011010010110100-", "101101001011010010")
SENTENCE = (
    "Nothing of this /a/folder/with/a/long/name/that/has/no/blank is to be broken, 12345.678 %"
)
PRINT = f"""
from sat_optuna.cli.console import Console
console = Console(quiet=False, verbose=False)
row = {{"number": 3, "state": "COMPLETE", "scheme": "{SCHEME}", "reward": 97.5, "accuracy": 97.25,
       "sparsity": 0.5, "params": 1_234_567, "macs": 2_124_448_123, "said": "optuna-dashboard is"}}
console.rows([row], list(row), "table")
console.result("{SENTENCE}")
"""


def in_terminal(code, columns):
    """Run Python code in a terminal of so many columns and return what it shows."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    ours = {k: v for k, v in environment().items() if k not in {"COLUMNS", "LINES"}}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=child, stdout=child, stderr=child, env=ours
    )
    os.close(child)
    shown = b""
    try:
        while chunk := os.read(parent, 65536):
            shown += chunk
    except OSError:  # Linux says so that the other end is closed
        pass
    os.close(parent)
    assert process.wait() == 0, shown
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode().replace("\r\n", "\n"))


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_breaks_no_word_and_no_number(columns):
    shown = in_terminal(PRINT, columns)
    assert all(len(line) <= columns for line in shown.splitlines())
    whole = [*SENTENCE.split(), "COMPLETE", "97.250", "1,234,567", "2,124,448,123"]
    assert not set(whole) - set(shown.split())
    assert "optuna-dashboard" in shown
    assert SCHEME in shown or all(stage in shown.split() for stage in ENDS)


def test_a_pipe_gets_a_line_a_row():
    done = subprocess.run(
        [sys.executable, "-c", PRINT],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    _, row, sentence = done.stdout.splitlines()
    assert SCHEME in row
    assert sentence == SENTENCE


BAR = """
from sat_optuna.events import Event
from sat_optuna.pipeline.progress import progress_bar
show = progress_bar()
for done, share in ((0, 0.0), (0, 0.5), (1, 0.0)):
    show(Event(step="search", done=done, total=2, share=share, message="best reward 98.333",
               best="110100101001011010-001011010010110100-101101001011010010"))
show(Event(step="search", done=2, total=2, finished=True))
"""


def test_a_bar_moves_within_a_unit_and_shows_the_best():
    frames = [f for f in re.split("[\r\n]", in_terminal(BAR, 80)) if f.startswith("search")]
    assert len({frame[: frame.index("/")] for frame in frames}) == 4  # 0, 0 and a half, 1, 2
    dots = " ".join("".join("○●"[int(digit)] for digit in stage) for stage in SCHEME.split("-"))
    assert f"  best reward 98.333: {dots}" in in_terminal(BAR, 80)
