"""Any folder of images with dots: ROOT/train/images/*.jpg with ROOT/train/points.csv."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from typing_extensions import override

from sat_optuna.data.dots import Dots, DotSource
from sat_optuna.data.faults import some
from sat_optuna.data.layout import layout_of
from sat_optuna.data.maps import Listed, Part, flat_remarks, images_of
from sat_optuna.data.source import Options
from sat_optuna.errors import DataError, errors_as

__all__ = ["PointFolder"]

_HOLDS = (
    "a folder of points holds images/*.jpg and points.csv with the columns image, x and y, or "
    "train/ and test/ which hold these two each"
)
_COLUMNS = ("image", "x", "y")


class PointFolder(DotSource):
    """Images whose dots are lines of points.csv: the image's name, x and y.

    The layouts: ROOT/train and ROOT/test with images/ and points.csv in each; a folder val, valid
    or validation beside them is the validation part, which is drawn from train else; images/ and
    points.csv alone, of which a fifth becomes the test part, by the seed.

    x goes to the right and y down, in pixels of the file from its upper left corner. An image
    without a line is empty: its count is 0. Other columns are passed over.

    Images are read as bytes, of one number of channels; sizes as maps.py says.
    """

    name = "pointfolder"
    takes_sigma = True

    @override
    def listed(self, options: Options) -> Listed[Dots]:
        layout = layout_of(options.root, holds=_HOLDS, flat="images")
        return Listed(
            train=_part(layout.train),
            valid=_part(layout.valid) if layout.valid else None,
            test=_part(layout.test) if layout.test else None,
            classes=("density",),
            remarks=flat_remarks(layout, options),
        )

    @override
    def get(self, root: Path) -> Path:
        layout_of(root, holds=_HOLDS, flat="images")
        return root


def _part(folder: Path) -> Part[Dots]:
    """List the images of a part with their dots."""
    images, faults = images_of(folder, holds=_HOLDS, whole=True)
    where, file = folder / "images", folder / "points.csv"
    lines: dict[str, list[tuple[int, float, float]]] = {name: [] for name in images}
    odd: list[str] = []
    if images and not file.is_file():
        faults.append(f"{file} is missing; {_HOLDS}")
    elif images:
        try:
            for line, name, x, y in _rows(file, odd):
                if name in lines:
                    lines[name].append((line, x, y))
                else:
                    odd.append(
                        f"{file}, line {line}: {where} has no image {name!r}; write a file's "
                        f"whole name, such as {next(iter(images))!r}"
                    )
        except DataError as error:
            faults.append(str(error))
    dots = []
    for name in images:
        table = np.array(lines[name], np.float64).reshape(-1, 3)
        dots.append(Dots(file, table[:, 1:], table[:, 0].astype(np.int64)))
    return Part(tuple(images.values()), tuple(dots), (*faults, *some(odd, "faulty lines")))


def _rows(path: Path, odd: list[str]) -> Iterator[tuple[int, str, float, float]]:
    """Yield line, image, x and y of each row; put a fault for each that is none into `odd`.

    Raises:
        DataError: the file is no such table.
    """
    remedy = "save it as text in UTF-8, with commas"
    with (
        errors_as(DataError, f"{path} cannot be read", remedy),
        path.open(encoding="utf-8-sig", newline="") as stream,
    ):
        table = csv.reader(stream, strict=True)
        columns = [name.strip() for name in next(table, [])]
        if not set(columns) >= set(_COLUMNS):
            raise DataError(
                f"{path} begins with the line {','.join(columns)!r}; write image,x,y there, the "
                "names of its columns"
            )
        where = [columns.index(name) for name in _COLUMNS]
        for cells in table:
            whole = len(cells) == len(columns)
            name, *place = (cells[column].strip() if whole else "" for column in where)
            x, y = map(_number, place)
            if name and math.isfinite(x) and math.isfinite(y):
                yield table.line_num, name, x, y
            elif cells:
                odd.append(
                    f"{path}, line {table.line_num}: {','.join(cells)!r} is no image with two "
                    "finite numbers; write its name, x and y"
                )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
