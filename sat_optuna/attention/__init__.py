"""Attention modules by name; listing the names imports neither torch nor timm.

A module of your own is a subclass of `contract.Attention` and one line,
`ATTENTION.add("name", "package.module:Class")`; the contract tests then run over it. Where timm is
installed, the names `timm:<name>` stand for timm's modules. The name `constant:<kind>` stands for
the gate that looks at nothing in the place of any kind; these names are not listed.
"""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sat_optuna.attention.timm_names import timm_kinds
from sat_optuna.errors import UnknownName, one_line
from sat_optuna.registry import Registry, nearest
from sat_optuna.ticket import AttentionSpec

if TYPE_CHECKING:
    from sat_optuna.attention.contract import Attention

__all__ = [
    "ATTENTION",
    "CONSTANT",
    "DEFAULT_SHARING",
    "OWN",
    "Description",
    "attention_faults",
    "build_attention",
    "default_spec",
    "describe",
    "starting_as_identity",
]

# The kind that stands for the attention that a network's blocks carry themselves. It is taken out
# of the network and not built, so it has no entry in the registry.
OWN = "own"
# Begins the name of the constant control of a kind: "constant:se".
CONSTANT = "constant:"

# The sharing of the kinds whose default is not "block"; reading it imports no torch.
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
ATTENTION.add_family(CONSTANT, "sat_optuna.attention.constant:build")

# The argument that names the blocks which share a module; no user sets it.
_SHARED_BY = "blocks"
# No network has more channels. With more, a count of weights would not fit into 63 bits.
_MOST_CHANNELS = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What is known of a kind of attention before it is built.

    Attributes:
        kind: its name.
        paper: where it was published.
        sharings: how a stage may own it, "block" or "stage"; the first is the default.
        params_at_64: number of parameters for 64 channels with the default settings.
    """

    kind: str
    paper: str
    sharings: tuple[str, ...]
    params_at_64: int


def build_attention(
    kind: str, channels: int, *, blocks: Sequence[str] = (), **settings: Any
) -> "Attention":
    """Build an attention module by name; its weights are drawn from torch's global generator.

    >>> import torch
    >>> se = build_attention("se", channels=64, reduction=8)
    >>> features, state = se(torch.zeros(2, 64, 7, 7))
    >>> features.shape, state
    (torch.Size([2, 64, 7, 7]), None)

    Args:
        kind: a name of `ATTENTION`.
        channels: C of the features that it will see.
        blocks: names of the blocks that share the module; empty for a module of one block. Only
            modules with `Attention.per_block_statistics` use it.
        **settings: the module's own settings; each has a default.

    Raises:
        UnknownName: no such module.
        AttentionError: the module has no such setting, or cannot take its value.
    """
    from sat_optuna.attention.contract import AttentionError

    cls = ATTENTION.get(kind)
    unknown = _unknown_settings(kind, cls, settings)
    if unknown:
        raise AttentionError(unknown[0])
    if cls.per_block_statistics and blocks:
        settings[_SHARED_BY] = tuple(blocks)
    return cls(channels, **settings)


def default_spec(kind: str) -> AttentionSpec:
    """Return the spec of a kind with its default sharing and settings.

    >>> default_spec("dia")
    AttentionSpec(kind='dia', sharing='stage', settings={})

    Raises:
        UnknownName: no such module.
    """
    return AttentionSpec(kind=kind, sharing=_class_of(kind).sharings[0])


def starting_as_identity(spec: AttentionSpec) -> AttentionSpec:
    """Return a spec that starts as the identity, where its kind can and is not asked not to.

    >>> starting_as_identity(AttentionSpec(kind="se")).settings
    {'identity': True}

    Raises:
        UnknownName: no such module.
    """
    identity = inspect.signature(_class_of(spec.kind)).parameters.get("identity")
    if identity is None:
        return spec
    settings = {"identity": True, **spec.settings}
    if settings["identity"] == identity.default:
        del settings["identity"]  # the same spec as where nothing was said
    return replace(spec, settings=settings)


def describe(kind: str) -> Description:
    """Return what is known of a kind; torch is imported and no weight is drawn.

    >>> describe("se").params_at_64
    580

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
    """Return all that is wrong with a spec, one sentence for each fault; no weight is drawn.

    >>> attention_faults(AttentionSpec(kind="se", settings={"groups": 5}))
    ["se has no setting 'groups'; known: reduction, identity"]

    Args:
        spec: what to check.
        channels: the numbers of channels that it shall be built for. Without them only those
            values are found that suit no network at all.
    """
    from sat_optuna.attention.contract import AttentionError

    try:
        cls = _class_of(spec.kind)
    except (AttentionError, UnknownName) as error:
        return [str(error)]
    except Exception as error:
        return [
            f"attention {spec.kind!r} cannot be loaded ({one_line(error)}); correct its module"
        ]
    faults = _unknown_settings(spec.kind, cls, spec.settings)
    if spec.sharing not in cls.sharings:
        allowed = " or ".join(repr(sharing) for sharing in cls.sharings)
        faults.append(f"{spec.kind} has sharing = {spec.sharing!r}; it allows {allowed} only")
    if spec.kind == OWN:
        return faults
    known = {name: value for name, value in spec.settings.items() if name in _settings_of(cls)}
    # Without channels the test is a width that every whole number among the settings divides.
    whole = (v for v in known.values() if isinstance(v, int) and v > 0)
    widest = min(math.lcm(64, *whole), _MOST_CHANNELS)
    for width in dict.fromkeys(channels) or (widest,):
        faults += _build_faults(spec, cls, width, known)
    return list(dict.fromkeys(faults))


def _build_faults(
    spec: AttentionSpec, cls: type["Attention"], width: int, settings: Mapping[str, Any]
) -> list[str]:
    """Return why a kind cannot be built for `width` channels; a plugin may raise anything."""
    import torch

    from sat_optuna.attention.contract import AttentionError
    from sat_optuna.attention.norm import mixes_blocks

    try:
        with torch.device("meta"):
            module = cls(width, **settings)
    except AttentionError as error:
        return [str(error)]
    except Exception as error:
        given = "".join(f", {name} = {value!r}" for name, value in settings.items())
        return [
            f"{spec.kind} cannot be built for {width} channels{given} ({one_line(error)}); choose "
            "other settings, or correct the module"
        ]
    if spec.sharing == "stage" and mixes_blocks(module):
        return [
            f"{spec.kind} has sharing = 'stage' and a BatchNorm inside, whose statistics of one "
            "block would depend on the others; choose sharing = 'block', or set "
            "per_block_statistics = True and use attention.norm.SharedBatchNorm in it"
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
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name != _SHARED_BY
    )


def _unknown_settings(kind: str, cls: type["Attention"], settings: Iterable[str]) -> list[str]:
    known = _settings_of(cls)
    listed = ", ".join(known) or "none"
    return [
        f"{kind} has no setting {name!r}{nearest(name, known) or ';'} known: {listed}"
        for name in settings
        if name not in known
    ]
