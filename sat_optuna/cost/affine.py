"""A cost as an affine function of a scheme's choices."""

from dataclasses import dataclass

__all__ = ["AffineCost"]


@dataclass(frozen=True, slots=True)
class AffineCost:
    """A cost as a function of a scheme's choices, for constraints that must hold exactly.

        cost(a) = base + sum over blocks l of added[l][a_l] + extras of which a makes a choice

    Attributes:
        base: what the scheme without attention costs.
        added: of each block what each choice adds, choice 0 first.
        extras: each a cost and (block, choice) pairs, one of which is enough to pay it once: a
            module that blocks of a stage share.
    """

    base: float
    added: tuple[tuple[float, ...], ...]
    extras: tuple[tuple[float, tuple[tuple[int, int], ...]], ...] = ()
