"""Whether the scores of a search tell schemes apart at all; no torch, no NumPy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sat_optuna.ticket import ACCURACY, Measure

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
    """How far the accuracies of schemes, or their values of another metric, lie apart.

    >>> rows = [("00", 59.375), ("01", 59.375), ("11", 59.375)]
    >>> print(Spread.of(rows, Part(images=64, largest=38, classes=2)))  # doctest: +ELLIPSIS
    no scheme differed, so nothing can be told: 3 schemes have 1 distinct accuracy, 59.38 %; ...

    Attributes:
        schemes: different ones that were scored.
        values: different ones among theirs.
        low, high: the lowest and the highest of these.
        part: what accuracies were measured on; None where it is not known, and for other metrics,
            of which a largest class tells nothing.
        measure: what the values are in.
    """

    schemes: int
    values: int
    low: float
    high: float
    part: Part | None
    measure: Measure = ACCURACY

    @classmethod
    def of(
        cls,
        rows: Iterable[tuple[str, float]],
        part: Part | None,
        measure: Measure = ACCURACY,
    ) -> "Spread":
        """Return the spread of schemes with their values; at least one.

        Args:
            rows: a scheme may come more than once.
            part: what they were measured on.
            measure: what the values are in.
        """
        pairs = [*rows]
        values = {value for _, value in pairs}
        different = len({scheme for scheme, _ in pairs})
        of_accuracy = part if measure == ACCURACY else None
        return cls(different, len(values), min(values), max(values), of_accuracy, measure)

    @property
    def tells_nothing(self) -> bool:
        """Whether all schemes, several, have the same value."""
        return self.values == 1 and self.schemes > 1

    @property
    def at_majority(self) -> bool:
        """Whether no scheme is better than naming the largest class each time."""
        return self.part is not None and self.high <= self.part.majority

    def __str__(self) -> str:
        schemes = "1 scheme has" if self.schemes == 1 else f"{self.schemes:,} schemes have"
        metric = self.measure
        if self.values == 1:
            one = "accuracy" if metric == ACCURACY else f"value of {metric.title}"
            text = f"{schemes} 1 distinct {one}, {metric.text(self.high)}"
        else:
            many = "accuracies" if metric == ACCURACY else f"values of {metric.title}"
            low, high = metric.number(self.low), metric.text(self.high)
            text = f"{schemes} {self.values:,} distinct {many}, {low} to {high}"
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
