"""Backbones by name; listing their names and their stages imports no torch."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sat_optuna.backbones.unsuited import instead_of
from sat_optuna.errors import SatOptunaError, errors_as
from sat_optuna.registry import Registry, nearest

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BACKBONES", "add_backbone", "backbone_stages", "build_backbone"]

BACKBONES: Registry[Callable[..., "nn.Module"]] = Registry("backbone", hint=instead_of)
_STAGES: dict[str, tuple[int, ...]] = {}
_GIVEN = ("in_channels", "classes")
_HEADED = ", or take one of the CIFAR ResNets, torchvision's or timm's networks, which have it"


def add_backbone(
    name: str, builder: "Callable[..., nn.Module] | str", *, stages: Sequence[int]
) -> None:
    """Register a backbone.

    Args:
        name: what users call it.
        builder: called with `in_channels`, `classes` and the backbone's own settings, all by
            keyword; it returns a `Backbone`, or a network whose type is in the tables of
            `backbones.tables`. Or the text `"module:attribute"` that says where the builder is.
        stages: number of blocks of each stage, unless the setting `blocks` asks for others.
    """
    BACKBONES.add(name, builder)
    _STAGES[name] = tuple(stages)


for _name, _size in (
    ("resnet20", 3),
    ("resnet32", 5),
    ("resnet44", 7),
    ("resnet56", 9),
    ("resnet110", 18),
):
    add_backbone(_name, "sat_optuna.backbones.cifar_resnet:basic_resnet", stages=(_size,) * 3)
add_backbone(
    "resnet164", "sat_optuna.backbones.cifar_resnet:bottleneck_resnet", stages=(18, 18, 18)
)
add_backbone(
    "preresnet110", "sat_optuna.backbones.cifar_preresnet:basic_preresnet", stages=(18, 18, 18)
)
add_backbone(
    "preresnet164",
    "sat_optuna.backbones.cifar_preresnet:bottleneck_preresnet",
    stages=(18, 18, 18),
)
for _name, _blocks in (
    ("resnet18", (2, 2, 2, 2)),
    ("resnet34", (3, 4, 6, 3)),
    ("resnet50", (3, 4, 6, 3)),
    ("resnet101", (3, 4, 23, 3)),
    ("resnext50_32x4d", (3, 4, 6, 3)),
    ("wide_resnet50_2", (3, 4, 6, 3)),
):
    add_backbone(_name, f"sat_optuna.backbones.torchvision:{_name}", stages=_blocks)
BACKBONES.add_family("timm:", "sat_optuna.backbones.timm:resolve")


def backbone_stages(name: str, blocks: Sequence[int] | None = None) -> tuple[int, ...] | None:
    """Return the number of blocks of each stage, without building anything.

    >>> backbone_stages("resnet20"), backbone_stages("resnet20", (1, 2, 1))
    ((3, 3, 3), (1, 2, 1))

    Args:
        name: a name of `BACKBONES`.
        blocks: the backbone's setting of that name; None for its default.

    Returns:
        The stages; None if one has to build the network to know them, as for `timm:` networks.

    Raises:
        UnknownName: no such backbone.
    """
    BACKBONES.check(name)
    return tuple(blocks) if blocks else _STAGES.get(name)


def build_backbone(name: str, *, in_channels: int, classes: int, **settings: Any) -> "nn.Module":
    """Build a backbone by name; its weights are drawn from torch's global generator.

    >>> net = build_backbone("resnet20", in_channels=3, classes=10, width=8, blocks=(1, 2, 1))
    >>> [len(blocks) for blocks in net.blocks]
    [1, 2, 1]

    On the device "meta", a network whose constructor reads values (`.item()`) is built on the CPU
    and then moved.

    Args:
        name: a name of `BACKBONES`.
        in_channels: channels of the images.
        classes: number of logits.
        **settings: the backbone's own settings. The CIFAR ResNets have `width`, `stem_stride` and
            `blocks` (number of blocks of each stage; None for the default); they, torchvision's
            and timm's networks have `head` (a name of `heads.HEADS`) and `dilated_stages` (how
            many of the last stages, up to two, keep the side of the one before).

    Returns:
        A network of which `backbones.view.view_of` makes a view.

    Raises:
        UnknownName: no such backbone.
        BackboneError: the backbone has no such setting, or its builder fails.
    """
    from sat_optuna.backbones.contract import BackboneError

    given = "".join(f", {key} = {value!r}" for key, value in settings.items())
    with errors_as(
        BackboneError,
        f"backbone {name!r} cannot be built with in_channels = {in_channels}, classes = "
        f"{classes}{given}",
        "choose other settings, or correct its builder",
    ):
        builder = BACKBONES.get(name)
        known = _settings_of(builder)
        if not _takes_any(builder) and (unknown := sorted(settings.keys() - set(known))):
            listed = ", ".join(known) or "none"
            other = _HEADED if unknown[0] == "head" else ""
            raise BackboneError(
                f"backbone {name!r} has no setting {unknown[0]!r}"
                f"{nearest(unknown[0], known) or ';'} it has: {listed}; drop it{other}"
            )
        if "blocks" in known and not settings.get("blocks"):
            settings["blocks"] = _STAGES[name]
        return _built(partial(builder, in_channels=in_channels, classes=classes, **settings))


def _built(build: "Callable[[], nn.Module]") -> "nn.Module":
    import torch

    try:
        return build()
    except SatOptunaError:
        raise
    except Exception:
        if torch.get_default_device().type != "meta":
            raise
        with torch.device("cpu"):
            return build().to("meta")


def _settings_of(builder: Callable[..., Any]) -> tuple[str, ...]:
    parameters = inspect.signature(builder).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return tuple(name for name in named if name not in _GIVEN)


def _takes_any(builder: Callable[..., Any]) -> bool:
    parameters = inspect.signature(builder).parameters.values()
    return any(p.kind is p.VAR_KEYWORD for p in parameters)
