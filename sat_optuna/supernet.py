"""The supernet: a backbone and all its attention modules, the scheme an argument of the forward.

    x_{l+1} = merge(a_l = 0 ? F_l : M(F_l), shortcut)        F_l, shortcut = branch(x_l)

It has one set of weights for all schemes (method of arXiv:2207.07858).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from sat_optuna.attention import ATTENTION, OWN, attention_faults, default_spec
from sat_optuna.attention.contract import AttentionError, State
from sat_optuna.attention.stage import StageAttention
from sat_optuna.backbones import build_backbone
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.tables import type_name
from sat_optuna.backbones.view import NetworkView, take_own, view_of
from sat_optuna.errors import SchemeError
from sat_optuna.recalibration import evaluating
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import seeded
from sat_optuna.ticket import AttentionSpec

__all__ = [
    "AttentionSource",
    "FeatureRecorder",
    "StageAttention",
    "Supernet",
    "placement_faults",
    "walk",
]


class AttentionSource(Protocol):
    """Where the walk gets a stage's attention from."""

    def module_for(
        self, choice: int, block: int, /
    ) -> Callable[[Tensor, State | None], tuple[Tensor, State | None]]:
        """Return the module of kind `choice` (1 is the first) for a block of this stage."""


def walk(
    view: NetworkView, attention: Iterable[AttentionSource], scheme: Scheme, x: Tensor
) -> Tensor:
    """Run a network block by block with the attention that a scheme asks for.

    Each kind has one state a stage, None at its first connected block; blocks without it hand it
    on untouched.

    Args:
        view: of the network; its stages match the scheme's.
        attention: where each stage gets its modules from.
        scheme: which block carries what.
        x: (N, C, H, W) images.

    Returns:
        (N, classes) logits.
    """
    x = view.stem(x)
    stages = zip(view.blocks, attention, scheme.by_stage(), strict=True)
    for blocks, source, choices in stages:
        states: dict[int, State | None] = {}
        for index, (block, choice) in enumerate(zip(blocks, choices, strict=True)):
            features, shortcut = block.branch(x)
            if choice:
                attend = source.module_for(choice, index)
                features, states[choice] = attend(features, states.get(choice))
            x = block.merge(features, shortcut)
    return view.head(x)


class Supernet(nn.Module):
    """A backbone with every attention module a scheme may ask for.

    The weights of a named backbone and of all attention are a function of the seed and of their
    place, so two supernets of one seed share the weights of the parts they share, whatever else
    differs.

    Attributes:
        backbone: the network without attention, its state_dict keys its own.
        view: how it is walked.
        attention: a `StageAttention` a stage.
        backbone_name: its name in the registry; of a network that was given, its type's.
        backbone_settings: the settings it was built with.
        specs: the kinds of attention; choice k of a scheme is `specs[k - 1]`.
        stages: number of blocks of each stage.
    """

    def __init__(
        self,
        backbone: str | nn.Module,
        *,
        attention: Sequence[AttentionSpec | str],
        seed: int,
        in_channels: int | None = None,
        classes: int | None = None,
        **settings: Any,
    ) -> None:
        """Build the supernet.

        Args:
            backbone: a name of `BACKBONES`; or a network of one's own, which is used as it is,
                weights and all: a `Backbone`, or one whose type is in the tables.
            attention: the kinds; a bare name stands for its defaults, one module a block where
                the kind allows it. The kind "own" is the attention that the backbone's blocks
                carry themselves (SE in seresnet, regnety, mobilenetv3, efficientnet): with it the
                slots are where that sits, and a block without attention has not even its own.
            seed: of all weights that are drawn.
            in_channels: channels of the images; of a named backbone only.
            classes: number of logits; of a named backbone only.
            **settings: the named backbone's own.

        Raises:
            UnknownName: a backbone or kind that no registry holds.
            BackboneError: a setting the backbone cannot be built with, or a network that cannot
                be walked.
            AttentionError: no kind, a kind given twice, or one that cannot be built as asked.
        """
        super().__init__()
        self.specs = tuple(default_spec(s) if isinstance(s, str) else s for s in attention)
        kinds = [spec.kind for spec in self.specs]
        if not kinds or len(set(kinds)) < len(kinds):
            raise AttentionError(
                f"attention kinds {kinds} given; name at least one, and each of them once"
            )
        self.backbone_settings: dict[str, Any] = {  # as JSON would bring them back
            name: list(value) if isinstance(value, tuple) else value
            for name, value in settings.items()
        }
        if isinstance(backbone, str):
            if in_channels is None or classes is None:
                raise BackboneError(
                    f"backbone {backbone!r} given with in_channels = {in_channels} and classes = "
                    f"{classes}; give both"
                )
            self.backbone_name = backbone
            with seeded("backbone", seed):
                self.backbone = build_backbone(
                    backbone, in_channels=in_channels, classes=classes, **settings
                )
        else:
            self.backbone_name, self.backbone = type_name(type(backbone)), backbone
        self.view = view_of(self.backbone, own=OWN in kinds)
        self.stages = self.view.stage_sizes
        for fault in placement_faults(self.specs, self.view):
            raise AttentionError(fault)
        paths = {module: path for path, module in self.backbone.named_modules()}
        taken = take_own(self.view)
        self.attention = nn.ModuleList(
            StageAttention.build(self.specs, channels, seed=seed, stage=stage, own=own)
            for stage, (channels, own) in enumerate(
                zip(self.view.stage_channels, taken, strict=True)
            )
        )
        # Where the original state_dict has the weights that now are in self.attention.
        self._own_paths = [[paths[m] for m in own if m is not None] for own in taken]

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

    def check_input(self, shape: tuple[int, int, int]) -> None:
        """Make sure that images of this size reach each stage large enough.

        Args:
            shape: (C, H, W).

        Raises:
            BackboneError: they are too small, or have other channels than the stem takes.
        """
        recorders = [FeatureRecorder() for _ in self.stages]
        like = next(self.parameters())
        image = torch.zeros(1, *shape, dtype=like.dtype, device=like.device)
        try:
            with evaluating(self), torch.no_grad():
                walk(self.view, recorders, Scheme.uniform(self.stages, 1), image)
        except RuntimeError as error:
            raise BackboneError(
                f"images of {_size(shape)} do not go through {self.backbone_name} "
                f"({str(error).splitlines()[0]}); give larger ones, or with other channels"
            ) from error
        for stage, recorder in enumerate(recorders, start=1):
            side = min(min(features.shape[2:]) for features in recorder.features)
            for spec in self.specs:
                least = 1 if spec.kind == OWN else ATTENTION.get(spec.kind).least_side
                if side < least:
                    raise BackboneError(
                        f"images of {_size(shape)} come to stage {stage} of {self.backbone_name} "
                        f"with {side} pixels a side and {spec.kind} needs {least}; give larger "
                        "images or a smaller stem stride, or choose another module"
                    )

    def load_backbone(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights of the original network by their own names.

        Args:
            weights: its state_dict, with the attention that its blocks carry themselves also
                where that is a kind of this supernet.

        Raises:
            RuntimeError: names or shapes differ (torch's message says which).
        """
        rest = dict(weights)
        for stage, paths in zip(self.stage_attention, self._own_paths, strict=True):
            for block, path in enumerate(paths):
                kept = {k: rest.pop(k) for k in tuple(rest) if k.startswith(f"{path}.")}
                own = stage.owner_of(self._choice(OWN), block)
                own.load_state_dict({f"module.{k[len(path) + 1 :]}": v for k, v in kept.items()})
        self.backbone.load_state_dict(rest)

    def _choice(self, kind: str) -> int:
        return 1 + [spec.kind for spec in self.specs].index(kind)

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
        return walk(self.view, self.stage_attention, scheme, x)


def placement_faults(specs: Iterable[AttentionSpec], view: NetworkView) -> list[str]:
    """Return why kinds of attention cannot be placed in a network, a sentence each.

    Args:
        specs: the kinds.
        view: of the network; nothing is drawn.
    """
    faults: list[str] = []
    widths = view.stage_channels
    for spec in specs:
        faults += attention_faults(spec, channels=[c for stage in widths for c in stage])
        uneven = [n for n, stage in enumerate(widths, start=1) if len(set(stage)) > 1]
        if spec.sharing == "stage" and uneven:
            faults.append(
                f"{spec.kind} has sharing = 'stage' and stage {uneven[0]} has features of "
                f"{sorted(set(widths[uneven[0] - 1]))} channels; choose sharing = 'block' where "
                "the module allows it, or another network"
            )
    return faults


class FeatureRecorder:
    """Stands where a stage's attention would, and notes what features it is given."""

    def __init__(self) -> None:
        self.features: list[Tensor] = []

    def module_for(
        self, _choice: int, _block: int, /
    ) -> Callable[..., tuple[Tensor, State | None]]:
        """Return what notes the features of a block and hands them on."""
        return self._record

    def _record(self, features: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        self.features.append(features)
        return features, state


def _size(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
