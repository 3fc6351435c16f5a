"""Folding replaces the modules that a scheme drops by constants, which cost nothing.

In a network with attention in all blocks, v_l(x) = M(F_l(x)) is the gate of block l for image x,
one number for each channel. c_l is the mean gate over a set of images. If c_l replaces the gate,
the attended features are a fixed multiple of the features. The BatchNorm or convolution that
makes the features can contain this factor:

    gamma' = c gamma,  beta' = c beta

So the module is gone, and nothing is left to compute. The more the gates vary over images, the
more the outputs differ; where a gate is the same for all images, they are equal.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sat_optuna.attention.contract import State
from sat_optuna.attention.stage import Attend, StageAttention
from sat_optuna.backbones.view import NetworkView
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.supernet.folding import FoldError, fold_factor, gate_at, unfoldable
from sat_optuna.supernet.materialise import apart, assembled, scheme_of
from sat_optuna.supernet.supernet import walk

__all__ = ["FoldError", "FoldReport", "FoldedBlock", "fold_constant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedBlock:
    """A block whose module was replaced by a constant.

    Attributes:
        stage, block: numbers of the stage and of the block in it, both from 1.
        kind: of the module.
        dispersion: the largest distance of a gate from its mean, over channels and images.
    """

    stage: int
    block: int
    kind: str
    dispersion: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldReport:
    """What folding changed for the images that gave the means.

    The change of an image is the largest difference of its logits, divided by the largest
    magnitude of them.

    Attributes:
        images: number of images.
        change_max: the largest change of an image.
        change_mean: the mean change over the images.
        unchanged: share of the images, or of the pixels of maps, whose predicted class is as
            before, 0..1.
        blocks: the folded blocks, from shallow to deep.
    """

    images: int
    change_max: float
    change_mean: float
    unchanged: float
    blocks: tuple[FoldedBlock, ...]


def fold_constant(
    network: nn.Module, keep: Scheme, batches: Sequence[Tensor]
) -> tuple[nn.Module, FoldReport]:
    """Replace the modules that a scheme drops by the means of their gates.

    >>> from sat_optuna.supernet.materialise import materialise, scheme_of
    >>> from sat_optuna.supernet.supernet import Supernet
    >>> net = Supernet(
    ...     "resnet20", attention=("se",), in_channels=1, classes=2, seed=0, blocks=(1, 1, 1)
    ... )
    >>> full, keep = Scheme.parse("1-1-1"), Scheme.parse("0-1-0")
    >>> folded, report = fold_constant(materialise(net, full), keep, [torch.ones(3, 1, 8, 8)])
    >>> str(scheme_of(folded)), [(block.stage, block.kind) for block in report.blocks]
    ('0-1-0', [(1, 'se'), (3, 'se')])

    Args:
        network: has attention in all blocks, or at least in those of `keep`; it is not changed.
        keep: the scheme that remains.
        batches: images that the means are taken over, (n, C, H, W) each, on the network's device.

    Returns:
        The network of `keep`, with the constants in its layers, and what folding changed.

    Raises:
        FoldError: `keep` has attention that the network has not, a dropped module is no gate for
            each channel, a block has no layer that can contain a factor, or there are no images.
    """
    view, stages = apart(network)
    had = scheme_of(network)
    dropped = _dropped(view, stages, had, keep)
    if not sum(map(len, batches)):
        raise FoldError("no image given to take means over; give at least one")
    recorded = [
        _RecordedStage(stage, blocks) for stage, blocks in zip(stages, dropped, strict=True)
    ]
    with evaluating(network), torch.no_grad():
        before = torch.cat([walk(view, recorded, had, x) for x in batches])
    kept = [s.pruned_to(choices) for s, choices in zip(stages, keep.by_stage(), strict=True)]
    copied = copy.deepcopy(view)
    for blocks, stage in zip(copied.blocks, recorded, strict=True):
        for block, gates in stage.gates.items():
            fold_factor(blocks[block], gates.mean)
    folded = assembled(copied, kept, keep).train(network.training)
    with evaluating(folded), torch.no_grad():
        after = torch.cat([folded(x) for x in batches])
    return folded, _report(recorded, before, after)


class _Gates:
    """The gates of a block for all images seen."""

    def __init__(self) -> None:
        self._gates: list[Tensor] = []

    def add(self, gates: Tensor) -> None:
        """Add the gates of some more images, (n, C)."""
        self._gates.append(gates.double())

    @property
    def mean(self) -> Tensor:
        """The mean gate of each channel, (C,)."""
        return torch.cat(self._gates).mean(0)

    @property
    def dispersion(self) -> float:
        """The largest distance of a gate from the mean of its channel."""
        return float((torch.cat(self._gates) - self.mean).abs().max())


class _RecordedStage:
    """The attention of a stage; it records the gates of some blocks while it is used."""

    def __init__(self, stage: StageAttention, kinds: Mapping[int, str]) -> None:
        self.kinds = kinds
        self.gates = {block: _Gates() for block in kinds}
        self._stage = stage

    def module_for(self, choice: int, block: int, /) -> Attend:
        attend = self._stage.module_for(choice, block)
        if block not in self.gates:
            return attend
        gate = gate_at(self._stage, choice, block)

        def recording(features: Tensor, state: State | None) -> tuple[Tensor, State | None]:
            self.gates[block].add(gate(features))
            return attend(features, state)

        return recording


def _dropped(
    view: NetworkView, stages: Sequence[StageAttention], had: Scheme, keep: Scheme
) -> list[dict[int, str]]:
    """Return for each stage the kinds of the dropped modules, by block.

    Raises:
        FoldError: a module cannot be folded.
    """
    if keep.stages != had.stages or any(
        kept not in (0, choice) for kept, choice in zip(keep.choices, had.choices, strict=True)
    ):
        raise FoldError(
            f"scheme {keep} keeps what the network of {had} has not; give one that drops modules "
            "of it and does nothing else"
        )
    dropped: list[dict[int, str]] = []
    rows = zip(stages, view.blocks, had.by_stage(), keep.by_stage(), strict=True)
    for number, (stage, blocks, choices, kept) in enumerate(rows, start=1):
        dropped.append({})
        for index, (choice, left) in enumerate(zip(choices, kept, strict=True)):
            if choice and not left:
                where = f"stage {number}, block {index + 1}"
                kind = stage.kinds[choice - 1]
                module = stage.module_at(choice, index)
                if fault := unfoldable(module, kind, blocks[index], where):
                    raise FoldError(fault)
                dropped[-1][index] = kind
    return dropped


def _report(recorded: Sequence[_RecordedStage], before: Tensor, after: Tensor) -> FoldReport:
    tiny = torch.finfo(torch.float64).tiny
    scale = before.double().abs().flatten(1).amax(1).clamp_min(tiny)
    change = (after.double() - before.double()).abs().flatten(1).amax(1) / scale
    return FoldReport(
        images=len(before),
        change_max=float(change.max()),
        change_mean=float(change.mean()),
        unchanged=float((before.argmax(1) == after.argmax(1)).double().mean()),
        blocks=tuple(
            FoldedBlock(
                stage=number, block=block + 1, kind=stage.kinds[block], dispersion=gates.dispersion
            )
            for number, stage in enumerate(recorded, start=1)
            for block, gates in stage.gates.items()
        ),
    )
