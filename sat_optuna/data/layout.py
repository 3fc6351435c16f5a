"""Where the images of a folder lie: its parts, its classes, its files."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sat_optuna.data.pixels import SUFFIXES
from sat_optuna.errors import DataError

__all__ = [
    "FLAT_TEST",
    "Files",
    "Layout",
    "by_name",
    "classes_of",
    "files_of",
    "layout_of",
    "other_classes",
    "suffixes_of",
]

FLAT_TEST = 0.2  # share of a folder without train/ that becomes the test part
_LAYOUT = "an image folder holds train/<class>/*.png and, for a test, test/<class>/*.png"
_VALID = ("val", "valid", "validation")
_PARTS = frozenset({"dev", "eval", "test", "testing", "train", "training", *_VALID})
_NO_CLASS = frozenset({"@eaDir", "__MACOSX", "lost+found"})  # what systems put beside one's own


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of an image folder lie.

    Attributes:
        train: holds the classes to train on.
        valid: holds those to validate on; None where they are drawn from `train`.
        test: holds those to test on; None where they are drawn from `train` too.
    """

    train: Path
    valid: Path | None
    test: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Images of one part or of several.

    Attributes:
        paths: (N,) the files.
        labels: (N,) int64.
        faults: what is wrong with their folders, a sentence each.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    faults: tuple[str, ...] = ()

    def subset(self, rows: Tensor) -> "Files":
        """Return the files of the rows (n,) int64."""
        return Files(paths=tuple(self.paths[r] for r in rows.tolist()), labels=self.labels[rows])

    def joined(self, more: "Files") -> "Files":
        """Return these files and more."""
        return Files(
            paths=self.paths + more.paths,
            labels=torch.cat([self.labels, more.labels]),
            faults=self.faults + more.faults,
        )

    def counts(self, classes: Sequence[str]) -> dict[str, int]:
        """Return how many there are of each class."""
        counts = torch.bincount(self.labels, minlength=len(classes)).tolist()
        return dict(zip(classes, counts, strict=True))


def layout_of(root: Path, *, holds: str = _LAYOUT, flat: str = "") -> Layout:
    """Find the parts of an image folder.

    Args:
        root: the folder.
        holds: what such a folder should hold, for messages.
        flat: the folder that one without `train` has; empty where these are its classes.

    Raises:
        DataError: there is none to train on.
    """
    if (root / "train").is_dir():
        valid = next((root / name for name in _VALID if (root / name).is_dir()), None)
        return Layout(root / "train", valid, root / "test")
    if not root.is_dir():
        raise DataError(
            f"image folder {root} is missing; {holds}; it may lie anywhere: write its path as "
            "root under [data] in study.toml"
        )
    folders = _folders(root)
    if parts := [name for name in folders if name.lower() in _PARTS]:
        raise DataError(
            f"image folder {root / 'train'} is missing, beside {', '.join(parts)}; call the "
            f"folder to train on train: {holds}"
        )
    if flat and flat not in folders:
        raise DataError(
            f"image folder {root / 'train'} is missing, and {root / flat} too; {holds}"
        )
    if not folders:
        raise DataError(
            f"image folder {root / 'train'} is missing; {holds}, or a folder for each class"
        )
    return Layout(root, None, None)


def _folders(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if not _hidden(name) and (folder / name).is_dir()]


def _hidden(name: str) -> bool:
    return name[0] == "." or name in _NO_CLASS


def classes_of(folder: Path) -> tuple[str, ...]:
    """Return the names of a part's classes in sorted order.

    Raises:
        DataError: it has none.
    """
    classes = tuple(_folders(folder))
    if not classes:
        state = "has no folders in it" if folder.is_dir() else "is missing"
        raise DataError(f"image folder {folder} {state}; {_LAYOUT}")
    for name, inside, more in (
        ("maskfolder", ("images", "masks"), "masks"),
        ("pointfolder", ("images",), "points.csv"),
    ):
        if classes == inside and (folder / more).exists():
            raise DataError(
                f"image folder {folder} holds images and {more}, which are no classes; write "
                f"name = {name!r} under [data] in study.toml"
            )
    return classes


def other_classes(train: Path, classes: Sequence[str], folder: Path | None) -> list[str]:
    """Return the fault of a part that holds other classes than that to train on, if it does."""
    odd = set(classes) ^ set(_folders(folder)) if folder else set()
    if not odd:
        return []
    return [
        f"{folder} and {train} should hold the same classes, but {', '.join(sorted(odd))} is in "
        "one alone; add or delete it"
    ]


def suffixes_of(folder: Path, classes: Iterable[str]) -> frozenset[str]:
    """Return what the images of a part end in: arrays count where there are no pictures."""
    found = {path.suffix.lower() for name in classes for path in _visible(folder / name)}
    return frozenset({".npy"}) if ".npy" in found and not found & SUFFIXES else SUFFIXES


def by_name(
    folder: Path, suffixes: Iterable[str], *, whole: bool = False
) -> tuple[dict[str, Path], list[str]]:
    """List the files that end so, in sorted order, with a fault for two of one name.

    Args:
        folder: that they lie in, or in folders of it.
        suffixes: what they may end in, in small letters.
        whole: whether that is part of their names.

    Returns:
        The files by their names, from the folder on, and the faults.
    """
    found: dict[str, Path] = {}
    faults = []
    for path in sorted(path for path in _visible(folder) if path.suffix.lower() in suffixes):
        inside = path.relative_to(folder)
        name = inside.as_posix() if whole else inside.with_suffix("").as_posix()
        if name in found:
            faults.append(f"{path} and {found[name].name} have one name; rename or delete one")
        found.setdefault(name, path)
    return found, faults


def _visible(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _hidden(name)]
        yield from (Path(place, name) for name in files if not _hidden(name))


def files_of(folder: Path, classes: Sequence[str], suffixes: frozenset[str]) -> Files:
    """List the images of a part, class by class in sorted order."""
    paths: list[Path] = []
    labels: list[int] = []
    faults: list[str] = []
    for label, name in enumerate(classes):
        found = sorted(p for p in _visible(folder / name) if p.suffix.lower() in suffixes)
        if not found and (folder / name).is_dir():
            faults.append(
                f"class folder {folder / name} has no images ({', '.join(sorted(suffixes))}); "
                "put some there or delete it"
            )
        paths.extend(found)
        labels.extend([label] * len(found))
    numbers = torch.tensor(labels, dtype=torch.int64)
    return Files(paths=tuple(paths), labels=numbers, faults=tuple(faults))
