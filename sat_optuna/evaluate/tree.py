"""The walk through a tree of schemes: one branch pass for each distinct prefix.

    x(prefix + c) = merge(c = 0 ? F : M_c(F), shortcut)      F, shortcut = branch(x(prefix))

The branch of a block comes before its attention, so it is the same for all choices of that block.
"""

from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from sat_optuna.evaluate.heap import HeapLimit
from sat_optuna.evaluate.norms import PrefixStatistics
from sat_optuna.evaluate.parts import HEAD, STEM, Parts, States, attention, branch, merge
from sat_optuna.evaluate.prefixes import Choices, Node, children, passed_by, root
from sat_optuna.evaluate.stack import Stack

__all__ = ["Activations", "Walk"]

# What a block is given after a prefix: its input, and the states of recurrent attention.
Activations: TypeAlias = tuple[Tensor, States]


@dataclass(frozen=True, slots=True)
class _Split:
    """What all choices of a block start from, in the stack or not, until the last is taken."""

    features: Tensor
    shortcut: Any
    states: States
    in_stack: bool = False


# A node to come to; what its block above starts from, if anything; whether it is the last to.
_Visit: TypeAlias = tuple[Node, _Split | None, bool]


class Walk:
    """The way through the tree of some schemes, depth first, one chunk of images at a time.

    Args:
        parts: of the supernet, its modes set.
        statistics: what BatchNorm is given on the way.
        schemes: their choices, sorted, each once.
        stack: of the walk alone, on the device of the images; holds what other choices wait for.
        heap: is kept to its limit on the way.
        known: prefixes whose activations are kept for every chunk.
        wanted: prefixes whose activations shall be kept, where the walk comes to them.
    """

    def __init__(
        self,
        parts: Parts,
        statistics: PrefixStatistics,
        schemes: Sequence[Choices],
        stack: Stack,
        heap: HeapLimit,
        *,
        known: Collection[Choices] = (),
        wanted: Collection[Choices] = (),
    ) -> None:
        self._parts, self._statistics, self._schemes = parts, statistics, schemes
        self._stack, self._heap = stack, heap
        self._depth = len(parts.blocks)
        self._wanted = wanted
        self._passed = passed_by(schemes, known)

    def logits(
        self,
        x: Tensor,
        *,
        known: Mapping[Choices, Activations],
        keep: MutableMapping[Choices, Activations],
        leaves: bool = True,
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the place of each scheme among all, and its (N, classes) logits.

        Args:
            x: (N, C, H, W) images.
            known: of these images.
            keep: gets the activations after the prefixes that are wanted.
            leaves: False: end with the last block's branch, and yield nothing.
        """
        visits: list[_Visit] = [(root(self._schemes), None, False)]
        try:
            while visits:
                node, split, last = visits.pop()
                if node in self._passed:
                    visits += [(child, None, False) for child in self._children(node)]
                    self._leave(last)
                    continue
                entered, states = self._enter(node, split, x, known, keep)
                del split
                self._leave(last)
                if node.depth == self._depth:
                    self._statistics.place(HEAD, self._schemes[node.first])
                    yield node.first, self._parts.net.view.head(entered)
                    del entered
                    continue
                split = self._split(node, entered, states)
                del entered
                if leaves or node.depth + 1 < self._depth:
                    visits += self._below(node, split)
                del split
        finally:
            self._stack.clear()

    def _children(self, node: Node) -> list[Node]:
        return list(children(self._schemes, node))[::-1]

    def _below(self, node: Node, split: _Split) -> list[_Visit]:
        """Return the visits to a node's children, first to last from the end.

        What several of them start from goes to the stack, which all that is below them leaves as
        it was: whatever is on top when the last one has its input is theirs. For leaves, which
        are over at once, it is not worth the copy.
        """
        below = self._children(node)
        if len(below) > 1 and node.depth + 1 < self._depth:
            held = (split.features, split.shortcut, split.states)
            features, shortcut, states = self._stack.push(held)
            split = _Split(features, shortcut, states, in_stack=True)
        return [(child, split, split.in_stack and place == 0) for place, child in enumerate(below)]

    def _leave(self, last: bool) -> None:
        """Let the last child free what its parent held."""
        if last:
            self._stack.pop()

    def _enter(
        self,
        node: Node,
        split: _Split | None,
        x: Tensor,
        known: Mapping[Choices, Activations],
        keep: MutableMapping[Choices, Activations],
    ) -> Activations:
        """Return what the block of a node is given."""
        prefix = node.prefix(self._schemes)
        entered = known.get(prefix)
        if entered is None:
            entered = self._stem(x) if split is None else self._merged(prefix, split)
        if prefix in self._wanted:
            keep[prefix] = entered
        return entered

    def _stem(self, x: Tensor) -> Activations:
        self._statistics.place(STEM, ())
        return self._parts.net.view.stem(x), {}

    def _merged(self, prefix: Choices, split: _Split) -> Activations:
        """Return what the last choice of a prefix makes of its block's features."""
        block, choice = len(prefix) - 1, prefix[-1]
        features, states = split.features, split.states
        self._heap.keep()
        if choice:
            self._statistics.place(attention(block, choice), prefix)
            features, states = self._parts.attend(block, choice, features, states)
        self._statistics.place(merge(block), prefix)
        self._heap.keep()
        merged = self._parts.blocks[block].merge(features, split.shortcut)
        handed_on: Activations = merged, states
        # It outlives the place that a merge or a state might be a view of.
        return self._stack.outside(handed_on) if split.in_stack else handed_on

    def _split(self, node: Node, entered: Tensor, states: States) -> _Split:
        self._statistics.place(branch(node.depth), node.prefix(self._schemes))
        self._heap.keep()
        features, shortcut = self._parts.blocks[node.depth].branch(entered)
        return _Split(features, shortcut, self._parts.entered(node.depth, states))
