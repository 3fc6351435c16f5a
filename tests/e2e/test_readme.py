"""The README's Python blocks run as they stand, on fewer steps."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.studies import environment

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(code, cwd):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_python_example_runs(tmp_path):
    code = blocks("python")[0]
    shorter = code.replace("epochs=10", "epochs=1").replace("n_trials=60", "n_trials=3")
    assert shorter.count("epochs=1,") == 2
    assert "n_trials=3" in shorter
    done = run(shorter, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^[01]{3}-[01]{3}-[01]{3} Cost\(params=\d+, macs=\d+", done.stdout, re.M)
    assert (tmp_path / "mlruns" / "mlflow.db").exists()


def test_the_module_example_is_a_module(tmp_path):
    code = "import torch\n" + blocks("python")[1]
    check = """
from sat_optuna.attention import attention_faults, build_attention
from sat_optuna.ticket import AttentionSpec

spec = AttentionSpec(kind="scale", sharing="stage", settings={"start": 0.5})
assert attention_faults(spec, channels=(8,)) == []
features = torch.ones(2, 8, 3, 3)
scaled, state = build_attention("scale", 8, start=0.5)(features)
assert torch.equal(scaled, features / 2) and state is None
"""
    done = run(code + check, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("heading", ["Run it", "Test it"])
def test_run_it_and_test_it_are_one_line_each(heading):
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    first = re.search(r"```\w*\n(.*?)```", section, flags=re.DOTALL)
    assert first is not None
    assert len(first.group(1).strip().splitlines()) == 1
