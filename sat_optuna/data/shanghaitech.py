"""ShanghaiTech's crowds (Zhang et al., CVPR 2016), parts A and B, from the user's own copy.

ROOT/part_A/train_data/images/IMG_1.jpg with ROOT/part_A/train_data/ground-truth/GT_IMG_1.mat, and
test_data beside train_data. Part A's dots are geometry-adaptive Gaussians, as in that paper; part
B's have a sigma of 15 pixels, as in CSRNet's code (Li et al., CVPR 2018).

Differs from that code: each Gaussian is divided by its sum within the image, and a dot at most a
pixel beyond the border is moved onto it, not left out. So maps sum to the number of dots.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
from typing_extensions import override

from sat_optuna.data.dots import Dots, DotSource
from sat_optuna.data.faults import some
from sat_optuna.data.layout import by_name
from sat_optuna.data.maps import Listed, Part, images_of
from sat_optuna.data.source import Options
from sat_optuna.errors import DataError, errors_as

__all__ = ["ShanghaiTechA", "ShanghaiTechB"]

_TRUTHS = ("ground-truth", "ground_truth")
_HOLDS = "it holds images/IMG_1.jpg and ground-truth/GT_IMG_1.mat, and so on"


class _ShanghaiTech(DotSource):
    part: ClassVar[str]
    fixed: ClassVar[float | None]
    corner = 0.5  # MATLAB counts from 1, the middle of the first pixel
    border = 0.5
    word = "dot"

    @override
    def sigma(self, options: Options) -> float | None:
        return self.fixed

    @override
    def listed(self, options: Options) -> Listed[Dots]:
        folder = self.get(options.root)
        return Listed(
            train=_part(folder / "train_data"),
            test=_part(folder / "test_data"),
            classes=("density",),
        )

    @override
    def get(self, root: Path) -> Path:
        named = [root / self.part, root / f"{self.part}_final"]
        folder = next((folder for folder in named if folder.is_dir()), named[0])
        for inside in ("train_data", "test_data"):
            if not (folder / inside).is_dir():
                raise DataError(
                    f"{self.name} is not complete, {folder / inside} is missing; unpack "
                    f"ShanghaiTech's archive so that {self.part} lies in {root}, or set data.root "
                    "to where it is"
                )
        return folder


class ShanghaiTechA(_ShanghaiTech):
    """Photographs of many sizes from the web, dense crowds."""

    name = "shanghaitech-a"
    part = "part_A"
    fixed = None


class ShanghaiTechB(_ShanghaiTech):
    """Photographs of streets, 768 x 1024 pixels, sparser crowds."""

    name = "shanghaitech-b"
    part = "part_B"
    fixed = 15.0


def _part(folder: Path) -> Part[Dots]:
    """List the images of a part with their dots."""
    images, faults = images_of(folder, holds=_HOLDS)
    where = next((folder / n for n in _TRUTHS if (folder / n).is_dir()), folder / _TRUTHS[0])
    truths, _ = by_name(where, {".mat"})
    odd = [
        f"image {path} has no dots, {where}/GT_{name}.mat; add it or delete the image"
        for name, path in images.items()
        if f"GT_{name}" not in truths
    ]
    odd += [
        f"{path} has no image in {folder / 'images'}; add it or delete the file"
        for name, path in truths.items()
        if name.removeprefix("GT_") not in images
    ]
    both, dots = [], []
    for name, image in images.items():
        if path := truths.get(f"GT_{name}"):
            try:
                dots.append(_dots(path))
                both.append(image)
            except DataError as error:
                odd.append(str(error))
    return Part(tuple(both), tuple(dots), (*faults, *some(odd, "faulty files")))


def _dots(path: Path) -> Dots:
    """Read the dots of an image.

    Raises:
        DataError: the file is broken, or holds something else.
    """
    from scipy.io import loadmat

    with errors_as(DataError, f"{path} holds no dots", "unpack ShanghaiTech's archive again"):
        places = np.asarray(loadmat(path)["image_info"][0, 0][0, 0][0], np.float64)
        places = places.reshape(-1, 2)
        if not np.isfinite(places).all():
            raise ValueError("a number is not finite")
    return Dots(path, places, np.arange(1, len(places) + 1))
