"""What is said of a data set before anything is trained on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Examined"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A data set, looked at.

    Attributes:
        faults: all that a study could not be run with, a sentence each.
        remarks: what a user should know, a sentence each.
        images: how many there are, by part (train, valid, test), as far as the files are there.
        counts: of these each class's, by part and by the class's name, where an image has one.
        maps: of images with maps, what the maps of a part hold, in words.
        shape: (C, H, W) of an image; None where it is not known.
        targets: what each image comes with, one of `arrays.TARGETS`; empty where it is not known.
    """

    faults: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    images: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    maps: Mapping[str, str] = field(default_factory=dict)
    shape: tuple[int, int, int] | None = None
    targets: str = ""

    def majority(self, part: str) -> tuple[str, float]:
        """Return the largest class of a part and its share, 0..1."""
        counts = self.counts[part]
        largest = max(counts, key=lambda name: counts[name])
        return largest, counts[largest] / max(1, sum(counts.values()))
