"""The supernet: a backbone and all its attention modules, the scheme an argument of the forward.

    x_{l+1} = merge(a_l = 0 ? F_l : M(F_l), shortcut)        F_l, shortcut = branch(x_l)

It has one set of weights for all schemes (method of arXiv:2207.07858).
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

from torch import Tensor, nn

from sat_optuna.attention import OWN, default_spec
from sat_optuna.attention.contract import AttentionError, State
from sat_optuna.attention.stage import StageAttention
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.tables import type_name
from sat_optuna.backbones.view import NetworkView, take_own, view_of
from sat_optuna.errors import SchemeError
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import seeded
from sat_optuna.supernet.placement import built_backbone, check_placement, placement_faults
from sat_optuna.ticket import AttentionSpec

__all__ = [
    "AttentionSource",
    "FeatureRecorder",
    "StageAttention",
    "Supernet",
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

    A network given as an object can be trained, searched, costed and materialised; its tickets
    cannot be built from their JSON alone (`retrain`, `build_network`), which has no more than its
    type's name: for that, register a builder with `add_backbone` and give its name.

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
                weights, device and dtype and all, and trained in place: a `Backbone`, or one
                whose type is in the tables. With the kind "own" a copy of it is used.
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
        self.backbone_name, self.backbone = _backbone(
            backbone,
            {"in_channels": in_channels, "classes": classes, **settings},
            seed=seed,
            copied=OWN in kinds,
        )
        self.view = view_of(self.backbone, own=OWN in kinds)
        self.stages = self.view.stage_sizes
        for fault in placement_faults(self.specs, self.view):
            raise AttentionError(fault)
        paths = {module: path for path, module in self.backbone.named_modules()}
        taken = take_own(self.view)
        like = next((p for p in self.backbone.parameters() if p.is_floating_point()), None)
        self.attention = nn.ModuleList(
            StageAttention.build(self.specs, channels, seed=seed, stage=stage, own=own, like=like)
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

        A copy of the backbone is run on one image, and what is foreign in it is proved: see
        `splitting.check_split`.

        Args:
            shape: (C, H, W).

        Raises:
            BackboneError: they are too small, have other channels than the stem takes, or the
                network is not what the tables say of it.
            AttentionError: a module fails, or does not keep the shape of its features.
        """
        check_placement(
            self.view, self.stage_attention, self.specs, shape, name=self.backbone_name
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
                own = stage.module_at(self._choice(OWN), block)
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


def _backbone(
    backbone: str | nn.Module, settings: dict[str, Any], *, seed: int, copied: bool
) -> tuple[str, nn.Module]:
    """Return the name of a backbone and the backbone, built or as it was given.

    Raises:
        UnknownName: no registry holds it.
        BackboneError: a setting it cannot be built with, or any for a network that was given.
    """
    if isinstance(backbone, nn.Module):
        name = type_name(type(backbone))
        if given := [key for key, value in settings.items() if value is not None]:
            raise BackboneError(
                f"network {name} given as an object, and {given[0]} = {settings[given[0]]!r} "
                "with it; a network that is built already takes no settings, so drop it"
            )
        return name, copy.deepcopy(backbone) if copied else backbone
    if settings["in_channels"] is None or settings["classes"] is None:
        raise BackboneError(
            f"backbone {backbone!r} given with in_channels = {settings['in_channels']} and "
            f"classes = {settings['classes']}; give both"
        )
    with seeded("backbone", seed):
        return backbone, built_backbone(backbone, **settings)
