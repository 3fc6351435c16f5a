"""What is wrong with the images of a folder, and what is odd about them, a sentence each."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from sat_optuna.data.folder import NUMBERS
from sat_optuna.data.pixels import Header, read_header
from sat_optuna.errors import DataError

__all__ = ["constant_images", "header_remarks", "known_headers", "odd_images", "some"]

_SHOWN = 10  # faults of the same kind that are shown


def known_headers(paths: Iterable[Path]) -> tuple[dict[Path, Header], list[str]]:
    """Return the headers that can be read, and a fault for each that cannot."""
    headers: dict[Path, Header] = {}
    faults = []
    for path in paths:
        try:
            headers[path] = read_header(path)
        except DataError as error:
            faults.append(str(error))
    return headers, faults


def odd_images(
    paths: Iterable[Path],
    headers: Iterable[Header],
    size: int | None,
    *,
    like: Header | None = None,
) -> list[str]:
    """Return a fault for each way in which images differ that cannot be trained on together.

    Args:
        paths: the files.
        headers: of the files.
        size: that they are brought to, None for their own.
        like: an image that all must be like; None takes what most are like.
    """
    faults = []
    known = tuple(zip(paths, headers, strict=True))
    for of, what, remedy in (
        (lambda h: NUMBERS[h.numbers], "{}", "bring all to one"),
        (lambda h: h.channels, "{} channels", "bring all to one number"),
        (
            lambda h: (h.height, h.width),
            "{0[0]} x {0[1]} pixels",
            "set size to bring all images to one size",
        ),
    ):
        found = Counter(of(header) for _, header in known)
        usual = of(like) if like else found.most_common(1)[0][0] if found else None
        if set(found) - {usual} and not (size and "pixels" in what):
            path, odd = next((p, of(h)) for p, h in known if of(h) != usual)
            faults.append(
                f"image {path} has {what.format(odd)}, others have "
                f"{what.removesuffix(' pixels').format(usual)}; {remedy}"
            )
    return faults


def header_remarks(headers: Sequence[Header], *, turned: str = "") -> list[str]:
    """Return what a user should know of images that can be trained on.

    Args:
        headers: of the images.
        turned: what else is said where images are turned as EXIF says.
    """
    said = []
    if bands := {header.channels for header in headers} - {3}:
        said.append(f"the images have {', '.join(map(str, sorted(bands)))} bands, all used")
    if count := sum(header.orientation != 1 for header in headers):
        said.append(f"{count} images are turned as EXIF says{turned}")
    if count := sum(header.transparent for header in headers):
        said.append(f"{count} images hold transparency, which is left out")
    return said


def constant_images(folder: Path) -> str:
    """Return the fault of images that are one colour."""
    return (
        f"all pixels of the images in {folder} are equal, so nothing can be learnt from them; "
        "look at the files"
    )


def some(faults: list[str], what: str) -> list[str]:
    """Return the first of many faults, and how many more there are."""
    more = len(faults) - _SHOWN
    return [*faults[:_SHOWN], f"and {more} more {what}"] if more > 0 else faults
