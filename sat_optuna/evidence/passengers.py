"""A ticket without passengers: which connections it can do without.

The best of many schemes carries blocks that only luck on the images of the search put there. Here
connections are dropped one at a time, least loss first, as long as the scheme stays within one
paired standard error of the searched one, on images that the search did not use. Of two blocks
that do the same, one can go and one stays.

What is left is a candidate: scores in a supernet say nothing of sizes, so it takes the ticket's
place only where trainings that have not seen the validation images show it to be no worse on
them; see `not_worse`.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sat_optuna.errors import DataError
from sat_optuna.evidence.effects import image_counts
from sat_optuna.evidence.statistics import one_sided_p
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import ACCURACY, Measure

if TYPE_CHECKING:
    from sat_optuna.evaluate import SchemeResult

__all__ = ["Drop", "Passengers", "drop_passengers", "not_worse"]


@dataclass(frozen=True, slots=True)
class Drop:
    """A connection that was dropped, or the one that would have been next.

    Attributes:
        block: Optuna's name of it.
        scheme: what is left without it and those before it.
        loss: what the searched scheme has more, in points; below 0 where it has less.
        error: paired standard error of that, over the images.
    """

    block: str
    scheme: Scheme
    loss: float
    error: float

    @property
    def is_free(self) -> bool:
        """Whether what is left is within one standard error of the searched scheme."""
        return self.loss <= self.error


@dataclass(frozen=True, slots=True)
class Passengers:
    """What a searched scheme can do without.

    Attributes:
        searched: the scheme that was found.
        dropped: what was dropped, in this order.
        kept: the drop of least loss that was too much; None where nothing is left to drop.
        images: number of images that told it.
    """

    searched: Scheme
    dropped: tuple[Drop, ...]
    kept: Drop | None
    images: int

    @property
    def candidate(self) -> Scheme:
        """The scheme without its passengers."""
        return self.dropped[-1].scheme if self.dropped else self.searched

    def __str__(self) -> str:
        """Say it in a sentence."""
        where = f"on {self.images:,} validation images that the search did not use"
        if not self.dropped:
            return f"no block of `{self.searched}` can go without a loss that is seen {where}"
        gone = ", ".join(drop.block for drop in self.dropped)
        last = self.dropped[-1]
        return (
            f"`{self.candidate}` is left of `{self.searched}` without {gone}, which makes "
            f"{-last.loss:+z.2f} points (standard error {last.error:.2f}) {where}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, as `from_dict` reads them."""
        return asdict(self) | {
            "searched": str(self.searched),
            "dropped": [_plain(drop) for drop in self.dropped],
            "kept": _plain(self.kept) if self.kept else None,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Passengers":
        """Read what `to_dict` wrote."""
        kept = document["kept"]
        return cls(
            searched=Scheme.parse(document["searched"]),
            dropped=tuple(map(_drop, document["dropped"])),
            kept=_drop(kept) if kept else None,
            images=document["images"],
        )


def _plain(drop: Drop) -> dict[str, Any]:
    return asdict(drop) | {"scheme": str(drop.scheme)}


def _drop(document: Mapping[str, Any]) -> Drop:
    return Drop(**{**document, "scheme": Scheme.parse(document["scheme"])})


def drop_passengers(
    searched: Scheme,
    score: "Callable[[Sequence[Scheme]], Mapping[Scheme, SchemeResult]]",
    *,
    measure: Measure = ACCURACY,
    labels: NDArray[Any] | None = None,
    fixed: Collection[int] = (),
) -> Passengers:
    """Drop connections one at a time, least loss first, while nothing is lost that can be seen.

    Of equal losses that of the lower log-loss goes first, then that of the deeper block.

    Args:
        searched: the scheme that was found.
        score: scores schemes on images that the search did not use.
        measure: the metric: the accuracy, or a mean of accuracies of classes.
        labels: of these images, (N,), where the metric is not the accuracy.
        fixed: numbers of blocks that stay as they are.

    Raises:
        DataError: the metric is not a mean over images, so that there is no paired error.
    """
    known = np.empty(0, dtype=np.int64) if labels is None else labels
    weights = image_counts(measure, known)
    if measure != ACCURACY and weights is None:
        raise DataError(
            f"the {measure.title} is no mean over images, so that dropping blocks has no paired "
            "error; search for an accuracy, or write held_back = 0 under [search]"
        )

    def counted(result: "SchemeResult") -> NDArray[np.float64]:
        right = 100 * result.mask().astype(np.float64)
        return right if weights is None else right * weights

    reference = score([searched])[searched]
    names = Scheme.parameter_names(searched.stages)
    dropped: list[Drop] = []
    scheme = searched
    while blocks := [b for b, choice in enumerate(scheme.choices) if choice and b not in fixed]:
        schemes = {block: _without(scheme, block) for block in blocks}
        results = score(list(schemes.values()))
        tried = []
        for block, left in schemes.items():
            difference = counted(reference) - counted(results[left])
            error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
            drop = Drop(names[block], left, float(difference.mean()), error)
            tried.append((drop.loss, results[left].loss, -block, drop))
        *_, drop = min(tried, key=lambda entry: entry[:3])
        if not drop.is_free:
            return Passengers(searched, tuple(dropped), drop, reference.n)
        dropped.append(drop)
        scheme = drop.scheme
    return Passengers(searched, tuple(dropped), None, reference.n)


def _without(scheme: Scheme, block: int) -> Scheme:
    choices = (0 if number == block else c for number, c in enumerate(scheme.choices))
    return Scheme(tuple(choices), scheme.stages)


def not_worse(
    candidate: Sequence[float],
    searched: Sequence[float],
    *,
    margin: float,
    measure: Measure = ACCURACY,
) -> bool:
    """Tell whether a candidate is shown to lose less than the margin, at 5 %.

    It is the one-sided paired test of non-inferiority over the seeds, as of `one_sided_p`: equal
    gains are shown by five seeds or more, and one seed shows nothing.

    >>> not_worse([95.1, 94.9, 95.3, 95.0], [95.2, 95.1, 95.0, 95.2], margin=1.0)
    True
    >>> not_worse([95.1, 90.2, 95.3, 95.0], [95.2, 95.1, 95.0, 95.2], margin=1.0)
    False

    Args:
        candidate: its score with each seed.
        searched: those of the searched scheme, in the same order.
        margin: what may be lost, in the metric's unit.
        measure: what the scores are in.
    """
    gains = [
        measure.points(a) - measure.points(b) for a, b in zip(candidate, searched, strict=True)
    ]
    return one_sided_p(gains, above=-margin) < 0.05
