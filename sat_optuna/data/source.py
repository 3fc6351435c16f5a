"""What a data set is to the package: a class that fetches it and splits it."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from sat_optuna.config.config import MOST_SIZE
from sat_optuna.data.arrays import MAPS
from sat_optuna.data.examined import Examined
from sat_optuna.data.images import (
    Images,
    IndexedImages,
    TensorImages,
    channel_statistics,
    pixel_counts,
)
from sat_optuna.data.split import Split, even_subset, split_mark, stratified_split
from sat_optuna.errors import DataError

__all__ = ["ArraySource", "Arrays", "Options", "Source", "examined", "limited"]

_NAMED = 20  # classes whose shares are told

Arrays = tuple[NDArray[np.uint8], NDArray[np.integer[Any]]]
"""Images (N, C, H, W) and labels (N,), or masks (N, H, W) uint8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a data set is to be read and split; `load_dataset` says what each one means."""

    root: Path
    seed: int
    valid: float
    limit: int | None
    size: int | None
    device: str
    workers: int
    sigma: float | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not 1 <= self.size <= MOST_SIZE:
            raise DataError(
                f"size is a number of pixels from 1 to {MOST_SIZE}, got {self.size}; 64 is usual"
            )
        if self.workers < 0:
            raise DataError(f"workers is a number of processes from 0, got {self.workers}")
        if self.sigma is not None and not 0 < self.sigma < float("inf"):
            raise DataError(f"sigma is a number of pixels above 0, got {self.sigma}; 4 is usual")

    def split_settings(self) -> str:
        """Return the settings that decide which pixels train and valid hold, as JSON."""
        return json.dumps([self.seed, self.valid, self.limit, self.size])


class Source(ABC):
    """A data set: where it comes from and how it is read."""

    name: ClassVar[str]
    takes_sigma: ClassVar[bool] = False

    @abstractmethod
    def load(self, options: Options) -> Split:
        """Read and split it.

        Raises:
            DataError: files are missing or broken, or an option does not fit the data.
        """

    @abstractmethod
    def get(self, root: Path) -> Path:
        """Fetch it into `root` unless it is there, and return where its files lie.

        Raises:
            DataError: it cannot be fetched; the sentence says which files to put where.
            WriteError: `root` cannot be written.
        """

    def examine(self, options: Options) -> Examined:
        """Look at the data and say all that is wrong with them; learns nothing of the test part.

        Here for a source that is read to be looked at: its first fault alone.
        """
        try:
            split = self.load(options)
        except DataError as error:
            return Examined(faults=(str(error),))
        try:
            split.check_test()
        except DataError as error:
            return examined(split, str(error))
        return examined(split)

    def image_shape(self, size: int | None) -> tuple[int, int, int] | None:
        """Return (C, H, W) of its images where that is known without reading any, else None.

        Args:
            size: side in pixels they are brought to, None for their own.

        Raises:
            DataError: they are not brought to other sizes.
        """
        del size
        return None


def examined(split: Split, *faults: str) -> Examined:
    """Say what a data set holds that could be opened."""
    parts = {"train": split.train, "valid": split.valid}
    maps = {part: _maps_in_words(images, split.class_names) for part, images in parts.items()}
    return Examined(
        faults=faults,
        remarks=split.remarks,
        images={part: len(images) for part, images in parts.items()},
        counts=split.class_counts,
        maps={part: said for part, said in maps.items() if said},
        shape=split.shape,
        targets=split.targets,
    )


def _maps_in_words(images: Images, names: Sequence[str]) -> str:
    """Say what the maps of images hold, and what a constant answer would score; empty without."""
    if not isinstance(images, IndexedImages) or images.targets not in MAPS:
        return ""
    if images.targets == "density":
        dots = images.labels.sum((1, 2), dtype=torch.float64)
        mean = float(dots.mean())
        return (
            f"{float(dots.sum()):,.0f} dots, {float(dots.min()):.0f} to {float(dots.max()):.0f} "
            f"an image; always saying {mean:.2f} would be off by "
            f"{float((dots - mean).abs().mean()):.2f} on average"
        )
    counts = images.pixel_counts()
    shares = {
        name: count / max(1, sum(counts)) for name, count in zip(names, counts, strict=False)
    }
    named = ", ".join(f"{name} {share:.1%}" for name, share in islice(shares.items(), _NAMED))
    more = f", ... of {len(names)} classes" if len(shares) > _NAMED else ""
    largest = max(shares, key=lambda name: shares[name], default="")
    return (
        f"pixels of {named}{more}; always saying {largest} would be right on {shares[largest]:.1%}"
    )


class ArraySource(Source):
    """A data set small enough to be held in memory whole."""

    shape: ClassVar[tuple[int, int, int]]
    resizable: ClassVar[bool] = False

    @override
    def image_shape(self, size: int | None) -> tuple[int, int, int]:
        if size is not None and not self.resizable:
            raise DataError(
                f"{self.name} has images of {self.shape[1]} x {self.shape[2]} pixels and is not "
                f"resized, got size = {size}; leave size out"
            )
        return self.shape if size is None else (self.shape[0], size, size)

    @abstractmethod
    def class_names(self, root: Path) -> tuple[str, ...]:
        """Return the names in label order."""

    def test_files(self, root: Path) -> tuple[Path, ...]:
        """Return the files that the test part is read from."""
        del root
        return ()

    @abstractmethod
    def training_part(self, root: Path) -> Arrays:
        """Read what may be trained on."""

    @abstractmethod
    def test_part(self, root: Path) -> Arrays:
        """Read what may only be tested on."""

    @override
    def load(self, options: Options) -> Split:
        self.image_shape(options.size)  # refuses a size it cannot give
        names = self.class_names(options.root)
        images, labels = self._tensors(self.training_part(options.root), len(names), options.size)
        kept = limited(labels, options.limit, name=self.name)
        images, labels = images[kept], labels[kept]
        self._check_classes(labels, names)
        train, valid = stratified_split(labels, options.valid, options.seed, names=names)
        mean, std = channel_statistics(pixel_counts(images[train]))
        part = TensorImages(images.to(options.device), labels, mean, std)
        return Split(
            name=self.name,
            class_names=names,
            shape=part.shape,
            fingerprint=self._fingerprint(images, labels, options, split_mark(labels, valid)),
            train=part.subset(train),
            valid=part.subset(valid),
            train_and_valid=part,
            load_test=partial(self._load_test, options, len(names), mean, std),
            find_test=partial(self._find_test, options.root),
        )

    def _find_test(self, root: Path) -> None:
        for file in self.test_files(root):
            if not file.is_file():
                raise DataError(
                    f"{self.name} is not complete, {file} is missing; run: sat-optuna data get "
                    f"{self.name}"
                )

    def _load_test(
        self, options: Options, classes: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> Images:
        images, labels = self._tensors(self.test_part(options.root), classes, options.size)
        return TensorImages(images.to(options.device), labels, mean, std)

    def _tensors(self, arrays: Arrays, classes: int, size: int | None) -> tuple[Tensor, Tensor]:
        pixels, numbers = arrays
        if pixels.shape[1:] != self.shape or len(pixels) != len(numbers) or not len(pixels):
            raise DataError(
                f"{self.name} should have images {self.shape} and a label for each, got "
                f"{len(pixels)} images {pixels.shape[1:]} and {len(numbers)} labels; replace its "
                "files with whole ones"
            )
        if numbers.min() < 0 or numbers.max() >= classes:
            raise DataError(
                f"{self.name} should have labels 0 to {classes - 1}, got {numbers.min()} to "
                f"{numbers.max()}; replace its files with whole ones"
            )
        images = torch.from_numpy(pixels)
        if size is not None and size != self.shape[1]:
            images = _resized(images, size)
        return images, torch.from_numpy(numbers)

    def _check_classes(self, labels: Tensor, names: tuple[str, ...]) -> None:
        counts = torch.bincount(labels, minlength=len(names)).tolist()
        if 0 in counts:
            raise DataError(
                f"class {names[counts.index(0)]!r} of {self.name} has no training image; replace "
                "its files with whole ones"
            )

    def _fingerprint(self, images: Tensor, labels: Tensor, options: Options, mark: str) -> str:
        digest = hashlib.sha256(f"{self.name}\n{options.split_settings()}\n".encode())
        digest.update(f"{mark}{tuple(images.shape)}\n".encode())
        digest.update(images.numpy().data)
        digest.update(labels.numpy().data)
        return digest.hexdigest()


def limited(labels: Tensor, limit: int | None, *, name: str) -> Tensor:
    """Return the rows of the training part that `limit` keeps, ascending; all if it is None.

    Equally from each class; one that has fewer images gives all it has. They do not depend on the
    seed: a limited data set is one data set, however it is split.

    Raises:
        DataError: `limit` is more than there is, or less than two images a class, one to train on
            and one to validate on.
    """
    if limit is None:
        return torch.arange(len(labels))
    classes = int((torch.bincount(labels) > 0).sum())
    divided = f" in {classes} classes" if classes > 1 else ""
    least = min(2 * classes, len(labels))
    if not least <= limit <= len(labels):
        raise DataError(
            f"limit = {limit} cannot be taken from {name}: it has {len(labels)} training images"
            f"{divided}; choose a number from {least} to {len(labels)}"
        )
    return even_subset(labels, limit, "limit")


def _resized(images: Tensor, size: int) -> Tensor:
    # In chunks: interpolate works on a copy several times the size of what it is given.
    return torch.cat(
        [
            F.interpolate(chunk, (size, size), mode="bilinear", antialias=True)
            for chunk in torch.split(images, 500)
        ]
    )
