"""Masks in files: PNGs whose pixels hold the number of their class, 255 where they have none."""

from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import override

from sat_optuna.config.config import IGNORED
from sat_optuna.data.maps import MapSource, Size
from sat_optuna.data.pixels import Header, from_file, opened_picture
from sat_optuna.data.source import Options
from sat_optuna.errors import DataError

__all__ = ["MaskSource", "read_mask"]

_KINDS = frozenset({"1", "I", "I;16", "I;16B", "L", "P"})  # Pillow's modes of one number a pixel
_PNG_SCALED = {2: 85, 4: 17}  # by bits: what Pillow multiplies the numbers of such a grey PNG by


class MaskSource(MapSource[Path]):
    """Images with masks."""

    targets = "masks"
    outside = IGNORED
    dtype = torch.uint8
    remedy: ClassVar[str] = "correct it"

    def classes_of(self, numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the class of each number in a mask's file."""
        return numbers

    @override
    def target_faults(self, path: Path, target: Path, header: Header) -> list[str]:
        try:
            found = from_file(target, _mask_size)
        except DataError as error:
            return [str(error)]
        if found == (header.height, header.width):
            return []
        turned = ", turned as EXIF says," if header.orientation > 4 else ""
        return [
            f"mask {target} has {found[0]} x {found[1]} pixels and its image "
            f"{path.name}{turned} {header.height} x {header.width}; bring both to one size"
        ]

    @override
    def check_target(self, target: Path, classes: int) -> None:
        self._mask(target, classes)

    @override
    def map_of(
        self, target: Path, size: Size, fitted: Size, classes: int, options: Options
    ) -> NDArray[Any]:
        mask = self._mask(target, classes)
        if fitted == size:
            return mask
        nearest = Image.fromarray(mask).resize((fitted[1], fitted[0]), Image.Resampling.NEAREST)
        return np.array(nearest)

    def _mask(self, path: Path, classes: int) -> NDArray[np.uint8]:
        """Read a mask.

        Raises:
            DataError: it is broken, or a pixel has a class that is none.
        """
        mask = self.classes_of(read_mask(path))
        odd = mask[(mask >= classes) & (mask != IGNORED)]
        if len(odd):
            raise DataError(
                f"mask {path} has pixels of class {odd.max()} and the classes are numbered 0 to "
                f"{classes - 1}, with {IGNORED} for none; {self.remedy}"
            )
        return mask


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Read the number of each pixel, (H, W), of a palette's index where the file has a palette.

    Raises:
        DataError: it is missing or broken, holds colours, or a number above 255.
    """
    return from_file(path, _mask)


def _mask_size(path: Path, file: BinaryIO) -> Size:
    with opened_picture(file) as image:
        if image.format != "PNG":
            raise DataError(
                f"mask {path} is a {image.format} and no PNG, whose numbers may have changed; "
                "save it as PNG"
            )
        if image.mode not in _KINDS:
            raise DataError(
                f"mask {path} has colours ({image.mode}) and should have the number of each "
                "pixel's class; with a row a class in colours, (K, 3), save (np.array(Image.open("
                "path).convert('RGB'))[:, :, None] == colours).all(3).argmax(2).astype('uint8')"
            )
        return image.height, image.width


def _mask(path: Path, file: BinaryIO) -> NDArray[np.uint8]:
    _mask_size(path, file)
    file.seek(0)
    start = file.read(26)
    with opened_picture(file) as image:
        image.load()
        numbers = np.array(image)
    if (highest := int(numbers.max())) > IGNORED:
        raise DataError(
            f"mask {path} has pixels of class {highest}; number the classes from 0 to "
            f"{IGNORED - 1}, and write {IGNORED} where a pixel has none"
        )
    grey = start[25] == 0
    return numbers.astype(np.uint8) // (_PNG_SCALED.get(start[24], 1) if grey else 1)
