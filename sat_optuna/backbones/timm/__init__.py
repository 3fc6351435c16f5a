"""timm's networks by name, for example `timm:resnet50`, and the tables of its families.

The families are resnet, resnetv2, regnet, convnext, mobilenetv3 and efficientnet. The networks are
timm's, with drawn weights. For pretrained ones, load a state_dict.

    build_backbone("timm:resnet50", in_channels=3, classes=5, head="fcn", dilated_stages=2)

With a head for maps, its features are what timm's network returns with `num_classes = 0` and
`global_pool = ""`; dilated stages are its `output_stride`.
"""

import difflib
import importlib
import inspect
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import torch

from sat_optuna.backbones.contract import BackboneError, check_counts
from sat_optuna.backbones.heads import HEADS, pads
from sat_optuna.backbones.maps import check_dilated, with_map_head
from sat_optuna.backbones.tables import block_entry, network_entry
from sat_optuna.errors import UnknownName

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

__all__ = ["resolve"]

_STRIDE = 32  # of the last features of all of them, in pixels of the image
_FAMILIES = ("resnet", "resnetv2", "regnet", "convnext", "efficientnet")

if find_spec("timm") is not None:
    for _family in _FAMILIES:
        importlib.import_module(f"{__name__}.{_family}")


def resolve(name: str) -> "Callable[..., nn.Module]":
    """Return the builder of one of timm's networks.

    Args:
        name: timm's name of the network, without a tag of pretrained weights.

    Returns:
        The builder. It takes `in_channels`, `classes`, `drop_rate` and `drop_path_rate`, `head`
        and `dilated_stages`, all by keyword; None for one of the rates means timm's default.

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
    return partial(_network, name, type(model))


def _network(
    name: str,
    kind: "type[nn.Module]",
    *,
    in_channels: int,
    classes: int,
    drop_rate: float | None = None,
    drop_path_rate: float | None = None,
    head: str = "linear",
    dilated_stages: int = 0,
) -> "nn.Module":
    import timm

    check_counts(in_channels=in_channels, classes=classes)
    for setting, rate in (("drop_rate", drop_rate), ("drop_path_rate", drop_path_rate)):
        if rate is not None and not (_is_number(rate) and 0 <= rate < 1):
            raise BackboneError(f"{setting} = {rate!r} given; give a number from 0 up, below 1")
    check_dilated(dilated_stages)
    HEADS.check(head)
    maps = pads(head)
    more: dict[str, Any] = {"global_pool": ""} if maps else {}
    if dilated_stages:
        if "output_stride" not in inspect.signature(kind.__init__).parameters:
            raise BackboneError(
                f"backbone 'timm:{name}' is of timm's {kind.__name__}, which has no dilation; "
                "write dilated_stages = 0, or take another, such as 'timm:resnet50' or "
                "'timm:efficientnet_b0'"
            )
        more["output_stride"] = _STRIDE // 2**dilated_stages
    model: Any = timm.create_model(
        name,
        pretrained=False,
        in_chans=in_channels,
        num_classes=0 if maps else classes,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
        **more,
    )
    if not maps:
        return cast("nn.Module", model)
    return with_map_head(
        model,
        network_entry(model).head,
        head=head,
        channels=model.head_hidden_size,
        classes=classes,
        stride=model.feature_info[-1]["reduction"],
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
