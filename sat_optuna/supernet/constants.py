"""Starting the factors of a constant control where the fresh modules themselves rescale to.

A fresh gate does two things: it looks at the features, and it rescales them (a fresh sigmoid
halves them). A control that looks at nothing shall begin with the same scale: with the factor f
that brings f F nearest to M(F), which is <M(F), F> / <F, F> over the features F of a block.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from sat_optuna.attention.constant import Constant
from sat_optuna.attention.contract import State
from sat_optuna.attention.stage import Attend, StageAttention
from sat_optuna.seeds import generator_for
from sat_optuna.supernet.batchnorm import averaged
from sat_optuna.supernet.materialise import apart, scheme_of
from sat_optuna.supernet.supernet import walk

__all__ = ["start_constants"]


def start_constants(net: nn.Module, twin: nn.Module, batches: Sequence[Tensor]) -> None:
    """Start the factors of a constant control where the fresh modules themselves rescale to.

    All channels of a block start with the same factor, <M(F), F> / <F, F> over the images. Where a
    branch adds nothing at first (F is 0), F is normal noise instead. What is added starts at 0.

    Args:
        net: of the control; its factors are set.
        twin: the fresh network of the same seed with the modules themselves. BatchNorm takes the
            statistics of each batch; the twin is left as it was.
        batches: (n, C, H, W) images, on the device of both.
    """
    view, stages = apart(twin)
    recorded = [_Rescaling(stage) for stage in stages]
    scheme = scheme_of(twin)
    with averaged(
        twin, lambda x: walk(view, recorded, scheme, x), batches, what="starting the constants"
    ):
        pass  # the passes were made on entering
    rows = zip(apart(net)[1], recorded, scheme_of(net).by_stage(), strict=True)
    for stage, found, choices in rows:
        for block, choice in enumerate(choices):
            module = stage.module_at(choice, block) if choice else None
            if isinstance(module, Constant):
                nn.init.constant_(module.factor, found.factor(block))


class _Rescaling:
    """The attention of a stage; it adds up how each block's module rescales while it is used."""

    def __init__(self, stage: StageAttention) -> None:
        self._stage = stage
        self._sums: dict[int, Tensor] = {}  # by block: <M(F), F> and <F, F>

    def module_for(self, choice: int, block: int, /) -> Attend:
        attend = self._stage.module_for(choice, block)

        def adding(features: Tensor, state: State | None) -> tuple[Tensor, State | None]:
            attended, after = attend(features, state)
            given, seen = attended, features
            if not seen.any():
                chance = generator_for("constants", block)
                seen = torch.randn(features.shape, generator=chance).to(features)
                given, _ = attend(seen.clone(), state)
            sums = torch.stack([_inner(given, seen), _inner(seen, seen)])
            self._sums[block] = self._sums.get(block, torch.zeros_like(sums)) + sums
            return attended, after

        return adding

    def factor(self, block: int) -> float:
        """Return <M(F), F> / <F, F> of a block."""
        both, own = cast("list[float]", self._sums[block].tolist())
        return both / own


def _inner(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(dtype=torch.float64)
