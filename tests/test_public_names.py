"""What `import sat_optuna` offers, and that it costs nothing until it is used."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import sat_optuna

HEAVY = {"torch", "mlflow", "optuna", "click", "numpy"}


def test_public_names_are_all_there_are_in_order():
    public = [name for name in dir(sat_optuna) if not name.startswith("_")]
    assert public == sorted(sat_optuna.__all__)
    assert sat_optuna.__all__ == sorted(sat_optuna.__all__)
    assert len(set(sat_optuna.__all__)) == len(sat_optuna.__all__)


@pytest.mark.parametrize("name", sat_optuna.__all__)
def test_each_public_name_comes_from_its_home_and_is_public_there(name):
    thing = getattr(sat_optuna, name)
    home = importlib.import_module(thing.__module__)
    assert thing.__module__.startswith("sat_optuna.")
    assert thing.__name__ == name
    assert getattr(home, name) is thing
    assert thing.__doc__


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(sat_optuna.__file__).read_text())
    seen = {
        alias.name: str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("sat_optuna")
        for alias in node.names
    }
    assert sorted(seen) == sat_optuna.__all__
    for name, module in seen.items():
        assert getattr(importlib.import_module(module), name) is getattr(sat_optuna, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'sat_optuna' has no attribute 'Suprenet'"):
        _ = sat_optuna.Suprenet
    assert not hasattr(sat_optuna, "_HOMES_OF")


def test_importing_the_package_imports_nothing_heavy():
    program = (
        "import sys, sat_optuna\n"
        "dir(sat_optuna)\n"
        "sat_optuna.Scheme, sat_optuna.Ticket, sat_optuna.AttentionSpec\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
