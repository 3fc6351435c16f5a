"""Finished runs of the sampler benchmark, a line of JSON each, so that none is done twice."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sat_optuna.bench.problems import BenchError
from sat_optuna.errors import WriteError

__all__ = ["Run", "RunLog", "Task"]


@dataclass(frozen=True, slots=True)
class Task:
    """What a run is of.

    Attributes:
        problem, rival: their names.
        seed: of both.
        evaluations: the budget.
        cap_s: seconds of CPU that a time-capped rival may take.
    """

    problem: str
    rival: str
    seed: int
    evaluations: int
    cap_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """What a run came to; true values are free of the problem's noise.

    Attributes:
        problem, rival, seed, evaluations: as in `Task`.
        version: of the rival, with the cap where it has one.
        done: evaluations made; fewer than the budget where the cap ended the run.
        path: (evaluation from 1, true value) wherever the best-looking scheme so far changed.
        value: true value of the scheme of the best reward.
        recommended: true value of the sampler's own recommendation; None where it has none.
        distinct: share of the proposals that differ from all before.
        ms: median time of ask and tell.
        cpu_s: CPU time of all asks and tells.
        versions: of what else may matter.
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
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What makes it this run and no other."""
        return self.problem, self.rival, self.seed, self.evaluations

    def curve(self) -> NDArray[np.float64]:
        """Return the true value of the best-looking scheme after each evaluation of the budget."""
        ends = [place for place, _ in self.path[1:]] + [self.evaluations + 1]
        spans = [end - place for (place, _), end in zip(self.path, ends, strict=True)]
        return np.repeat([value for _, value in self.path], spans)


class RunLog:
    """The file of finished runs; opening it makes it, and drops a last line cut by a kill.

    Raises:
        BenchError: a line that is no run.
        WriteError: the file cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: list[Run] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b") as stream:
                stream.seek(0)
                content = stream.read()
                whole = content.rfind(b"\n") + 1
                if whole < len(content):
                    stream.truncate(whole)
        except OSError as error:
            raise self._unwritable(error) from error
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                self.runs.append(_parsed(json.loads(line)))
            except (ValueError, TypeError, LookupError) as error:
                raise BenchError(
                    f"{path}, line {number} is no run of this benchmark; remove the line or "
                    "choose another --out"
                ) from error

    def append(self, run: Run) -> None:
        """Write a run to the disk at once."""
        line = json.dumps(asdict(run), ensure_ascii=False, allow_nan=False) + "\n"
        try:
            with self.path.open("ab") as stream:
                stream.write(line.encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise self._unwritable(error) from error
        self.runs.append(run)

    def missing(self, tasks: Iterable[tuple[Task, str]]) -> list[Task]:
        """Return the tasks of which there is no run yet.

        Args:
            tasks: each with the version of its rival.

        Raises:
            BenchError: a run was made with another version of its rival.
        """
        held = {run.key: run for run in self.runs}
        left = []
        for task, version in tasks:
            run = held.get((task.problem, task.rival, task.seed, task.evaluations))
            if run is None:
                left.append(task)
            elif run.version != version:
                raise BenchError(
                    f"{self.path} holds runs of {task.rival!r} made by {run.version!r}, now "
                    f"{version!r}; remove those lines or choose another --out"
                )
        return left

    def _unwritable(self, error: OSError) -> WriteError:
        return WriteError(
            f"cannot write {self.path}: {error.strerror or error}; choose another --out or make "
            "room, then run the same command again"
        )


def _parsed(record: dict[str, Any]) -> Run:
    run = Run(**{f.name: record[f.name] for f in fields(Run)})
    path = tuple((int(place), float(value)) for place, value in run.path)
    if path[0][0] != 1 or path[-1][0] > run.evaluations or not math.isfinite(run.value):
        raise ValueError("impossible numbers")
    return Run(**{f.name: getattr(run, f.name) for f in fields(Run)} | {"path": path})
