"""The programs of studies/examples run as they stand, on fewer steps."""

import importlib.util
import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "studies" / "examples"
PROGRAMS = {
    "plain_loop": (
        ["--epochs", "1", "--trials", "3"],
        r"^ResNet [0-2](-[0-2]){3}: squared error 0",
    ),
    "detector": (["--steps", "4", "--trials", "3"], r"^FasterRCNN [01]{3}-.*: overlap 0\.\d+\n"),
    "segmentation": (
        ["--steps", "3", "--trials", "2"],
        r"^DeepLabV3 [01]{3}-.*: overlap \d\.\d+\n",
    ),
    "with_lightning": (
        ["--epochs", "1", "--trials", "2"],
        r"^ResNet [01](-[01]){3}: accuracy [01]\.\d+\n",
    ),
}


def test_each_program_is_in_this_table():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == PROGRAMS.keys()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's, of its own code and of data loaders
@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_runs_and_says_what_it_found(name, capsys):
    found = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    program = importlib.util.module_from_spec(found)
    found.loader.exec_module(program)
    arguments, words = PROGRAMS[name]
    program.main(arguments)
    printed = capsys.readouterr().out
    assert re.search(words, printed, re.M), printed
    if name in {"detector", "segmentation"}:
        assert re.search(
            r"^attention adds [\d,]+ parameters and [\d,]+ multiply-adds", printed, re.M
        )
