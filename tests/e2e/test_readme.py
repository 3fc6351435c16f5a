"""The README's Python blocks run as they stand, on fewer steps."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.studies import environment, make_study, sat_optuna

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


STUDY, IMAGES, BUDGET, PRETRAINED, NETWORK, MODULE = blocks("python")


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
    code = f"{STUDY}\n{BUDGET}\n"
    code += "limited = optuna.create_study(direction='maximize', sampler=within)\n"
    code += "limited.optimize(sat.SupernetObjective(net, data), n_trials=2)\n"
    code += "assert all(t.user_attrs['params'] <= 68_600 for t in limited.trials)\n"
    shorter = code.replace("epochs=10", "epochs=1").replace("n_trials=60", "n_trials=3")
    assert shorter.count("epochs=1,") == 2
    assert "n_trials=3" in shorter
    done = run(shorter, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^[01]{3}-[01]{3}-[01]{3} Cost\(params=\d+, macs=\d+", done.stdout, re.M)
    assert (tmp_path / "mlruns" / "mlflow.db").exists()


def test_ones_own_images_as_arrays_and_loaders(tmp_path):
    done = run(IMAGES, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Evaluation(accuracy=" in done.stdout


def test_a_pretrained_network_keeps_its_logits(tmp_path):
    done = run(PRETRAINED, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Cost(params=")


def test_the_plugin_that_the_readme_shows_is_a_study(tmp_path):
    folder = make_study(tmp_path, "own", blocks("toml")[0])
    text = NETWORK + MODULE
    (folder / "my_net.py").write_text(text)
    said = sat_optuna("check", "own", cwd=tmp_path).stdout
    assert "4 blocks in stages (4,), 16 schemes" in said


@pytest.mark.parametrize("heading", ["Run it", "Test it"])
def test_run_it_and_test_it_are_one_line_each(heading):
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    first = re.search(r"```\w*\n(.*?)```", section, flags=re.DOTALL)
    assert first is not None
    assert len(first.group(1).strip().splitlines()) == 1
