"""Any folder of images, a folder a class: ROOT/train/<class>/*.png, ROOT/test/<class>/*.png."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor
from typing_extensions import override

from sat_optuna.data.examined import Examined
from sat_optuna.data.faults import constant_images, header_remarks, known_headers, odd_images, some
from sat_optuna.data.folder import BYTES, NUMBERS, FolderImages, Scale
from sat_optuna.data.images import channel_statistics, pixel_counts
from sat_optuna.data.layout import (
    FLAT_TEST,
    Files,
    Layout,
    classes_of,
    files_of,
    layout_of,
    other_classes,
    suffixes_of,
)
from sat_optuna.data.pixels import Header, Numbers, file_size, read_header, read_pixels
from sat_optuna.data.source import Options, Source, limited
from sat_optuna.data.split import Split, split_mark, stratified_split
from sat_optuna.errors import DataError
from sat_optuna.ticket import Inputs

__all__ = ["ImageFolder", "labelled_images"]

STATISTICS_IMAGES = 5000
SAMPLE = 64  # images that are decoded to be looked at
SCANNED = 30_000_000  # numbers of more than 8 bits that are read of a part to be looked at


class ImageFolder(Source):
    """Images in folders, streamed; classes are the folders' names in sorted order.

    The layouts: ROOT/train and ROOT/test; a folder val, valid or validation beside them is the
    validation part, which is drawn from train else; a folder of classes without train, of which a
    fifth becomes the test part, stratified, by the seed. Hidden files and folders are passed over.

    Grey images become three equal channels. Images of other numbers than bytes are read whole, on
    one scale for all parts: whole numbers on the smallest of 0 to 255, 1023, 4095, 16383 and
    65535 that holds the highest of the training part, floats on 0 to 1 or 255. Bands in TIFF and
    arrays (H, W, C) in .npy files, where a folder holds no pictures, are channels. Transparency is
    left out; EXIF's orientation is applied.

    Mean and deviation are taken over the images of train, at most 5,000 of them, evenly spaced:
    over more it would decode the whole folder before the first step.
    """

    name = "imagefolder"

    @override
    def load(self, options: Options) -> Split:
        listed = _list(layout_of(options.root))
        if listed.faults:
            raise DataError(listed.faults[0])
        parts = _divided(listed, options)
        files = parts.training
        headers = [read_header(path) for path in files.paths]
        if faults := odd_images(files.paths, headers, options.size):
            raise DataError(faults[0])
        shape, scale = _usual(headers, options.size), _scale(files.paths, headers)
        part = _images(files, shape, scale, options)
        mean, std = _statistics(part.subset(parts.train))
        part = part.normalised_by(mean, std)
        load_test = partial(_load_test, options, listed, parts.test, part)
        return Split(
            name=self.name,
            class_names=listed.classes,
            shape=part.shape,
            fingerprint=_fingerprint(parts, headers, scale, shape, options),
            train=part.subset(parts.train),
            valid=part.subset(parts.valid),
            train_and_valid=part,
            load_test=load_test,
            find_test=partial(_find_test, load_test),
            remarks=_remarks(listed, headers, scale, options),
        )

    @override
    def examine(self, options: Options) -> Examined:
        """Look at all folders and headers, and at the pixels of a sample.

        Of the test part pixels are read where their numbers may be too high for the scale alone,
        that is of more than 8 bits.
        """
        try:
            listed = _list(layout_of(options.root))
        except DataError as error:
            return Examined(faults=(str(error),), targets="labels")
        faults, folder = list(listed.faults), listed.layout.train
        if len(listed.classes) < 2:
            faults.append(f"{folder} holds one class, {listed.classes[0]!r}; give two at least")
        parts, flat, whole = {"train": listed.train}, None, listed.train
        if listed.valid:
            parts["valid"], whole = listed.valid, listed.train.joined(listed.valid)
        if not listed.faults:
            try:
                divided = _divided(listed, options)
            except DataError as error:
                faults.append(str(error))
            else:
                parts["train"] = divided.training.subset(divided.train)
                parts["valid"] = divided.training.subset(divided.valid)
                flat, whole = divided.test, divided.training
        try:
            tested = _test_files(listed, flat)
        except DataError as error:
            faults.append(str(error))
        else:
            faults += tested.faults
            parts["test"] = tested
        paths = dict.fromkeys((*whole.paths, *parts.get("test", whole).paths))
        headers, broken = known_headers(paths)
        faults += [
            *some(broken, "broken images"),
            *odd_images(headers, headers.values(), options.size),
        ]
        sample, said = _sample(whole.paths, headers, "train")
        looked, scale = _look(folder, sample, headers)
        read, more = _sample(parts["test"].paths if "test" in parts else (), headers, "test")
        # A sample does not tell the scale for certain.
        looked += _look_at_test(read, headers, None if said else scale)
        return Examined(
            faults=(*faults, *looked),
            remarks=(*_remarks(listed, headers.values(), scale, options), *said, *more),
            images={part: len(found.paths) for part, found in parts.items()},
            counts={part: found.counts(listed.classes) for part, found in parts.items()},
            shape=_usual(headers.values(), options.size) if headers else None,
            targets="labels",
        )

    @override
    def get(self, root: Path) -> Path:
        classes_of(layout_of(root).train)
        return root


def labelled_images(
    root: Path,
    inputs: Inputs,
    *,
    shape: tuple[int, int, int],
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> FolderImages:
    """Read a folder of images, a folder a class, as a trained network takes them.

    Args:
        root: holds a folder for each class, or such a folder called `test`.
        inputs: of the network; the folders are called as its classes, of which some may be
            missing.
        shape: (C, H, W) that the network takes.
        workers: processes that decode.
        device: where batches arrive.

    Raises:
        DataError: there is no such folder, one is of no class of the network, images cannot be
            read, or are not such as the network was trained on.
    """
    folder = root / "test" if (root / "test").is_dir() else root
    found = classes_of(folder)
    if unknown := sorted(set(found) - set(inputs.class_names)):
        known = ", ".join(inputs.class_names)
        raise DataError(
            f"folder {folder / unknown[0]} is of no class that the network knows; it knows {known}"
        )
    files = files_of(folder, found, suffixes_of(folder, found))
    if files.faults:
        raise DataError(files.faults[0])
    scale = Scale(cast("Numbers", inputs.numbers), inputs.white)
    for path in files.paths:
        _check_like(path, read_header(path), shape, scale, resize=inputs.resize)
    order = torch.tensor([inputs.class_names.index(name) for name in found])
    return FolderImages(
        files.paths,
        order[files.labels],
        shape=shape,
        mean=inputs.mean or (0.0,) * shape[0],
        std=inputs.std or (1.0,) * shape[0],
        scale=scale,
        resize=inputs.resize,
        workers=workers,
        device=torch.device(device),
    )


def _check_like(
    path: Path, header: Header, shape: tuple[int, int, int], scale: Scale, *, resize: bool
) -> None:
    """Make sure that an image is such as a network was trained on.

    Raises:
        DataError: it is not.
    """
    channels, height, width = shape
    wanted = 3 if channels == 1 else channels  # grey images are read as three equal channels
    has = (header.height, header.width)
    if header.numbers != scale.numbers:
        fault = NUMBERS[header.numbers], NUMBERS[scale.numbers]
    elif header.channels != wanted:
        fault = f"{header.channels} channels", str(channels)
    elif not resize and has != (height, width):
        fault = f"{has[0]} x {has[1]} pixels", f"{height} x {width}"
    else:
        return
    raise DataError(
        f"image {path} has {fault[0]} and the network was trained on {fault[1]}; bring all images "
        "to that"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    """What lies in the folders to train and to validate on, before it is divided."""

    layout: Layout
    classes: tuple[str, ...]
    suffixes: frozenset[str]
    train: Files
    valid: Files | None

    @property
    def faults(self) -> tuple[str, ...]:
        layout = self.layout
        odd = other_classes(layout.train, self.classes, layout.valid)
        return (*odd, *self.train.faults, *(self.valid.faults if self.valid else ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What is trained and validated on: rows of `training`; what a flat folder is tested on."""

    training: Files
    train: Tensor
    valid: Tensor
    test: Files | None
    drawn: bool


def _list(layout: Layout) -> _Listed:
    """List the images to train and to validate on.

    Raises:
        DataError: there is no class.
    """
    classes = classes_of(layout.train)
    suffixes = suffixes_of(layout.train, classes)
    return _Listed(
        layout=layout,
        classes=classes,
        suffixes=suffixes,
        train=files_of(layout.train, classes, suffixes),
        valid=files_of(layout.valid, classes, suffixes) if layout.valid else None,
    )


def _divided(listed: _Listed, options: Options) -> _Parts:
    """Divide images without faults into the parts.

    Raises:
        DataError: `limit` or `valid` do not fit them.
    """
    files, names, test = listed.train, listed.classes, None
    if listed.layout.test is None:
        kept, tested = stratified_split(
            files.labels, FLAT_TEST, options.seed, names=names, purpose="flat test"
        )
        files, test = files.subset(kept), files.subset(tested)
    where = f"the image folder {listed.layout.train}"
    files = files.subset(limited(files.labels, options.limit, name=where))
    if listed.valid is None:
        train, valid = stratified_split(files.labels, options.valid, options.seed, names=names)
    else:
        count = len(files.paths)
        train, valid = torch.arange(count), count + torch.arange(len(listed.valid.paths))
        files = files.joined(listed.valid)
    return _Parts(training=files, train=train, valid=valid, test=test, drawn=listed.valid is None)


def _test_files(listed: _Listed, flat: Files | None) -> Files:
    """List the test part, with its faults.

    Args:
        listed: what is trained on.
        flat: the test part of a folder without train, None where it could not be drawn.

    Raises:
        DataError: there is none.
    """
    folder, classes = listed.layout.test, listed.classes
    if folder is None:
        return flat or Files(paths=(), labels=torch.arange(0))
    classes_of(folder)
    found = files_of(folder, classes, listed.suffixes)
    odd = other_classes(listed.layout.train, classes, folder)
    return Files(paths=found.paths, labels=found.labels, faults=(*odd, *found.faults))


def _usual(headers: Iterable[Header], size: int | None) -> tuple[int, int, int]:
    """Return the shape that most images have."""
    shapes = Counter((header.channels, header.height, header.width) for header in headers)
    channels, height, width = shapes.most_common(1)[0][0]
    return (channels, size or height, size or width)


def _scale(paths: Sequence[Path], headers: Sequence[Header]) -> Scale:
    """Return the scale of the numbers of these images, which are read for it."""
    if headers[0].numbers == "bytes":
        return BYTES
    highest = max((float(read_pixels(path).max()), path) for path in paths)
    return _scale_for(headers[0].numbers, *highest)


def _scale_for(numbers: Numbers, highest: float, path: Path) -> Scale:
    if scale := Scale.holding(numbers, highest):
        return scale
    ranges = "0 to 1 or 0 to 255" if numbers == "floats" else "0 to 65535"
    raise DataError(
        f"image {path} has the number {highest:g}, and {NUMBERS[numbers]} are read from {ranges}; "
        "bring all images to such a range"
    )


def _sample(
    paths: Iterable[Path], headers: Mapping[Path, Header], part: Literal["train", "test"]
) -> tuple[list[Path], list[str]]:
    """Choose what is decoded of a part, evenly spaced.

    All where the numbers decide the scale, or must fit it, and are not many; else a sample, of
    bytes to test on none.

    Returns:
        The files, and a remark where they are a sample of what is read before anything is trained.
    """
    known = [path for path in paths if path in headers]
    deep = [path for path in known if headers[path].numbers != "bytes"]
    if part == "test":
        known = deep
    numbers = sum(h.channels * h.height * h.width for h in map(headers.__getitem__, known))
    most = max(1, SCANNED * len(known) // numbers) if deep else SAMPLE
    count = min(most, len(known))
    said = [
        f"{count} of the {len(known)} images to {part} on were read now, a sample; all of them "
        "are before anything is trained"
    ]
    spaced = [known[number * len(known) // count] for number in range(count)]
    return spaced, said if deep and count < len(known) else []


def _look(
    folder: Path, paths: Iterable[Path], headers: Mapping[Path, Header]
) -> tuple[list[str], Scale | None]:
    """Decode images to train on.

    Returns:
        The faults found, and the scale, None where it cannot be told.
    """
    broken, kinds, seen = [], set(), set()
    highest = (-1.0, folder)
    for path in paths:
        try:
            array = read_pixels(path)
        except DataError as error:
            broken.append(str(error))
            continue
        kinds.add(headers[path].numbers)
        seen |= {array.min(), array.max()}
        highest = max(highest, (float(array.max()), path))
    faults, scale = some(broken, "broken images"), None
    if len(kinds) == 1:
        try:
            scale = _scale_for(kinds.pop(), *highest)
        except DataError as error:
            faults.append(str(error))
    if len(seen) == 1:
        faults.append(constant_images(folder))
    return faults, scale


def _look_at_test(
    paths: Iterable[Path], headers: Mapping[Path, Header], scale: Scale | None
) -> list[str]:
    """Decode images to test on and return a fault for each that does not fit the scale."""
    faults = []
    for path in paths:
        try:
            array = read_pixels(path)
            if scale and scale.numbers == headers[path].numbers:  # others are told of as such
                scale.check(path, array)
        except DataError as error:
            faults.append(str(error))
    return some(faults, "images to test on")


def _images(
    files: Files, shape: tuple[int, int, int], scale: Scale, options: Options
) -> FolderImages:
    return FolderImages(
        files.paths,
        files.labels,
        shape=shape,
        mean=(0.0,) * shape[0],
        std=(1.0,) * shape[0],
        scale=scale,
        resize=options.size is not None,
        workers=options.workers,
        device=torch.device(options.device),
    )


def _statistics(train: FolderImages) -> tuple[tuple[float, ...], tuple[float, ...]]:
    count = min(len(train), STATISTICS_IMAGES)
    spaced = torch.arange(count) * len(train) // count
    sample, channels = train.subset(spaced), train.shape[0]
    if train.scale == BYTES:
        counts = torch.zeros(channels, 256, dtype=torch.int64, device=train.device)
        for raw in sample.raw(64):
            counts += pixel_counts(raw)
        values = int((counts.sum(dim=0) > 0).sum())
        mean, std = channel_statistics(counts)
    else:
        sums = torch.zeros(2, channels, dtype=torch.float64, device=train.device)
        pixels, low, high = 0, float("inf"), -float("inf")
        for raw in sample.raw(64):
            shown = raw.double() / train.scale.white
            sums += torch.stack([shown.sum((0, 2, 3)), shown.square().sum((0, 2, 3))])
            pixels += shown.numel() // channels
            low, high = min(low, float(raw.min())), max(high, float(raw.max()))
        centre, square = sums / pixels
        # A constant channel can be divided by the smallest step of 16 bits.
        spread = (square - centre**2).clamp_min(0).sqrt().clamp_min(1 / 65535)
        mean, std, values = tuple(centre.tolist()), tuple(spread.tolist()), 1 + (low < high)
    if values == 1:
        raise DataError(constant_images(train.paths[0].parent.parent))
    return mean, std


def _load_test(
    options: Options, listed: _Listed, flat: Files | None, part: FolderImages
) -> FolderImages:
    found = _test_files(listed, flat)
    if found.faults:
        raise DataError(found.faults[0])
    headers = [read_header(path) for path in found.paths]
    if faults := odd_images(found.paths, headers, options.size, like=read_header(part.paths[0])):
        raise DataError(faults[0])
    images = _images(found, part.shape, part.scale, options)
    return images.normalised_by(part.mean, part.std)


def _find_test(load_test: Callable[[], FolderImages]) -> None:
    """Make sure that the test part will be read: by headers, and deep numbers fit the scale.

    Else one that does not fit would be told after a whole retraining.
    """
    images = load_test()
    if images.scale != BYTES:
        for _ in images.raw(64):
            pass


def _remarks(
    listed: _Listed, headers: Iterable[Header], scale: Scale | None, options: Options
) -> tuple[str, ...]:
    """Return what a user should know of how the images are read."""
    headers, layout = tuple(headers), listed.layout
    said = []
    if layout.valid:
        said.append(f"{layout.valid} is validated on; valid = {options.valid} is not used")
    if layout.test is None:
        said.append(
            f"{layout.train} has no folder train: {FLAT_TEST:.0%} of each class, drawn by seed "
            f"{options.seed}, is the test part"
        )
    if scale and scale != BYTES:
        said.append(f"the images hold {scale}, in all parts")
    return (*said, *header_remarks(headers))


def _fingerprint(
    parts: _Parts,
    headers: Sequence[Header],
    scale: Scale,
    shape: tuple[int, int, int],
    options: Options,
) -> str:
    # Relative paths and sizes, not pixels: hashing the pixels would read the whole folder, which
    # may be far larger than memory, at every start. A file changed within its size is not seen.
    # What version 0.2.0 read otherwise or not at all has a mark; without one it is as it was.
    digest = hashlib.sha256(f"imagefolder\n{options.split_settings()}\n".encode())
    files = parts.training
    if scale != BYTES:
        digest.update(f"scale {scale.numbers} {scale.white}\n".encode())
    if shape[0] != 3:
        digest.update(f"channels {shape[0]}\n".encode())
    if parts.drawn:
        digest.update(split_mark(files.labels, parts.valid).encode())
    for path, label, header in zip(files.paths, files.labels.tolist(), headers, strict=True):
        relative = path.relative_to(options.root).as_posix()
        turned = f"\0orientation {header.orientation}" if header.orientation != 1 else ""
        digest.update(f"{relative}\0{file_size(path)}\0{label}{turned}\n".encode())
    return digest.hexdigest()
