"""Attention inside the blocks of a network, which stays of its own type.

A block that carries attention is an instance of an extended class of its own class, as
torch.nn.utils.parametrize makes them. Its forward is merge(attend(branch(x))), its attention is a
submodule of it, and all else is as it was: the network's type and forward, the names of its
weights, hooks. So what works with the network works with the ticket: feature extractors, torch.fx,
torch.export, torch.compile, detection heads that look for `layer1` to `layer4`.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from sat_optuna.attention import OWN
from sat_optuna.attention.contract import Attention, AttentionError
from sat_optuna.attention.own import OwnAttention
from sat_optuna.attention.stage import SHARED, StageAttention
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.tables import (
    OwnSlot,
    carries_inside,
    find_entry,
    plain_type,
    type_name,
)
from sat_optuna.backbones.view import BlockView, NetworkView, view_of
from sat_optuna.scheme import Scheme

__all__ = ["Carried", "apart_inside", "carried_by", "extended", "free_name", "place", "put_inside"]

_RECORD = "_sat_carried"  # attribute of a network: a `Carried`
_BLOCK = "_sat_block"  # attribute of a block: the name by which shared attention knows it
_NAMES = ("attention", "added_attention")  # the second where a block has its own `attention`


@dataclass(frozen=True, slots=True)
class Carried:
    """What `put_inside` notes on a network.

    Attributes:
        scheme: which block carries what.
        kinds: the study's kinds, in the order of a scheme's choices.
        blocks: the path of each block with a slot in the network, one tuple for each stage.
        own: whether the slots are where the blocks carry attention themselves.
    """

    scheme: Scheme
    kinds: tuple[str, ...]
    blocks: tuple[tuple[str, ...], ...]
    own: bool


def carried_by(net: nn.Module) -> Carried | None:
    """Return what `put_inside` noted on a network; None where it has noted nothing."""
    record: Carried | None = getattr(net, _RECORD, None)
    return record


@functools.cache
def extended(block_type: type[nn.Module], *, own: bool, name: str = _NAMES[0]) -> type[nn.Module]:
    """Return the class of blocks of a type that carry attention; the same one at each call.

    Args:
        block_type: in the table of blocks.
        own: whether attention acts where such blocks carry attention themselves.
        name: of the attribute that holds the attention.

    Raises:
        BackboneError: the type is in no table, or its blocks carry no attention themselves.
    """
    entry = find_entry(block_type)
    slot = entry.own if entry is not None and own else entry
    if slot is None:
        raise BackboneError(
            f"block type {type_name(block_type)} is in no table; register it with "
            "sat_optuna.backbones.tables.add_block before the network is loaded"
        )
    branch, merge = slot.split.branch, slot.split.merge

    class Extended(block_type):  # type: ignore[misc,valid-type]
        _plain_type: ClassVar[type[nn.Module]] = block_type
        _attention_name: ClassVar[str] = name

        def forward(self, x: Tensor) -> Tensor:
            features, shortcut = branch(self, x)
            known = () if self._sat_block is None else (self._sat_block,)
            features, state = getattr(self, name)(features, None, *known)
            if state is not None:
                raise AttentionError(_stateful(getattr(self, name)))
            return merge(self, features, shortcut)

        def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
            return _blank, (block_type, own, name), self.__getstate__()

    Extended.__name__ = f"{block_type.__name__}WithAttention"
    Extended.__qualname__ = Extended.__name__
    Extended.__doc__ = f"A {block_type.__name__} that carries attention."
    return Extended


def _blank(block_type: type[nn.Module], own: bool, name: str) -> nn.Module:
    """Return a block without any attribute; pickle and deepcopy fill it."""
    kind = extended(cast("Any", block_type), own=own, name=name)
    blank: nn.Module = kind.__new__(kind)
    return blank


def place(
    block: BlockView, module: Attention | None, *, registered: bool = True, name: str | None = None
) -> None:
    """Give a block attention, in the place of any that `place` has given it before.

    Args:
        block: the block.
        module: its attention; None for none.
        registered: False where the module is a submodule of another block already; this block
            then holds a plain reference to it.
        name: of this block, for a shared module with statistics for each block.
    """
    inner = block.module
    _strip(block)
    if module is None:
        return
    if isinstance(module, OwnAttention):
        setattr(inner, cast("OwnSlot", block.own).name, module.module)
        return
    attribute = free_name(inner)
    inner.__class__ = extended(cast("Any", type(inner)), own=block.own is not None, name=attribute)
    vars(inner)[_BLOCK] = name
    if registered:
        inner.add_module(attribute, module)
    else:
        vars(inner)[attribute] = module


def free_name(block: nn.Module) -> str:
    """Return the attribute of a block that shall hold its attention."""
    return next(name for name in _NAMES if not hasattr(block, name))


def _strip(block: BlockView) -> None:
    """Take a block's attention away; the block is of its plain type again."""
    inner = block.module
    if block.own is not None:
        setattr(inner, block.own.name, nn.Identity())
    if carries_inside(inner):
        name = _attribute_of(inner)
        inner._modules.pop(name, None)
        vars(inner).pop(name, None)
        vars(inner).pop(_BLOCK)
        inner.__class__ = plain_type(inner)


def _attribute_of(block: nn.Module) -> str:
    """Return the attribute that holds the attention of a block which carries some inside."""
    name: str = cast("Any", type(block))._attention_name
    return name


def _attention_of(block: BlockView, kind: str) -> tuple[nn.Module, str | None]:
    """Return a block's attention, and the name by which that knows the block's statistics."""
    if kind == OWN:
        module = cast("OwnSlot", block.own).module_of(block.module)
        return OwnAttention(cast("nn.Module", module)), None
    attention: nn.Module = getattr(block.module, _attribute_of(block.module))
    name: str | None = vars(block.module)[_BLOCK]
    return attention, name


def _stateful(module: nn.Module) -> str:
    return (
        f"attention {type(module).__name__} returns a state, and its class says recurrent = "
        "False; set recurrent = True there"
    )


def put_inside(
    net: nn.Module,
    blocks: Sequence[Sequence[BlockView]],
    stages: Sequence[StageAttention],
    scheme: Scheme,
) -> nn.Module:
    """Give the blocks of a network the attention of a scheme, and note the scheme on it.

    A module that blocks share is a submodule of the first of them.

    Args:
        net: the network, which is changed.
        blocks: its blocks with a slot, by stage.
        stages: the modules of each stage; none that the scheme connects is recurrent.
        scheme: which block carries what.

    Returns:
        The network itself.
    """
    rows = zip(blocks, stages, scheme.by_stage(), strict=True)
    held: set[nn.Module] = set()
    for members, stage, choices in rows:
        for index, (block, choice) in enumerate(zip(members, choices, strict=True)):
            module = stage.module_at(choice, index) if choice else None
            name = stage.statistics_name(choice, index) if choice else None
            place(block, module, registered=module not in held, name=name)
            if module is not None:
                held.add(module)
    paths = {module: path for path, module in net.named_modules()}
    named = tuple(tuple(paths[block.module] for block in members) for members in blocks)
    own = any(block.own is not None for members in blocks for block in members)
    vars(net)[_RECORD] = Carried(scheme, stages[0].kinds, named, own)
    return net


def apart_inside(net: nn.Module, carried: Carried) -> tuple[NetworkView, list[StageAttention]]:
    """Return a network without its attention, block by block, and the attention of each stage.

    Nothing is copied: both hold the network's own modules.

    Args:
        net: made by `put_inside`.
        carried: what is noted on it.
    """
    blocks = {net.get_submodule(path) for paths in carried.blocks for path in paths}
    view = view_of(net, own=carried.own, slots=blocks)
    stages = []
    for members, choices in zip(view.blocks, carried.scheme.by_stage(), strict=True):
        modules: dict[str, dict[str, nn.Module]] = {}
        for index, (block, choice) in enumerate(zip(members, choices, strict=True)):
            if choice:
                module, name = _attention_of(block, carried.kinds[choice - 1])
                slots = modules.setdefault(carried.kinds[choice - 1], {})
                if name is not None or module in slots.values():
                    slots.clear()
                    slots[SHARED] = module
                else:
                    slots[str(index)] = module
        stages.append(StageAttention(carried.kinds, modules))
    return view, stages
