"""Cityscapes' fine annotations (Cordts et al., CVPR 2016), from the user's own copy.

ROOT/leftImg8bit and ROOT/gtFine as the publisher's archives have them and torchvision reads them.
Of the labels in *_gtFine_labelIds.png the 19 that are evaluated are learnt, numbered by their
train ids; all others have no class. The masks of its test part are not public: its val part is
tested on here, and valid is drawn from its train.
"""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from sat_optuna.config.config import IGNORED
from sat_optuna.data.maps import Listed, Part
from sat_optuna.data.masks import MaskSource
from sat_optuna.data.source import Options
from sat_optuna.errors import DataError, errors_as

__all__ = ["CityscapesFine"]

_INSIDE = ("leftImg8bit/train", "leftImg8bit/val", "gtFine/train", "gtFine/val")


class CityscapesFine(MaskSource):
    """Street scenes of 1024 x 2048 pixels."""

    name = "cityscapes"

    @override
    def listed(self, options: Options) -> Listed[Path]:
        self.get(options.root)
        names = {train_id: name for name, _, train_id in _labels() if 0 <= train_id < IGNORED}
        return Listed(
            train=_part(options.root, "train"),
            test=_part(options.root, "val"),
            classes=tuple(names[number] for number in sorted(names)),
            remarks=("its val part is the test part; valid is drawn from its train part",),
        )

    @override
    def classes_of(self, numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return _table()[numbers]

    @override
    def get(self, root: Path) -> Path:
        for inside in _INSIDE:
            if not (root / inside).is_dir():
                raise DataError(
                    f"cityscapes is not complete, {root / inside} is missing; unpack its "
                    f"leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip in {root}, or set "
                    "data.root to where they are"
                )
        return root


def _part(root: Path, part: str) -> Part[Path]:
    from torchvision.datasets import Cityscapes

    with errors_as(
        DataError, f"{root / 'leftImg8bit' / part} cannot be read", "unpack its archive again"
    ):
        found = Cityscapes(root, split=part, mode="fine", target_type="semantic")
    # It lists them as the disk does, which another disk does otherwise.
    pairs = sorted(
        (Path(image), Path(mask))
        for image, (mask,) in zip(found.images, found.targets, strict=True)
        if Path(image).name[0] != "."
    )
    if not pairs:
        return Part(
            faults=(f"{root / 'leftImg8bit' / part} has no images; unpack its archive again",)
        )
    return Part(tuple(image for image, _ in pairs), tuple(mask for _, mask in pairs))


def _labels() -> list[tuple[str, int, int]]:
    """Return name, number in a file and train id of each label."""
    from torchvision.datasets import Cityscapes

    return [(label.name, label.id, label.train_id) for label in Cityscapes.classes]


@cache
def _table() -> NDArray[np.uint8]:
    """Return the train id of each number in a file, (256,)."""
    table = np.full(256, IGNORED, np.uint8)
    for _, number, train_id in _labels():
        if 0 <= train_id < IGNORED:
            table[number] = train_id
    return table
