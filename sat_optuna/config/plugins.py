"""Python files that a study brings: they register its own networks, modules and data sets."""

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from sat_optuna.errors import SatOptunaError
from sat_optuna.files import sha256_of
from sat_optuna.seeds import seed_for

__all__ = ["PluginError", "load_plugins", "take_as_run"]


_RUN: dict[str, str] = {}  # by module: the digest of the file that was run


class PluginError(SatOptunaError, ImportError):
    """A plugin that is not there or cannot be run."""


def load_plugins(paths: Iterable[Path]) -> None:
    """Run Python files, each once in this process.

    Args:
        paths: the files; what they register is known from then on.

    Raises:
        PluginError: a file is missing, or running it fails.
    """
    for path in paths:
        _load(path.resolve())


def take_as_run(copy: Path, *, of: Path) -> None:
    """Let a copy of a plugin count as run in this process where the plugin was.

    Its names are registered already, and running it would register them again. A copy that was
    edited since is another plugin.
    """
    ran, name = (_module(path.resolve()) for path in (of, copy))
    if ran in sys.modules and copy.is_file() and sha256_of(copy) == _RUN[ran]:
        sys.modules.setdefault(name, sys.modules[ran])
        _RUN[name] = _RUN[ran]


def _module(path: Path) -> str:
    # A name of its own for each file: two studies may both have a my_net.py.
    return f"sat_optuna_plugin_{path.stem}_{seed_for(str(path)):x}"


def _load(path: Path) -> None:
    name = _module(path)
    if name in sys.modules:
        if path.is_file() and sha256_of(path) != _RUN[name]:
            raise PluginError(
                f"plugin {path} was changed since it was run in this process, whose networks and "
                "modules are still the old ones; start Python anew"
            )
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise PluginError(
            f"plugin {path} is no Python file; correct [plugins] modules, whose files lie beside "
            "study.toml"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: its dataclasses look themselves up there
    _RUN[name] = sha256_of(path)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PluginError(
            f"plugin {path} fails with {type(error).__name__}: {error}; correct it there"
        ) from error
