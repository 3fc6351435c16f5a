"""The folder of the sampler as a package of OptunaHub: loaded by itself, and checked as there."""

import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sat_optuna.sampler import PolicyGradientSampler

FOLDER = Path(__file__).parents[2] / "sat_optuna" / "sampler"
PAGE = (FOLDER / "README.md").read_text()
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

# What the registry's .pre-commit-config.yaml and pyproject.toml ask of each package (ruff 0.3.5,
# whose default rules are the first five; mdformat 0.7.16 with mdformat-frontmatter).
RUFF_SETTINGS = (
    "line-length = 99",
    "target-version = 'py38'",
    "lint.select = ['E4', 'E7', 'E9', 'F', 'I']",
    "lint.isort.known-third-party = ['optuna']",
    "lint.isort.lines-after-imports = 2",
    "lint.isort.force-single-line = true",
    "lint.isort.force-sort-within-sections = true",
    "lint.isort.order-by-type = false",
)
RUFF_OPTIONS = ["--isolated", "--no-cache", *(f"--config={line}" for line in RUFF_SETTINGS)]

# Begins a process that cannot import what the package must not need.
ALONE = """\
import runpy
import sys


class Refused:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "mlflow", "click", "sat_optuna"):
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Refused)
"""


@pytest.fixture
def package(tmp_path):
    """A copy of the folder where `optunahub.load_module` looks before it asks the network."""
    branch = tmp_path / "github.com" / "optuna" / "optunahub-registry" / "main"
    copy = branch / "package" / "samplers" / "policy_gradient"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def said(package: Path, program: str) -> str:
    """What a program prints that is run beside the package and without sat_optuna."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE + program],
        cwd=package.parents[1],
        env=os.environ | {"OPTUNAHUB_CACHE_HOME": str(package.parents[6])},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_hubs_loader_loads_the_folder_alone(package):
    program = """
import inspect
import optunahub
module = optunahub.load_local_module("samplers/policy_gradient", registry_root=".")
print(module.__all__, inspect.getfile(module.PolicyGradientSampler))
"""
    names, file = said(package, program).strip().rsplit(" ", 1)
    assert names == "['CostLimit', 'PolicyGradientSampler']"
    assert Path(file).samefile(package / "sampler.py")


def test_the_example_of_the_page_runs(package):
    assert said(package, EXAMPLE).startswith("2.4 ['block2', 'block3', 'block7']")


def test_the_example_file_runs_and_keeps_its_limit(package):
    program = f"runpy.run_path({str(package / 'example.py')!r}, run_name='__main__')"
    chosen = said(package, program)
    assert chosen.startswith("trial ")
    assert 64 * chosen.count("'se'") + 98 * chosen.count("'cbam'") <= 600


@pytest.mark.parametrize(
    "check",
    [
        ["ruff", "check", *RUFF_OPTIONS],
        ["ruff", "format", "--check", *RUFF_OPTIONS],
        ["mdformat", "--check"],
    ],
    ids=["ruff check", "ruff format", "mdformat"],
)
def test_the_registrys_checks_pass(package, check):
    command = [sys.executable, "-m", *check, "."]
    done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_has_the_registrys_front_matter():
    header = dict(line.split(": ", 1) for line in PAGE.split("---\n")[1].splitlines())
    assert header.keys() == {
        "author",
        "title",
        "description",
        "tags",
        "optuna_versions",
        "license",
    }
    assert header["license"] == "MIT License"
    assert header["tags"].startswith("[sampler,")
    assert re.fullmatch(r"\[\d+\.\d+\.\d+(, \d+\.\d+\.\d+)*\]", header["optuna_versions"])
    assert (FOLDER / "LICENSE").read_text() == (FOLDER.parents[1] / "LICENSE").read_text()


def test_the_page_names_all_arguments_with_their_defaults():
    parameters = inspect.signature(PolicyGradientSampler).parameters.values()
    shown = ", ".join(f"{p.name}={p.default!r}" for p in parameters).replace("'", '"')
    assert f"`PolicyGradientSampler(*, {shown})`" in PAGE
    for parameter in parameters:
        assert f"`{parameter.name}`" in PAGE
