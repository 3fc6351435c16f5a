"""timm's networks by name, for example `timm:resnet50`, and the tables of its families.

The families are resnet, resnetv2, regnet, convnext, mobilenetv3 and efficientnet. The networks are
timm's, with drawn weights. For pretrained ones, load a state_dict.
"""

import difflib
import importlib
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from sat_optuna.backbones.contract import BackboneError, check_counts
from sat_optuna.backbones.tables import block_entry, network_entry
from sat_optuna.errors import UnknownName

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

__all__ = ["resolve"]

_FAMILIES = ("resnet", "resnetv2", "regnet", "convnext", "efficientnet")

if find_spec("timm") is not None:
    for _family in _FAMILIES:
        importlib.import_module(f"{__name__}.{_family}")


def resolve(name: str) -> "Callable[..., nn.Module]":
    """Return the builder of one of timm's networks.

    Args:
        name: timm's name of the network, without a tag of pretrained weights.

    Returns:
        The builder. It takes `in_channels`, `classes`, `drop_rate` and `drop_path_rate`, all by
        keyword; None for one of the last two means timm's default.

    Raises:
        BackboneError: timm is not installed, or the type of the network or of one of its blocks
            is in no table.
        UnknownName: timm has no such network.
    """
    if find_spec("timm") is None:
        raise BackboneError(
            f"backbone 'timm:{name}' needs timm; install it with: pip install 'sat_optuna[timm]'"
        )
    import timm

    known = timm.list_models()
    if name not in known:
        close = ", ".join(f"'timm:{near}'" for near in difflib.get_close_matches(name, known))
        near = f"did you mean one of {close}? " if close else ""
        raise UnknownName(
            f"no backbone 'timm:{name}'; {near}timm.list_models() lists timm's names"
        )
    with torch.device("meta"):  # only types are looked at: no memory, no random numbers
        model = timm.create_model(name)
    for steps in network_entry(model).stages(model):
        for step in steps:
            block_entry(step, model)
    return partial(_network, name)


def _network(
    name: str,
    *,
    in_channels: int,
    classes: int,
    drop_rate: float | None = None,
    drop_path_rate: float | None = None,
) -> "nn.Module":
    import timm

    check_counts(in_channels=in_channels, classes=classes)
    for setting, rate in (("drop_rate", drop_rate), ("drop_path_rate", drop_path_rate)):
        if rate is not None and not (_is_number(rate) and 0 <= rate < 1):
            raise BackboneError(f"{setting} = {rate!r} given; give a number from 0 up, below 1")
    return timm.create_model(
        name,
        pretrained=False,
        in_chans=in_channels,
        num_classes=classes,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
