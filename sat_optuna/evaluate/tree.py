"""The walk through a tree of schemes: one branch pass for each distinct prefix.

    x(prefix + c) = merge(c = 0 ? F : M_c(F), shortcut)      F, shortcut = branch(x(prefix))

(where modules are dropped from a trained network a constant times F stands for M_c: constants.py)

The branch of a block comes before its attention, so it is the same for all choices of that block.
A node of the tree is a list of schemes that share their first choices.
"""

from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from sat_optuna.evaluate.parts import HEAD, STEM, Choices, Part, Parts, PrefixEstimates, States

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
    statistics: PrefixEstimates,
    schemes: Sequence[Choices],
    x: Tensor,
    *,
    known: Mapping[Choices, Activations],
    wanted: Collection[Choices],
    keep: MutableMapping[Choices, Activations],
    leaves: bool = True,
) -> Iterator[tuple[Choices, Tensor]]:
    """Go through the tree of some schemes, depth first.

    Args:
        parts: of the supernet, its modes set.
        statistics: what is estimated for each prefix.
        schemes: their choices, sorted, each once.
        x: (N, C, H, W) images.
        known: activations of these images after some prefixes: no pass leads to them again.
        wanted: prefixes whose activations shall be kept, where the walk comes to them.
        keep: gets these activations.
        leaves: False: the walk ends with the last block's branch and yields nothing.

    Yields:
        The choices of each scheme and its (N, classes) logits.
    """
    blocks = len(parts.blocks)
    starts: dict[Choices, list[Choices]] = {}  # schemes by the longest prefix that is known
    for choices in schemes:
        prefixes = (choices[:depth] for depth in range(blocks - 1, 0, -1))
        start = next((prefix for prefix in prefixes if prefix in known), ())
        starts.setdefault(start, []).append(choices)
    visits: list[tuple[list[Choices], int, _Split | Activations | None]] = [
        (group, len(start), known.get(start)) for start, group in reversed(starts.items())
    ]
    while visits:
        node, depth, above = visits.pop()
        prefix = node[0][:depth]
        entered, states = (
            _merged(parts, statistics, prefix, above)
            if isinstance(above, _Split)
            else above or _stem(parts, statistics, x)
        )
        if prefix in wanted:
            keep[prefix] = entered, states
        # Each `del` frees memory before the next part takes some.
        del above
        if depth == blocks:
            statistics.install(HEAD, prefix)
            yield prefix, parts.net.view.head(entered, x.shape[2:])
            del entered, states
            continue
        statistics.install(Part("branch", depth), prefix)
        features, shortcut = parts.blocks[depth].branch(entered)
        split = _Split(features, shortcut, {} if depth in parts.firsts else states)
        del entered, states, features, shortcut
        if leaves or depth + 1 < blocks:
            below = [list(run) for _, run in groupby(node, key=itemgetter(depth))]
            visits += [(child, depth + 1, split) for child in reversed(below)]
        del split


def _stem(parts: Parts, statistics: PrefixEstimates, x: Tensor) -> Activations:
    statistics.install(STEM, ())
    return parts.net.view.stem(x), {}


def _merged(
    parts: Parts, statistics: PrefixEstimates, prefix: Choices, split: _Split
) -> Activations:
    """Return what the last choice of a prefix makes of its block's split."""
    block = len(prefix) - 1
    features, states = statistics.attended(prefix, split.features, split.states)
    statistics.install(Part("merge", block), prefix)
    return parts.blocks[block].merge(features, split.shortcut), states
