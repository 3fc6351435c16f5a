"""Finished runs of the duel, a line of JSON each, so that none is done twice."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from sat_optuna.errors import DataError, WriteError
from tables import Floats

__all__ = ["Run", "RunLog", "Task"]


Task: TypeAlias = tuple[str, str, int]  # problem, rival, seed


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


class RunLog:
    """The file of finished runs; opening it makes it, and drops a last line that a kill cut.

    Raises:
        DataError: a line is no run.
        WriteError: the file cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: list[Run] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(path, whole)
        except OSError as error:
            raise self._unwritable(error) from error
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                self.runs.append(_parsed(line))
            except (ValueError, TypeError, LookupError) as error:
                raise DataError(
                    f"{path}, line {number} is no run of the duel; remove the line or choose "
                    "another --out"
                ) from error

    def append(self, run: Run) -> None:
        """Write a run to the disk at once."""
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(run), ensure_ascii=False, allow_nan=False) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise self._unwritable(error) from error
        self.runs.append(run)

    def missing(self, tasks: Iterable[Task], versions: Mapping[str, str]) -> list[Task]:
        """Return the tasks of which there is no run yet.

        Args:
            tasks: what is asked for.
            versions: of the rivals.

        Raises:
            DataError: a run was made with another version of its rival.
        """
        held = {(run.problem, run.rival, run.seed): run.version for run in self.runs}
        left = []
        for task in tasks:
            rival = task[1]
            if task not in held:
                left.append(task)
            elif held[task] != versions[rival]:
                raise DataError(
                    f"{self.path} holds runs of {rival!r} made by {held[task]!r}, now "
                    f"{versions[rival]!r}; remove those lines or choose another --out"
                )
        return left

    def _unwritable(self, error: OSError) -> WriteError:
        return WriteError(
            f"cannot write {self.path}: {error.strerror or error}; choose another --out or make "
            "room, then run the same command again"
        )


def _parsed(line: bytes) -> Run:
    record = json.loads(line)
    run = Run(**{field.name: record[field.name] for field in fields(Run)})
    path = tuple((int(number), float(value)) for number, value in run.path)
    if path[0][0] != 1 or path[-1][0] > run.evaluations or not math.isfinite(run.value):
        raise ValueError("impossible numbers")
    return replace(run, path=path)
