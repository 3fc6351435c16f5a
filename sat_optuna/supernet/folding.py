"""Attention that became a constant, folded into the layers of its block.

A module that multiplies channel c by a number v_c(x) is dropped by multiplying it by a constant
instead. The layer before it can contain the factor; past an activation, the convolution after it:

    BatchNorm2d, Conv2d before:  weight'[c] = v_c weight[c],  bias'[c] = v_c bias[c]
    Conv2d after:                weight'[:, c] = v_c weight[:, c]

So nothing is left to compute, and the network computes what it computed with the factor.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sat_optuna.attention import ATTENTION, OWN
from sat_optuna.attention.stage import StageAttention
from sat_optuna.backbones.tables import plain_type
from sat_optuna.backbones.view import BlockView
from sat_optuna.errors import SatOptunaError
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.supernet import Supernet

__all__ = [
    "FoldError",
    "check_foldable",
    "check_trained",
    "fold_factor",
    "folded_network",
    "gate_at",
    "unfoldable",
]


class FoldError(SatOptunaError, ValueError):
    """A module that no constant can replace, or a block without a layer to fold one into."""


def gate_at(stage: StageAttention, choice: int, block: int) -> Callable[[Tensor], Tensor]:
    """Return what computes the (N, C) gates of a block from its (N, C, H, W) features.

    Args:
        stage: whose module at that block is gated.
        choice: the kind, 1 for the first.
        block: index within the stage.
    """
    gate = cast("Any", stage.module_at(choice, block)).gate
    attend = stage.module_for(choice, block)
    # For a shared module with statistics for each block, `attend` holds the name of this block.
    return partial(gate, **attend.keywords) if isinstance(attend, partial) else gate


def unfoldable(module: nn.Module, kind: str, block: BlockView, where: str) -> str:
    """Return why no constant can replace a module, a sentence; "" if one can.

    Args:
        module: the attention of the block.
        kind: of the module.
        block: its block.
        where: names the block.
    """
    if not getattr(module, "gated", False):
        gated = [name for name in ATTENTION.names() if ATTENTION.get(name).gated]
        name = f"{kind} ({type(module.get_submodule('module')).__name__})" if kind == OWN else kind
        return (
            f"{name} at {where} is no gate for each channel, and only such gates can be folded "
            f"into a constant ({', '.join(gated)}, and {OWN} where a network brings such a gate); "
            "keep it there, or choose another module"
        )
    if _layer_before(block) is None and _layer_after(block) is None:
        return (
            f"{plain_type(block.module).__name__} at {where} ends in no convolution or BatchNorm "
            "with weights that a constant could go into; keep the module there"
        )
    return ""


def check_foldable(net: Supernet) -> None:
    """Make sure that each module of a supernet can become a constant.

    Raises:
        FoldError: there are several kinds, or a module or a block is not fit.
    """
    if len(net.specs) > 1:
        kinds = ", ".join(spec.kind for spec in net.specs)
        raise FoldError(
            f"{len(net.specs)} kinds of attention given ({kinds}), and folding drops modules of a "
            "network that was trained with one kind in all its blocks; give that one"
        )
    kind = net.specs[0].kind
    rows = zip(net.stage_attention, net.view.blocks, strict=True)
    for number, (stage, blocks) in enumerate(rows, start=1):
        for index, block in enumerate(blocks):
            where = f"stage {number}, block {index + 1}"
            if fault := unfoldable(stage.module_at(1, index), kind, block, where):
                raise FoldError(fault)


def check_trained(net: Supernet) -> None:
    """Make sure that a network is not as it was drawn, as far as its BatchNorms tell.

    Raises:
        FoldError: all running statistics are those that a BatchNorm begins with.
    """
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if norms and all(
        bool((norm.get_buffer("running_mean") == 0).all())
        and bool((norm.get_buffer("running_var") == 1).all())
        for norm in norms
    ):
        raise FoldError(
            f"this {net.backbone_name} was never trained (its BatchNorms have the statistics they "
            "begin with), and what an untrained module does can be folded, but tells nothing; "
            "train it with attention in all blocks, by pretrain(..., connect=1.0), or load weights"
        )


def folded_network(
    net: Supernet, scheme: Scheme, constants: Mapping[tuple[int, int], Tensor]
) -> nn.Module:
    """Return the network of a scheme with constants in place of the modules that it drops.

    Args:
        net: gives the weights, which are copied; its modules can be folded.
        scheme: which modules stay.
        constants: (C,) factors, by stage and block (from 0) of the modules that are dropped.
    """
    scaled = copy.deepcopy(net)
    for (stage, block), factor in constants.items():
        fold_factor(scaled.view.blocks[stage][block], factor)
    return materialise(scaled, scheme)


def fold_factor(block: BlockView, factor: Tensor) -> None:
    """Multiply the channels of a block's features by (C,) factors, in the layer before or after.

    Args:
        block: one for which `unfoldable` finds no fault; its layer is changed.
        factor: of each channel.
    """
    before, after = _layer_before(block), _layer_after(block)
    with torch.no_grad():
        if before is not None:
            for value in (before.weight, before.bias):
                if value is not None:
                    shape = (-1,) + (1,) * (value.dim() - 1)
                    value.copy_(value.double() * factor.double().reshape(shape))
        elif after is not None:
            weight = after.weight  # (C_out, C / groups, K, K); each group sees its own channels
            grouped = weight.double().reshape(after.groups, -1, *weight.shape[1:])
            inputs = factor.double().reshape(after.groups, 1, -1, 1, 1)
            weight.copy_((grouped * inputs).flatten(0, 1))


def _layer_before(block: BlockView) -> _BatchNorm | nn.Conv2d | None:
    layer = block.last
    fits = isinstance(layer, _BatchNorm | nn.Conv2d) and layer.weight is not None
    return cast("_BatchNorm | nn.Conv2d", layer) if fits else None


def _layer_after(block: BlockView) -> nn.Conv2d | None:
    layer = block.after
    return layer if isinstance(layer, nn.Conv2d) else None
