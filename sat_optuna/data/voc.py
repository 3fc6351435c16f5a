"""Pascal VOC 2012's segmentation (Everingham et al., IJCV 2015), from the user's own copy.

ROOT/VOCdevkit/VOC2012 as the publisher's archive has it and torchvision reads it. The masks of
its test part are not public: its val part is tested on here, and valid is drawn from its train.
"""

from pathlib import Path

from typing_extensions import override

from sat_optuna.data.maps import Listed, Part
from sat_optuna.data.masks import MaskSource
from sat_optuna.data.source import Options
from sat_optuna.errors import DataError, errors_as

__all__ = ["Voc2012"]

_FOLDER = Path("VOCdevkit") / "VOC2012"
_LISTS = Path("ImageSets") / "Segmentation"
_INSIDE = ("JPEGImages", "SegmentationClass", _LISTS / "train.txt", _LISTS / "val.txt")


class Voc2012(MaskSource):
    """Photographs of many sizes, up to 500 pixels a side; 20 classes of things and background."""

    name = "voc2012"

    @override
    def listed(self, options: Options) -> Listed[Path]:
        self.get(options.root)
        return Listed(
            train=self._part(options.root, "train"),
            test=self._part(options.root, "val"),
            classes=(
                "background",
                "aeroplane",
                "bicycle",
                "bird",
                "boat",
                "bottle",
                "bus",
                "car",
                "cat",
                "chair",
                "cow",
                "diningtable",
                "dog",
                "horse",
                "motorbike",
                "person",
                "pottedplant",
                "sheep",
                "sofa",
                "train",
                "tvmonitor",
            ),
            remarks=("its val part is the test part; valid is drawn from its train part",),
        )

    @override
    def get(self, root: Path) -> Path:
        folder = root / _FOLDER
        for inside in _INSIDE:
            if not (folder / inside).exists():
                raise DataError(
                    f"voc2012 is not complete, {folder / inside} is missing; unpack VOC's "
                    f"VOCtrainval_11-May-2012.tar in {root}, or set data.root to where it is"
                )
        return folder

    def _part(self, root: Path, part: str) -> Part[Path]:
        from torchvision.datasets import VOCSegmentation

        lists = root / _FOLDER / _LISTS / f"{part}.txt"
        with errors_as(DataError, f"{lists} cannot be read", "unpack VOC's archive again"):
            found = VOCSegmentation(root, year="2012", image_set=part, download=False)
        if not len(found):
            return Part(faults=(f"{lists} names no image; unpack VOC's archive again",))
        return Part(tuple(map(Path, found.images)), tuple(map(Path, found.masks)))
