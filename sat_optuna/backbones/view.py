"""The view of a network as stem, stages of blocks with slots, head.

Its functions run in place of the forward of the network and of the blocks with slots: forward
hooks on these are not called.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.tables import (
    NetworkEntry,
    OwnSlot,
    Split,
    block_entry,
    network_entry,
    type_name,
)
from sat_optuna.errors import errors_as

__all__ = ["BlockView", "NetworkView", "take_own", "view_of"]


@dataclass(frozen=True, slots=True, eq=False)
class BlockView:
    """A block with a slot, and the steps without one that come right before it.

    Attributes:
        module: the block itself.
        split: how it is split.
        before: steps that its branch runs first.
        own: where it carries attention of its own, if the slot is there.
    """

    module: nn.Module
    split: Split
    before: tuple[nn.Module, ...] = ()
    own: OwnSlot | None = None

    @property
    def channels(self) -> int:
        """C of the features.

        Raises:
            BackboneError: the table's function fails.
        """
        kind = type_name(type(self.module))
        with errors_as(
            BackboneError,
            f"channels of block type {kind} fails",
            "correct what add_block was given",
        ):
            return self.split.channels(self.module)

    def branch(self, x: Tensor) -> tuple[Tensor, Any]:
        """Return (N, C, H, W) features and the shortcut."""
        for step in self.before:
            x = step(x)
        return self.split.branch(self.module, x)

    def merge(self, features: Tensor, shortcut: Any) -> Tensor:
        """Return the block's output."""
        return self.split.merge(self.module, features, shortcut)

    @property
    def last(self) -> nn.Module | None:
        """The layer whose output the features are, where the table names one."""
        return None if self.split.last is None else self.split.last(self.module)


@dataclass(frozen=True, slots=True, eq=False)
class NetworkView:
    """A network as stem, stages of blocks with slots, head.

    It holds the network's own modules, so that a deep copy of both together is a view of the copy.

    Attributes:
        model: the network.
        blocks: the blocks with slots, a tuple a stage; a stage without any is part of the next.
        after: steps between the last block and the head.
    """

    model: nn.Module
    blocks: tuple[tuple[BlockView, ...], ...]
    after: tuple[nn.Module, ...]
    _entry: NetworkEntry

    def stem(self, x: Tensor) -> Tensor:
        """Run what comes before the stages."""
        return self._entry.stem(self.model, x)

    def head(self, x: Tensor) -> Tensor:
        """Run what comes after the last block; (N, classes) logits."""
        for step in self.after:
            x = step(x)
        return self._entry.head(self.model, x)

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """Number of blocks of each stage."""
        return tuple(len(blocks) for blocks in self.blocks)

    @property
    def stage_channels(self) -> tuple[tuple[int, ...], ...]:
        """Channels of the features of each block, a tuple a stage."""
        return tuple(tuple(block.channels for block in blocks) for blocks in self.blocks)


def view_of(model: nn.Module, *, own: bool = False) -> NetworkView:
    """Look up how a network is walked.

    Args:
        model: a `Backbone`, or a network whose type `add_network` knows.
        own: False: a slot at the end of each residual branch; attention that a block carries
            itself stays inside. True: a slot where a block carries attention of its own, and
            nowhere else.

    Raises:
        BackboneError: a type that no table holds, a network without any such block.
    """
    entry = network_entry(model)
    stages: list[tuple[BlockView, ...]] = []
    before: list[nn.Module] = []
    kind = type_name(type(model))
    with errors_as(
        BackboneError, f"stages of network type {kind} fails", "correct what add_network was given"
    ):
        steps_of = [list(steps) for steps in entry.stages(model)]
    for steps in steps_of:
        views: list[BlockView] = []
        for step in steps:
            slot = _slot(step, tuple(before), own=own, model=model)
            if slot is None:
                before.append(step)
            else:
                views.append(slot)
                before = []
        if views:
            stages.append(tuple(views))
    if not stages:
        wanted = "block that carries attention of its own" if own else "residual block"
        raise BackboneError(
            f"network {kind} has no {wanted}; there is nowhere to plug "
            "attention, so choose another network"
        )
    return NetworkView(model, tuple(stages), tuple(before), entry)


def take_own(view: NetworkView) -> tuple[tuple[nn.Module | None, ...], ...]:
    """Take the attention that the blocks carry themselves out of the network.

    Args:
        view: made with `own=True`; in each block an Identity is left in its place.

    Returns:
        What each block carried, a tuple a stage; None everywhere in a view made without.
    """
    return tuple(tuple(_taken(block) for block in blocks) for blocks in view.blocks)


def _taken(block: BlockView) -> nn.Module | None:
    if block.own is None:
        return None
    module = block.own.module_of(block.module)
    setattr(block.module, block.own.name, nn.Identity())
    return module


def _slot(
    step: nn.Module, before: tuple[nn.Module, ...], *, own: bool, model: nn.Module
) -> BlockView | None:
    """Return the view of a step with a slot, None for one without."""
    entry = block_entry(step, model)
    if entry is None:
        return None
    if own:
        if entry.own is None or entry.own.module_of(step) is None:
            return None
        return BlockView(step, entry.own.split, before, entry.own)
    kind = type_name(type(step))
    with errors_as(
        BackboneError,
        f"has_shortcut of block type {kind} fails",
        "correct what add_block was given",
    ):
        residual = entry.has_shortcut is None or entry.has_shortcut(step)
    return BlockView(step, entry.split, before) if residual else None
