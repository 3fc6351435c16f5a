"""A view of a network: the same network, seen as a stem, stages of blocks with slots, and a head.

A slot is the point of a block where attention acts. A view runs its own functions instead of the
forward of the network and of the blocks with slots, so forward hooks on these are not called.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sat_optuna.backbones.contract import BackboneError, cropped
from sat_optuna.backbones.tables import (
    BlockSplit,
    NetworkEntry,
    OwnSlot,
    block_entry,
    network_entry,
    type_name,
)
from sat_optuna.errors import errors_as

__all__ = ["BlockView", "NetworkView", "carrying_own", "take_own_attention", "view_of"]

torch.fx.wrap("cropped")  # it looks at sizes, which have no value while torch.fx traces


@dataclass(frozen=True, slots=True, eq=False)
class BlockView:
    """A block with a slot, and the steps without a slot that come right before it.

    Attributes:
        module: the block itself.
        split: how the block is split at its slot.
        before: the steps; `branch` runs them first.
        own: the slot of the attention that the block carries itself, if that slot is used.
    """

    module: nn.Module
    split: BlockSplit
    before: tuple[nn.Module, ...] = ()
    own: OwnSlot | None = None

    @property
    def channels(self) -> int:
        """C of the features.

        Raises:
            BackboneError: the function in the table fails.
        """
        kind = type_name(type(self.module))
        with errors_as(
            BackboneError,
            f"channels of block type {kind} fails",
            "correct what add_block was given",
        ):
            return self.split.channels(self.module)

    def branch(self, x: Tensor) -> tuple[Tensor, Any]:
        """Return (N, C, H, W) features of the residual branch, and the shortcut."""
        for step in self.before:
            x = step(x)
        return self.split.branch(self.module, x)

    def merge(self, features: Tensor, shortcut: Any) -> Tensor:
        """Return the block's output."""
        return self.split.merge(self.module, features, shortcut)

    @property
    def last(self) -> nn.Module | None:
        """The layer whose output is the features, if the table names one."""
        return None if self.split.last is None else self.split.last(self.module)

    @property
    def after(self) -> nn.Module | None:
        """The convolution whose only input is the features, if the table names one."""
        return None if self.split.after is None else self.split.after(self.module)


@dataclass(frozen=True, slots=True, eq=False)
class NetworkView:
    """A network as a stem, stages of blocks with slots, and a head.

    It holds the network's own modules, so a deep copy of the view is a view of a copied network.

    Attributes:
        model: the network.
        blocks: the blocks with slots, one tuple for each stage. A stage without such a block
            counts as part of the next one.
        after: steps between the last block and the head.
    """

    model: nn.Module
    blocks: tuple[tuple[BlockView, ...], ...]
    after: tuple[nn.Module, ...]
    _entry: NetworkEntry

    def stem(self, x: Tensor) -> Tensor:
        """Run what comes before the stages."""
        return self._entry.stem(self.model, x)

    def head(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Run what comes after the last block.

        Args:
            x: the last block's output.
            size: height and width of the images, which maps are cropped to.

        Returns:
            (N, classes) logits, or maps (N, classes, H, W).
        """
        for step in self.after:
            x = step(x)
        return cropped(self._entry.head(self.model, x), size)

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """Number of blocks of each stage."""
        return tuple(len(blocks) for blocks in self.blocks)

    @property
    def stage_channels(self) -> tuple[tuple[int, ...], ...]:
        """Channels of the features of each block, one tuple for each stage."""
        return tuple(tuple(block.channels for block in blocks) for blocks in self.blocks)


def view_of(
    model: nn.Module, *, own: bool = False, slots: Collection[nn.Module] | None = None
) -> NetworkView:
    """Return the view of a network.

    >>> import torchvision
    >>> view = view_of(torchvision.models.resnet18())
    >>> view.stage_sizes, view.stage_channels[0]
    ((2, 2, 2, 2), (64, 64))

    Args:
        model: a `Backbone`, or a network whose type was registered with `add_network`.
        own: False puts a slot at the end of each residual branch; attention that a block carries
            itself stays inside the branch. True puts slots at the points where blocks carry
            attention themselves, and nowhere else.
        slots: the blocks that have a slot, whatever they carry at present; None for all that
            `own` says.

    Returns:
        The view. What it runs of a block that carries attention inside is the block without it.

    Raises:
        BackboneError: a type is in no table, or the network has no block with a slot.
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
            chosen = slots is None or step in slots
            slot = _slot(step, tuple(before), own=own, model=model, always=slots is not None)
            slot = slot if chosen else None
            if slot is None:
                before.append(step)
            else:
                views.append(slot)
                before = []
        if views:
            stages.append(tuple(views))
    if not stages:
        wanted = (
            "block that carries attention of its own"
            if own
            else "residual block with a branch and a shortcut"
        )
        raise BackboneError(
            f"network {kind} has no {wanted}; there is nowhere to plug "
            "attention, so choose another network"
        )
    return NetworkView(model, tuple(stages), tuple(before), entry)


def carrying_own(view: NetworkView) -> int:
    """Return how many blocks carry attention themselves, beside the slot that the view gives them.

    None of a view made with `own=True`, whose slots are where that attention was.
    """
    blocks = [block for stage in view.blocks for block in stage if block.own is None]
    entries = [(block.module, block_entry(block.module, view.model)) for block in blocks]
    return sum(
        entry is not None and entry.own is not None and entry.own.module_of(module) is not None
        for module, entry in entries
    )


def take_own_attention(view: NetworkView) -> tuple[tuple[nn.Module | None, ...], ...]:
    """Take the attention that the blocks carry themselves out of the network.

    Args:
        view: made with `own=True`. In each of its blocks an Identity replaces the attention. A
            view made without it is not changed.

    Returns:
        The attention of each block, one tuple for each stage; None for a block that carries none.
    """
    return tuple(tuple(_taken(block) for block in blocks) for blocks in view.blocks)


def _taken(block: BlockView) -> nn.Module | None:
    if block.own is None:
        return None
    module = block.own.module_of(block.module)
    setattr(block.module, block.own.name, nn.Identity())
    return module


def _slot(
    step: nn.Module, before: tuple[nn.Module, ...], *, own: bool, model: nn.Module, always: bool
) -> BlockView | None:
    """Return the view of a step that has a slot; None for a step without one.

    With `always`, a block that has lost the attention of its own has a slot all the same.
    """
    entry = block_entry(step, model)
    if entry is None:
        return None
    if own:
        if entry.own is None or not (always or entry.own.module_of(step)):
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
