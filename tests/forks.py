"""Processes of Python that need not import torch first: forks of one that has.

A process that starts anew needs seconds for its imports, and most tests of the command line little
else. So the first of them starts a server that imports the large packages, none of ours, and runs
nothing; it forks for each program, which has the folder, the environment and the files of its own.
Imports of ours are the fork's own. What is said of the imports themselves, of signals and of kills
is tested in processes that start anew.
"""

import functools
import json
import os
import random
import runpy
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["close", "python", "serve"]

PACKAGES = (
    *("mlflow", "optuna", "scipy.stats", "sqlalchemy.orm"),
    *("torch", "torch._dynamo", "torchvision"),
)


def python(*arguments: str, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ...` or `python -c CODE ...` to its end in a fork.

    Args:
        arguments: as after `python`.
        cwd: the folder it runs in.
        env: its whole environment.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked = {"arguments": arguments, "cwd": str(cwd), "env": {**env}, "streams": folder}
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        said, warned = ((Path(folder) / name).read_text() for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(["python", *arguments], code, said, warned)


@functools.cache
def _server() -> subprocess.Popen[str]:
    """The server of this process, started by the first who asks."""
    quiet = {name: text for name, text in os.environ.items() if not name.startswith("COVERAGE_")}
    return subprocess.Popen(
        [sys.executable, "-c", "from tests.forks import serve; serve()"],
        cwd=Path(__file__).parents[1],
        env=quiet,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def close() -> None:
    """End the server, if there is one."""
    if _server.cache_info().currsize:
        _server().communicate()
        _server.cache_clear()


def serve() -> None:
    """Fork for each line of stdin, and print the exit codes."""
    for name in PACKAGES:
        __import__(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201


def _become(arguments: list[str], cwd: str, env: dict[str, str], streams: str) -> None:
    """Be what was asked for, and exit."""
    flags = os.O_WRONLY | os.O_CREAT
    files = (os.devnull, f"{streams}/stdout", f"{streams}/stderr")
    for number, path in enumerate(files):
        os.dup2(os.open(path, flags if number else os.O_RDONLY), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    _draw_anew()
    if "COVERAGE_PROCESS_CONFIG" in env:
        import coverage

        coverage.process_startup()
    flag, program, *rest = arguments
    sys.argv = [flag, *rest]
    if flag == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        main: Any = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(program, "<string>", "exec"), main.__dict__)
    sys.exit()


def _draw_anew() -> None:
    """Give the fork random numbers of its own, as a process that starts anew has."""
    import numpy as np
    import torch

    random.seed()
    np.random.seed()  # noqa: NPY002, TID251
    torch.seed()
