"""Any folder of images with masks: ROOT/train/images/*.jpg with ROOT/train/masks/*.png."""

from pathlib import Path

import numpy as np
from typing_extensions import override

from sat_optuna.config.config import IGNORED
from sat_optuna.data.faults import some
from sat_optuna.data.layout import by_name, layout_of
from sat_optuna.data.maps import Listed, Part, flat_remarks, images_of
from sat_optuna.data.masks import MaskSource, read_mask
from sat_optuna.data.pixels import SUFFIXES
from sat_optuna.data.source import Options
from sat_optuna.errors import DataError, errors_as

__all__ = ["MaskFolder"]

_HOLDS = (
    "a folder of masks holds images/*.jpg and masks/*.png of the same names, or train/ and test/ "
    "which hold these two each"
)
_NAMES = "classes.txt"


class MaskFolder(MaskSource):
    """Images, each with a mask: a PNG of its name whose pixels hold the number of their class.

    The layouts: ROOT/train and ROOT/test with images/ and masks/ in each; a folder val, valid or
    validation beside them is the validation part, which is drawn from train else; images/ and
    masks/ alone, of which a fifth becomes the test part, by the seed. Hidden files are passed
    over.

    Classes are numbered from 0; a pixel of 255 has none. ROOT/classes.txt may name them, a line
    each in the order of their numbers; without it they are called by their numbers, and each
    number up to the highest must be in a mask.

    Images are read as bytes, of one number of channels; sizes as in maps.py says.
    """

    name = "maskfolder"
    remedy = f"correct it, or name all classes in {_NAMES}, a line each"

    @override
    def listed(self, options: Options) -> Listed[Path]:
        layout = layout_of(options.root, holds=_HOLDS, flat="images")
        return Listed(
            train=_part(layout.train),
            valid=_part(layout.valid) if layout.valid else None,
            test=_part(layout.test) if layout.test else None,
            classes=_names(options.root / _NAMES),
            remarks=flat_remarks(layout, options),
        )

    @override
    def classes(self, listed: Listed[Path], options: Options) -> tuple[str, ...]:
        if listed.classes:
            return listed.classes
        masks = listed.train.joined(listed.valid).targets
        seen: dict[int, Path] = {}
        for path in masks:
            for number in np.unique(read_mask(path)).tolist():
                seen.setdefault(number, path)
        numbers = sorted(seen.keys() - {IGNORED})
        if numbers in ([], [0]):
            raise DataError(
                f"the masks of {options.root} hold {' and '.join(map(str, sorted(seen)))} alone, "
                f"and {IGNORED} is a pixel without a class; number the classes 0, 1, ... in them"
            )
        if numbers == [*range(len(numbers))]:
            return tuple(map(str, numbers))
        missing = next(number for number in range(IGNORED) if number not in seen)
        highest = numbers[-1]
        raise DataError(
            f"mask {seen[highest]} has pixels of class {highest} and no mask has the class "
            f"{missing}; number the classes 0, 1, 2, ... without a gap, or name all in {_NAMES}, "
            "a line each"
        )

    @override
    def get(self, root: Path) -> Path:
        layout_of(root, holds=_HOLDS, flat="images")
        return root


def _part(folder: Path) -> Part[Path]:
    """List the images of a part with their masks."""
    images, faults = images_of(folder, holds=_HOLDS)
    where = folder / "masks"
    masks, more = by_name(where, {".png"})
    others, _ = by_name(where, SUFFIXES - {".png"})
    faults += more
    if images and not where.is_dir():
        return Part(faults=(*faults, f"folder {where} is missing; {_HOLDS}"))
    odd = [
        f"mask {path} is no PNG, and other files may change its numbers; save it as PNG"
        for path in others.values()
    ]
    known = masks.keys() | others.keys()
    odd += [
        f"image {path} has no mask, {where / name}.png; add it or delete the image"
        for name, path in images.items()
        if name not in known
    ]
    odd += [
        f"mask {path} has no image in {folder / 'images'}; add it or delete the mask"
        for name, path in masks.items()
        if name not in images
    ]
    both = [name for name in images if name in masks]
    return Part(
        tuple(images[name] for name in both),
        tuple(masks[name] for name in both),
        (*faults, *some(odd, "unpaired files")),
    )


def _names(path: Path) -> tuple[str, ...]:
    """Read the classes' names; none where there is no such file."""
    if not path.is_file():
        return ()
    with errors_as(DataError, f"{path} cannot be read", "write a name a line, in UTF-8"):
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    names = tuple(line.strip() for line in lines)
    if not 2 <= len(names) <= IGNORED or "" in names or len(set(names)) < len(names):
        raise DataError(
            f"{path} holds {len(names)} lines; write 2 to {IGNORED} different names, a line "
            "each, in the order of the classes' numbers from 0"
        )
    return names
