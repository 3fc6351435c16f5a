"""Attention modules by name; listing the names imports neither torch nor timm.

A module of one's own is a subclass of `contract.Attention` and one line,
`ATTENTION.add("name", "package.module:Class")`; the contract tests then run over it. The names
`timm:<name>` stand for timm's modules where timm is installed.
"""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sat_optuna.attention.timm_names import timm_kinds
from sat_optuna.errors import UnknownName, quoted
from sat_optuna.registry import Registry, nearest
from sat_optuna.ticket import AttentionSpec

if TYPE_CHECKING:
    from sat_optuna.attention.contract import Attention

__all__ = [
    "ATTENTION",
    "DEFAULT_SHARING",
    "OWN",
    "Description",
    "attention_faults",
    "build_attention",
    "default_spec",
    "describe",
]

# The attention that a network brings with it: taken, not built, so it has no entry.
OWN = "own"

# Kinds that are not one module a block unless said otherwise; known without importing torch.
DEFAULT_SHARING = {"dia": "stage"}

ATTENTION: Registry[type["Attention"]] = Registry("attention module")
ATTENTION.add("bam", "sat_optuna.attention.bam:BAM")
ATTENTION.add("cbam", "sat_optuna.attention.cbam:CBAM")
ATTENTION.add("dia", "sat_optuna.attention.dia:DIA")
ATTENTION.add("eca", "sat_optuna.attention.eca:ECA")
ATTENTION.add("gc", "sat_optuna.attention.gc:GC")
ATTENTION.add("ie", "sat_optuna.attention.ie:IE")
ATTENTION.add("se", "sat_optuna.attention.se:SE")
ATTENTION.add("sge", "sat_optuna.attention.sge:SGE")
ATTENTION.add("simam", "sat_optuna.attention.simam:SimAM")
ATTENTION.add("spa", "sat_optuna.attention.spa:SPA")
ATTENTION.add("srm", "sat_optuna.attention.srm:SRM")
ATTENTION.add_family("timm:", "sat_optuna.attention.timm_layers:build", names=timm_kinds)

_PLACES = "places"
# No network has more channels; beyond, a count of weights would not fit into 63 bits.
_MOST_CHANNELS = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What there is to know of a kind before it is built.

    Attributes:
        kind: its name.
        paper: where it was published.
        sharings: how a stage may own it, the default first.
        params_at_64: parameters for 64 channels with its default settings.
    """

    kind: str
    paper: str
    sharings: tuple[str, ...]
    params_at_64: int


def build_attention(
    kind: str, channels: int, *, places: Sequence[str] = (), **settings: Any
) -> "Attention":
    """Build the attention module of that name, weights drawn from torch's global generator.

    Args:
        kind: a name of `ATTENTION`.
        channels: C of the features it will see.
        places: the blocks that share it, where that matters to it (`Attention.placed`); empty for
            a module of one block.
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
    if cls.placed and places:
        settings[_PLACES] = tuple(places)
    return cls(channels, **settings)


def default_spec(kind: str) -> AttentionSpec:
    """Return a kind with its own defaults: one module a block where it allows that.

    Raises:
        UnknownName: no such module.
    """
    return AttentionSpec(kind=kind, sharing=_class_of(kind).sharings[0])


def describe(kind: str) -> Description:
    """Return what there is to know of a kind; imports torch, draws nothing.

    Raises:
        UnknownName: no such module.
    """
    import torch

    with torch.device("meta"):
        module = build_attention(kind, 64)
    return Description(
        kind=kind,
        paper=module.paper,
        sharings=module.sharings,
        params_at_64=sum(parameter.numel() for parameter in module.parameters()),
    )


def attention_faults(spec: AttentionSpec, *, channels: Iterable[int] = ()) -> list[str]:
    """Return all that is wrong with a spec, a sentence each; imports torch, draws nothing.

    Args:
        spec: what to look at.
        channels: the channels it shall be built for, where they are known; without them only
            values that suit no network at all are found.
    """
    from sat_optuna.attention.contract import AttentionError

    try:
        cls = _class_of(spec.kind)
    except (AttentionError, UnknownName) as error:
        return [str(error)]
    except Exception as error:
        return [f"attention {spec.kind!r} cannot be loaded ({quoted(error)}); correct its module"]
    faults = _unknown_settings(spec.kind, cls, spec.settings)
    if spec.sharing not in cls.sharings:
        allowed = " or ".join(repr(sharing) for sharing in cls.sharings)
        faults.append(f"{spec.kind} has sharing = {spec.sharing!r}; it allows {allowed} only")
    if spec.kind == OWN:
        return faults
    known = {name: value for name, value in spec.settings.items() if name in _settings_of(cls)}
    # Without channels, a width that every whole number among the settings divides.
    whole = (v for v in known.values() if isinstance(v, int) and v > 0)
    widest = min(math.lcm(64, *whole), _MOST_CHANNELS)
    for width in dict.fromkeys(channels) or (widest,):
        faults += _build_faults(spec, cls, width, known)
    return list(dict.fromkeys(faults))


def _build_faults(
    spec: AttentionSpec, cls: type["Attention"], width: int, settings: Mapping[str, Any]
) -> list[str]:
    """Return why a kind cannot be built for some channels; a plugin's may raise anything."""
    import torch

    from sat_optuna.attention.contract import AttentionError
    from sat_optuna.attention.norm import unplaced_norms

    try:
        with torch.device("meta"):
            module = cls(width, **settings)
    except AttentionError as error:
        return [str(error)]
    except Exception as error:
        given = "".join(f", {name} = {value!r}" for name, value in settings.items())
        return [
            f"{spec.kind} cannot be built for {width} channels{given} ({quoted(error)}); choose "
            "other settings, or correct the module"
        ]
    if spec.sharing == "stage" and unplaced_norms(module):
        return [
            f"{spec.kind} has sharing = 'stage' and a BatchNorm inside, whose statistics of one "
            "block would depend on the others; choose sharing = 'block', or set placed = True "
            "and use attention.norm.SharedBatchNorm in it"
        ]
    return []


def _class_of(kind: str) -> type["Attention"]:
    if kind == OWN:
        from sat_optuna.attention.own import OwnAttention

        return OwnAttention
    return ATTENTION.get(kind)


def _settings_of(cls: type["Attention"]) -> tuple[str, ...]:
    parameters = inspect.signature(cls).parameters.values()
    return tuple(
        p.name
        for p in parameters
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name != _PLACES
    )


def _unknown_settings(kind: str, cls: type["Attention"], settings: Iterable[str]) -> list[str]:
    known = _settings_of(cls)
    listed = ", ".join(known) or "none"
    return [
        f"{kind} has no setting {name!r}{nearest(name, known) or ';'} known: {listed}"
        for name in settings
        if name not in known
    ]
