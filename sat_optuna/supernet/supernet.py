"""The supernet: a backbone with all attention modules; the scheme is an argument of its forward.

    F_l, shortcut = branch(x_l)
    x_{l+1} = merge(F_l, shortcut)        where a_l = 0
    x_{l+1} = merge(M(F_l), shortcut)     where block l carries the module M

All schemes share one set of weights (method of arXiv:2207.07858).
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

from torch import Tensor, nn

from sat_optuna.attention import OWN, default_spec
from sat_optuna.attention.contract import AttentionError, State
from sat_optuna.attention.stage import Attend, StageAttention
from sat_optuna.backbones import build_backbone
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.tables import carries_inside, type_name
from sat_optuna.backbones.view import NetworkView, take_own_attention, view_of
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import seeded
from sat_optuna.supernet.placement import check_placement, placement_faults
from sat_optuna.ticket import AttentionSpec

__all__ = ["AttentionSource", "FeatureRecorder", "Supernet", "walk"]


class AttentionSource(Protocol):
    """Gives `walk` the attention of one stage; a `StageAttention` is one."""

    def module_for(self, choice: int, block: int, /) -> Attend:
        """Return what a block calls with its features and the state.

        Args:
            choice: the kind, 1 for the first.
            block: index within the stage.
        """


def walk(
    view: NetworkView, attention: Iterable[AttentionSource], scheme: Scheme, x: Tensor
) -> Tensor:
    """Run a network block by block, with the attention that a scheme asks for.

    Each kind has one state in each stage. It is None at the first block of the stage that carries
    the kind, and blocks that do not carry the kind do not change it.

    Args:
        view: of the network; it has the stages of the scheme.
        attention: gives the modules of each stage, from shallow to deep.
        scheme: which block carries what.
        x: (N, C, H, W) images.

    Returns:
        (N, classes) logits; of a head that makes maps (N, classes, H, W).
    """
    size = x.shape[2:]
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
    return view.head(x, size)


class Supernet(nn.Module):
    """A backbone with every attention module that a scheme may ask for.

    >>> import torch
    >>> net = Supernet(
    ...     "resnet20", attention=("se", "eca"), in_channels=3, classes=9, seed=0, blocks=(1, 2, 1)
    ... )
    >>> net.stages
    (1, 2, 1)
    >>> net(torch.zeros(4, 3, 32, 32), Scheme.parse("1-02-0")).shape
    torch.Size([4, 9])

    The weights of a named backbone depend on the seed alone. The weights of an attention module
    depend on the seed, its stage, its block and its kind. So where two supernets of one seed have
    the same part, it has the same weights in both.

    A network that is given as an object can be trained, searched, measured and materialised. But
    its tickets cannot be built from their JSON (by `retrain` or `build_network`), which holds only
    the name of its type. For that, register a builder with `add_backbone` and give its name.

    Attributes:
        backbone: the network without attention, with its own state_dict keys.
        view: how the network is run block by block.
        attention: one `StageAttention` for each stage.
        backbone_name: its name in the registry; for a network that was given, its type's name.
        backbone_settings: the settings that it was built with.
        specs: the kinds of attention; choice k of a scheme means `specs[k - 1]`.
        stages: number of blocks of each stage.
        started_from: digest of the weights that `load_weights` gave it; None without.
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
            backbone: a name of `BACKBONES`, or a network: a `Backbone`, or one whose type is in
                the tables. The network itself is used and trained, with its weights, on its device
                and in its dtype; with the kind "own" a copy of it is used.
            attention: the kinds. A bare name stands for the kind with its default sharing and
                settings. The kind "own" is the attention that the backbone's blocks carry
                themselves (SE in seresnet, regnety, mobilenetv3 and efficientnet): with it the
                slots are where that attention acts, and a block to which a scheme gives no
                attention runs without it.
            seed: of all weights that are drawn.
            in_channels: channels of the images; for a named backbone only.
            classes: number of logits; for a named backbone only.
            **settings: settings of the named backbone.

        Raises:
            UnknownName: no registry holds the backbone or a kind.
            BackboneError: the backbone cannot be built so, or its blocks are in no table.
            AttentionError: there is no kind, one is given twice or cannot be built as asked.
        """
        super().__init__()
        self.specs = tuple(default_spec(s) if isinstance(s, str) else s for s in attention)
        kinds = [spec.kind for spec in self.specs]
        if not kinds or len(set(kinds)) < len(kinds):
            raise AttentionError(
                f"attention kinds {kinds} given; name at least one, and each of them once"
            )
        self.backbone_settings: dict[str, Any] = {  # with lists, as JSON gives them back
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
        self._taken: set[tuple[int, int, int]] = set()  # shapes of images that were checked
        self.started_from: str | None = None
        self.stages = self.view.stage_sizes
        for fault in placement_faults(self.specs, self.view.stage_channels):
            raise AttentionError(fault)
        paths = {module: path for path, module in self.backbone.named_modules()}
        taken = take_own_attention(self.view)
        like = next((p for p in self.backbone.parameters() if p.is_floating_point()), None)
        self.attention = nn.ModuleList(
            StageAttention.build(self.specs, channels, seed=seed, stage=stage, own=own, like=like)
            for stage, (channels, own) in enumerate(
                zip(self.view.stage_channels, taken, strict=True)
            )
        )
        # The paths in the original network of the modules that self.attention now holds.
        self._own_paths = [[paths[m] for m in own if m is not None] for own in taken]

    @property
    def stage_attention(self) -> tuple[StageAttention, ...]:
        """The attention of each stage, from shallow to deep."""
        return tuple(cast("Iterable[StageAttention]", self.attention))

    def check(self, scheme: Scheme) -> None:
        """Make sure that a scheme fits this network.

        Raises:
            SchemeError: it has other stages than the backbone, or a digit above the number of
                kinds.
        """
        scheme.check_fits(self.stages, kinds=len(self.specs))

    def check_input(self, shape: tuple[int, int, int]) -> None:
        """Make sure that images of this size go through and that all attention works on them.

        A copy of the backbone runs one image; see `backbones.check.check_split`.

        Args:
            shape: (C, H, W).

        Raises:
            BackboneError: the images are too small or have other channels than the stem takes, or
                the network is not what the tables say of it.
            AttentionError: a module fails, or does not keep the shape of its features.
        """
        if shape in self._taken:  # weights do not matter here
            return
        check_placement(
            self.view, self.stage_attention, self.specs, shape, name=self.backbone_name
        )
        self._taken.add(shape)

    def load_backbone(self, weights: Mapping[str, Tensor]) -> None:
        """Load the weights of the original network under their original names.

        Args:
            weights: the state_dict of the original network. It holds the attention that the blocks
                carry themselves, also if that is a kind of this supernet.

        Raises:
            RuntimeError: names or shapes differ; torch's message says which.
        """
        rest = dict(weights)
        for stage, paths in zip(self.stage_attention, self._own_paths, strict=True):
            for block, path in enumerate(paths):
                kept = {k: rest.pop(k) for k in tuple(rest) if k.startswith(f"{path}.")}
                own = stage.module_at(self._choice(OWN), block)
                own.load_state_dict({f"module.{k[len(path) + 1 :]}": v for k, v in kept.items()})
        self.backbone.load_state_dict(rest)

    def backbone_weights(self) -> dict[str, Tensor]:
        """Return the weights of the original network under their original names.

        It is what `load_backbone` takes; the tensors are this network's own.
        """
        weights = dict(self.backbone.state_dict())
        for stage, paths in zip(self.stage_attention, self._own_paths, strict=True):
            for block, path in enumerate(paths):
                own = stage.module_at(self._choice(OWN), block).state_dict()
                weights |= {f"{path}{name.removeprefix('module')}": own[name] for name in own}
        return weights

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
    """An `AttentionSource` that records the features of each block and does not change them."""

    def __init__(self) -> None:
        self.features: list[Tensor] = []

    def module_for(self, _choice: int, _block: int, /) -> Attend:
        """Return what records the features of a block and returns them."""
        return self._record

    def _record(self, features: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        self.features.append(features)
        return features, state


def _backbone(
    backbone: str | nn.Module, settings: dict[str, Any], *, seed: int, copied: bool
) -> tuple[str, nn.Module]:
    """Return a backbone's name and the backbone: built by its name, or the network given.

    Raises:
        UnknownName: no registry holds the name.
        BackboneError: the backbone cannot be built so, or a network was given with settings.
    """
    if isinstance(backbone, nn.Module):
        name = type_name(type(backbone))
        if given := [key for key, value in settings.items() if value is not None]:
            raise BackboneError(
                f"network {name} given as an object, and {given[0]} = {settings[given[0]]!r} "
                "with it; a network that is built already takes no settings, so drop it"
            )
        for path, block in backbone.named_modules():
            if carries_inside(block):
                raise BackboneError(
                    f"network {name} carries attention in {path} already, as a ticket's network "
                    "does; give the network as it was without"
                )
        return name, copy.deepcopy(backbone) if copied else backbone
    if settings["in_channels"] is None or settings["classes"] is None:
        raise BackboneError(
            f"backbone {backbone!r} given with in_channels = {settings['in_channels']} and "
            f"classes = {settings['classes']}; give both"
        )
    with seeded("backbone", seed):
        return backbone, build_backbone(backbone, **settings)
