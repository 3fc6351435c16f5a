"""Any folder of images, a folder a class: ROOT/train/<class>/*.png, ROOT/test/<class>/*.png."""

import hashlib
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from sat_optuna.data.folder import FolderImages, read_image
from sat_optuna.data.images import Images, channel_statistics, pixel_counts
from sat_optuna.data.source import Options, Source, limited
from sat_optuna.data.split import Split, stratified_split
from sat_optuna.errors import DataError

__all__ = ["ImageFolder"]

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
STATISTICS_IMAGES = 5000
_UNKNOWN = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class ImageFolder(Source):
    """Colour images in folders, streamed; classes are the folders' names in sorted order.

    Mean and deviation are taken over the images of train, at most 5,000 of them, evenly spaced:
    over more it would decode the whole folder before the first step.
    """

    name = "imagefolder"

    @override
    def load(self, options: Options) -> Split:
        folder = options.root / "train"
        classes = _classes(folder)
        paths, labels = _files(folder, classes)
        kept = limited(labels, options.limit, name=f"the image folder {folder}")
        paths, labels = tuple(paths[row] for row in kept.tolist()), labels[kept]
        train, valid = stratified_split(labels, options.valid, options.seed, names=classes)
        part = _images(paths, labels, _shape(paths[0], options.size), options)
        mean, std = _statistics(part.subset(train))
        part = part.normalised_by(mean, std)
        return Split(
            name=self.name,
            class_names=classes,
            shape=part.shape,
            fingerprint=_fingerprint(paths, labels, options),
            train=part.subset(train),
            valid=part.subset(valid),
            train_and_valid=part,
            load_test=partial(_load_test, options, classes, part),
        )

    @override
    def get(self, root: Path) -> Path:
        _classes(root / "train")
        return root


def _classes(folder: Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    classes = tuple(name for name in names if (folder / name).is_dir() and name[0] != ".")
    if not classes:
        state = "has no folders in it" if folder.is_dir() else "is missing"
        raise DataError(
            f"image folder {folder} {state}; an image folder holds train/<class>/*.png and, for "
            "a test, test/<class>/*.png"
        )
    return classes


def _files(folder: Path, classes: tuple[str, ...]) -> tuple[tuple[Path, ...], Tensor]:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(
                f"class folder {folder / name} has no images ({', '.join(sorted(SUFFIXES))}); "
                "put some there or delete it"
            )
        paths.extend(found)
        labels.extend([label] * len(found))
    return tuple(paths), torch.tensor(labels)


def _shape(first: Path, size: int | None) -> tuple[int, int, int]:
    if size is not None:
        return (3, size, size)
    _, height, width = read_image(first, None, resize=False).shape
    return (3, height, width)


def _images(
    paths: tuple[Path, ...], labels: Tensor, shape: tuple[int, int, int], options: Options
) -> FolderImages:
    mean, std = _UNKNOWN
    return FolderImages(
        paths,
        labels,
        shape=shape,
        mean=mean,
        std=std,
        resize=options.size is not None,
        workers=options.workers,
        device=torch.device(options.device),
    )


def _statistics(train: FolderImages) -> tuple[tuple[float, ...], tuple[float, ...]]:
    count = min(len(train), STATISTICS_IMAGES)
    spaced = torch.arange(count) * len(train) // count
    counts = torch.zeros(3, 256, dtype=torch.int64, device=train.device)
    for raw in train.subset(spaced).raw(64):
        counts += pixel_counts(raw)
    return channel_statistics(counts)


def _load_test(options: Options, classes: tuple[str, ...], part: FolderImages) -> Images:
    folder = options.root / "test"
    found = _classes(folder)
    if found != classes:
        odd = ", ".join(sorted(set(found) ^ set(classes)))
        raise DataError(
            f"{folder} and {options.root / 'train'} should hold the same classes, but {odd} "
            "is in one alone; add or delete it"
        )
    paths, labels = _files(folder, classes)
    return _images(paths, labels, part.shape, options).normalised_by(part.mean, part.std)


def _fingerprint(paths: tuple[Path, ...], labels: Tensor, options: Options) -> str:
    # Relative paths and sizes, not pixels: hashing the pixels would read the whole folder, which
    # may be far larger than memory, at every start. A file changed within its size is not seen.
    digest = hashlib.sha256(f"imagefolder\n{options.split_settings()}\n".encode())
    for path, label in zip(paths, labels.tolist(), strict=True):
        relative = path.relative_to(options.root).as_posix()
        digest.update(f"{relative}\0{_size(path)}\0{label}\n".encode())
    return digest.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"image {path} is missing; replace it or delete its link") from error
