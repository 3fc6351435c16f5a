"""Cued digits: a planted probe in which it matters where attention is, made of mnist5k.

An image holds three digits, each in a plane of its own, and in a fourth plane a lamp of 4 x 4
pixels somewhere, whose brightness says which plane's digit is the label. So what a stroke means
depends on something far away. A gate of a whole channel in an early block can tell it to all
places at once; a few convolutions cannot. The truth is known by construction: this is no natural
data set, and what helps here need not help elsewhere.

As `cued-seg` the same images are a segmentation: the pixels of the digit that the lamp asks for
have its class, all others, those of the other two digits too, are background.

Images of train are made of other digits than those of valid, and those of test of mnist5k's test
digits. The 3,000 test images use each of these 1,000 digits about nine times, so that intervals
over images, which take them as independent, are too short.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from sat_optuna.data.images import TensorImages, channel_statistics, pixel_counts
from sat_optuna.data.mnist5k import Mnist5k
from sat_optuna.data.source import Arrays, ArraySource, Options
from sat_optuna.data.split import Split, stratified_split
from sat_optuna.errors import DataError
from sat_optuna.seeds import seed_for

__all__ = ["CuedDigits", "CuedSeg"]

_IMAGES, _TEST_IMAGES = 6000, 3000
_FEWEST = 500  # with fewer a class may have no image
_SIDE = 16
_LAMP = 4  # pixels a side
_LEVELS = np.array([0, 115, 230])  # of the lamp, by the plane that it asks for
_INK = 0.9  # of a digit's own brightness
_NOISE = 4.0  # standard deviation, of 255
_STROKE = 57  # brightness from which on a pixel is the digit's, a quarter of the brightest ink


class CuedDigits(ArraySource):
    """16 x 16 images of four planes: 6,000 to train and validate on, 3,000 to test."""

    name = "cued-digits"
    shape = (4, _SIDE, _SIDE)

    @override
    def class_names(self, root: Path) -> tuple[str, ...]:
        return tuple("0123456789")

    @override
    def get(self, root: Path) -> Path:
        return Mnist5k().get(root)

    @override
    def training_part(self, root: Path) -> Arrays:
        return Mnist5k().training_part(root)

    @override
    def test_part(self, root: Path) -> Arrays:
        return self._composed(Mnist5k().test_part(root), _TEST_IMAGES, "test")

    def _composed(self, digits: Arrays, count: int, part: str) -> Arrays:
        """Make images of digits, and what is learnt of each."""
        images, labels, _ = _composed(digits, count, part)
        return images, labels

    @override
    def load(self, options: Options) -> Split:
        self.image_shape(options.size)  # refuses a size it cannot give
        count = _IMAGES if options.limit is None else options.limit
        if not _FEWEST <= count <= _IMAGES:
            raise DataError(
                f"limit = {count} cannot be taken from {self.name}: it has {_IMAGES} training "
                f"images; choose a number from {_FEWEST} to {_IMAGES}"
            )
        names = self.class_names(options.root)
        digits, classes = self.training_part(options.root)
        rows = stratified_split(
            torch.from_numpy(classes), options.valid, options.seed, names=tuple("0123456789")
        )
        held_back = round(options.valid * count)
        parts = [
            self._composed((digits[drawn], classes[drawn]), number, part)
            for drawn, number, part in zip(
                (r.numpy() for r in rows),
                (count - held_back, held_back),
                ("train", "valid"),
                strict=True,
            )
        ]
        pixels, numbers = (np.concatenate(both) for both in zip(*parts, strict=True))
        images, labels = torch.from_numpy(pixels), torch.from_numpy(numbers)
        mean, std = channel_statistics(pixel_counts(images[: count - held_back]))
        whole = TensorImages(images.to(options.device), labels, mean, std)
        index = torch.arange(count)
        return Split(
            name=self.name,
            class_names=names,
            shape=self.shape,
            fingerprint=self._fingerprint(images, labels, options, ""),
            train=whole.subset(index[: count - held_back]),
            valid=whole.subset(index[count - held_back :]),
            train_and_valid=whole,
            load_test=partial(self._load_test, options, len(names), mean, std),
        )


class CuedSeg(CuedDigits):
    """The images of cued-digits, each with a mask of 11 classes: background and the digit."""

    name = "cued-seg"

    @override
    def class_names(self, root: Path) -> tuple[str, ...]:
        return ("background", *"0123456789")

    @override
    def _composed(self, digits: Arrays, count: int, part: str) -> Arrays:
        images, labels, asked = _composed(digits, count, part)
        strokes = _reduced(asked[:, None])[:, 0] >= _STROKE
        return images, np.where(strokes, labels[:, None, None] + 1, 0).astype(np.uint8)


def _composed(
    digits: Arrays, count: int, part: str
) -> tuple[NDArray[np.uint8], NDArray[np.integer[Any]], NDArray[np.float32]]:
    """Make images of digits; the same digits and count give the same images.

    Args:
        digits: (D, 1, 28, 28) and (D,).
        count: how many images.
        part: what they are for, which seeds the draws.

    Returns:
        (count, 4, 16, 16) images, the label of each, and (count, 28, 28) the brightness of the
        digit that is asked for.
    """
    x, labels = digits[0][:, 0], digits[1]
    rng = np.random.default_rng(seed_for("cued-digits", part))
    which = rng.integers(0, 3, count)
    chosen = rng.integers(0, len(x), (3, count))
    top, left = rng.integers(1, x.shape[1] - _LAMP - 1, (2, count))
    planes = np.zeros((count, 4, *x.shape[1:]), np.float32)
    planes[:, :3] = _INK * x[chosen].swapaxes(0, 1)
    spot = np.arange(_LAMP)
    rows, columns = (top[:, None] + spot)[:, :, None], (left[:, None] + spot)[:, None, :]
    planes[np.arange(count)[:, None, None], 3, rows, columns] = _LEVELS[which][:, None, None]
    planes += np.asarray(rng.normal(0, _NOISE, planes.shape), np.float32)
    asked = chosen[which, np.arange(count)]
    return _reduced(planes), labels[asked], np.asarray(_INK * x[asked], np.float32)


def _reduced(planes: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Bring (N, C, 28, 28) brightnesses to 16 x 16 bytes."""
    small: Tensor = F.interpolate(
        torch.from_numpy(planes), (_SIDE, _SIDE), mode="bilinear", antialias=True
    )
    return small.round().clamp(0, 255).to(torch.uint8).numpy()
