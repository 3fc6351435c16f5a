"""How a scheme goes to a network of other depth: stage by stage, by relative position.

Block i of n stands at (i + 1/2) / n of its stage, from 0. It takes the choice of the source block
that stands nearest; of two that are as near, the shallower one. With m source blocks that is

    j = ((2 i + 1) m - 1) // (2 n)

A stage of as many blocks keeps its choices; the single block of a stage takes that of the middle
one of the source's (of two, the shallower); and all blocks take that of a single one. So none
stays none and full stays full, the order of the choices is kept, and the number of connections
may change. Channels are no part of a scheme: a wider network takes it as it is.
"""

from collections.abc import Sequence

from sat_optuna.errors import SatOptunaError
from sat_optuna.scheme import Scheme

__all__ = ["TransferError", "carried", "check_told", "rule_for"]


class TransferError(SatOptunaError, ValueError):
    """A ticket that cannot be carried over."""


def carried(scheme: Scheme, stages: Sequence[int]) -> Scheme:
    """Return a scheme as a network of these stages takes it.

    >>> print(carried(Scheme.parse("100-010-011"), (5, 5, 5)))
    11000-00100-00111
    >>> print(carried(Scheme.parse("100-010-011"), (3, 1, 2)))
    100-1-01

    Args:
        scheme: of the source.
        stages: number of blocks of each stage of the network.

    Raises:
        TransferError: the network has another number of stages.
    """
    if len(scheme.stages) != len(stages):
        raise TransferError(
            f"scheme {scheme} is of {_counted(len(scheme.stages), 'stage')} and the network has "
            f"{len(stages)}, {tuple(stages)}: a ticket whose stages do not fit the trunk; take a "
            f"network of {_counted(len(scheme.stages), 'stage')}"
        )
    choices = [
        source[((2 * block + 1) * len(source) - 1) // (2 * blocks)]
        for source, blocks in zip(scheme.by_stage(), stages, strict=True)
        for block in range(blocks)
    ]
    return Scheme.of(choices, stages)


def rule_for(scheme: Scheme, stages: Sequence[int]) -> str:
    """Return what is done with a scheme to carry it to a network of these stages, in words.

    >>> rule_for(Scheme.parse("10-00"), (2, 2))
    'the same scheme: each stage has as many blocks'
    """
    if scheme.stages == tuple(stages):
        return "the same scheme: each stage has as many blocks"
    return (
        "nearest relative position in the stage: block i of n takes the choice of source block "
        "((2i + 1)m - 1) // (2n) of m, counted from 0; of two as near, the shallower"
    )


def check_told(scheme: Scheme, *, source: Scheme) -> None:
    """Make sure that a scheme that was carried over differs from plain and from full.

    Args:
        scheme: as the network takes it.
        source: what it was.

    Raises:
        TransferError: it is one of them, whose networks are controls.
    """
    found = set(scheme.choices)
    if len(found) > 1:
        return
    what = "full" if max(found) else "plain"
    became = "is" if scheme == source else f"becomes {scheme} in this network, which is"
    raise TransferError(
        f"ticket {source} {became} the {what} network, which is among the controls of each "
        "transfer, so nothing could be told of it and it is not transferred; give a ticket with "
        "attention in some of its blocks"
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
