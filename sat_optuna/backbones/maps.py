"""A head for maps in the place of the classifier of a network from elsewhere.

The network is of a class of its own, which is its class extended: all its modules and the names of
their weights stay, but for its classifier, and `map_head` is new. So trained weights of the trunk
load. Images are padded and maps cropped as those of our own networks are.
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from sat_optuna.backbones.contract import BackboneError, cropped, padded
from sat_optuna.backbones.heads import HEADS
from sat_optuna.backbones.tables import NetworkEntry, add_network, network_entry

__all__ = ["MAP_HEAD", "check_dilated", "with_map_head"]

MAP_HEAD = "map_head"  # the attribute that holds it

torch.fx.wrap("cropped")
torch.fx.wrap("padded")

_MOST_DILATED = 2


def check_dilated(dilated_stages: int) -> None:
    """Make sure that no stage, the last one or the last two are to be dilated.

    Raises:
        BackboneError: others are.
    """
    if dilated_stages not in range(_MOST_DILATED + 1):
        raise BackboneError(
            f"dilated_stages = {dilated_stages!r} given; write 0, 1 or 2: an output stride of 32, "
            "16 or 8"
        )


def with_map_head(
    model: nn.Module,
    features: Callable[[Any, Tensor], Tensor],
    *,
    head: str,
    channels: int,
    classes: int,
    stride: int,
) -> nn.Module:
    """Give a network a head for maps; it is changed and returned.

    Args:
        model: of a type in the table of networks, without its classifier.
        features: called with (model, the last step's output), it returns the (N, C, H, W) maps
            that the head takes; a plain function at the top of a module.
        head: a name of `HEADS`.
        channels: C of them.
        classes: outputs.
        stride: how many pixels of an image a pixel of them is, a side.
    """
    entry = network_entry(model)
    setattr(model, MAP_HEAD, HEADS.get(head)(channels, classes, stride))
    model.map_stride = stride  # type: ignore[assignment]
    model.__class__ = _extended(cast("Any", type(model)), entry, features)
    return model


@functools.cache
def _extended(
    model_type: type[nn.Module],
    entry: NetworkEntry,
    features: Callable[[Any, Tensor], Tensor],
) -> type[nn.Module]:
    """Return the class of networks of a type that end in maps; the same one at each call."""

    class Extended(model_type):  # type: ignore[misc,valid-type]
        _plain: ClassVar[tuple[Any, ...]] = (model_type, entry, features)

        def forward(self, x: Tensor) -> Tensor:
            size = x.shape[2:]
            x = _stem(self, x)
            for steps in entry.stages(self):
                for step in steps:
                    x = step(x)
            return cropped(_head(self, x), size)

        def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
            return _blank, self._plain, self.__getstate__()

    Extended.__name__ = f"{model_type.__name__}WithMaps"
    Extended.__qualname__ = Extended.__name__
    Extended.__doc__ = f"A {model_type.__name__} that ends in maps of the images' size."
    add_network(Extended, stem=_stem, stages=entry.stages, head=_head)
    return Extended


def _blank(*plain: Any) -> nn.Module:
    """Return a network without any attribute; pickle and deepcopy fill it."""
    kind = _extended(*plain)
    blank: nn.Module = kind.__new__(kind)
    return blank


def _stem(model: Any, x: Tensor) -> Tensor:
    _, entry, _ = model._plain
    stemmed: Tensor = entry.stem(model, padded(x, model.map_stride))
    return stemmed


def _head(model: Any, x: Tensor) -> Tensor:
    _, _, features = model._plain
    maps: Tensor = model.map_head(features(model, x))
    return maps
