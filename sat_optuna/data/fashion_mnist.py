"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747), MIT licence."""

import math
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from sat_optuna.data.download import fetch, staged, unpack_gzip
from sat_optuna.data.source import Arrays, ArraySource
from sat_optuna.errors import DataError

__all__ = ["FashionMnist"]

PACKAGE = "dataset-fashion-mnist"
MD5 = {  # of the gzip files, as github.com/zalandoresearch/fashion-mnist names them
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
FILES = tuple(MD5)


class FashionMnist(ArraySource):
    """28 x 28 grey pieces of clothing: 60,000 to train on, 10,000 to test.

    The files lie where torchvision has them, ROOT/FashionMNIST/raw.
    """

    name = "fashion-mnist"
    shape = (1, 28, 28)
    md5: ClassVar[Mapping[str, str]] = MD5
    mirror: ClassVar[str] = (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
    )

    @override
    def class_names(self, root: Path) -> tuple[str, ...]:
        return (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        )

    @override
    def test_files(self, root: Path) -> tuple[Path, ...]:
        return tuple(_folder(root) / file for file in FILES if file.startswith("t10k"))

    @override
    def training_part(self, root: Path) -> Arrays:
        return _read_part(root, "train")

    @override
    def test_part(self, root: Path) -> Arrays:
        return _read_part(root, "t10k")

    @override
    def get(self, root: Path) -> Path:
        folder = _folder(root)
        if all((folder / file).is_file() for file in FILES):
            return folder
        with staged(root, folder, FILES, name=self.name, advice=_advice(folder)) as stage:
            if not _fetch_debian(stage):
                for file, md5 in self.md5.items():
                    fetch(f"{self.mirror}/{file}.gz", md5, stage / f"{file}.gz")
            for file in FILES:
                unpack_gzip(stage / f"{file}.gz", stage / file)
        return folder


def _folder(root: Path) -> Path:
    return root / "FashionMNIST" / "raw"


def _advice(folder: Path) -> str:
    return (
        f"on Debian or Ubuntu `apt-get update` may help, else put {', '.join(FILES)} (unpacked, "
        f"from the Debian package {PACKAGE} or github.com/zalandoresearch/fashion-mnist) into "
        f"{folder}"
    )


def _read_part(root: Path, part: str) -> Arrays:
    folder = _folder(root)
    images = _read_idx(folder / f"{part}-images-idx3-ubyte", 3)
    labels = _read_idx(folder / f"{part}-labels-idx1-ubyte", 1)
    return images[:, None], labels.astype(np.int64)


def _read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    # IDX: two zero bytes, 8 for unsigned bytes, the number of axes, each length as big-endian
    # uint32, then the bytes (yann.lecun.com/exdb/mnist).
    if not path.is_file():
        raise DataError(
            f"fashion-mnist is not complete, {path} is missing; run `sat-optuna data get "
            f"fashion-mnist`, or {_advice(path.parent)}"
        )
    raw = path.read_bytes()
    start = 4 + 4 * axes
    if raw[:4] != bytes([0, 0, 8, axes]) or len(raw) < start:
        raise DataError(
            f"{path} is no IDX file of {axes} axes; delete it and run `sat-optuna data get "
            "fashion-mnist`"
        )
    lengths = [int(length) for length in np.frombuffer(raw, ">u4", axes, 4)]
    promised = start + math.prod(lengths)
    if len(raw) != promised:
        raise DataError(
            f"{path} should have {promised} bytes by its header, got {len(raw)}; delete it and "
            "run `sat-optuna data get fashion-mnist`"
        )
    return np.frombuffer(bytearray(raw), np.uint8, offset=start).reshape(lengths)


def _fetch_debian(stage: Path) -> bool:
    # apt-get needs no root to download, and dpkg-deb none to unpack; where they are missing or
    # the package lists are, this is no source.
    tools = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if tools[0] is None or tools[1] is None:
        return False
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        fetched = subprocess.run(
            [tools[0], "download", PACKAGE], cwd=work, capture_output=True, check=False
        )
        packages = list(work.glob("*.deb"))
        if fetched.returncode or len(packages) != 1:
            return False
        unpacked = subprocess.run(
            [tools[1], "-x", packages[0].name, "unpacked"],
            cwd=work,
            capture_output=True,
            check=False,
        )
        if unpacked.returncode:
            return False
        folder = work / "unpacked" / "usr" / "share" / "datasets" / "fashion-mnist"
        for file in FILES:
            shutil.copyfile(folder / f"{file}.gz", stage / f"{file}.gz")
    return True
