"""Plugins: files that a study brings."""

import pytest

from sat_optuna.config.plugins import PluginError, load_plugins, take_as_run
from sat_optuna.errors import SatOptunaError


def test_a_file_is_run_once(tmp_path):
    count = tmp_path / "count"
    plugin = tmp_path / "own.py"
    plugin.write_text(f"with open({str(count)!r}, 'a') as file:\n    file.write('x')\n")
    load_plugins([plugin, plugin])
    load_plugins([tmp_path / "." / "own.py"])
    assert count.read_text() == "x"


def test_two_files_of_one_name_are_two_plugins(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        text = f"open({str(tmp_path / folder / 'ran')!r}, 'w').close()"
        (tmp_path / folder / "own.py").write_text(text)
    load_plugins(tmp_path / folder / "own.py" for folder in ("a", "b"))
    assert (tmp_path / "a" / "ran").exists()
    assert (tmp_path / "b" / "ran").exists()


def test_a_copy_counts_as_run_where_it_is_one_of_a_plugin_that_was(tmp_path):
    count = tmp_path / "count"
    text = f"with open({str(count)!r}, 'a') as file:\n    file.write('x')\n"
    for name in ("own.py", "copy.py", "edited.py", "other.py"):
        (tmp_path / name).write_text(text + "# more\n" * (name == "edited.py"))
    load_plugins([tmp_path / "own.py"])
    take_as_run(tmp_path / "copy.py", of=tmp_path / "own.py")
    take_as_run(tmp_path / "edited.py", of=tmp_path / "own.py")
    take_as_run(tmp_path / "own.py", of=tmp_path / "other.py")  # which was not run
    load_plugins([tmp_path / "copy.py"])
    assert count.read_text() == "x"
    load_plugins([tmp_path / "edited.py"])
    assert count.read_text() == "xx"


@pytest.mark.parametrize("name", ["missing.py", "folder", "text.txt"])
def test_what_is_no_python_file_is_said(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.txt").write_text("x = 1")
    with pytest.raises(
        PluginError, match=rf"plugin .*{name} is no Python file; correct \[plugins"
    ):
        load_plugins([tmp_path / name])


def test_a_plugin_that_fails_says_how_and_can_be_mended(tmp_path):
    plugin = tmp_path / "bad.py"
    plugin.write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(
            PluginError, match="fails with ZeroDivisionError: division by zero; co"
        ):
            load_plugins([plugin])
    plugin.write_text("x = 1")
    load_plugins([plugin])


def test_a_dataclass_in_a_plugin_finds_its_module(tmp_path):
    plugin = tmp_path / "data.py"
    plugin.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass, field\n"
        "@dataclass\nclass A:\n    x: list[int] = field(default_factory=list)\n"
    )
    load_plugins([plugin])


def test_plugin_errors_are_ours():
    assert issubclass(PluginError, SatOptunaError)


def test_a_file_that_was_changed_since_it_was_run_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("VALUE = 1\n")
    load_plugins([path])
    load_plugins([path])
    path.write_text("VALUE = 2\n")
    with pytest.raises(PluginError, match="was changed since it was run in this process"):
        load_plugins([path])
