"""The tree that schemes make: those with the same first choices share its first nodes.

Schemes are sorted, so a node is a run of them: all those that begin with the same choices.
"""

import math
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice, product
from operator import itemgetter
from typing import NamedTuple, TypeAlias

__all__ = [
    "Choices",
    "Node",
    "children",
    "common",
    "every_choices",
    "in_units",
    "passed_by",
    "root",
    "subtree_size",
]

Choices: TypeAlias = tuple[int, ...]


class Node(NamedTuple):
    """The schemes `first` to `end` - 1 of a sorted list, which share `depth` first choices."""

    first: int
    end: int
    depth: int

    def prefix(self, schemes: Sequence[Choices]) -> Choices:
        """Return the choices that they share."""
        return schemes[self.first][: self.depth]


def root(schemes: Sequence[Choices]) -> Node:
    """Return the node that all schemes share."""
    return Node(0, len(schemes), 0)


def children(schemes: Sequence[Choices], node: Node) -> Iterator[Node]:
    """Yield the nodes one choice further, in the order of their choices.

    Args:
        schemes: sorted, each once.
        node: of them, not a leaf.
    """
    first, choice_of = node.first, itemgetter(node.depth)
    while first < node.end:
        choice = schemes[first][node.depth]
        end = bisect_right(schemes, choice, first, node.end, key=choice_of)
        yield Node(first, end, node.depth + 1)
        first = end


def common(one: Choices, other: Choices) -> int:
    """Return how many first choices two schemes share."""
    for place, (left, right) in enumerate(zip(one, other, strict=True)):
        if left != right:
            return place
    return len(one)


def passed_by(schemes: Sequence[Choices], known: Collection[Choices]) -> frozenset[Node]:
    """Return the nodes that need not be run, because all that lies below is known.

    Args:
        schemes: sorted, each once.
        known: prefixes whose activations are at hand.
    """
    passed: set[Node] = set()

    def covered(node: Node) -> bool:
        leaf = node.depth == len(schemes[0])
        # All children are asked: one that is covered is passed by beside one that is not.
        below = [] if leaf else [covered(child) for child in children(schemes, node)]
        if below and all(below):
            passed.add(node)
            return True
        return node.prefix(schemes) in known

    if known:
        covered(root(schemes))
    return frozenset(passed)


def every_choices(blocks: int, kinds: int) -> Iterator[Choices]:
    """Yield the choices of all schemes, sorted."""
    return product(range(kinds + 1), repeat=blocks)


def in_units(schemes: Iterable[Choices], size: int) -> Iterator[tuple[Choices, ...]]:
    """Yield sorted schemes in runs of `size`, the last one what is left."""
    ordered = iter(schemes)
    while unit := tuple(islice(ordered, size)):
        yield unit


def subtree_size(kinds: int, most: int) -> int:
    """Return the largest number of schemes up to `most` that all schemes have whole subtrees of.

    Args:
        kinds: K; a subtree has a power of K + 1 schemes.
        most: at least 1.
    """
    return int((kinds + 1) ** math.floor(math.log(most, kinds + 1) + 1e-9))
