"""Finished runs of the duel, a line of JSON each, so that none is done twice."""

import json
import math
import os
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from lookup import Floats
from sat_optuna.errors import DataError, WriteError, errors_as

__all__ = ["Run", "add_run", "read_runs"]


@dataclass(frozen=True, slots=True)
class Run:
    """What a run came to; true values are free of the problem's noise.

    Attributes:
        problem, rival: their names.
        seed: of both.
        evaluations: the budget.
        version: of the rival.
        done: evaluations made; fewer than the budget where the rival's cap ended the run.
        path: (evaluation from 1, true value) wherever the best-looking scheme so far changed.
        value: true value of the scheme of the best reward.
        recommended: true value of the sampler's own recommendation; None where it has none.
        distinct: share of the proposals that differ from all before.
        ms: median time of ask and tell.
        cpu_s: CPU time of all asks and tells.
        versions: of Python and the packages.
    """

    problem: str
    rival: str
    seed: int
    evaluations: int
    version: str
    done: int
    path: tuple[tuple[int, float], ...]
    value: float
    recommended: float | None
    distinct: float
    ms: float
    cpu_s: float
    versions: dict[str, str]

    def curve(self) -> Floats:
        """Return the true value of the best-looking scheme after each evaluation of the budget."""
        ends = [number for number, _ in self.path[1:]] + [self.evaluations + 1]
        spans = [end - number for (number, _), end in zip(self.path, ends, strict=True)]
        return np.repeat([value for _, value in self.path], spans)


def read_runs(path: Path) -> list[Run]:
    """Return the runs of a file, which is made if missing; a last line that a kill cut is dropped.

    Raises:
        DataError: a line is no run.
        WriteError: the file cannot be made or written.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as stream:
            stream.seek(0)
            content = stream.read()
            whole = content.rfind(b"\n") + 1
            stream.truncate(whole)
    runs = []
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        what = f"{path}, line {number} is no run of the duel"
        with errors_as(DataError, what, "remove the line or choose another --out"):
            record = json.loads(line)
            run = Run(**{field.name: record[field.name] for field in fields(Run)})
            steps = tuple((int(after), float(value)) for after, value in run.path)
            if steps[0][0] != 1 or steps[-1][0] > run.evaluations or not math.isfinite(run.value):
                raise ValueError("impossible numbers")
            runs.append(replace(run, path=steps))
    return runs


def add_run(path: Path, run: Run) -> None:
    """Write a run to the end of the file, and to the disk at once.

    Raises:
        WriteError: the file cannot be written.
    """
    with _writing(path), path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(run), ensure_ascii=False, allow_nan=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def _writing(path: Path) -> AbstractContextManager[None, bool | None]:
    remedy = "choose another --out or make room, then run the same command again"
    return errors_as(WriteError, f"cannot write {path}", remedy)
