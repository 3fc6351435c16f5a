"""study.toml, written: every key with its value and its comment."""

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from sat_optuna.config.config import (
    OF_GIVEN,
    AttentionConfig,
    DataConfig,
    EvidenceConfig,
    NetworkConfig,
    PretrainConfig,
    RetrainConfig,
    SearchConfig,
    StudyConfig,
    TrainConfig,
)
from sat_optuna.errors import ConfigError
from sat_optuna.files import write_text
from sat_optuna.ticket import AttentionSpec

__all__ = ["EXAMPLE", "to_toml", "write_config"]

# studies/quickstart, for whoever has no clone.
EXAMPLE = StudyConfig(
    data=DataConfig(name="cued-digits"),
    network=NetworkConfig(width=8, stem_stride=2, blocks=(3, 3, 2)),
    attention=AttentionConfig((AttentionSpec(kind="srm"),)),
    train=TrainConfig(shift=0),
    pretrain=PretrainConfig(epochs=40),
    search=SearchConfig(sparsity_weight=0.5),
    retrain=RetrainConfig(epochs=12, seeds=(0, 1, 2, 3)),
    evidence=EvidenceConfig(margin=2.0),
)


def to_toml(config: StudyConfig) -> str:
    """Return study.toml with every key that the study reads, its value and its comment.

    [transfer] is of studies whose ticket is given; [pretrain] and what [search] says of a search
    are of the others.
    """
    lines = []
    for spec in fields(StudyConfig):
        if spec.name == ("pretrain" if config.is_given else "transfer"):
            continue
        section = getattr(config, spec.name)
        if not is_dataclass(section):
            lines.append(_line(spec.name, section, spec.metadata["comment"]))
            continue
        lines += ["", f"[{spec.name}]"]
        if isinstance(section, AttentionConfig):
            comment = _comment(AttentionConfig, "kinds")
            lines.append(_line("kinds", [kind.kind for kind in section.kinds], comment))
            lines += [_attention_line(kind) for kind in section.kinds]
            continue
        lines += [
            _line(f.name, getattr(section, f.name), f.metadata["comment"])
            for f in fields(section)
            if "comment" in f.metadata
            and not (config.is_given and spec.name == "search" and f.name not in OF_GIVEN)
        ]
    return "\n".join(lines) + "\n"


def _attention_line(spec: AttentionSpec) -> str:
    pairs = [f"{_toml_key(key)} = {_toml(value)}" for key, value in spec.settings.items()]
    pairs.append(f"sharing = {_toml(spec.sharing)}")
    comment = 'sharing: "block", a module a block, or "stage", one for all'
    return f"{_toml_key(spec.kind)} = {{ {', '.join(pairs)} }}  # {comment}"


def _comment(cls: type, key: str) -> str:
    return next(str(f.metadata["comment"]) for f in fields(cls) if f.name == key)


def _line(key: str, value: Any, comment: str) -> str:
    return f"{key} = {_toml(value)}".ljust(31) + f" # {comment}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        pairs = [f"{_toml_key(key)} = {_toml(item)}" for key, item in value.items()]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return _toml_text(value) if isinstance(value, str) else repr(value)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_text(key)


def _toml_text(text: str) -> str:
    # JSON's escapes are TOML's too, but for DEL, which JSON leaves bare.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_config(path: Path, config: StudyConfig) -> Path:
    """Write study.toml, whole or not at all.

    Raises:
        ConfigError: there is one already.
    """
    if path.exists():
        raise ConfigError(str(path), ["exists already; edit it, or choose another name"])
    return write_text(path, to_toml(config))
