"""How networks are run block by block: two tables, looked up by exact type.

A network from elsewhere (torchvision, timm, a user) is kept whole, with its state_dict keys
unchanged. The table of blocks says how a type of residual block is split at the point where
attention acts, which is called its slot. The table of networks says what a type of network runs
before its blocks, which modules its blocks are, and what it runs after them. A block whose type is
in no table is an error; it is never passed over.

    add_block(MyBlock, BlockSplit(branch=my_branch, merge=my_merge, channels=my_channels))
    add_network(MyNet, stem=my_stem, stages=my_stages, head=my_head)

All of these are plain functions at the top of a module. For a view is copied together with its
network, and a function that captured a module would go on using the module of the original. These
functions run instead of the forward of the network and of its blocks: hooks on the network or on a
block are not called, hooks on the layers inside a block are.
"""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sat_optuna.backbones.contract import Backbone, BackboneError, Block, padded
from sat_optuna.backbones.unsuited import instead_of

__all__ = [
    "BlockEntry",
    "BlockSplit",
    "NetworkEntry",
    "OwnSlot",
    "add_block",
    "add_network",
    "add_plain_step",
    "block_entry",
    "carries_inside",
    "find_entry",
    "network_entry",
    "plain_type",
    "registered_blocks",
    "type_name",
]

torch.fx.wrap("padded")  # it looks at sizes, which have no value while torch.fx traces

# By package, the module that enters the package's networks; importing it needs the package.
_TABLES = {
    "timm": "sat_optuna.backbones.timm",
    "torchvision": "sat_optuna.backbones.torchvision",
}


@dataclass(frozen=True, slots=True)
class BlockSplit:
    """A residual block in two halves; attention may act on the features in between.

    Before anything is trained, `check.check_split` tests both halves on the network itself.

    Attributes:
        branch: called with (block, x), it returns the (N, C, H, W) features of the residual
            branch, after its last normalisation, and the shortcut.
        merge: called with (block, features, shortcut), it returns the block's output.
        channels: called with (block), it returns C.
        last: called with (block), it returns the BatchNorm2d or Conv2d whose output is the
            features, or None; constant gates are folded into that layer.
        after: called with (block), it returns the Conv2d that merge gives the features to and
            nothing else, or None; constant gates are folded into its input channels where there
            is no last layer.
    """

    branch: Callable[[Any, Tensor], tuple[Tensor, Any]]
    merge: Callable[[Any, Tensor, Any], Tensor]
    channels: Callable[[Any], int]
    last: Callable[[Any], nn.Module | None] | None = None
    after: Callable[[Any], nn.Module | None] | None = None


@dataclass(frozen=True, slots=True)
class OwnSlot:
    """The slot of a block that carries attention itself: the point where that attention acts.

    Attributes:
        split: how the block is split there. The features are the input of the block's own
            attention; merge runs the rest of the block, without that attention.
        name: the block's attribute that holds the attention; None or an Identity in it is none.
    """

    split: BlockSplit
    name: str

    def module_of(self, block: nn.Module) -> nn.Module | None:
        """Return the attention that the block carries itself; None if it carries none."""
        own = getattr(block, self.name, None)
        return None if own is None or isinstance(own, nn.Identity) else own


@dataclass(frozen=True, slots=True)
class BlockEntry:
    """A row of the table of blocks; see `add_block`."""

    split: BlockSplit
    has_shortcut: Callable[[Any], bool] | None = None
    own: OwnSlot | None = None


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """A row of the table of networks; see `add_network`."""

    stem: Callable[[Any, Tensor], Tensor]
    stages: Callable[[Any], Iterable[Iterable[nn.Module]]]
    head: Callable[[Any, Tensor], Tensor]


_BLOCKS: dict[type[nn.Module], BlockEntry] = {}
_NETWORKS: dict[type[nn.Module], NetworkEntry] = {}
_PLAIN_STEPS: set[type[nn.Module]] = {nn.Identity}


def add_block(
    block_type: type[nn.Module],
    split: BlockSplit,
    *,
    has_shortcut: Callable[[Any], bool] | None = None,
    own: OwnSlot | None = None,
) -> None:
    """Say how blocks of exactly this type are split.

    Args:
        block_type: type of the blocks; their forward is `merge(*branch(x))`.
        split: the two halves.
        has_shortcut: called with (block), it returns whether the block is residual. A block that
            is not is run as it is, without a slot. None means that all are residual.
        own: the slot of the attention that such a block may carry itself.

    Raises:
        BackboneError: the type is registered already.
    """
    _claim(block_type)
    _BLOCKS[block_type] = BlockEntry(split, has_shortcut, own)


def add_plain_step(module_type: type[nn.Module]) -> None:
    """Say that modules of exactly this type stand between blocks and have no slot.

    A second call with the same type changes nothing.

    Raises:
        BackboneError: the type is registered as a block.
    """
    if module_type not in _PLAIN_STEPS:
        _claim(module_type)
    _PLAIN_STEPS.add(module_type)


def add_network(
    model_type: type[nn.Module],
    *,
    stem: Callable[[Any, Tensor], Tensor],
    stages: Callable[[Any], Iterable[Iterable[nn.Module]]],
    head: Callable[[Any, Tensor], Tensor],
) -> None:
    """Say how networks of exactly this type are run block by block.

    Args:
        model_type: type of the networks; their forward is the stem, then the steps of all stages,
            then the head.
        stem: called with (model, images), it returns the first step's input.
        stages: called with (model), it returns the steps of each stage: blocks and plain steps.
        head: called with (model, the last step's output), it returns (N, classes) logits.

    Raises:
        BackboneError: the type is registered already.
    """
    if model_type in _NETWORKS:
        raise BackboneError(
            f"network type {type_name(model_type)} is registered already; register each type once"
        )
    _NETWORKS[model_type] = NetworkEntry(stem, stages, head)


def registered_blocks() -> tuple[type[nn.Module], ...]:
    """Return the block types in the table; those of a package come in when it is first used."""
    return tuple(_BLOCKS)


def plain_type(block: nn.Module) -> type[nn.Module]:
    """Return a block's type; of a block that carries attention inside, the type it had before."""
    plain: type[nn.Module] = getattr(type(block), "_plain_type", type(block))
    return plain


def carries_inside(block: nn.Module) -> bool:
    """Return whether a block carries attention inside, as those of a ticket's network do."""
    return plain_type(block) is not type(block)


def find_entry(block_type: type[nn.Module]) -> BlockEntry | None:
    """Return how blocks of a type are split; None where no table has the type.

    Raises:
        BackboneError: the type derives from `Block` and has a forward of its own.
    """
    _import_table(block_type)
    if issubclass(block_type, Block):
        _refuse_another_forward(block_type, Block)
        return _BLOCKS[Block]
    return _BLOCKS.get(block_type)


def block_entry(block: nn.Module, model: nn.Module) -> BlockEntry | None:
    """Return how a block of a network is split; None for a plain step.

    A block that carries attention inside is split as it was without.

    Raises:
        BackboneError: the block's type is in no table.
    """
    if type(block) in _PLAIN_STEPS:
        return None
    entry = find_entry(plain_type(block))
    if entry is None:
        raise BackboneError(
            f"network {type_name(type(model))} has a block of type {type_name(type(block))}, "
            "which is in no table; register it with sat_optuna.backbones.tables.add_block, or "
            "with add_plain_step where it shall have no attention"
        )
    return entry


def network_entry(model: nn.Module) -> NetworkEntry:
    """Return how a network is run block by block.

    Raises:
        BackboneError: the network's type is in no table.
    """
    if isinstance(model, Backbone):
        _refuse_another_forward(type(model), Backbone)
        return _NETWORKS[Backbone]
    _import_table(type(model))
    entry = _NETWORKS.get(type(model))
    if entry is None:
        name = type_name(type(model))
        if instead := instead_of(name):
            raise BackboneError(
                f"network type {name} is in no table{instead} so take that, or enter this one "
                "with sat_optuna.backbones.tables.add_network"
            )
        raise BackboneError(
            f"network type {name} is in no table; register it with "
            "sat_optuna.backbones.tables.add_network, or derive it from Backbone"
        )
    return entry


def _claim(module_type: type[nn.Module]) -> None:
    if module_type in _BLOCKS or module_type in _PLAIN_STEPS:
        raise BackboneError(
            f"block type {type_name(module_type)} is registered already; register each type once"
        )


def _import_table(kind: type) -> None:
    """Import what enters the types of a type's package."""
    table = _TABLES.get(kind.__module__.partition(".")[0])
    if table is not None:
        importlib.import_module(table)


def _refuse_another_forward(kind: type[nn.Module], contract: type[nn.Module]) -> None:
    """Make sure that a type has the forward of its contract, which the walk computes."""
    if kind.forward is not contract.forward:
        raise BackboneError(
            f"{type_name(kind)} has a forward of its own, which running it block by block "
            f"would ignore; drop it, or derive from nn.Module instead of {contract.__name__} and "
            "register the type"
        )


def type_name(kind: type) -> str:
    """Return a type's full name for messages."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _stem(model: Backbone, x: Tensor) -> Tensor:
    stemmed: Tensor = model.stem(padded(x, model.map_stride))
    return stemmed


def _stages(model: Backbone) -> tuple[tuple[Block, ...], ...]:
    return model.blocks


def _head(model: Backbone, x: Tensor) -> Tensor:
    logits: Tensor = model.head(x)
    return logits


def _branch(block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
    return block.branch(x)


def _merge(block: Block, features: Tensor, shortcut: Tensor) -> Tensor:
    return block.merge(features, shortcut)


def _channels(block: Block) -> int:
    return block.channels


def _last(block: Block) -> nn.Module | None:
    return block.last


# What derives from our own contract says itself how it is split.
add_block(Block, BlockSplit(_branch, _merge, _channels, _last))
add_network(Backbone, stem=_stem, stages=_stages, head=_head)
