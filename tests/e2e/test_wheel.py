"""What somebody has who installs the package from an index, without a clone."""

import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from sat_optuna.config.config import StudyConfig
from sat_optuna.config.reader import parse_config
from sat_optuna.config.template import EXAMPLE
from tests.studies import environment

PROJECT = Path(__file__).parents[2]


def test_the_example_is_the_quickstart():
    document = tomllib.loads((PROJECT / "studies/quickstart/study.toml").read_text())
    assert parse_config(document, source="quickstart", known={}) == EXAMPLE != StudyConfig()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*build, folder, PROJECT], check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.mark.slow
def test_an_index_shows_a_page_whose_links_work(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["Project-URL"] == "Paper, https://arxiv.org/abs/2207.07858"
    assert "attention" in metadata["Keywords"]
    classifiers = metadata.get_all("Classifier", [])
    assert all(f"Programming Language :: Python :: 3.{n}" in classifiers for n in (11, 12, 13))
    page = str(metadata.get_payload())
    assert page.startswith("# sat_optuna\n")
    targets = re.findall(r"\]\(([^)]*)\)", page)
    assert targets
    assert all(target.startswith(("https://", "#")) for target in targets)


@pytest.mark.slow
def test_the_example_runs_where_the_wheel_alone_is_installed(wheel, tmp_path):
    venv, work = tmp_path / "venv", tmp_path / "somewhere else"
    work.mkdir()
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = venv / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", wheel]
    subprocess.run(install, check=True, capture_output=True)
    # The libraries are those of this environment; the package itself is the wheel's.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (venv / "lib" / version / "site-packages" / "libraries.pth").write_text(
        sysconfig.get_path("purelib")
    )

    ours = {name: value for name, value in environment().items() if name != "PYTHONPATH"}

    def run(*words, code=0):
        done = subprocess.run(
            [*words], cwd=work, env=ours, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    home = run(python, "-c", "import sat_optuna; print(sat_optuna.__file__)")
    assert Path(home.strip()).is_relative_to(venv)
    sat = venv / "bin" / "sat-optuna"
    assert "run it: sat-optuna run first" in run(sat, "new", "first", "--example")
    study = work / "studies" / "first" / "study.toml"
    text = study.read_text()
    assert parse_config(tomllib.loads(text), source="first", known={}) == EXAMPLE
    shorter = re.sub(r"(?m)^(epochs|trials|limit) = \d+", _less, text)
    study.write_text(shorter)
    run(sat, "run", "first")
    assert (study.parent / "report.md").read_text().startswith("# ")


def _less(key):
    return f"{key[1]} = {500 if key[1] == 'limit' else 1}"
