"""Runs and truth tables made by hand."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from runs import Run
from sat_optuna.evidence.truth import TruthTable

__all__ = ["run", "save_truth", "untimed"]


def run(problem="nk16", rival="default", seed=0, value=0.5, **more: Any) -> Run:
    given: dict[str, Any] = {
        "evaluations": 4,
        "version": "1",
        "done": 4,
        "path": ((1, value / 2), (3, value)),
        "recommended": None,
        "distinct": 1.0,
        "ms": 1.0,
        "cpu_s": 0.1,
        "versions": {"numpy": "2"},
    }
    return Run(problem=problem, rival=rival, seed=seed, value=value, **(given | more))


def untimed(of: Run) -> Run:
    """Return a run without its times, which no two runs share."""
    return replace(of, ms=0.0, cpu_s=0.0)


def save_truth(
    folder: Path,
    *,
    kinds: tuple[str, ...] = ("se",),
    seeds: int = 2,
    better: str = "higher",
    missing: tuple[tuple[int, int], ...] = (),
) -> Path:
    """Write a table of 4 blocks; no two of its trainings have the same values.

    Its rows are in a mixed order, a constant control among them. Plain, row 0, has one seed more,
    and the control that alone. `missing` names trainings by row and column.
    """
    rng = np.random.default_rng(7)
    plain, *others = itertools.product(range(len(kinds) + 1), repeat=4)
    others.append((len(kinds) + 1,) * 4)
    choices = np.array([plain, *rng.permutation(others)], dtype=np.uint8)
    valid = rng.normal(60, 10, (len(choices), seeds + 1))
    valid[1:, -1] = np.nan
    control = (choices == len(kinds) + 1).all(axis=1)
    valid[control] = np.nan
    valid[control, -1] = 99.0
    for row, column in missing:
        valid[row, column] = np.nan
    whole = ("valid_loss", "test_loss", "train_accuracy", "seconds")
    TruthTable(
        choices=choices,
        seeds=tuple(range(seeds + 1)),
        valid=valid,
        test=valid + rng.normal(0, 1, valid.shape),
        **dict.fromkeys(whole, valid),
        machine=np.zeros(valid.shape, np.int16),
        params=np.zeros(len(choices), np.int64),
        macs=np.zeros(len(choices), np.int64),
        manifest={
            "name": folder.name,
            "stages": [4],
            "kinds": list(kinds),
            "seeds": list(range(seeds)),
            "reference_seeds": [seeds],
            "references": {"plain": "0000", f"constant-{kinds[0]}": str(len(kinds) + 1) * 4},
            "measure": {"name": "accuracy", "unit": "%", "better": better},
        },
    ).save(folder)
    return folder
