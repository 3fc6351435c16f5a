"""study.toml, read: a StudyConfig, or every fault at once."""

import math
import tomllib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Protocol

from sat_optuna.config.config import OF_GIVEN, AttentionConfig, StudyConfig
from sat_optuna.config.limits import fitted
from sat_optuna.config.objectives import objectives_fault
from sat_optuna.errors import ConfigError, SatOptunaWarning
from sat_optuna.files import check_is_file, unusable_values
from sat_optuna.registry import Registry, nearest
from sat_optuna.scheme import MAX_KINDS
from sat_optuna.ticket import SHARINGS, AttentionSpec

__all__ = [
    "Names",
    "given_ticket_of",
    "parse_config",
    "plugins_of",
    "read_toml",
]

# What a network is built with beside its settings.
_GIVEN = frozenset({"attention", "backbone", "classes", "in_channels", "name", "seed"})


class Names(Protocol):
    """Names that may be used: those it iterates over, and perhaps whole families of others."""

    def __contains__(self, name: object, /) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a study.toml, nothing about them checked but that they can be handled.

    Raises:
        ConfigError: it cannot be read or is not TOML.
    """
    try:
        check_is_file(path)
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows writes a BOM
    except OSError as error:
        raise ConfigError(
            str(path), [f"cannot be read ({error.strerror}); make one with: sat-optuna new NAME"]
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), [f"is not TOML: {error}; correct it there"]) from error
    if faults := [*unusable_values(document)]:
        raise ConfigError(str(path), faults)
    return document


def plugins_of(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the files that [plugins] lists, none where the table is faulty.

    They register names that the rest of study.toml uses, so they are needed before it is checked.
    """
    table = document.get("plugins")
    listed = table.get("modules") if isinstance(table, Mapping) else None
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        return ()
    return tuple(listed)


def given_ticket_of(document: Mapping[str, Any]) -> str:
    """Return the ticket that [transfer] names; empty where none is, or the table is faulty."""
    table = document.get("transfer")
    named = table.get("ticket") if isinstance(table, Mapping) else None
    return named if isinstance(named, str) else ""


def parse_config(
    document: Mapping[str, Any],
    *,
    source: str,
    known: Mapping[str, Names],
    default_sharing: Mapping[str, str] | None = None,
) -> StudyConfig:
    """Build a StudyConfig from the tables of a study.toml.

    Args:
        document: the tables.
        source: names them in faults.
        known: names that may be used, for `modules`, `backbones` and `datasets`; a missing entry
            is not checked.
        default_sharing: of kinds that are not one module a block unless said otherwise.

    Raises:
        ConfigError: all faults at once.
    """
    reader = _Reader(known, default_sharing or {})
    values: dict[str, Any] = {}
    sections = {f.name: f for f in fields(StudyConfig)}
    for key, given in document.items():
        if key not in sections:
            reader.unknown(key, key, sections)
        elif "comment" in sections[key].metadata:
            values[key] = reader.value(key, given, sections[key])
        elif not isinstance(given, Mapping):
            reader.fault(key, f"{key} is {given!r}; write a table [{key}]")
        elif key == "attention":
            values[key] = AttentionConfig(reader.attention(given))
        else:
            values[key] = reader.section(key, given, sections[key].type)
    config = StudyConfig(**values)
    for keys, text in _cross_faults(config):
        if not reader.faulty & {*keys, *(key.partition(".")[0] for key in keys)}:
            reader.faults.append(text)
    if reader.faults:
        raise ConfigError(source, reader.faults)
    return config


class _Reader:
    """Checks value by value and gathers the faults.

    A default stands in for a faulty value, so that what comes later sees a whole configuration.
    """

    def __init__(self, known: Mapping[str, Names], default_sharing: Mapping[str, str]) -> None:
        self.faults: list[str] = []
        self.faulty: set[str] = set()
        self._names = known
        self._default_sharing = default_sharing

    def fault(self, full_key: str, text: str) -> None:
        self.faulty.add(full_key)
        self.faults.append(text)

    def unknown(self, full_key: str, key: str, known: Iterable[str]) -> None:
        hint = nearest(key, known) or f"; known: {', '.join(known)}"
        self.fault(full_key, f"unknown key {full_key!r}{hint}")

    def section(self, section: str, given: Mapping[str, Any], cls: Any) -> Any:
        known = {f.name: f for f in fields(cls) if "comment" in f.metadata}
        values = {}
        for key, value in given.items():
            full_key = f"{section}.{key}"
            if key in known:
                values[key] = self.value(full_key, value, known[key])
            else:
                self.unknown(full_key, key, known)
        return cls(**values)

    def value(self, full_key: str, given: Any, spec: Field[Any]) -> Any:
        """Return the field's value for what is written, its default where that is faulty."""
        value, hint = fitted(given, spec)
        hint = hint or self._name_hint(given, spec.metadata.get("registry"))
        if not hint:
            return value
        self.fault(full_key, f"{full_key} is {given!r}{hint}")
        return spec.default if spec.default_factory is MISSING else spec.default_factory()

    def _name_hint(self, name: str, registry: str | None) -> str:
        known = self._names.get(registry or "")
        if known is None or name in known:
            return ""
        near = known.near(name) if isinstance(known, Registry) else nearest(name, known)
        return f"{near or ';'} known: {', '.join(known)}"

    def attention(self, given: Mapping[str, Any]) -> tuple[AttentionSpec, ...]:
        """Read `kinds` and the table of settings of each kind."""
        defaults = {spec.kind: spec for spec in AttentionConfig().kinds}
        kinds = self._kinds(given.get("kinds", list(defaults)))
        specs = {kind: defaults.get(kind, self._usual(kind)) for kind in kinds or defaults}
        for key, table in given.items():
            if key in specs:
                specs[key] = self._spec(table, specs[key])
            elif key in defaults or key in self._names.get("modules", ()):
                usual = defaults.get(key, self._usual(key))
                if self._spec(table, usual) != usual:  # the template's own line needs no word
                    warnings.warn(
                        f"attention.{key} is set, and attention.kinds does not name {key}, so "
                        "it is not used",
                        SatOptunaWarning,
                        stacklevel=2,
                    )
            elif key != "kinds" and kinds:
                hint = nearest(key, ("kinds", *kinds)) or "; name it in attention.kinds or drop it"
                self.fault(f"attention.{key}", f"unknown key 'attention.{key}'{hint}")
        return tuple(specs.values())

    def _usual(self, kind: str) -> AttentionSpec:
        """Return a kind as it is without a table of its own."""
        return AttentionSpec(kind=kind, sharing=self._default_sharing.get(kind, SHARINGS[0]))

    def _kinds(self, kinds: Any) -> tuple[str, ...]:
        """Return the names that `attention.kinds` lists, none where it is faulty as a list."""
        full_key = "attention.kinds"
        if not isinstance(kinds, list) or not kinds or not all(isinstance(k, str) for k in kinds):
            self.fault(full_key, f'{full_key} is {kinds!r}; write a list of names such as ["se"]')
            return ()
        if len(set(kinds)) < len(kinds):
            self.fault(full_key, f"{full_key} is {kinds!r}; name each kind once")
        if len(kinds) > MAX_KINDS:
            self.fault(full_key, f"{full_key} names {len(kinds)} kinds; name at most {MAX_KINDS}")
        for kind in kinds:
            if hint := self._name_hint(kind, "modules"):
                self.fault(full_key, f"{full_key} has {kind!r}{hint}")
        return tuple(kinds)

    def _spec(self, table: Any, default: AttentionSpec) -> AttentionSpec:
        full_key = f"attention.{default.kind}"
        if not isinstance(table, Mapping):
            example = '{ sharing = "block" }'
            self.fault(full_key, f"{full_key} is {table!r}; write a table such as {example}")
            return default
        sharing = table.get("sharing", default.sharing)
        if sharing not in SHARINGS:
            choices = " or ".join(repr(choice) for choice in SHARINGS)
            self.fault(
                f"{full_key}.sharing", f"{full_key}.sharing is {sharing!r}; write {choices}"
            )
            sharing = default.sharing
        settings = dict(default.settings)
        for key, value in table.items():
            scalar = type(value) in (int, float, str, bool) and (
                type(value) is not float or math.isfinite(value)
            )
            if scalar and key != "sharing":
                settings[key] = value
            elif key != "sharing":
                text = (
                    f"{full_key}.{key} is {value!r}; write a finite number, a text, true or false"
                )
                self.fault(f"{full_key}.{key}", text)
        return AttentionSpec(kind=default.kind, sharing=sharing, settings=settings)


def _cross_faults(config: StudyConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the faults that need several keys to see: those keys, and the sentence."""
    pretrain, kinds = config.pretrain, len(config.attention.kinds)
    if pretrain.draws == "antithetic" and (pretrain.connect != 0.5 or kinds > 1):
        yield (
            ("pretrain.draws", "pretrain.connect", "attention.kinds"),
            f"pretrain.draws is 'antithetic' with connect = {pretrain.connect} and {kinds} "
            f"{'kind' if kinds == 1 else 'kinds'} of attention; it needs connect = 0.5 and one "
            "kind, or choose 'iid' or 'balanced'",
        )
    yield from _given_faults(config)
    yield from _weights_faults(config)
    yield from _recipe_faults(config)
    if config.train.nesterov and config.train.momentum == 0:
        yield (
            ("train.nesterov", "train.momentum"),
            "train.nesterov is true with momentum = 0.0; raise momentum or set nesterov = false",
        )
    search = config.search
    limits = [n for n in ("max_connections", "max_params", "max_macs") if getattr(search, n)]
    limits += ["max_latency_ms"] * (search.max_latency_ms > 0)
    limits += ["max_latency_share"] * (search.max_latency_share < 1)
    ours = search.sampler in ("policy", "paper")
    for block, kind in search.fixed.items():
        choices = ("none", *(spec.kind for spec in config.attention.kinds))
        if kind not in choices:
            options = ", ".join(map(repr, choices))
            yield (
                ("search.fixed", "attention.kinds"),
                f"search.fixed gives {block!r} the kind {kind!r}"
                f"{nearest(kind, choices) or ';'} choose one of: {options}",
            )
    if search.fixed and not ours:
        yield (
            ("search.sampler", "search.fixed"),
            f"search.fixed is set with sampler = {search.sampler!r}, which cannot hold blocks; "
            "choose sampler 'policy' or 'paper'",
        )
    if limits and not ours:
        yield (
            ("search.sampler", *(f"search.{name}" for name in limits)),
            f"search.{limits[0]} is set with sampler = {search.sampler!r}, which knows no limits; "
            "choose sampler 'policy' or 'paper'",
        )
    if search.sampler_settings and ours:
        yield (
            ("search.sampler", "search.sampler_settings"),
            f"search.sampler_settings is set with sampler = {search.sampler!r}, which takes none "
            "from study.toml; leave it out, or choose one of Optuna's samplers",
        )
    if search.max_latency_ms > 0 and search.max_latency_share < 1:
        yield (
            ("search.max_latency_ms", "search.max_latency_share"),
            f"search.max_latency_ms is {search.max_latency_ms} and search.max_latency_share "
            f"{search.max_latency_share}, two limits of one thing; set one of them",
        )
    if fault := objectives_fault(search.objectives, search.metric):
        yield (("search.objectives",), f"search.objectives {fault}")
    if search.objectives and search.pruner != "none":
        yield (
            ("search.objectives", "search.pruner"),
            f"search.pruner is {search.pruner!r} with objectives, of which Optuna prunes none; "
            "choose pruner 'none', or leave objectives empty",
        )
    if search.objectives and search.replicates > 1:
        yield (
            ("search.objectives", "search.replicates"),
            f"search.replicates is {search.replicates} with objectives, and a front is of schemes "
            "that are measured once; leave one of the two out",
        )
    if search.replicates > 1 and (search.objective != "train" or not ours):
        yield (
            ("search.replicates", "search.objective", "search.sampler"),
            f"search.replicates is {search.replicates} with objective = {search.objective!r} and "
            f"sampler = {search.sampler!r}; it needs objective 'train', for else a scheme is "
            "scored the same each time, and sampler 'policy' or 'paper'",
        )
    if search.objective != "train" and search.pruner != "none":
        yield (
            ("search.objective", "search.pruner"),
            f"search.pruner is {search.pruner!r} with objective = {search.objective!r}, which "
            "scores in one step; choose objective 'train' or pruner 'none'",
        )
    if search.held_back and search.objective != "supernet":
        yield (
            ("search.held_back", "search.objective"),
            f"search.held_back is {search.held_back} with objective = {search.objective!r}, and "
            "blocks that a ticket can do without are found in a supernet; write 0, or choose "
            "objective 'supernet'",
        )
    if search.objective == "folded" and (pretrain.connect != 1.0 or pretrain.draws != "iid"):
        yield (
            ("search.objective", "pretrain.connect", "pretrain.draws"),
            "search.objective is 'folded', which asks what may go of a network trained with "
            f"attention in all blocks, with pretrain.connect = {pretrain.connect} and draws = "
            f"{pretrain.draws!r}; write connect = 1.0 and draws = 'iid' under [pretrain]",
        )


def _given_faults(config: StudyConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what a study sets for a pretraining or a search that its ticket, given, needs not."""
    if not config.is_given:
        return
    for section in ("pretrain", "search"):
        has, usual = getattr(config, section), getattr(StudyConfig(), section)
        for spec in fields(has):
            key, value = f"{section}.{spec.name}", getattr(has, spec.name)
            read = section == "search" and spec.name in OF_GIVEN
            if not read and value != getattr(usual, spec.name):
                yield (
                    (key, "transfer.ticket"),
                    f"{key} is {value!r} and transfer.ticket is {config.transfer.ticket!r}: the "
                    "ticket is given, so nothing is pretrained or searched; drop one of the two",
                )


def _weights_faults(config: StudyConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what does not fit together of weights and of the steps that start from them."""
    network, steps = config.network, config.from_weights
    for key in network.settings.keys() & _GIVEN:
        yield (
            ("network.settings",),
            f"network.settings has {key!r}, which is given already; drop it there",
        )
    twice = [key for key in ("width", "stem_stride", "blocks") if key in network.settings]
    for key in twice:
        if getattr(network, key):
            yield (
                (f"network.{key}", "network.settings"),
                f"network.{key} is set, and network.settings has {key} too; drop one of them",
            )
    if network.weights and network.pretrained:
        yield (
            ("network.weights", "network.pretrained"),
            f"network.weights is {network.weights!r} and network.pretrained is true; keep one",
        )
    if steps and not (network.weights or network.pretrained):
        yield (
            ("network.weights", *(f"{step}.start" for step in steps)),
            f"{steps[0]}.start is 'weights' and [network] names none; set network.weights to a "
            "file, or network.pretrained to true",
        )
    for key, given in (("weights", network.weights), ("pretrained", network.pretrained)):
        if given and not steps:
            yield (
                (f"network.{key}", "pretrain.start", "search.start", "retrain.start"),
                f"network.{key} is {given!r} and no step starts from it; set start = 'weights' "
                "under [pretrain], [retrain] or both",
            )
    for key in ("lr_head", "lr_body"):
        if getattr(config.train, key) and not steps:
            yield (
                (f"train.{key}", "pretrain.start", "search.start", "retrain.start"),
                f"train.{key} is {getattr(config.train, key)} and no step has start = 'weights'; "
                "set train.lr, or start = 'weights' under [pretrain] or [retrain]",
            )


def _recipe_faults(config: StudyConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what does not fit together of [train] and of the epochs of the steps."""
    train = config.train
    if train.optimizer == "adamw" and train.strategy == "graph":
        yield (
            ("train.optimizer", "train.strategy"),
            "train.strategy is 'graph' with optimizer = 'adamw', whose steps are not made as "
            "graphs; choose strategy 'auto' or 'eager', or optimizer 'sgd'",
        )
    supernet = config.search.objective != "train" or config.search.start == "supernet"
    supernet = supernet and not config.is_given
    if train.clip and train.strategy == "graph" and supernet:
        yield (
            ("train.clip", "train.strategy", "search.objective", "search.start"),
            f"train.strategy is 'graph' with clip = {train.clip}, with which a supernet's steps "
            "are not made as graphs; choose strategy 'auto' or 'eager', or clip = 0",
        )
    for key in ("mixup", "cutmix"):
        if getattr(train, key) and config.task.name != "classification":
            yield (
                (f"train.{key}", "task.name"),
                f"train.{key} is {getattr(train, key)} and task.name is {config.task.name!r}, "
                "whose labels cannot be mixed; write 0",
            )
    epochs = {"pretrain": config.pretrain.epochs, "retrain": config.retrain.epochs}
    if config.is_given:
        del epochs["pretrain"]
    if config.search.objective == "train":
        epochs["search"] = config.search.epochs
    for step, count in epochs.items():
        if train.warmup >= count:
            yield (
                ("train.warmup", f"{step}.epochs", "search.objective"),
                f"train.warmup is {train.warmup} and {step}.epochs is {count}; write fewer epochs "
                "of warm-up",
            )
