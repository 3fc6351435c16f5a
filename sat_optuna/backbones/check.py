"""Does running a network block by block compute what its own forward computes?

A network, its blocks and their entries in the tables may come from anybody. Before anything is
trained, one image shows what is wrong with them, and the error says it in one sentence.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.tables import type_name
from sat_optuna.backbones.view import BlockView, NetworkView, take_own_attention
from sat_optuna.errors import errors_as
from sat_optuna.seeds import generator_for

__all__ = ["check_split", "shape_text", "value_text"]


def check_split(
    view: NetworkView, shape: tuple[int, int, int], *, name: str
) -> tuple[tuple[Tensor, ...], ...]:
    """Make sure that running a network block by block computes what its own forward computes.

    A copy in eval mode runs one random image, once as a whole and once block by block. Parameters
    whose values are all equal are changed in the copy first: a last BatchNorm that starts at zero
    would hide its branch. A view made with `own=True` is tested without the attention that the
    blocks carry themselves. On the CPU values are compared to the bit. On "meta" there are no
    values; then only shapes are compared, and which tensors depend on which.

    Args:
        view: of the network, which is not changed.
        shape: (C, H, W) of the images.
        name: of the network, for messages.

    Returns:
        The features at each block's slot, (1, C, H, W), one tuple for each stage.

    Raises:
        BackboneError: the images do not go through the network, or a function in the tables
            (branch, merge, stem, stages, head) does not do what it should.
    """
    network = f"network {name}"
    with errors_as(BackboneError, f"{network} cannot be copied", "let copy.deepcopy copy it"):
        copied = copy.deepcopy(view)
    take_own_attention(copied)
    model = copied.model.eval()
    with torch.no_grad():
        _stir(model)
        image = _image(model, shape)
        with errors_as(
            BackboneError,
            f"images of {shape_text(shape)} do not go through {name}",
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
            logits = copied.head(x, shape[1:])
    if not _same(logits, wanted):
        raise BackboneError(
            f"{network} gives other logits when its stem, stages and head are run one after the "
            "other than its own forward gives; correct what add_network was given for it"
        )
    return tuple(slots)


def _run_block(block: BlockView, x: Tensor, network: str) -> tuple[Tensor, Tensor]:
    """Return a block's features and its output.

    Raises:
        BackboneError: the block's split is wrong.
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
    """Return what is wrong with the type or shape of a branch's result, or the empty text."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        return f"branch returns {value_text(given)} instead of features and shortcut"
    features = given[0]
    if not isinstance(features, Tensor) or features.ndim != 4:
        return f"branch returns {value_text(features)} as features instead of (N, C, H, W)"
    if features is x:
        return "branch returns its very input as features: attention would act on the shortcut"
    if features.shape[:2] != (x.shape[0], block.channels):
        return (
            f"branch returns features of {shape_text(features.shape)} where its channels are "
            f"{block.channels}"
        )
    return ""


def _graph_fault(block: BlockView, x: Tensor) -> str:
    """Return what is wrong with the point where attention would act, or the empty text.

    Autograd's graph shows which tensors depend on which, also on "meta".
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
    """Return the ids of the leaf tensors that a value was computed from."""
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
    """Add noise to parameters whose values are all equal: zeros and ones hide mistakes."""
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
    """Return whether two results are the same; but for the CPU's, up to 1 % of the largest value.

    Other devices may choose another kernel for the same computation.
    """
    if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor):
        return False
    if ours.shape != theirs.shape or ours.is_meta:
        return ours.shape == theirs.shape
    near = 0.0 if ours.device.type == "cpu" else 0.01
    scale = near * float(theirs.abs().max()) if near and theirs.numel() else 0.0
    return torch.allclose(ours, theirs, rtol=near, atol=scale, equal_nan=True)


def value_text(value: Any) -> str:
    """Return what a value is, for messages.

    >>> value_text(torch.zeros(2, 3)), value_text([1, 2])
    ('a tensor of 2x3', 'a list of 2')
    """
    if isinstance(value, Tensor):
        return f"a tensor of {shape_text(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def shape_text(shape: Iterable[int]) -> str:
    """Return a shape as `3x32x32`."""
    return "x".join(map(str, shape))
