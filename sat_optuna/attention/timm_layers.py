"""timm's attention modules: the kind `timm:eca` is `timm.layers.create_attn("eca", C)`."""

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sat_optuna.attention.contract import Attention, AttentionError, State
from sat_optuna.attention.foreign_gates import gate_in, gate_of
from sat_optuna.attention.timm_names import TIMM_ADDS, TIMM_NAMES, TIMM_REFUSED, timm_kinds
from sat_optuna.errors import UnknownName
from sat_optuna.registry import nearest

__all__ = ["TimmAttention", "build"]

_LAST = torch.channels_last
_CLASS = "Timm_"
_NOT_SETTINGS = ("stride",)  # a stride would change the shape


@torch.fx.wrap
def _as_it_lies(attended: Tensor, features: Tensor) -> Tensor:
    """Return attended features in the memory format of the features.

    Some modules sum over a fifth dimension, and the sum is not in channels_last.
    """
    if not features.is_contiguous() and features.is_contiguous(memory_format=_LAST):
        return attended.contiguous(memory_format=_LAST)
    return attended


class TimmAttention(Attention):
    """One of timm's modules; its settings are those of timm's that are numbers, texts or booleans.

    Attributes:
        kind: for example "timm:eca".
        make: timm's class, or timm's function that builds the module.
        module: timm's module.
    """

    kind: ClassVar[str]
    make: ClassVar[Callable[..., nn.Module]]

    def __init__(self, channels: int, **settings: Any) -> None:
        """Build the module; a run with shapes alone, on "meta", shows whether it keeps them.

        Args:
            channels: C of the features.
            **settings: settings of timm's module.

        Raises:
            AttentionError: timm cannot build the module, or it would change the shape.
        """
        super().__init__()
        given = "".join(f", {name} = {value!r}" for name, value in settings.items())
        shape = torch.Size((1, channels, 6, 7))
        try:
            with torch.device("meta"):
                kept = type(self).make(channels, **settings).eval()(torch.empty(shape)).shape
            self.module = type(self).make(channels, **settings)
        # timm checks settings by assertions, look-ups and arithmetic, so any error may come.
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise AttentionError(
                f"timm cannot build {self.kind} for {channels} channels{given} ({reason}); "
                "choose other settings"
            ) from error
        if kept != shape:
            raise AttentionError(
                f"{self.kind} for {channels} channels{given} makes {tuple(kept)} of "
                f"{tuple(shape)}; choose settings that keep the shape"
            )

    def gate(self, features: Tensor) -> Tensor:
        """Return the (N, C) factor of each channel.

        Args:
            features: (N, C, H, W).

        Raises:
            AttentionError: timm's module is none that multiplies each channel by a number.
        """
        return gate_in(self.module, features)

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Run timm's module.

        Args:
            features: (N, C, H, W).
            state: returned as it is.

        Returns:
            (N, C, H, W) attended features, and the state.
        """
        return _as_it_lies(self.module(features).to(features.dtype), features), state


@functools.cache
def build(name: str) -> type[TimmAttention]:
    """Return the class of the kind `timm:<name>`.

    Args:
        name: as timm's factory `create_attn` takes it.

    Raises:
        UnknownName: timm has no module of that name.
        AttentionError: timm is not installed, or a block cannot carry this module.
    """
    kind = f"timm:{name}"
    if name in TIMM_REFUSED:
        raise AttentionError(
            f"attention {kind!r} cannot stand in a block: {TIMM_REFUSED[name]}; "
            f"choose one of {', '.join(TIMM_NAMES)}"
        )
    if name not in TIMM_NAMES:
        near = nearest(name, TIMM_NAMES) or ";"
        raise UnknownName(f"no attention module {kind!r}{near} timm has {', '.join(TIMM_NAMES)}")
    if not timm_kinds():
        raise AttentionError(
            f"attention {kind!r} needs timm; install it with: pip install 'sat_optuna[timm]'"
        )
    make = importlib.import_module("timm.layers").get_attn(name)
    with torch.device("meta"):
        like = make(64)
    has_norm = any(isinstance(module, _BatchNorm) for module in like.modules())
    members: dict[str, Any] = {
        "__doc__": f"timm's {name}.",
        "__module__": __name__,
        "__signature__": _signature(make),
        "kind": kind,
        "make": staticmethod(make),
        "paper": f"timm's {getattr(make, 'func', make).__name__}",
        # A BatchNorm of timm's has no statistics for each block, so blocks cannot share it.
        "sharings": ("block",) if has_norm else ("block", "stage"),
        "gated": gate_of(like) is not None,
        "adds": name in TIMM_ADDS,
    }
    return type(f"{_CLASS}{name}", (TimmAttention,), members)


def __getattr__(name: str) -> type[TimmAttention]:
    """Return a class that `build` made, by its name: pickle looks for classes this way."""
    kind = name.removeprefix(_CLASS)
    if kind == name or kind not in TIMM_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return build(kind)


def _signature(make: Callable[..., nn.Module]) -> inspect.Signature:
    """Return `channels` and, as keyword-only, the settings whose default is a number or text."""
    settings = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=type(parameter.default))
        for parameter in inspect.signature(make).parameters.values()
        if type(parameter.default) in (bool, int, float, str)
        and parameter.name not in _NOT_SETTINGS
    ]
    channels = inspect.Parameter("channels", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Signature([channels, *settings])
