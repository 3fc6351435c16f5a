"""A ticket: a scheme, the network and data it was found on, and what was measured of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sat_optuna.errors import SchemeError, TicketError
from sat_optuna.files import write_text
from sat_optuna.scheme import Scheme

__all__ = ["ROLES", "SCHEMA", "AttentionSpec", "Score", "Ticket"]

SCHEMA = 1
ROLES = ("ticket", "plain", "full", "random-density", "random-best")
SHARINGS = ("block", "stage")
SPLITS = ("train", "valid", "test")

Setting = int | float | str | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """One kind of attention as a study uses it.

    Attributes:
        kind: name in the attention registry.
        sharing: `block`, a module a block, or `stage`, one module for a stage's blocks.
        settings: keyword arguments of the module, for example `{"reduction": 16}`.
    """

    kind: str
    sharing: str = "block"
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sharing not in SHARINGS:
            raise TicketError(
                f"attention {self.kind!r} has sharing {self.sharing!r}; write one of {SHARINGS}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Top-1 accuracy of one trained network.

    Attributes:
        split: the part it was measured on: train, valid or test.
        value: per cent, 0..100.
        seed: the seed it was trained with.
        epochs: the epochs it was trained; the last one counts, never the best.
    """

    split: str
    value: float
    seed: int
    epochs: int

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise TicketError(f"score has split {self.split!r}; write one of {SPLITS}")
        if not 0.0 <= self.value <= 100.0:
            raise TicketError(f"score has value {self.value}; an accuracy lies in 0..100 per cent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Everything needed to build a found network again, and what was measured of it.

    Attributes:
        role: `ticket`, or the control it is: plain, full, random-density, random-best.
        scheme: a choice a block.
        backbone: name in the backbone registry.
        backbone_settings: keyword arguments of the backbone.
        attention: the kinds of the study; digit k of the scheme is the k-th.
        classes: number of classes.
        input_shape: (C, H, W) of an image.
        dataset: name in the data registry.
        dataset_fingerprint: SHA-256 of what the network was trained on.
        seed: the study's seed.
        scores: one a retraining; empty before it.
        params: parameters of the network with only the connected modules.
        macs: multiply-adds of convolutions and matrix products, for one image.
        latency_ms: median milliseconds of a batch where measured, see the report for the batch.
        study, study_uuid, trial, mlflow_run: where it came from; None where it did not.
        versions: of Python and the packages that made it.
        config: the study's resolved configuration.
    """

    role: str
    scheme: Scheme
    backbone: str
    backbone_settings: Mapping[str, Any]
    attention: tuple[AttentionSpec, ...]
    classes: int
    input_shape: tuple[int, int, int]
    dataset: str
    dataset_fingerprint: str
    seed: int
    params: int
    macs: int
    scores: tuple[Score, ...] = ()
    latency_ms: float | None = None
    study: str | None = None
    study_uuid: str | None = None
    trial: int | None = None
    mlflow_run: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise TicketError(f"ticket has role {self.role!r}; write one of {ROLES}")
        if len(self.input_shape) != 3:
            raise TicketError(f"ticket has input shape {self.input_shape}; write (C, H, W)")
        if max(self.scheme.choices) > len(self.attention):
            raise TicketError(
                f"scheme {self.scheme} uses kind {max(self.scheme.choices)} but the ticket lists "
                f"{len(self.attention)} kind(s) of attention; list each kind that it uses"
            )

    def to_json(self) -> str:
        """Return the JSON document, with its schema number first."""
        document = {"schema": SCHEMA} | asdict(self) | {"scheme": str(self.scheme)}
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "ticket") -> "Ticket":
        """Read a JSON document strictly: no unknown key, none missing, no other type.

        Raises:
            TicketError: it is cut, of a later schema, or not a ticket; `source` names it.
        """
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise TicketError(
                f"{source} is not complete JSON (line {error.lineno}: {error.msg}); "
                "it may be cut off, fetch or write it again"
            ) from error
        if not isinstance(document, dict) or "schema" not in document:
            raise TicketError(
                f"{source} is no ticket: it has no schema number; give a ticket file"
            )
        schema = document.pop("schema")
        if schema != SCHEMA:
            raise TicketError(
                f"{source} has schema {schema}, this version reads schema {SCHEMA}; "
                "install the version of sat_optuna that wrote it"
            )
        _check_keys(document, cls, source)
        try:
            return cls(**_decode(document))
        except (SchemeError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise TicketError(f"{source} holds a wrong value: {error}; write it again") from error

    def save(self, path: Path) -> Path:
        """Write the JSON document to `path`, whole or not at all."""
        return write_text(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> "Ticket":
        """Read a ticket file.

        Raises:
            TicketError: it does not exist or cannot be read as a ticket.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TicketError(
                f"cannot read ticket {path}: {error}; give a ticket's JSON file"
            ) from error
        return cls.from_json(text, source=str(path))


def _check_keys(document: Mapping[str, Any], cls: type, source: str) -> None:
    """Raise unless `document` has exactly the fields of the dataclass `cls`."""
    known = {f.name for f in fields(cls)}
    if unknown := sorted(document.keys() - known):
        raise TicketError(f"{source} has unknown keys {unknown}; remove them")
    if missing := sorted(known - document.keys()):
        raise TicketError(f"{source} lacks the keys {missing}; it may be of another program")


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "role": str,
    "scheme": str,
    "backbone": str,
    "backbone_settings": dict,
    "attention": list,
    "classes": int,
    "input_shape": list,
    "dataset": str,
    "dataset_fingerprint": str,
    "seed": int,
    "scores": list,
    "params": int,
    "macs": int,
    "latency_ms": (int, float, type(None)),
    "study": (str, type(None)),
    "study_uuid": (str, type(None)),
    "trial": (int, type(None)),
    "mlflow_run": (str, type(None)),
    "versions": dict,
    "config": dict,
}


def _decode(document: dict[str, Any]) -> dict[str, Any]:
    """Turn JSON values into the fields' values, refusing other types."""
    for key, expected in _TYPES.items():
        value = document[key]
        if not isinstance(value, expected) or isinstance(value, bool):
            raise TypeError(f"{key} is {value!r}")
    for part, parts in ((AttentionSpec, document["attention"]), (Score, document["scores"])):
        for item in parts:
            _check_keys(item, part, part.__name__)
    if not all(isinstance(size, int) for size in document["input_shape"]):
        raise TypeError(f"input_shape is {document['input_shape']!r}")
    return document | {
        "scheme": Scheme.parse(document["scheme"]),
        "attention": tuple(AttentionSpec(**item) for item in document["attention"]),
        "scores": tuple(Score(**item) for item in document["scores"]),
        "input_shape": tuple(document["input_shape"]),
    }
