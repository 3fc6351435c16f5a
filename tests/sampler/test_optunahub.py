"""The two files that may be published as they are, with their page, as a user of it meets them."""

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

from sat_optuna.sampler.sampler import PolicyGradientSampler

SEARCH = Path(__file__).parents[2] / "sat_optuna" / "search"

LOADER = """\
import importlib


def load_module(package):
    return importlib.import_module(package.replace("/", "."))
"""


def test_the_example_of_the_page_runs_on_the_two_files_alone(tmp_path):
    """Without sat_optuna and what only it needs; the loader stands for the hub's, offline."""
    package = tmp_path / "samplers" / "policy_gradient"
    package.mkdir(parents=True)
    shutil.copy(SEARCH / "controller.py", package)
    text = (SEARCH / "sampler.py").read_text()
    assert text.count("sat_optuna.sampler.actor_critic") == 1
    (package / "sampler.py").write_text(
        text.replace("sat_optuna.sampler.actor_critic", ".controller")
    )
    (package / "__init__.py").write_text("from .sampler import CostLimit, PolicyGradientSampler\n")
    (tmp_path / "optunahub.py").write_text(LOADER)
    page = (SEARCH / "OPTUNAHUB.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "example.py").write_text(
        "import sys\nsys.modules['sat_optuna'] = None\n"
        + example
        + "assert not {'torch', 'mlflow', 'click'} & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2.4 ['block2', 'block3', 'block7']")


def test_the_page_names_all_arguments():
    page = (SEARCH / "OPTUNAHUB.md").read_text()
    for name in inspect.signature(PolicyGradientSampler).parameters:
        assert f"`{name}`" in page
