"""Whether the scores of a search tell schemes apart at all; no torch, no NumPy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Part", "Spread"]


@dataclass(frozen=True, slots=True)
class Part:
    """What an accuracy is measured on.

    Attributes:
        images: how many there are.
        largest: how many are of the largest class.
        classes: number of classes.
    """

    images: int
    largest: int
    classes: int

    @classmethod
    def of(cls, counts: Sequence[int]) -> "Part | None":
        """Return the part of a number of images a class; None where they are not known."""
        return cls(sum(counts), max(counts), len(counts)) if sum(counts) else None

    @property
    def majority(self) -> float:
        """Accuracy of naming the largest class each time, per cent."""
        return 100 * self.largest / self.images

    @property
    def chance(self) -> float:
        """Accuracy of naming each class equally often, per cent."""
        return 100 / self.classes

    def __str__(self) -> str:
        return (
            f"naming the largest class each time gets {self.majority:.2f} % right, "
            f"chance {self.chance:.2f} %"
        )


@dataclass(frozen=True, slots=True)
class Spread:
    """How far the accuracies of schemes lie apart.

    >>> rows = [("00", 59.375), ("01", 59.375), ("11", 59.375)]
    >>> print(Spread.of(rows, Part(images=64, largest=38, classes=2)))  # doctest: +ELLIPSIS
    no scheme differed, so nothing can be told: 3 schemes have 1 distinct accuracy, 59.38 %; ...

    Attributes:
        schemes: different ones that were scored.
        accuracies: different ones among theirs.
        low, high: the lowest and the highest of these, per cent.
        part: what they were measured on; None where it is not known.
    """

    schemes: int
    accuracies: int
    low: float
    high: float
    part: Part | None

    @classmethod
    def of(cls, rows: Iterable[tuple[str, float]], part: Part | None) -> "Spread":
        """Return the spread of schemes with their accuracies, per cent; at least one.

        Args:
            rows: a scheme may come more than once.
            part: what the accuracies were measured on.
        """
        pairs = [*rows]
        values = {accuracy for _, accuracy in pairs}
        different = len({scheme for scheme, _ in pairs})
        return cls(different, len(values), min(values), max(values), part)

    @property
    def tells_nothing(self) -> bool:
        """Whether all schemes, several, have the same accuracy."""
        return self.accuracies == 1 and self.schemes > 1

    @property
    def at_majority(self) -> bool:
        """Whether no scheme is better than naming the largest class each time."""
        return self.part is not None and self.high <= self.part.majority

    def __str__(self) -> str:
        schemes = "1 scheme has" if self.schemes == 1 else f"{self.schemes:,} schemes have"
        if self.accuracies == 1:
            text = f"{schemes} 1 distinct accuracy, {self.high:.2f} %"
        else:
            text = (
                f"{schemes} {self.accuracies:,} distinct accuracies, "
                f"{self.low:.2f} to {self.high:.2f} %"
            )
            if self.part:
                apart = round((self.high - self.low) / 100 * self.part.images)
                text += f", {apart:,} of {self.part.images:,} images apart"
        if self.tells_nothing:
            text = f"no scheme differed, so nothing can be told: {text}"
        if self.part:
            text += f"; {self.part}"
        if self.at_majority:
            text += "; " + (
                "the accuracy equals the largest class's share"
                if self.part and self.high == self.part.majority
                else "no scheme is better than that"
            )
        return text
