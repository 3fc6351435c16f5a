"""study.toml: read into a StudyConfig, every fault at once; written with every key explained."""

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from sat_optuna.config import AttentionConfig, StudyConfig
from sat_optuna.errors import ConfigError
from sat_optuna.files import write_text
from sat_optuna.registry import nearest
from sat_optuna.ticket import SHARINGS, AttentionSpec

__all__ = ["load_config", "parse_config", "to_toml", "write_config"]


def load_config(path: Path, *, known: Mapping[str, Iterable[str]] | None = None) -> StudyConfig:
    """Read study.toml.

    Args:
        path: the file.
        known: names that may be used, for `modules`, `backbones` and `datasets`; a missing entry
            is not checked.

    Raises:
        ConfigError: all faults at once.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            str(path), [f"cannot be read ({error.strerror}); make one with: sat-optuna new NAME"]
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"is not TOML: {error}"]) from error
    return parse_config(document, source=str(path), known=known or {})


def parse_config(
    document: Mapping[str, Any], *, source: str, known: Mapping[str, Iterable[str]]
) -> StudyConfig:
    """Build a StudyConfig from the tables of a study.toml; see `load_config`."""
    faults: list[str] = []
    names = {name: tuple(values) for name, values in known.items()}
    values: dict[str, Any] = {}
    sections = {f.name: f for f in fields(StudyConfig)}
    for key, given in document.items():
        if key not in sections:
            near = nearest(key, sections)
            faults.append(f"unknown key {key!r}{near or '; known: ' + ', '.join(sections)}")
        elif key == "seed":
            values[key] = _value(
                "seed", given, sections[key].type, sections[key].metadata, names, faults
            )
        elif not isinstance(given, Mapping):
            faults.append(f"{key} is {given!r}; write a table [{key}]")
        elif key == "attention":
            values[key] = AttentionConfig(_attention(given, names, faults))
        else:
            values[key] = _section(key, given, sections[key].default_factory, names, faults)
    if not faults:
        config = StudyConfig(**values)
        faults += _cross_faults(config)
        if not faults:
            return config
    raise ConfigError(source, faults)


def _section(
    section: str,
    given: Mapping[str, Any],
    cls: Any,
    names: Mapping[str, tuple[str, ...]],
    faults: list[str],
) -> Any:
    known = {f.name: f for f in fields(cls)}
    values = {}
    for key, value in given.items():
        place = f"{section}.{key}"
        if key not in known:
            near = nearest(key, known)
            faults.append(f"unknown key {place!r}{near or '; known: ' + ', '.join(known)}")
            continue
        spec = known[key]
        values[key] = _value(place, value, spec.type, spec.metadata, names, faults)
    return cls(**values)


def _value(
    place: str,
    value: Any,
    kind: Any,
    metadata: Mapping[str, Any],
    names: Mapping[str, tuple[str, ...]],
    faults: list[str],
) -> Any:
    """Check one value against its field; a fault is added and the value returned all the same."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind == tuple[int, ...]:
        whole = isinstance(value, list) and all(type(item) is int for item in value)
        if not whole or min(value, default=0) < 0:
            faults.append(f"{place} is {value!r}; write a list of whole numbers")
            return ()
        return tuple(value)
    if type(value) is not kind:
        faults.append(f"{place} is {value!r}; write {_WORDS[kind]}")
    elif value != value or value in (float("inf"), float("-inf")):
        faults.append(f"{place} is {value}; write a finite number")
    elif "choices" in metadata and value not in metadata["choices"]:
        options = ", ".join(repr(choice) for choice in metadata["choices"])
        faults.append(
            f"{place} is {value!r}{nearest(value, metadata['choices'])}; choose: {options}"
        )
    elif "least" in metadata and value < metadata["least"]:
        faults.append(f"{place} is {value}; write at least {metadata['least']}")
    elif "most" in metadata and value > metadata["most"]:
        faults.append(f"{place} is {value}; write at most {metadata['most']}")
    else:
        _check_name(place, value, metadata.get("registry"), names, faults)
    return value


_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _check_name(
    place: str,
    value: Any,
    registry: str | None,
    names: Mapping[str, tuple[str, ...]],
    faults: list[str],
) -> None:
    if registry is not None and registry in names and value not in names[registry]:
        known = names[registry]
        faults.append(f"{place} is {value!r}{nearest(value, known)}; known: {', '.join(known)}")


def _attention(
    given: Mapping[str, Any], names: Mapping[str, tuple[str, ...]], faults: list[str]
) -> tuple[AttentionSpec, ...]:
    """Read `kinds` and the table of settings of each kind."""
    defaults = AttentionConfig().kinds
    kinds = given.get("kinds", [spec.kind for spec in defaults])
    if not isinstance(kinds, list) or not kinds or not all(isinstance(k, str) for k in kinds):
        faults.append(f'attention.kinds is {kinds!r}; write a list of names such as ["se"]')
        return defaults
    if len(set(kinds)) < len(kinds):
        faults.append(f"attention.kinds is {kinds!r}; name each kind once")
    for kind in kinds:
        _check_name("attention.kinds", kind, "modules", names, faults)
    specs = {}
    for key, table in given.items():
        if key == "kinds":
            continue
        if key not in kinds:
            faults.append(f"unknown key 'attention.{key}'{nearest(key, [*kinds, 'kinds'])}")
        elif not isinstance(table, Mapping):
            faults.append(
                f'attention.{key} is {table!r}; write a table such as {{ sharing = "block" }}'
            )
        elif table.get("sharing", "block") not in SHARINGS:
            faults.append(
                f"attention.{key}.sharing is {table['sharing']!r}; write 'block' or 'stage'"
            )
        else:
            settings = {k: v for k, v in table.items() if k != "sharing"}
            sharing = table.get("sharing", "block")
            specs[key] = AttentionSpec(kind=key, sharing=sharing, settings=settings)
    return tuple(specs.get(kind, AttentionSpec(kind=kind)) for kind in kinds)


def _cross_faults(config: StudyConfig) -> list[str]:
    """Return the faults that need two keys to see."""
    faults = []
    pretrain, kinds = config.pretrain, len(config.attention.kinds)
    if pretrain.draws == "antithetic" and (pretrain.connect != 0.5 or kinds > 1):
        faults.append(
            f"pretrain.draws is 'antithetic' with connect {pretrain.connect} and {kinds} kind(s) "
            "of attention; it needs connect 0.5 and one kind, or choose 'iid' or 'balanced'"
        )
    if config.train.nesterov and config.train.momentum == 0:
        faults.append("train.nesterov is true with momentum 0; set momentum, or nesterov = false")
    if (
        len(set(config.retrain.seeds)) != len(config.retrain.seeds)
        or len(config.retrain.seeds) < 3
    ):
        faults.append(
            f"retrain.seeds is {list(config.retrain.seeds)}; write at least 3 different seeds"
        )
    if min(config.network.blocks, default=1) < 1:
        faults.append(f"network.blocks is {list(config.network.blocks)}; a stage needs a block")
    if config.search.objective == "supernet" and config.search.pruner != "none":
        faults.append(
            f"search.pruner is {config.search.pruner!r} with objective 'supernet', which scores "
            "in one step; use objective 'train', or pruner = 'none'"
        )
    return faults


def to_toml(config: StudyConfig) -> str:
    """Return study.toml with every key, its value and its comment."""
    lines = [_line("seed", config.seed, _comment(StudyConfig, "seed"))]
    for spec in fields(StudyConfig):
        section = getattr(config, spec.name)
        if not is_dataclass(section):
            continue
        lines += ["", f"[{spec.name}]"]
        if isinstance(section, AttentionConfig):
            comment = _comment(AttentionConfig, "kinds")
            lines.append(_line("kinds", [kind.kind for kind in section.kinds], comment))
            lines += [_attention_line(kind) for kind in section.kinds]
            continue
        lines += [
            _line(f.name, getattr(section, f.name), f.metadata["comment"]) for f in fields(section)
        ]
    return "\n".join(lines) + "\n"


def _attention_line(spec: AttentionSpec) -> str:
    pairs = [f"{key} = {_toml(value)}" for key, value in spec.settings.items()]
    pairs.append(f"sharing = {_toml(spec.sharing)}")
    comment = 'or sharing = "stage": one module for all blocks of a stage'
    return f"{spec.kind} = {{ {', '.join(pairs)} }}  # {comment}"


def _comment(cls: type, key: str) -> str:
    return next(str(f.metadata["comment"]) for f in fields(cls) if f.name == key)


def _line(key: str, value: Any, comment: str) -> str:
    return f"{key} = {_toml(value)}".ljust(32) + f"# {comment}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def write_config(path: Path, config: StudyConfig) -> Path:
    """Write study.toml, whole or not at all.

    Raises:
        ConfigError: there is one already.
    """
    if path.exists():
        raise ConfigError(str(path), ["exists already; edit it, or choose another name"])
    return write_text(path, to_toml(config))
