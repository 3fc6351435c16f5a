"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): 32 x 32 colour photographs."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from sat_optuna.data.download import fetch, staged, unpack_tar
from sat_optuna.data.source import Arrays, ArraySource
from sat_optuna.errors import DataError

__all__ = ["Cifar10", "Cifar100"]


class _Cifar(ArraySource):
    """50,000 images to train on, 10,000 to test.

    The files lie where torchvision has them and are read directly: torchvision's reader checksums
    the test part before it reads the training part, and it unpickles whatever a file holds.
    """

    shape = (3, 32, 32)
    folder: ClassVar[str]
    url: ClassVar[str]
    md5: ClassVar[str]
    train_files: ClassVar[tuple[str, ...]]
    test_file: ClassVar[str]
    names_file: ClassVar[str]
    names_key: ClassVar[str]
    labels_key: ClassVar[str]

    @override
    def class_names(self, root: Path) -> tuple[str, ...]:
        path = root / self.folder / self.names_file
        names = self._read(path).get(self.names_key)
        if not isinstance(names, list) or not names:
            raise DataError(f"{path} has no {self.names_key}; {self._advice(path.parent)}")
        return tuple(str(name) for name in names)

    @override
    def test_files(self, root: Path) -> tuple[Path, ...]:
        return (root / self.folder / self.test_file,)

    @override
    def training_part(self, root: Path) -> Arrays:
        parts = [self._read_part(root / self.folder / file) for file in self.train_files]
        images, labels = zip(*parts, strict=True)
        return np.concatenate(images), np.concatenate(labels)

    @override
    def test_part(self, root: Path) -> Arrays:
        return self._read_part(root / self.folder / self.test_file)

    @override
    def get(self, root: Path) -> Path:
        files = (*self.train_files, self.test_file, self.names_file)
        folder = root / self.folder
        if all((folder / file).is_file() for file in files):
            return folder
        with staged(root, folder, files, name=self.name, advice=self._advice(folder)) as stage:
            archive = stage / "archive"
            fetch(self.url, self.md5, archive)
            unpack_tar(archive, self.folder, files, stage)
        return folder

    def _read_part(self, path: Path) -> Arrays:
        batch = self._read(path)
        pixels, labels = batch.get("data"), batch.get(self.labels_key)
        if (
            not isinstance(pixels, np.ndarray)
            or pixels.dtype != np.uint8
            or pixels.ndim != 2
            or pixels.shape[1] != 3 * 32 * 32
            or not isinstance(labels, list)
        ):
            raise DataError(
                f"{path} should hold rows of 3072 bytes as 'data' and a list as "
                f"{self.labels_key!r}, got something else; {self._advice(path.parent)}"
            )
        return pixels.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)

    def _read(self, path: Path) -> Mapping[str, Any]:
        if not path.is_file():
            raise DataError(
                f"{self.name} is not complete, {path} is missing; run `sat-optuna data get "
                f"{self.name}`, or {self._advice(path.parent)}"
            )
        try:
            with path.open("rb") as stream:
                table = _ArraysOnly(stream, encoding="latin1").load()
        # A cut pickle can end in the middle of anything; each of these has been seen.
        except (
            pickle.UnpicklingError,
            EOFError,
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            AttributeError,
            MemoryError,
            OverflowError,
        ) as error:
            raise DataError(f"{path} is broken ({error}); {self._advice(path.parent)}") from error
        return table if isinstance(table, Mapping) else {}

    def _advice(self, folder: Path) -> str:
        files = ", ".join((*self.train_files, self.test_file, self.names_file))
        return f"put {files} of {self.url} into {folder}"


class Cifar10(_Cifar):
    """10 classes."""

    name = "cifar10"
    folder = "cifar-10-batches-py"
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    md5 = "c58f30108f718f92721af3b95e74349a"
    train_files = tuple(f"data_batch_{number}" for number in range(1, 6))
    test_file = "test_batch"
    names_file = "batches.meta"
    names_key = "label_names"
    labels_key = "labels"


class Cifar100(_Cifar):
    """100 classes; the 20 coarse ones are not used."""

    name = "cifar100"
    folder = "cifar-100-python"
    url = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    md5 = "eb9058c3a382ffc7106e4002c42a8d85"
    train_files = ("train",)
    test_file = "test"
    names_file = "meta"
    names_key = "fine_label_names"
    labels_key = "fine_labels"


class _ArraysOnly(pickle.Unpickler):
    """Reads dictionaries, lists, text and numpy arrays; refuses all else a pickle can call."""

    @override
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "dtype"):
            return _dtype
        # The true files were written by numpy 1 (numpy.core); numpy 2 writes numpy._core.
        known = {
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _dtype(code: str, align: int = 0, copy: int = 0) -> np.dtype[Any]:
    # The true files give align and copy as 0 and 1, which numpy 2.4 warns of.
    return np.dtype(code, align=bool(align), copy=bool(copy))
