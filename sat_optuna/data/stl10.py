"""STL-10 (Coates, Lee and Ng, AISTATS 2011): its labelled images; the others stay unread."""

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from sat_optuna.data.download import fetch, staged, unpack_tar
from sat_optuna.data.source import Arrays, ArraySource
from sat_optuna.errors import DataError

__all__ = ["Stl10"]

FILES = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin")


class Stl10(ArraySource):
    """96 x 96 colour photographs: 5,000 to train on, 8,000 to test.

    The files lie where torchvision has them, ROOT/stl10_binary, and are read directly:
    torchvision's reader checksums the test part and 2.7 GB of unlabelled images first.
    """

    name = "stl10"
    shape = (3, 96, 96)
    resizable = True
    url: ClassVar[str] = "https://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz"
    md5: ClassVar[str] = "91f7769df0f17e558f3565bffb0c7dfb"

    @override
    def class_names(self, root: Path) -> tuple[str, ...]:
        return (
            "airplane",
            "bird",
            "car",
            "cat",
            "deer",
            "dog",
            "horse",
            "monkey",
            "ship",
            "truck",
        )

    @override
    def test_files(self, root: Path) -> tuple[Path, ...]:
        return tuple(root / "stl10_binary" / f"test_{part}.bin" for part in "Xy")

    @override
    def training_part(self, root: Path) -> Arrays:
        return _read_part(root, "train")

    @override
    def test_part(self, root: Path) -> Arrays:
        return _read_part(root, "test")

    @override
    def get(self, root: Path) -> Path:
        folder = root / "stl10_binary"
        if all((folder / file).is_file() for file in FILES):
            return folder
        with staged(root, folder, FILES, name=self.name, advice=_advice(folder)) as stage:
            archive = stage / "archive"
            fetch(self.url, self.md5, archive)
            unpack_tar(archive, "stl10_binary", FILES, stage)
        return folder


def _advice(folder: Path) -> str:
    return f"put {', '.join(FILES)} of {Stl10.url} into {folder}"


def _read_part(root: Path, part: str) -> Arrays:
    folder = root / "stl10_binary"
    pixels = _bytes(folder / f"{part}_X.bin")
    labels = _bytes(folder / f"{part}_y.bin")
    if len(pixels) != len(labels) * 3 * 96 * 96:
        raise DataError(
            f"{folder / part}_X.bin should have {len(labels) * 3 * 96 * 96} bytes for the "
            f"{len(labels)} labels of {part}_y.bin, got {len(pixels)}; {_advice(folder)}"
        )
    # Columns first in the file; labels 1 to 10.
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2))
    return images, labels.astype(np.int64) - 1


def _bytes(path: Path) -> NDArray[np.uint8]:
    if not path.is_file():
        raise DataError(
            f"stl10 is not complete, {path} is missing; run `sat-optuna data get stl10`, or "
            f"{_advice(path.parent)}"
        )
    return np.fromfile(path, np.uint8)
