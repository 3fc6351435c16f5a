"""Schemes of a trained network: a module stays, or a constant is in its place.

    x(prefix + 1) = merge(v(F) F, shortcut)      v: the module's gate, one number for each channel
    x(prefix + 0) = merge(c F, shortcut)         c: the mean of v over images, given the prefix

The trained BatchNorm statistics stay. The tree goes through the calibration set chunk by chunk, so
while a chunk is calibrated on, c is the mean over it; in scoring c is the mean of these means.
"""

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import torch
from torch import Tensor

from sat_optuna.attention.contract import full_precision
from sat_optuna.errors import DataError
from sat_optuna.evaluate.parts import OBJECT_BYTES, Choices, Part, Parts, States, survey
from sat_optuna.evaluate.tree import walk
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.supernet.folding import check_foldable, gate_at
from sat_optuna.supernet.supernet import Supernet

__all__ = ["PrefixConstants", "scheme_constants"]


class PrefixConstants:
    """The mean gates of a dropped module for each prefix that ends with it.

    Args:
        parts: of a supernet whose modules can be folded.
    """

    way = "folded"
    needs_leaves = True  # the last block's constant comes after its branch

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._gates = tuple(
            gate_at(stage, 1, block)
            for stage, count in zip(parts.net.stage_attention, parts.net.stages, strict=True)
            for block in range(count)
        )
        self._means: dict[Choices, Tensor] = {}
        self._chunks: dict[Choices, int] = {}
        self._learning = False

    @classmethod
    def of(cls, parts: Parts, x: Tensor, calibration: Sequence[Tensor]) -> Self:
        """Make sure that the modules of a supernet can be folded, on a calibration set.

        Args:
            parts: of the supernet.
            x: (N, C, H, W) images to try it on; two will do.
            calibration: (n, C, H, W) each.

        Raises:
            DataError: there is no calibration image, or a chunk has none.
            FoldError: a module is no gate for each channel, or its block cannot hold a constant.
            BackboneError: see `survey`.
        """
        if not calibration or not all(map(len, calibration)):
            raise DataError(
                "no calibration image given to take the gates' means over, or a chunk without "
                "any; give at least one a chunk"
            )
        check_foldable(parts.net)
        survey(parts, x, calibrated=False)
        return cls(parts)

    @property
    def size(self) -> int:
        """Bytes of the constants of one scheme at most."""
        like = self._fresh(0)
        widths = [block.channels for block in self._parts.blocks]
        return sum(OBJECT_BYTES + like.element_size() * width for width in widths)

    @contextlib.contextmanager
    def prepared(self, schemes: Iterable[Choices]) -> Iterator[None]:
        """Make room for the constants of some schemes; on leaving they are gone."""
        for choices in schemes:
            for depth, choice in enumerate(choices):
                if not choice:
                    self._means.setdefault(choices[: depth + 1], self._fresh(depth))
        self._chunks = dict.fromkeys(self._means, 0)
        try:
            yield
        finally:
            self._means.clear()

    def train(self, *, mode: bool) -> None:
        """Let constants be learnt from what comes through (True) or be used (False)."""
        self._learning = mode

    def install(self, part: Part, prefix: Choices) -> None:
        """Change nothing: BatchNorm keeps its trained statistics."""

    def attended(self, prefix: Choices, features: Tensor, states: States) -> tuple[Tensor, States]:
        """Return what the last choice of a prefix makes of its block's features, and the states.

        Args:
            prefix: the choices up to this block, its own the last.
            features: (N, C, H, W).
            states: of recurrent attention; there is none.
        """
        block = len(prefix) - 1
        if prefix[-1]:
            return self._parts.attend(block, prefix[-1], features, states)
        constant = self._means[prefix]
        if self._learning:
            mean = full_precision(self._gates[block](features)).mean(0)
            self._chunks[prefix] += 1
            constant += (mean - constant) / self._chunks[prefix]
            constant = mean
        return features * constant.to(features.dtype)[:, None, None], states

    def held(self, choices: Choices) -> dict[int, Tensor]:
        """Return the (C,) constants of a scheme, by the index of the block."""
        dropped = [block for block, choice in enumerate(choices) if not choice]
        return {block: self._means[choices[: block + 1]] for block in dropped}

    def _fresh(self, block: int) -> Tensor:
        weight = next(self._parts.net.parameters())
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return torch.zeros(self._parts.blocks[block].channels, dtype=dtype, device=weight.device)


def scheme_constants(
    net: Supernet, scheme: Scheme, calibration: Sequence[Tensor]
) -> dict[tuple[int, int], Tensor]:
    """Return the constants that a scheme is scored with, to the bit.

    Args:
        net: the trained network, which is left as it was.
        scheme: which modules stay.
        calibration: (n, C, H, W) each; the chunks are part of the result.

    Returns:
        (C,) factors, by stage and block (from 0) of the modules that the scheme drops.

    Raises:
        SchemeError: the scheme does not fit the network.
        DataError, FoldError, BackboneError: see `PrefixConstants.of`.
    """
    net.check(scheme)
    parts = Parts(net)
    tried = calibration[0][:2] if calibration else torch.empty(0)
    constants = PrefixConstants.of(parts, tried, calibration)
    places = [(stage, block) for stage, size in enumerate(net.stages) for block in range(size)]
    choices = scheme.choices
    with evaluating(net), torch.inference_mode(), constants.prepared([choices]):
        constants.train(mode=True)
        for x in calibration:
            nothing = walk(parts, constants, [choices], x, known={}, wanted=(), keep={})
            deque(nothing, maxlen=0)
        held = constants.held(choices)
    return {places[block]: constant.clone() for block, constant in held.items()}
