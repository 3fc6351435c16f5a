"""The walk through a tree of schemes: one branch pass for each distinct prefix.

    x(prefix + c) = merge(c = 0 ? F : M_c(F), shortcut)      F, shortcut = branch(x(prefix))

The branch of a block comes before its attention, so it is the same for all choices of that block.
A node of the tree is a list of schemes that share their first choices.
"""

from collections.abc import Collection, Iterator, MutableMapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from sat_optuna.evaluate.parts import HEAD, STEM, Choices, Part, Parts, PrefixStatistics, States

__all__ = ["Activations", "walk"]

# What a block is given after a prefix: its input, and the states of recurrent attention.
Activations: TypeAlias = tuple[Tensor, States]


class _Split(NamedTuple):
    """What all choices of a block start from. It is freed when the last choice was taken."""

    features: Tensor
    shortcut: Any
    states: States


def walk(
    parts: Parts,
    statistics: PrefixStatistics,
    schemes: Sequence[Choices],
    start: Choices,
    given: Tensor | Activations,
    *,
    wanted: Collection[Choices] = (),
    keep: MutableMapping[Choices, Activations],
    leaves: bool = True,
) -> Iterator[tuple[Choices, Tensor]]:
    """Go through the tree of some schemes depth first; yield each scheme and its logits.

    Args:
        parts: of the supernet, its modes set.
        statistics: of the supernet's BatchNorms.
        schemes: their choices, sorted, each once.
        start: the prefix, shared by all of them, that the walk begins with.
        given: what the next block is given after it; or (N, C, H, W) images, before the stem.
        wanted: prefixes whose activations the cache shall get.
        keep: gets them.
        leaves: False: the walk ends with the last block's branch and yields nothing.

    Yields:
        The choices of a scheme and (N, classes) logits.
    """

    def merged(prefix: Choices, split: _Split) -> Activations:
        block, choice = len(prefix) - 1, prefix[-1]
        features, states = split.features, split.states
        if choice:
            statistics.install(Part("attention", block, choice), prefix)
            features, states = parts.attend(block, choice, features, states)
        statistics.install(Part("merge", block), prefix)
        return parts.blocks[block].merge(features, split.shortcut), states

    def branched(prefix: Choices, entered: Tensor, states: States) -> _Split:
        block = len(prefix)
        statistics.install(Part("branch", block), prefix)
        features, shortcut = parts.blocks[block].branch(entered)
        return _Split(features, shortcut, {} if block in parts.firsts else states)

    visits: list[tuple[list[Choices], int, _Split | None]] = [(list(schemes), len(start), None)]
    while visits:
        node, depth, split = visits.pop()
        prefix = node[0][:depth]
        if split is not None:
            entered, states = merged(prefix, split)
        elif isinstance(given, Tensor):
            statistics.install(STEM, prefix)
            entered, states = parts.net.view.stem(given), {}
        else:
            entered, states = given
        if prefix in wanted:
            keep[prefix] = entered, states
        # Each `del` frees memory before the next part takes some.
        del split
        if depth == len(parts.blocks):
            statistics.install(HEAD, prefix)
            yield prefix, parts.net.view.head(entered)
            del entered, states
            continue
        split = branched(prefix, entered, states)
        del entered, states
        if leaves or depth + 1 < len(parts.blocks):
            below = [list(run) for _, run in groupby(node, key=itemgetter(depth))]
            visits += [(child, depth + 1, split) for child in reversed(below)]
        del split
