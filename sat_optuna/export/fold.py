"""Dropped modules replaced by constants that cost nothing.

In a network with attention at all blocks, v_l(x) = M(F_l(x)) is the gate of block l for image x,
one number a channel, and c_l its mean over a set of images. Putting c_l in its place makes the
block's output a fixed multiple of its features, and a BatchNorm or convolution that yields them
takes the factor up:

    gamma' = c gamma,  beta' = c beta

so the module is gone and nothing is left to compute. The outputs differ by as much as the gates
vary; where a gate is the same for all images, not at all.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sat_optuna.attention import ATTENTION
from sat_optuna.attention.contract import State
from sat_optuna.attention.stage import StageAttention
from sat_optuna.backbones.view import BlockView
from sat_optuna.errors import SatOptunaError
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.supernet.materialise import TicketNetwork
from sat_optuna.supernet.supernet import walk

__all__ = ["FoldError", "FoldReport", "FoldedBlock", "fold_constant"]


class FoldError(SatOptunaError, ValueError):
    """A module that no constant can stand for, or a block that has no place for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedBlock:
    """A block whose module became a constant.

    Attributes:
        stage, block: where it is, both from 1.
        kind: what the module was.
        dispersion: largest distance of a gate from its mean, over channels and images.
    """

    stage: int
    block: int
    kind: str
    dispersion: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldReport:
    """What folding changed on the images that gave the means.

    An image's change is the largest difference of a logit over the largest magnitude of one.

    Attributes:
        images: their number.
        change_max: the largest change of an image.
        change_mean: the mean over the images.
        unchanged: share of images that are predicted as before, 0..1.
        blocks: what was folded, shallow to deep.
    """

    images: int
    change_max: float
    change_mean: float
    unchanged: float
    blocks: tuple[FoldedBlock, ...]


def fold_constant(
    network: TicketNetwork, keep: Scheme, batches: Sequence[Tensor]
) -> tuple[TicketNetwork, FoldReport]:
    """Replace the modules that a scheme drops by the means of their gates.

    Args:
        network: with attention at all blocks, or at least at those of `keep`; it is left as it is.
        keep: the scheme that remains.
        batches: images that the means are taken over, (n, C, H, W) each, on the network's device.

    Returns:
        The network of `keep`, with the constants in its layers, and what that changed.

    Raises:
        FoldError: `keep` asks for what the network has not, a dropped module is no gate a channel,
            a block has no layer that takes a factor, or there are no images.
    """
    dropped = _dropped(network, keep)
    if not sum(map(len, batches)):
        raise FoldError("no image given to take means over; give at least one")
    stages = _stages(network)
    watched = [_Watched(stage, blocks) for stage, blocks in zip(stages, dropped, strict=True)]
    with evaluating(network), torch.no_grad():
        before = torch.cat([walk(network.view, watched, network.scheme, x) for x in batches])
    kept = [s.pruned_to(choices) for s, choices in zip(stages, keep.by_stage(), strict=True)]
    folded = TicketNetwork(copy.deepcopy(network.view), kept, keep).train(network.training)
    for blocks, stage in zip(folded.view.blocks, watched, strict=True):
        for block, tally in stage.tallies.items():
            _scale(cast("_BatchNorm | nn.Conv2d", blocks[block].last), tally.mean)
    with evaluating(folded), torch.no_grad():
        after = torch.cat([folded(x) for x in batches])
    return folded, _report(watched, before, after)


class _Tally:
    """Mean, least and largest gate of each channel over all images seen."""

    def __init__(self) -> None:
        self._gates: list[Tensor] = []

    def add(self, gates: Tensor) -> None:
        """See some more images: (n, C)."""
        self._gates.append(gates.double())

    @property
    def mean(self) -> Tensor:
        """(C,) means."""
        return torch.cat(self._gates).mean(0)

    @property
    def dispersion(self) -> float:
        """Largest distance of a gate from its channel's mean."""
        return float((torch.cat(self._gates) - self.mean).abs().max())


class _Watched:
    """A stage's attention that notes the gates of some blocks as it is used."""

    def __init__(self, stage: StageAttention, blocks: Mapping[int, str]) -> None:
        self.kinds = blocks
        self.tallies = {block: _Tally() for block in blocks}
        self._stage = stage

    def module_for(
        self, choice: int, block: int, /
    ) -> Callable[[Tensor, State | None], tuple[Tensor, State | None]]:
        attend = self._stage.module_for(choice, block)
        if block not in self.tallies:
            return attend
        gate = _gate_of(self._stage, choice, block)

        def noting(features: Tensor, state: State | None) -> tuple[Tensor, State | None]:
            self.tallies[block].add(gate(features))
            return attend(features, state)

        return noting


def _gate_of(stage: StageAttention, choice: int, block: int) -> Callable[[Tensor], Tensor]:
    """Return what gives a block's gates, (N, C), for its features."""
    gate = cast("Any", stage.module_at(choice, block)).gate
    attend = stage.module_for(choice, block)
    # A shared module with statistics for each block is bound to this one.
    return partial(gate, **attend.keywords) if isinstance(attend, partial) else gate


def _stages(network: TicketNetwork) -> tuple[StageAttention, ...]:
    return tuple(cast("Iterable[StageAttention]", network.attention))


def _dropped(network: TicketNetwork, keep: Scheme) -> list[dict[int, str]]:
    """Return what to fold, for each stage: block to kind.

    Raises:
        FoldError: it cannot be folded.
    """
    had = network.scheme
    if keep.stages != had.stages or any(
        kept not in (0, choice) for kept, choice in zip(keep.choices, had.choices, strict=True)
    ):
        raise FoldError(
            f"scheme {keep} keeps what the network of {had} has not; give one that drops modules "
            "of it and does nothing else"
        )
    dropped: list[dict[int, str]] = []
    places = zip(
        _stages(network), network.view.blocks, had.by_stage(), keep.by_stage(), strict=True
    )
    for number, (stage, blocks, choices, kept) in enumerate(places, start=1):
        dropped.append({})
        for index, (choice, left) in enumerate(zip(choices, kept, strict=True)):
            if choice and not left:
                place = f"stage {number}, block {index + 1}"
                kind = stage.kinds[choice - 1]
                _check_foldable(stage.module_at(choice, index), kind, blocks[index], place)
                dropped[-1][index] = kind
    return dropped


def _check_foldable(module: nn.Module, kind: str, block: BlockView, place: str) -> None:
    if not getattr(module, "gated", False):
        own = [name for name in ATTENTION.names() if ":" not in name]  # not timm's
        gated = [name for name in own if ATTENTION.get(name).gated]
        raise FoldError(
            f"{kind} at {place} is no gate a channel, which alone folds into a constant (as "
            f"{', '.join(gated)} do); keep it there, or choose another module"
        )
    last = block.last
    if not isinstance(last, _BatchNorm | nn.Conv2d) or last.weight is None:
        raise FoldError(
            f"{type(block.module).__name__} at {place} ends in no convolution or BatchNorm with "
            "weights that a constant could go into; keep the module there"
        )


def _scale(layer: _BatchNorm | nn.Conv2d, factor: Tensor) -> None:
    """Multiply a layer's output channels by (C,) factors."""
    with torch.no_grad():
        for value in (layer.weight, layer.bias):
            if value is not None:
                shape = (-1,) + (1,) * (value.dim() - 1)
                value.copy_(value.double() * factor.reshape(shape))


def _report(watched: Sequence[_Watched], before: Tensor, after: Tensor) -> FoldReport:
    tiny = torch.finfo(torch.float64).tiny
    scale = before.double().abs().amax(1).clamp_min(tiny)
    change = (after.double() - before.double()).abs().amax(1) / scale
    return FoldReport(
        images=len(before),
        change_max=float(change.max()),
        change_mean=float(change.mean()),
        unchanged=float((before.argmax(1) == after.argmax(1)).double().mean()),
        blocks=tuple(
            FoldedBlock(
                stage=number, block=block + 1, kind=stage.kinds[block], dispersion=tally.dispersion
            )
            for number, stage in enumerate(watched, start=1)
            for block, tally in stage.tallies.items()
        ),
    )
