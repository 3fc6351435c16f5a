"""Images in files that come with maps: the class of each pixel, or the density of dots.

One rule for all sizes, by which nothing is cut off: with `size` each image is scaled, its sides in
proportion, until the longer one has `size` pixels; then all are filled up, on the right and below,
to the largest height and width of the data set's images. What is filled up is black, has no class
in a mask and no dots in a density. Densities are made after scaling, so that they sum to the
number of dots.

Images are held in memory as bytes, masks too, densities as float32.
"""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from typing_extensions import override

from sat_optuna.config.config import IGNORED
from sat_optuna.data.examined import Examined
from sat_optuna.data.faults import constant_images, header_remarks, known_headers, odd_images, some
from sat_optuna.data.folder import NUMBERS
from sat_optuna.data.images import TensorImages, channel_statistics, pixel_counts
from sat_optuna.data.layout import FLAT_TEST, Layout, by_name, suffixes_of
from sat_optuna.data.pixels import Header, read_pixels
from sat_optuna.data.source import Options, Source, examined, limited
from sat_optuna.data.split import Split, random_split
from sat_optuna.device import memory_for
from sat_optuna.errors import DataError

__all__ = ["Listed", "MapSource", "Part", "Size", "flat_remarks", "images_of"]

T = TypeVar("T")
Size = tuple[int, int]
"""Height and width in pixels."""

LARGE = 1e9  # bytes from which on it is said what is held in memory
_ANY = 1  # a size that is set: images may be of several


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """What lies in the files of a part, before an image is read.

    Attributes:
        images: (N,) the files.
        targets: (N,) what each one's map is made of.
        faults: what is wrong with them so far, a sentence each.
    """

    images: tuple[Path, ...] = ()
    targets: tuple[T, ...] = ()
    faults: tuple[str, ...] = ()

    def joined(self, more: "Part[T] | None") -> "Part[T]":
        """Return these images and more."""
        if more is None:
            return self
        return Part(
            self.images + more.images, self.targets + more.targets, self.faults + more.faults
        )

    def subset(self, rows: Tensor) -> "Part[T]":
        """Return the images of the rows (n,) int64."""
        chosen = rows.tolist()
        return Part(tuple(self.images[r] for r in chosen), tuple(self.targets[r] for r in chosen))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed(Generic[T]):
    """The parts of a data set.

    Attributes:
        train: what is trained on.
        valid: what is validated on; None where it is drawn from `train`.
        test: what is tested on; None where it is drawn from `train` too.
        classes: a name for each, as far as they are known unread.
        remarks: what a user should know of where the parts lie.
    """

    train: Part[T]
    valid: Part[T] | None = None
    test: Part[T] | None = None
    classes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Frame:
    """What images are brought to.

    Attributes:
        size: pixels of the longer side; None for their own.
        channels: of each.
        height: of all, once they are filled up.
        width: of all.
    """

    size: int | None
    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, headers: Sequence[Header], size: int | None) -> "_Frame":
        fitted = [_scaled((header.height, header.width), size) for header in headers]
        height, width = (max(sides) for sides in zip(*fitted, strict=True))
        return cls(size, headers[0].channels, height, width)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (self.channels, self.height, self.width)


@dataclass(frozen=True, slots=True)
class _Opened(Generic[T]):
    """A data set that was opened as far as it has no faults.

    Attributes:
        faults: why it cannot be trained on.
        test: what is tested on; None where it is to be drawn and was not.
        like: the header of an image to train on, which others must be like; None where none can be
            read.
        split: the data; None where there are faults.
    """

    faults: list[str]
    test: Part[T] | None
    like: Header | None = None
    split: Split | None = None


class MapSource(Source, Generic[T]):
    """Images with maps in files; T is what a map is made of."""

    targets: ClassVar[str]
    outside: ClassVar[int]  # in a map, beside its image
    dtype: ClassVar[torch.dtype]

    @abstractmethod
    def listed(self, options: Options) -> Listed[T]:
        """List the files.

        Raises:
            DataError: they are not where they should be.
        """

    @abstractmethod
    def target_faults(self, path: Path, target: T, header: Header) -> list[str]:
        """Return why what a map is made of does not fit its image; reads headers at most.

        Args:
            path: the image.
            target: what its map is made of.
            header: of the image.
        """

    @abstractmethod
    def map_of(
        self, target: T, size: Size, fitted: Size, classes: int, options: Options
    ) -> NDArray[Any]:
        """Make an image's map.

        Args:
            target: what it is made of.
            size: of the image.
            fitted: of the image once it is scaled, and of the map.
            classes: number of them.
            options: how the data are read.

        Raises:
            DataError: its file is broken, or holds what it must not.
        """

    def check_target(self, target: T, classes: int) -> None:
        """Make sure that a map of the test part can be made; learns nothing from it.

        Raises:
            DataError: it cannot.
        """
        del target, classes

    def classes(self, listed: Listed[T], options: Options) -> tuple[str, ...]:
        """Return a name for each output.

        Raises:
            DataError: they cannot be told from the files.
        """
        del options
        return listed.classes

    def words(self, options: Options) -> tuple[str, ...]:
        """Return what a user should know of how maps are made."""
        del options
        return ()

    @override
    def load(self, options: Options) -> Split:
        opened = self._opened(self.listed(options), options)
        if opened.split is None:
            raise DataError(opened.faults[0])
        return opened.split

    @override
    def examine(self, options: Options) -> Examined:
        """Read all that is trained on; of the test part what shows that it can be read."""
        try:
            listed = self.listed(options)
        except DataError as error:
            return Examined(faults=(str(error),), targets=self.targets)
        opened = self._opened(listed, options)
        split, test = opened.split, opened.test or Part()
        faults = (
            *opened.faults,
            *self._test_faults(test, split.class_names if split else (), opened.like),
        )
        if split is None:
            return Examined(faults=faults, targets=self.targets)
        found = examined(split, *faults)
        return replace(found, images={**found.images, "test": len(test.images)})

    def _opened(self, listed: Listed[T], options: Options) -> _Opened[T]:
        headers, faults = self._headers(listed.train.joined(listed.valid))
        like = next(iter(headers.values()), None)
        if faults:
            return _Opened(faults, listed.test, like)
        try:
            names = self.classes(listed, options)
            train, valid, test = _divided(listed, options, name=self.name)
        except DataError as error:
            return _Opened([str(error)], listed.test, like)
        tested, _ = known_headers(listed.test.images if listed.test else ())
        every = [*headers.values(), *tested.values()]
        frame = _Frame.of(every, options.size)
        both, rows = train.joined(valid), len(train.images)
        if fault := self._too_large(len(both.images), frame):
            return _Opened([fault], test, like)
        images, maps, counts, broken = self._arrays(both, frame, len(names), rows, options)
        if fault := self._nothing(maps[:rows], counts, train.images[0].parent):
            broken = broken or [fault]
        if broken:
            return _Opened(some(broken, "broken files"), test, like)
        mean, std = channel_statistics(counts)
        with _room(len(images)):
            held = images.to(options.device)
        tested_on = partial(self._tested, test, names, frame, like, options)
        split = Split(
            name=self.name,
            class_names=names,
            shape=frame.shape,
            fingerprint=_fingerprint(self.name, options, names, rows, images, maps),
            # Views: memory holds each image once.
            train=TensorImages(held[:rows], maps[:rows], mean, std),
            valid=TensorImages(held[rows:], maps[rows:], mean, std),
            train_and_valid=TensorImages(held, maps, mean, std),
            load_test=lambda: TensorImages(*tested_on(), mean, std),
            find_test=partial(self._check_test, test, names, like),
            remarks=(
                *listed.remarks,
                *self.words(options),
                *_remarks(every, frame, self.outside),
                *self._memory(len(both.images), frame),
            ),
        )
        return _Opened([], test, like, split)

    def _headers(
        self, part: Part[T], like: Header | None = None
    ) -> tuple[dict[Path, Header], list[str]]:
        """Read the headers of a part's images; return them, and all that is wrong so far."""
        headers, broken = known_headers(part.images)
        faults = [*part.faults, *some(broken, "broken images")]
        faults += odd_images(headers, headers.values(), _ANY, like=like)
        deep = [path for path, header in headers.items() if header.numbers != "bytes"]
        faults += [
            f"image {path} holds {NUMBERS[headers[path].numbers]}, and images with {self.targets} "
            "are read as 8-bit numbers; save it as such, scaled to 0 to 255"
            for path in deep[:1]
        ]
        odd = [
            fault
            for path, target in zip(part.images, part.targets, strict=True)
            if (header := headers.get(path))
            for fault in self.target_faults(path, target, header)
        ]
        return headers, [*faults, *some(odd, f"faults of {self.targets}")]

    def _arrays(
        self, part: Part[T], frame: _Frame, classes: int, counted: int, options: Options
    ) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """Read a part.

        Args:
            part: its files.
            frame: what images are brought to.
            classes: number of them.
            counted: images, the first ones, whose pixels are counted.
            options: how the data are read.

        Returns:
            Images (N, C, H, W), maps (N, H, W), of each channel how often each number is in the
            images that are counted, what is filled up aside, (C, 256), and a fault for each file
            that cannot be read.
        """
        count, size = len(part.images), (frame.height, frame.width)
        with _room(count):
            images = torch.zeros(count, frame.channels, *size, dtype=torch.uint8)
            maps = torch.full((count, *size), self.outside, dtype=self.dtype)
        counts = torch.zeros(frame.channels, 256, dtype=torch.int64)
        faults = []
        for row, (path, target) in enumerate(zip(part.images, part.targets, strict=True)):
            try:
                pixels = read_pixels(path)
                height, width, _ = pixels.shape
                fitted = _scaled((height, width), frame.size)
                made = self.map_of(target, (height, width), fitted, classes, options)
            except DataError as error:
                faults.append(str(error))
                continue
            if fitted[0] > size[0] or fitted[1] > size[1]:
                faults.append(
                    f"image {path} is larger than the data set's were before; open it anew"
                )
                continue
            image = torch.from_numpy(_resized(pixels, fitted)).permute(2, 0, 1)
            images[row, :, : fitted[0], : fitted[1]] = image
            maps[row, : fitted[0], : fitted[1]] = torch.from_numpy(made)
            if row < counted:
                counts += pixel_counts(image[None])
        return images, maps, counts, faults

    def _nothing(self, maps: Tensor, counts: Tensor, folder: Path) -> str:
        """Return why nothing can be learnt from images; empty where something can."""
        if int((counts.sum(dim=0) > 0).sum()) == 1:
            return constant_images(folder)
        where = f"the {len(maps)} images to train on in {folder}"
        if self.targets == "density":
            return "" if maps.any() else f"{where} have no dot; look at the files"
        known = torch.bincount(maps.flatten(), minlength=IGNORED + 1)[:IGNORED].nonzero()
        if len(known) > 1:
            return ""
        which = f"class {int(known[0])}" if len(known) else "no class"
        return f"all pixels of {where} are of {which} ({IGNORED} is none); look at the masks"

    def _bytes(self, images: int, frame: _Frame) -> int:
        return images * frame.height * frame.width * (frame.channels + self.dtype.itemsize)

    def _too_large(self, images: int, frame: _Frame) -> str:
        needed = self._bytes(images, frame)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed <= memory:
            return ""
        shape = "x".join(map(str, frame.shape))
        return (
            f"{images} images of {shape} with their {self.targets} take {needed / 1e9:.0f} GB and "
            f"this machine has {memory / 1e9:.0f} GB; set data.size, or data.limit"
        )

    def _memory(self, images: int, frame: _Frame) -> tuple[str, ...]:
        needed = self._bytes(images, frame)
        if needed < LARGE:
            return ()
        return (f"{images} images and their {self.targets} take {needed / 1e9:.1f} GB of memory",)

    def _test_faults(self, part: Part[T], names: Sequence[str], like: Header | None) -> list[str]:
        """Return why a test part cannot be tested on.

        Args:
            part: its files.
            names: of the classes; where they are not known, maps are not looked at.
            like: the header of an image to train on.
        """
        _, faults = self._headers(part, like)
        broken = []
        for target in part.targets if names and not faults else ():
            try:
                self.check_target(target, len(names))
            except DataError as error:
                broken.append(str(error))
        return [*faults, *some(broken, "broken files")]

    def _check_test(self, part: Part[T], names: Sequence[str], like: Header | None) -> None:
        for fault in self._test_faults(part, names, like):
            raise DataError(fault)

    def _tested(
        self,
        part: Part[T],
        names: Sequence[str],
        frame: _Frame,
        like: Header | None,
        options: Options,
    ) -> tuple[Tensor, Tensor]:
        _, faults = self._headers(part, like)
        faults = faults or [self._too_large(len(part.images), frame)]
        if any(faults):
            raise DataError(faults[0])
        images, maps, _, faults = self._arrays(part, frame, len(names), 0, options)
        if faults:
            raise DataError(faults[0])
        with _room(len(images)):
            return images.to(options.device), maps


def images_of(
    folder: Path, *, holds: str, whole: bool = False
) -> tuple[dict[str, Path], list[str]]:
    """List the images of a part.

    Args:
        folder: of the part; they lie in `images` of it.
        holds: what such a folder should hold, for messages.
        whole: whether what they end in is part of their names.

    Returns:
        The images by their names in that folder, and what is wrong.
    """
    suffixes = suffixes_of(folder, ("images",))
    found, faults = by_name(folder / "images", suffixes, whole=whole)
    if not found:
        state = "has no images" if (folder / "images").is_dir() else "is missing"
        faults = [f"image folder {folder / 'images'} {state}; {holds}"]
    return found, faults


def flat_remarks(layout: Layout, options: Options) -> tuple[str, ...]:
    """Return what a user should know of where the parts of a folder lie."""
    if layout.valid:
        return (f"{layout.valid} is validated on; valid = {options.valid} is not used",)
    if layout.test is None:
        return (
            f"{layout.train} has no folder train: {FLAT_TEST:.0%} of its images, drawn by seed "
            f"{options.seed}, are the test part",
        )
    return ()


def _room(images: int) -> AbstractContextManager[None]:
    return memory_for(f"{images} images", "set data.size, or data.limit")


def _divided(
    listed: Listed[T], options: Options, *, name: str
) -> tuple[Part[T], Part[T], Part[T]]:
    """Divide images into train, valid and test.

    Raises:
        DataError: `limit` or `valid` do not fit them.
    """
    train, valid, test = listed.train, listed.valid, listed.test
    if test is None:
        rows, held = random_split(len(train.images), FLAT_TEST, options.seed, purpose="flat test")
        train, test = train.subset(rows), train.subset(held)
    alike = torch.zeros(len(train.images), dtype=torch.int64)
    train = train.subset(limited(alike, options.limit, name=name))
    if valid is None:
        rows, held = random_split(len(train.images), options.valid, options.seed)
        train, valid = train.subset(rows), train.subset(held)
    return train, valid, test


def _scaled(size: Size, longer: int | None) -> Size:
    """Return what the sides of an image become."""
    if longer is None:
        return size
    height, width = (max(1, round(side * longer / max(size))) for side in size)
    return height, width


def _resized(pixels: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Bring (H, W, C) to another height and width; a copy that may be written."""
    if pixels.shape[:2] == size:
        return np.array(pixels)
    bands = [pixels] if pixels.shape[2] == 3 else np.split(pixels, pixels.shape[2], axis=2)
    fitted = [
        np.array(
            Image.fromarray(
                np.ascontiguousarray(band.squeeze(2) if len(bands) > 1 else band)
            ).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        )
        for band in bands
    ]
    return fitted[0] if len(bands) == 1 else np.stack(fitted, axis=2)


def _remarks(headers: Iterable[Header], frame: _Frame, outside: int) -> tuple[str, ...]:
    """Return what a user should know of how images are brought to one size."""
    headers = tuple(headers)
    sizes = {(header.height, header.width) for header in headers}
    said = []
    scaled = f"scaled to a longer side of {frame.size}" if frame.size else ""
    fitted = {_scaled(size, frame.size) for size in sizes}
    filled = (
        f"filled up on the right and below to {frame.height} x {frame.width}, with black and no "
        f"{'class' if outside else 'dots'}"
    ) * (fitted != {(frame.height, frame.width)})
    done = " and ".join(filter(None, (scaled, filled)))
    if done:
        low, high = min(sizes, key=np.prod), max(sizes, key=np.prod)
        of = f"{low[0]} x {low[1]}" + f" to {high[0]} x {high[1]}" * (len(sizes) > 1)
        said.append(f"the images, of {of} pixels, are {done}")
    return (*said, *header_remarks(headers, turned="; their maps must be so already"))


def _fingerprint(
    name: str, options: Options, names: Sequence[str], rows: int, *tensors: Tensor
) -> str:
    settings = [name, options.split_settings(), options.sigma, *names, rows]
    digest = hashlib.sha256("\n".join(map(str, settings)).encode())
    for tensor in tensors:
        digest.update(f"\n{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
