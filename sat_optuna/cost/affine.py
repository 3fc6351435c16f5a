"""A cost as an affine function of a scheme's choices."""

from dataclasses import dataclass

__all__ = ["AffineCost"]


@dataclass(frozen=True, slots=True)
class AffineCost:
    """A cost as a function of a scheme's choices, for constraints that must hold exactly.

        cost(a) = base + sum over blocks l of added[l][a_l] + sum of the extras that a pays

    Attributes:
        base: cost of the scheme without attention.
        added: for each block, what each choice adds; choice 0 comes first.
        extras: costs of modules that blocks share, each with (block, choice) pairs. A scheme that
            makes at least one of these choices pays the cost once.
    """

    base: float
    added: tuple[tuple[float, ...], ...]
    extras: tuple[tuple[float, tuple[tuple[int, int], ...]], ...] = ()
