"""A supernet cut into the parts that schemes with the same first choices share."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sat_optuna.attention.contract import State
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.supernet.supernet import Supernet

__all__ = [
    "HEAD",
    "STEM",
    "Part",
    "Parts",
    "States",
    "attention",
    "branch",
    "check_parts",
    "merge",
]

# One state a kind of the stage, of the kinds that have handed one on.
States: TypeAlias = Mapping[int, State | None]


class Part(NamedTuple):
    """A part of a supernet: `what` it is, of which block (from 0), for which choice."""

    what: str
    block: int = -1
    choice: int = -1

    def depth(self, blocks: int) -> int:
        """Return how many first choices of a scheme of so many blocks lead up to it."""
        if self.what == "head":
            return blocks
        return self.block if self.what == "branch" else self.block + 1


STEM, HEAD = Part("stem"), Part("head")


def branch(block: int) -> Part:
    """Return the part that a block runs once for all its choices."""
    return Part("branch", block)


def attention(block: int, choice: int) -> Part:
    """Return the part that a block runs for one choice above 0."""
    return Part("attention", block, choice)


def merge(block: int) -> Part:
    """Return the part that a block runs for each of its choices."""
    return Part("merge", block)


class Parts:
    """The parts of a supernet, to be run one by one.

    Attributes:
        net: the supernet.
        blocks: its blocks, those of all stages in one tuple.
        kinds: K.
    """

    def __init__(self, net: Supernet) -> None:
        self.net = net
        self.blocks = tuple(block for blocks in net.view.blocks for block in blocks)
        self.kinds = len(net.specs)
        self._first = frozenset(accumulate(net.stages, initial=0))
        self._attend = tuple(
            tuple(source.module_for(choice, place) for choice in range(1, self.kinds + 1))
            for source, count in zip(net.stage_attention, net.stages, strict=True)
            for place in range(count)
        )

    def entered(self, block: int, states: States) -> States:
        """Return the states that a block is given: none at the first block of a stage."""
        return {} if self.begins_stage(block) else states

    def begins_stage(self, block: int) -> bool:
        """Say whether a block is the first of its stage."""
        return block in self._first

    def attend(
        self, block: int, choice: int, features: Tensor, states: States
    ) -> tuple[Tensor, States]:
        """Return the attended features of a block, and the states for the next one.

        Args:
            block: from 0.
            choice: 1..K.
            features: (N, C, H, W).
            states: as `entered` gave them; they are left as they are.
        """
        attended, state = self._attend[block][choice - 1](features, states.get(choice))
        return attended, states if state is states.get(choice) else {**states, choice: state}

    def tour(self, x: Tensor, run: Callable[[Part, Callable[[], Any]], Any]) -> None:
        """Run every part, one after the other, on what the parts before it return.

        Each runs once; attention that returns a state, once without any and once with that.

        Args:
            x: (N, C, H, W) images.
            run: called with each part and what runs it; returns what that returns.
        """
        view = self.net.view
        x = run(STEM, partial(view.stem, x))
        for place, block in enumerate(self.blocks):
            features, shortcut = run(branch(place), partial(block.branch, x))
            x = attended = features
            for choice in range(1, self.kinds + 1):
                attend = partial(self.attend, place, choice, features)
                part = attention(place, choice)
                attended, states = run(part, partial(attend, {}))
                if states:
                    attended, _ = run(part, partial(attend, states))
                del attend
            x = run(merge(place), partial(block.merge, attended, shortcut))
            del features, shortcut, attended  # as a walk has none of them left
        run(HEAD, partial(view.head, x))


def check_parts(parts: Parts, x: Tensor) -> None:
    """Make sure that schemes may share what the parts are given and return.

    Args:
        parts: of the network, which stays as it is.
        x: (N, C, H, W) images to try it on; a few will do.

    Raises:
        BackboneError: a part changes its input, which other schemes need, or attention returns a
            state that is no tuple of tensors.
    """

    def run(part: Part, call: Callable[[], Any]) -> Any:
        given = [leaf for leaf in tree_leaves(_arguments(call)) if isinstance(leaf, Tensor)]
        before = [tensor._version for tensor in given]
        made = call()
        if [tensor._version for tensor in given] != before:
            raise BackboneError(
                f"{_place(parts, part)} changes its input in place, which other schemes need too; "
                "let it make a new tensor (x + y, not x += y)"
            )
        if part.what == "attention" and not all(map(_is_state, made[1].values())):
            raise BackboneError(
                f"{_place(parts, part)} returns a state that is neither None nor a tuple of "
                "tensors; return one of them"
            )
        return made

    # Inference mode counts no changes.
    with evaluating(parts.net), torch.inference_mode(mode=False), torch.no_grad():
        parts.tour(x.clone(), run)


def _arguments(call: Callable[[], Any]) -> Any:
    return call.args if isinstance(call, partial) else ()


def _is_state(state: object) -> bool:
    if state is None:
        return True
    return isinstance(state, tuple) and all(isinstance(one, Tensor) for one in state)


def _place(parts: Parts, part: Part) -> str:
    """Return the name of a part for a message."""
    name = parts.net.backbone_name
    if part.block < 0:
        return f"the {part.what} of network {name}"
    if part.what == "attention":
        kind = parts.net.specs[part.choice - 1].kind
        return f"attention {kind!r} at block {part.block} of network {name}"
    return f"the {part.what} of block {part.block} of network {name}"
