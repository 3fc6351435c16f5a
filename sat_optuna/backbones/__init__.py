"""Backbones by name; their names and their stages are known without importing torch."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sat_optuna.registry import Registry

if TYPE_CHECKING:
    from sat_optuna.backbones.contract import Backbone

__all__ = ["BACKBONES", "add_backbone", "backbone_stages", "build_backbone"]

BACKBONES: Registry[Callable[..., "Backbone"]] = Registry("backbone")
_STAGES: dict[str, tuple[int, ...]] = {}


def add_backbone(
    name: str, builder: "Callable[..., Backbone] | str", *, stages: Sequence[int]
) -> None:
    """Register a backbone.

    Args:
        name: how it is called.
        builder: called with in_channels, classes, width, stem_stride and blocks, all by keyword;
            or the text `"module:attribute"` where it is found.
        stages: number of blocks of each stage, where nobody asks for others.
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


def backbone_stages(name: str, blocks: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the number of blocks of each stage, without building anything.

    Args:
        name: a name of `BACKBONES`.
        blocks: the blocks of each stage where they are not the family's own.

    Raises:
        UnknownName: no such backbone.
    """
    BACKBONES.check(name)
    return _STAGES[name] if blocks is None else tuple(blocks)


def build_backbone(
    name: str,
    *,
    in_channels: int,
    classes: int,
    width: int = 16,
    stem_stride: int = 1,
    blocks: Sequence[int] | None = None,
) -> "Backbone":
    """Build a backbone, weights drawn from torch's global generator.

    Args:
        name: a name of `BACKBONES`.
        in_channels: channels of the images.
        classes: number of logits.
        width: channels of the first stage's convolutions.
        stem_stride: stride of the first convolution.
        blocks: blocks of each stage; None for the family's own.

    Raises:
        UnknownName: no such backbone.
        BackboneError: a setting it cannot be built with.
    """
    builder = BACKBONES.get(name)
    return builder(
        in_channels=in_channels,
        classes=classes,
        width=width,
        stem_stride=stem_stride,
        blocks=backbone_stages(name, blocks),
    )
