"""Tiny studies and the command line as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests import forks

STUDY = """
seed = 0
[data]
limit = 300
[network]
width = 4
stem_stride = 4
blocks = [2, 2, 2]
[train]
batch = 32
shift = 1
[pretrain]
epochs = 2
[search]
trials = 9
batch = 4
calibration = 32
[retrain]
epochs = 1
seeds = [0, 1, 2]
workers = 1
"""

# Eight schemes, and a second seed of the three references.
TRUTH = """
[data]
limit = 100
[network]
width = 4
stem_stride = 4
blocks = [1, 1, 1]
[attention]
kinds = ["srm"]
[train]
batch = 32
shift = 1
[retrain]
epochs = 1
[truth]
seeds = [0]
reference_seeds = [0, 1]
"""


def make_study(project: Path, name: str = "tiny", text: str = STUDY) -> Path:
    """Write a study.toml under project/studies and return its folder."""
    folder = project / "studies" / name
    folder.mkdir(parents=True)
    (folder / "study.toml").write_text(text)
    (project / "mlruns").mkdir(exist_ok=True)
    return folder


def command(*arguments: str) -> list[str]:
    """The command line of sat-optuna."""
    return [sys.executable, "-m", "sat_optuna", *arguments]


def environment(**more: str) -> dict[str, str]:
    """This process's environment without settings of the person who runs the tests."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SAT_OPTUNA", "MLFLOW"))}
    return kept | {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"} | more


def sat_optuna(
    *arguments: str, cwd: Path, code: int = 0, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a process of its own, and hold it to its exit code."""
    done = forks.python(*command(*arguments)[1:], cwd=cwd, env=environment(**more))
    assert done.returncode == code, f"{done.args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def trials(cwd: Path, study: str = "tiny") -> list[dict[str, Any]]:
    """The study's trials as `sat-optuna trials --format json` prints them."""
    printed = sat_optuna("trials", study, "--format", "json", cwd=cwd).stdout
    rows: list[dict[str, Any]] = json.loads(printed)
    return rows
