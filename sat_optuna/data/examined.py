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
        counts: images of each class, by part (train, valid, test) and by the class's name, as far
            as the files are there.
        shape: (C, H, W) of an image; None where it is not known.
        targets: what each image comes with, one of `arrays.TARGETS`.
    """

    faults: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    shape: tuple[int, int, int] | None = None
    targets: str = "labels"

    def majority(self, part: str) -> tuple[str, float]:
        """Return the largest class of a part and its share, 0..1."""
        counts = self.counts[part]
        largest = max(counts, key=lambda name: counts[name])
        return largest, counts[largest] / max(1, sum(counts.values()))
