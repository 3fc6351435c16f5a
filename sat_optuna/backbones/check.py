"""Whether walking a network block by block is what its own forward does.

Networks, blocks and their entries in the tables may be anybody's; what is wrong with them is found
on one image and said in a sentence before anything is trained.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.tables import type_name
from sat_optuna.backbones.view import BlockView, NetworkView, take_own
from sat_optuna.errors import errors_as
from sat_optuna.seeds import generator_for

__all__ = ["check_split", "described", "sized"]


def check_split(
    view: NetworkView, shape: tuple[int, int, int], *, name: str
) -> tuple[tuple[Tensor, ...], ...]:
    """Make sure that walking a network block by block is what its own forward does.

    A copy in eval mode is run on one random image, its weights stirred where all are equal (a
    last BatchNorm that starts at zero would hide its branch): the whole network, and each block.
    In a view made with `own=True` it is the network without the attention of its own. Values are
    compared to the bit on the CPU; on "meta" there are none, and shapes and what depends on what
    are looked at.

    Args:
        view: of the network, which stays as it is.
        shape: (C, H, W) of the images.
        name: of the network, for messages.

    Returns:
        The features that each block's slot is given, a tuple a stage.

    Raises:
        BackboneError: the images do not go through; or what a block's branch and merge, or the
            network's stem, stages and head do is not what they have to.
    """
    network = f"network {name}"
    with errors_as(BackboneError, f"{network} cannot be copied", "let copy.deepcopy copy it"):
        copied = copy.deepcopy(view)
    take_own(copied)
    model = copied.model.eval()
    with torch.no_grad():
        _stir(model)
        image = _image(model, shape)
        with errors_as(
            BackboneError,
            f"images of {sized(shape)} do not go through {name}",
            "give larger ones, or with other channels",
        ):
            wanted = model(image.clone())
        with errors_as(
            BackboneError, f"{network} has a stem that fails", "correct what add_network was given"
        ):
            x = copied.stem(image.clone())
        slots: list[tuple[Tensor, ...]] = []
        for blocks in copied.blocks:
            maps: list[Tensor] = []
            for block in blocks:
                features, x = _run_block(block, x, network)
                maps.append(features)
            slots.append(tuple(maps))
        with errors_as(
            BackboneError, f"{network} has a head that fails", "correct what add_network was given"
        ):
            logits = copied.head(x)
    if not _same(logits, wanted):
        raise BackboneError(
            f"{network} gives other logits when its stem, stages and head are run one after the "
            "other than its own forward gives; correct what add_network was given for it"
        )
    return tuple(slots)


def _run_block(block: BlockView, x: Tensor, network: str) -> tuple[Tensor, Tensor]:
    """Return a block's features and its output.

    Raises:
        BackboneError: its split is wrong.
    """
    kind = f"{network} has a block of type {type_name(type(block.module))} whose"
    remedy = "correct the branch and merge of that type"
    with errors_as(BackboneError, f"{kind} split fails", remedy):
        here = x.clone()
        given: Any = block.branch(here)
        if fault := _pair_fault(block, given, here):
            raise BackboneError(f"{kind} {fault}; {remedy}")
        features, shortcut = given
        kept: Tensor = features.clone()
        merged: Any = block.merge(features, shortcut)
        own = x.clone()
        for step in block.before:
            own = step(own)
        if not _same(merged, block.module(own)):
            raise BackboneError(
                f"{kind} merge makes something else of its branch than the block's own forward; "
                f"{remedy}"
            )
        if fault := _graph_fault(block, x):
            raise BackboneError(f"{kind} {fault}; {remedy}")
    return kept, cast("Tensor", merged)


def _pair_fault(block: BlockView, given: Any, x: Tensor) -> str:
    """Return what is wrong with the form of what a branch returns, or the empty text."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        return f"branch returns {described(given)} instead of features and shortcut"
    features = given[0]
    if not isinstance(features, Tensor) or features.ndim != 4:
        return f"branch returns {described(features)} as features instead of (N, C, H, W)"
    if features is x:
        return "branch returns its very input as features: attention would act on the shortcut"
    if features.shape[:2] != (x.shape[0], block.channels):
        return (
            f"branch returns features of {sized(features.shape)} where its channels are "
            f"{block.channels}"
        )
    return ""


def _graph_fault(block: BlockView, x: Tensor) -> str:
    """Return what is wrong with where attention would act, or the empty text.

    It is read off autograd's graph, which tells what depends on what, on "meta" too.
    """
    with torch.enable_grad():
        weights = [p for p in block.module.parameters() if p.is_floating_point()]
        for weight in weights:
            weight.requires_grad_()
        start = x.detach().clone().requires_grad_()
        features, shortcut = block.branch(start.clone())
        inner, outer = _leaves(features), _leaves(shortcut)
        alone = block.merge(torch.zeros_like(features), shortcut)
        slot = features.detach().clone().requires_grad_()
        merged = block.merge(slot.clone(), block.branch(start.clone())[1])
    before = [p.numel() for p in weights if id(p) in inner]
    beside = [p.numel() for p in weights if id(p) in outer]
    if len(before) < len(beside) and sum(before) < sum(beside):
        return (
            "shortcut comes from more of its weights than its features: attention would act on "
            "the shortcut"
        )
    if id(slot) not in _leaves(merged):
        return "merge does not use its features: attention would have no effect"
    if block.own is None and id(start) not in _leaves(alone):
        return "merge does not add the shortcut: attention would act on the sum"
    return ""


def _leaves(value: Any) -> set[int]:
    """Return the ids of the tensors that a value was computed from."""
    found: set[int] = set()
    seen: set[Any] = set()
    todo: list[Any] = []
    for tensor in _tensors(value):
        if tensor.grad_fn is not None:
            todo.append(tensor.grad_fn)
        elif tensor.requires_grad:
            found.add(id(tensor))
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if (variable := getattr(node, "variable", None)) is not None:
            found.add(id(variable))
        todo += [parent for parent, _ in node.next_functions if parent is not None]
    return found


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | tuple | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _stir(model: nn.Module) -> None:
    """Move the parameters whose values are all equal: zeros and ones hide mistakes."""
    chance = generator_for("check_split")
    for weight in model.parameters():
        if weight.is_meta or not weight.numel() or not weight.is_floating_point():
            continue
        if bool((weight == weight.flatten()[0]).all()):
            fan_in = weight.numel() / weight.shape[0] if weight.ndim else 1
            noise = torch.rand(weight.shape, generator=chance, device="cpu")
            weight.add_((0.4 * noise / fan_in**0.5).to(weight))


def _image(model: nn.Module, shape: Iterable[int]) -> Tensor:
    image = torch.randn(1, *shape, generator=generator_for("image"), device="cpu")
    like = next((p for p in model.parameters() if p.is_floating_point()), image)
    return image.to(like)


def _same(ours: Any, theirs: Any) -> bool:
    """Return whether two results are the same; other devices than the CPU may choose kernels."""
    if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor):
        return False
    if ours.shape != theirs.shape or ours.is_meta:
        return ours.shape == theirs.shape
    near = 0.0 if ours.device.type == "cpu" else 0.01
    scale = near * float(theirs.abs().max()) if near and theirs.numel() else 0.0
    return torch.allclose(ours, theirs, rtol=near, atol=scale, equal_nan=True)


def described(value: Any) -> str:
    """Return what a value is, for messages."""
    if isinstance(value, Tensor):
        return f"a tensor of {sized(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def sized(shape: Iterable[int]) -> str:
    """Return a shape as `3x32x32`."""
    return "x".join(map(str, shape))
