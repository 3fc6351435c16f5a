"""The supernet: a backbone and all its attention modules, the scheme an argument of the forward.

    x_{l+1} = merge(a_l = 0 ? F_l : M(F_l), shortcut)        F_l, shortcut = branch(x_l)

It has one set of weights for all schemes (method of arXiv:2207.07858).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sat_optuna.attention import attention_faults, default_spec
from sat_optuna.attention.contract import AttentionError, State
from sat_optuna.attention.stage import StageAttention
from sat_optuna.backbones import build_backbone
from sat_optuna.backbones.contract import Backbone
from sat_optuna.errors import DataError, SchemeError
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for, seeded
from sat_optuna.ticket import AttentionSpec

__all__ = [
    "DRAWS",
    "AttentionSource",
    "StageAttention",
    "Supernet",
    "draw_scheme",
    "evaluating",
    "recalibrated",
    "walk",
]

DRAWS = ("iid", "antithetic", "balanced")


class AttentionSource(Protocol):
    """Where the walk gets a stage's attention from."""

    def module_for(
        self, choice: int, block: int, /
    ) -> Callable[[Tensor, State | None], tuple[Tensor, State | None]]:
        """Return the module of kind `choice` (1 is the first) for a block of this stage."""


def walk(
    backbone: Backbone, attention: Iterable[AttentionSource], scheme: Scheme, x: Tensor
) -> Tensor:
    """Run a backbone block by block with the attention that a scheme asks for.

    Each kind has one state a stage, None at its first connected block; blocks without it hand it
    on untouched.

    Args:
        backbone: its stages match the scheme's.
        attention: where each stage gets its modules from.
        scheme: which block carries what.
        x: (N, C, H, W) images.

    Returns:
        (N, classes) logits.
    """
    x = backbone.stem(x)
    stages = zip(backbone.blocks, attention, scheme.by_stage(), strict=True)
    for blocks, source, choices in stages:
        states: dict[int, State | None] = {}
        for index, (block, choice) in enumerate(zip(blocks, choices, strict=True)):
            features, shortcut = block.branch(x)
            if choice:
                attend = source.module_for(choice, index)
                features, states[choice] = attend(features, states.get(choice))
            x = block.merge(features, shortcut)
    logits: Tensor = backbone.head(x)
    return logits


class Supernet(nn.Module):
    """A backbone with every attention module a scheme may ask for.

    Its weights are a function of the seed and of their place, so two supernets of one seed share
    the weights of the parts they share, whatever else differs.

    Attributes:
        backbone: the network without attention.
        attention: a `StageAttention` a stage.
        backbone_name: its name in the registry.
        backbone_settings: the keyword arguments it was built with.
        specs: the kinds of attention; choice k of a scheme is `specs[k - 1]`.
        stages: number of blocks of each stage.
    """

    def __init__(
        self,
        backbone: str,
        *,
        attention: Sequence[AttentionSpec | str],
        in_channels: int,
        classes: int,
        seed: int,
        width: int = 16,
        stem_stride: int = 1,
        blocks: Sequence[int] | None = None,
    ) -> None:
        """Build the supernet.

        Args:
            backbone: a name of `BACKBONES`.
            attention: the kinds; a bare name stands for its defaults, one module a block where
                the kind allows it.
            in_channels: channels of the images.
            classes: number of logits.
            seed: of all weights.
            width: channels of the first stage's convolutions.
            stem_stride: stride of the first convolution.
            blocks: blocks of each stage; None for the family's own.

        Raises:
            UnknownName: a backbone or kind that no registry holds.
            BackboneError: a setting the backbone cannot be built with.
            AttentionError: no kind, a kind given twice, or one that cannot be built as asked.
        """
        super().__init__()
        self.backbone_name = backbone
        self.backbone_settings: dict[str, Any] = {
            "width": width,
            "stem_stride": stem_stride,
            "blocks": None if blocks is None else list(blocks),
        }
        self.specs = tuple(default_spec(s) if isinstance(s, str) else s for s in attention)
        kinds = [spec.kind for spec in self.specs]
        if not kinds or len(set(kinds)) < len(kinds):
            raise AttentionError(
                f"attention kinds {kinds} given; name at least one, and each of them once"
            )
        with seeded("backbone", seed):
            self.backbone = build_backbone(
                backbone,
                in_channels=in_channels,
                classes=classes,
                width=width,
                stem_stride=stem_stride,
                blocks=blocks,
            )
        self.stages = self.backbone.stage_sizes
        for spec in self.specs:
            for fault in attention_faults(spec, channels=self.backbone.stage_channels):
                raise AttentionError(fault)
        self.attention = nn.ModuleList(
            StageAttention.build(self.specs, [b.channels for b in members], seed=seed, stage=stage)
            for stage, members in enumerate(self.backbone.blocks)
        )

    @property
    def stage_attention(self) -> tuple[StageAttention, ...]:
        """The stages' attention modules."""
        return tuple(cast("Iterable[StageAttention]", self.attention))

    def check(self, scheme: Scheme) -> None:
        """Make sure that a scheme fits.

        Raises:
            SchemeError: its stages differ from the backbone's, or it asks for a kind too many.
        """
        if scheme.stages != self.stages:
            raise SchemeError(
                f"scheme {scheme} has stages {scheme.stages} and the network {self.stages}; "
                "give one digit a block and '-' between stages"
            )
        if max(scheme.choices) > len(self.specs):
            raise SchemeError(
                f"scheme {scheme} asks for kind {max(scheme.choices)} and the network has "
                f"{len(self.specs)}; use digits 0..{len(self.specs)}"
            )

    def forward(self, x: Tensor, scheme: Scheme) -> Tensor:
        """Return the logits under a scheme.

        Args:
            x: (N, C, H, W) images.
            scheme: which block carries what.

        Returns:
            (N, classes) logits.

        Raises:
            SchemeError: the scheme does not fit this network.
        """
        self.check(scheme)
        return walk(self.backbone, self.stage_attention, scheme, x)


def draw_scheme(
    stages: Sequence[int], kinds: int, *, connect: float, draws: str, seed: int, step: int
) -> Scheme:
    """Draw the scheme of a training step: a pure function of its arguments.

    Args:
        stages: number of blocks of each stage.
        kinds: K, the number of kinds.
        connect: probability that a block carries attention, in 0..1; a balanced draw has no use
            for it, for its choices are equally often.
        draws: "iid": each block connected with probability `connect`, its kind uniform, as
            published. "antithetic": steps 2j and 2j + 1 are a scheme and its complement.
            "balanced": in each run of K + 1 steps each block takes each of its K + 1 choices once.
        seed: of the whole sequence.
        step: number of the step.

    Raises:
        SchemeError: `connect` is no probability, `draws` is no such way, or antithetic draws are
            asked for with more than one kind or another probability than 0.5.
    """
    if draws not in DRAWS:
        raise SchemeError(f"draws = {draws!r} given; choose one of {', '.join(DRAWS)}")
    if not 0 <= connect <= 1:
        raise SchemeError(f"connect = {connect} given; give a probability in 0..1")
    count = sum(stages)
    if draws == "balanced":
        run, position = divmod(step, kinds + 1)
        keys = torch.rand(count, kinds + 1, generator=generator_for("scheme", seed, run))
        return Scheme.of(keys.argsort(dim=1)[:, position].tolist(), stages)
    if draws == "antithetic":
        if connect != 0.5 or kinds != 1:
            raise SchemeError(
                f"antithetic draws asked for with connect = {connect} and {kinds} kind(s); "
                "they need connect = 0.5 and one kind, choose 'iid' or 'balanced'"
            )
        pair, complement = divmod(step, 2)
        coins = torch.rand(count, generator=generator_for("scheme", seed, pair)) < 0.5
        return Scheme.of((coins ^ bool(complement)).tolist(), stages)
    generator = generator_for("scheme", seed, step)
    connected = torch.rand(count, generator=generator) < connect
    chosen = torch.randint(1, kinds + 1, (count,), generator=generator)
    return Scheme.of((connected * chosen).tolist(), stages)


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a network in eval mode, and give each of its modules its own mode back afterwards."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def recalibrated(
    net: nn.Module, scheme: Scheme | None, batches: Sequence[Tensor]
) -> Iterator[None]:
    """Give a network the BatchNorm statistics that one scheme has on a calibration set.

    The statistics are plain averages over the chunks, from one pass in which BatchNorm alone is in
    train mode. Inside, the network is in eval mode; on leaving, buffers, momentum and modes are
    what they were.

    Args:
        net: a supernet, or any other network where `scheme` is None.
        scheme: the supernet's scheme.
        batches: the calibration set, (n, C, H, W) each, on the network's device; the chunks are
            part of the result.

    Raises:
        DataError: no batch was given.
    """
    if not batches:
        raise DataError("no calibration batch given; give at least one to average BatchNorm over")
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [
        (norm, norm.momentum, {name: value.clone() for name, value in norm.named_buffers()})
        for norm in norms
    ]
    with evaluating(net):
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # an average over the chunks, not a decaying one
                norm.train()
            with torch.no_grad():
                for batch in batches:
                    net(batch) if scheme is None else net(batch, scheme)
            net.eval()
            yield
        finally:
            for norm, momentum, buffers in before:
                norm.momentum = momentum
                for name, value in buffers.items():
                    norm.get_buffer(name).copy_(value)
