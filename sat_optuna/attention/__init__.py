"""Attention modules by name; listing the names imports no torch.

A module of one's own is a subclass of `contract.Attention` and one line,
`ATTENTION.add("name", "package.module:Class")`; the contract tests then run over it.
"""

import inspect
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sat_optuna.errors import UnknownName
from sat_optuna.registry import Registry, nearest
from sat_optuna.ticket import AttentionSpec

if TYPE_CHECKING:
    from sat_optuna.attention.contract import Attention

__all__ = ["ATTENTION", "attention_faults", "build_attention", "default_spec"]

ATTENTION: Registry[type["Attention"]] = Registry("attention module")
ATTENTION.add("dia", "sat_optuna.attention.dia:DIA")
ATTENTION.add("se", "sat_optuna.attention.se:SE")
ATTENTION.add("sge", "sat_optuna.attention.sge:SGE")


def build_attention(kind: str, channels: int, **settings: Any) -> "Attention":
    """Build the attention module of that name, weights drawn from torch's global generator.

    Args:
        kind: a name of `ATTENTION`.
        channels: C of the features it will see.
        **settings: the module's own settings; each has a default.

    Raises:
        UnknownName: no such module.
        AttentionError: a setting it does not have, or a value it cannot take.
    """
    from sat_optuna.attention.contract import AttentionError

    cls = ATTENTION.get(kind)
    unknown = _unknown_settings(kind, cls, settings)
    if unknown:
        raise AttentionError(unknown[0])
    return cls(channels, **settings)


def default_spec(kind: str) -> AttentionSpec:
    """Return a kind with its own defaults: one module a block where it allows that.

    Raises:
        UnknownName: no such module.
    """
    return AttentionSpec(kind=kind, sharing=ATTENTION.get(kind).sharings[0])


def attention_faults(spec: AttentionSpec, *, channels: Iterable[int] = ()) -> list[str]:
    """Return all that is wrong with a spec, a sentence each; imports torch, draws nothing.

    Args:
        spec: what to look at.
        channels: the channels it shall be built for, where they are known; without them only
            values that suit no network at all are found.
    """
    import torch

    from sat_optuna.attention.contract import AttentionError

    try:
        cls = ATTENTION.get(spec.kind)
    except UnknownName as error:
        return [str(error)]
    faults = _unknown_settings(spec.kind, cls, spec.settings)
    if spec.sharing not in cls.sharings:
        allowed = " or ".join(repr(sharing) for sharing in cls.sharings)
        faults.append(f"{spec.kind} has sharing = {spec.sharing!r}; it allows {allowed} only")
    known = {name: value for name, value in spec.settings.items() if name in _settings_of(cls)}
    # Without channels, a width that every whole number among the settings divides.
    whole = (v for v in known.values() if isinstance(v, int) and v > 0)
    for width in dict.fromkeys(channels) or (math.lcm(64, *whole),):
        try:
            with torch.device("meta"):
                cls(width, **known)
        except AttentionError as error:
            faults.append(str(error))
    return list(dict.fromkeys(faults))


def _settings_of(cls: type["Attention"]) -> tuple[str, ...]:
    parameters = inspect.signature(cls).parameters.values()
    return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


def _unknown_settings(kind: str, cls: type["Attention"], settings: Iterable[str]) -> list[str]:
    known = _settings_of(cls)
    listed = ", ".join(known) or "none"
    return [
        f"{kind} has no setting {name!r}{nearest(name, known) or ';'} known: {listed}"
        for name in settings
        if name not in known
    ]
