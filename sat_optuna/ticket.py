"""A ticket: a scheme, the network and the data that it was found on, and its measurements."""

import json
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from sat_optuna.errors import SchemeError, TicketError
from sat_optuna.files import check_is_file, unusable_values, write_text
from sat_optuna.scheme import Scheme

__all__ = [
    "ACCURACY",
    "BETTER",
    "HEURISTICS",
    "ROLES",
    "SCHEMA",
    "SHARINGS",
    "SPLITS",
    "AttentionSpec",
    "Inputs",
    "Measure",
    "Score",
    "Setting",
    "Source",
    "Ticket",
]

SCHEMA = 1
# What `run` retrains.
ROLES = ("ticket", "plain", "full", "constant", "random-density")
# Placements that one would try without a search: see evidence/controls.py.
HEURISTICS = ("first-k", "last-k", "every-other", "stage-ends")
# What some studies have beside these: see pipeline/passengers.py.
FURTHER_ROLES = ("searched", "candidate", "random-best", *HEURISTICS)
_OF_KIND_OR_NUMBER = re.compile(r"full-.+|random-\d+", re.ASCII)
SHARINGS = ("block", "stage")
SPLITS = ("train", "valid", "test")
BETTER = ("higher", "lower")

Setting = int | float | str | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """One kind of attention as a study uses it.

    >>> AttentionSpec(kind="se", settings={"reduction": 8})
    AttentionSpec(kind='se', sharing='block', settings={'reduction': 8})

    Attributes:
        kind: its name in the attention registry.
        sharing: `block` gives each block a module; `stage` gives one module to all blocks of a
            stage.
        settings: keyword arguments of the module.
    """

    kind: str
    sharing: str = "block"
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sharing not in SHARINGS:
            raise TicketError(
                f"attention {self.kind!r} has sharing {self.sharing!r}; "
                f"write one of {', '.join(SHARINGS)}"
            )
        for name, value in self.settings.items():
            if type(value) not in (int, float, str, bool):
                raise TicketError(
                    f"attention {self.kind!r} has {name} = {value!r}; "
                    "write a number, a text, true or false"
                )


@dataclass(frozen=True, slots=True)
class Measure:
    """What a network is measured in: a metric's name and unit, and which way is better.

    >>> measure = Measure("log_loss", "nats", "lower")
    >>> measure.text(0.25), measure.points(0.25), measure.is_better(-0.1)
    ('0.2500 nats', -0.25, True)

    Attributes:
        name: of the metric.
        unit: of its values; empty for none.
        better: "higher" or "lower".
    """

    name: str = "accuracy"
    unit: str = "%"
    better: str = "higher"

    def __post_init__(self) -> None:
        if self.better not in BETTER:
            raise TicketError(
                f"metric {self.name!r} is better {self.better!r}; write {' or '.join(BETTER)}"
            )

    def __str__(self) -> str:
        """Say it in words, as in "log loss in nats, the lower the better"."""
        unit = f" in {self.unit}" if self.unit else ""
        return f"{self.title}{unit}, the {self.better} the better"

    @property
    def title(self) -> str:
        """Its name as a text has it: "balanced accuracy"."""
        return self.name.replace("_", " ")

    def points(self, value: float) -> float:
        """Return a value as a search counts it: the higher the better, so -value of a loss."""
        return value if self.better == "higher" else -value

    def text(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{self.number(value)} {self.unit}".rstrip()

    def number(self, value: float) -> str:
        """Return a value without its unit, with as many digits as tell networks apart."""
        value = round(value, 9)  # means that were added up in another order are the same text
        return f"{value:z.2f}" if self.unit == "%" else f"{value:z.4f}"

    def is_better(self, difference: float) -> bool:
        """Tell whether a difference is for the better."""
        return self.points(difference) > 0


ACCURACY = Measure()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """How images become what the network takes, and what its outputs are called.

    An image of shape `input_shape` is divided by `white`; then `mean` is taken off and the result
    divided by `std`.

    Attributes:
        class_names: one an output, in their order.
        mean: per channel, of pixels in 0..1; empty where the network takes images as they are.
        std: per channel, of pixels in 0..1; empty where it takes them as they are.
        white: the number in the images that stands for 1, 255 of bytes.
        numbers: what the images' files held: bytes, whole (numbers) or floats.
        resize: whether images of other sizes were scaled until they cover H x W, and their middle
            cut out.
    """

    class_names: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    white: int = 255
    numbers: str = "bytes"
    resize: bool = False

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise TicketError(
                f"inputs has mean {self.mean} and std {self.std}; write one of each a channel, "
                "each std above 0"
            )
        if self.white < 1:
            raise TicketError(f"inputs has white {self.white}; write a number of at least 1")

    @classmethod
    def from_json(cls, given: Any) -> "Inputs":
        """Read them from a JSON object.

        Raises:
            TicketError: a key is missing or unknown, or a value of another type.
        """
        found = _object("inputs", given)
        for name in found["class_names"]:
            _require("a name in class_names of inputs", name, _TEXT)
        for value in (*found["mean"], *found["std"]):
            _require("a number in mean and std of inputs", value, _NUMBER)
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in found.items()
        }
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How good one trained network was: its accuracy, or another metric.

    Attributes:
        split: the part of the data it was measured on: train, valid or test.
        value: of the metric; an accuracy in per cent, 0..100.
        seed: the seed of the training.
        epochs: the epochs of the training. The value is that after the last epoch, never the best
            one.
        measure: what the value is in.
    """

    split: str
    value: float
    seed: int
    epochs: int
    measure: Measure = ACCURACY

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise TicketError(f"score has split {self.split!r}; write one of {', '.join(SPLITS)}")
        if self.measure == ACCURACY and not 0.0 <= self.value <= 100.0:
            raise TicketError(f"score has value {self.value}; an accuracy lies in 0..100 per cent")
        if not math.isfinite(self.value):
            raise TicketError(f"score has value {self.value}; write a finite number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The ticket that another one was carried over from.

    Attributes:
        study, study_uuid: where it was found; None if it was not found there.
        scheme: the source's own.
        backbone: its network.
        dataset: what it was found on.
        rule: how its scheme became the new ticket's, a sentence.
    """

    study: str | None
    study_uuid: str | None
    scheme: Scheme
    backbone: str
    dataset: str
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Everything needed to build a found network again, and what was measured of it.

    >>> ticket = Ticket(
    ...     role="ticket", scheme=Scheme.parse("110-010"), backbone="resnet20",
    ...     backbone_settings={"width": 8}, attention=(AttentionSpec(kind="se"),), classes=10,
    ...     input_shape=(1, 28, 28), dataset="mnist5k", dataset_fingerprint="ab12", seed=0,
    ...     params=70_000, macs=3_000_000,
    ... )
    >>> Ticket.from_json(ticket.to_json()) == ticket
    True

    Attributes:
        role: `ticket`, or the role of the control: plain, full (full-KIND where there are several
            kinds), constant, random-density, random-best; or `candidate`, what is left of the
            ticket without passengers, and `searched`, the scheme that the search found, where the
            candidate is the ticket.
        scheme: which block carries what.
        backbone: its name in the backbone registry.
        backbone_settings: keyword arguments of the backbone, JSON values.
        attention: the study's kinds of attention; digit k of the scheme means the k-th.
        classes: number of classes.
        input_shape: (C, H, W) of an image.
        dataset: its name in the data registry.
        dataset_fingerprint: SHA-256 of the data that the network was trained on.
        seed: the study's seed.
        scores: one for each retraining; empty before the first.
        params: parameters of the network; only the connected modules count.
        macs: multiply-adds of convolutions and matrix products, for one image.
        latency_ms: median milliseconds of a batch, whose size the report names, and before any
            retraining what the study's latency model says; None if it was not measured.
        latency_rounds: milliseconds of each timed pass, the networks of a study in turn; empty,
            and absent in JSON, if it was not measured.
        images: how many the retrainings saw ("train") and were tested on ("test"); empty, and
            absent in JSON, before any.
        study, study_uuid, trial, mlflow_run: where the ticket was found; None if it was not
            found there.
        versions: of Python and of the packages that made it, by name.
        inputs: how images become what the network takes; None where it was not noted.
        config: the study's resolved configuration, JSON values.
        weights: SHA-256 of the trained weights that a step of the study started from; None, and
            absent in JSON, where all started from scratch.
        source: the ticket that this one, or the one that it is a control of, was carried over
            from; None, and absent in JSON, where it was searched for here.
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
    latency_rounds: tuple[float, ...] = ()
    images: Mapping[str, int] = field(default_factory=dict)
    study: str | None = None
    study_uuid: str | None = None
    trial: int | None = None
    mlflow_run: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Inputs | None = None
    weights: str | None = None
    source: Source | None = None

    def __post_init__(self) -> None:
        roles = ROLES + FURTHER_ROLES
        if self.role not in roles and not _OF_KIND_OR_NUMBER.fullmatch(self.role):
            raise TicketError(
                f"ticket has role {self.role!r}; write one of {', '.join(roles)}, full-KIND or "
                "random-N"
            )
        if [size >= 1 for size in self.input_shape] != [True, True, True]:
            raise TicketError(
                f"ticket has input shape {self.input_shape}; write C, H and W, each at least 1"
            )
        for name, least in (("classes", 1), ("params", 0), ("macs", 0)):
            if getattr(self, name) < least:
                raise TicketError(
                    f"ticket has {name} = {getattr(self, name)}; write at least {least}"
                )
        if self.latency_ms is not None and not 0.0 <= self.latency_ms < math.inf:
            raise TicketError(
                f"ticket has latency_ms = {self.latency_ms}; write milliseconds, or none"
            )
        if self.inputs and len(self.inputs.class_names) != self.classes:
            raise TicketError(
                f"ticket has {self.classes} classes and names {len(self.inputs.class_names)} of "
                "them in inputs; name each"
            )
        if self.inputs and self.inputs.mean and len(self.inputs.mean) != self.input_shape[0]:
            raise TicketError(
                f"ticket has {self.input_shape[0]} channels and {len(self.inputs.mean)} means in "
                "inputs; write one a channel"
            )
        if max(self.scheme.choices) > len(self.attention):
            raise TicketError(
                f"scheme {self.scheme} uses kind {max(self.scheme.choices)} of attention, the "
                f"ticket lists {len(self.attention)}; list each kind that it uses"
            )

    def to_json(self) -> str:
        """Return the JSON document, with its schema number first."""
        document = {"schema": SCHEMA} | asdict(self) | {"scheme": str(self.scheme)}
        for key in _LATER:
            if document[key] in (None, (), {}):  # as in tickets of earlier versions
                del document[key]
        if self.source:
            document["source"]["scheme"] = str(self.source.scheme)
        for score, entry in zip(self.scores, document["scores"], strict=True):
            if score.measure == ACCURACY:  # as in 0.2.0, which measured nothing else
                del entry["measure"]
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "this text") -> "Ticket":
        """Read a JSON document strictly: every key is there, none is unknown, each type is right.

        Args:
            text: the document.
            source: what messages call the document.

        Raises:
            TicketError: the document is cut off, of a later schema, or no ticket.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TicketError(
                f"{source} is not complete JSON ({error}); it may be cut off, "
                "so fetch or write it again"
            ) from error
        if not isinstance(document, dict) or "schema" not in document:
            raise TicketError(
                f"{source} is no ticket: it has no schema number; give a ticket's JSON file"
            )
        for fault in unusable_values(document):
            raise TicketError(f"{source}: {fault}")
        schema = document.pop("schema")
        if type(schema) is not int or schema != SCHEMA:
            raise TicketError(
                f"{source} has schema {reprlib.repr(schema)}, this version reads schema {SCHEMA}; "
                "install the version of sat_optuna that wrote it"
            )
        try:
            return cls(**_decode(document))
        except (SchemeError, TicketError) as error:
            raise TicketError(f"{source}: {error}") from error

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the JSON document to `path`, whole or not at all."""
        return write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Ticket":
        """Read a ticket file.

        Raises:
            TicketError: the file does not exist or is no ticket.
        """
        try:
            check_is_file(Path(path))
            text = Path(path).read_text(encoding="utf-8-sig")  # an editor may have put a BOM
        except (OSError, UnicodeDecodeError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            raise TicketError(
                f"cannot read ticket {path}: {reason}; give a ticket's JSON file"
            ) from error
        return cls.from_json(text, source=str(path))


class _Json(NamedTuple):
    """What type a JSON value must have, in words and in Python's types.

    A bool is no whole number here, although Python's bool is an int.
    """

    words: str
    types: tuple[type, ...]


_TEXT = _Json("a text", (str,))
_TEXT_OR_NULL = _Json("a text or null", (str, type(None)))
_WHOLE = _Json("a whole number", (int,))
_WHOLE_OR_NULL = _Json("a whole number or null", (int, type(None)))
_NUMBER = _Json("a number", (int, float))
_NUMBER_OR_NULL = _Json("a number or null", (int, float, type(None)))
_LIST = _Json("a list", (list,))
_OBJECT = _Json("an object", (dict,))
_BOOL = _Json("true or false", (bool,))

_KEYS: Mapping[str, Mapping[str, _Json]] = {
    "ticket": {
        "role": _TEXT,
        "scheme": _TEXT,
        "backbone": _TEXT,
        "backbone_settings": _OBJECT,
        "attention": _LIST,
        "classes": _WHOLE,
        "input_shape": _LIST,
        "dataset": _TEXT,
        "dataset_fingerprint": _TEXT,
        "seed": _WHOLE,
        "params": _WHOLE,
        "macs": _WHOLE,
        "scores": _LIST,
        "latency_ms": _NUMBER_OR_NULL,
        "latency_rounds": _LIST,
        "images": _OBJECT,
        "study": _TEXT_OR_NULL,
        "study_uuid": _TEXT_OR_NULL,
        "trial": _WHOLE_OR_NULL,
        "mlflow_run": _TEXT_OR_NULL,
        "versions": _OBJECT,
        "config": _OBJECT,
        "inputs": _OBJECT,
        "weights": _TEXT,
        "source": _OBJECT,
    },
    "source": {
        "study": _TEXT_OR_NULL,
        "study_uuid": _TEXT_OR_NULL,
        "scheme": _TEXT,
        "backbone": _TEXT,
        "dataset": _TEXT,
        "rule": _TEXT,
    },
    "inputs": {
        "class_names": _LIST,
        "mean": _LIST,
        "std": _LIST,
        "white": _WHOLE,
        "numbers": _TEXT,
        "resize": _BOOL,
    },
    "attention": {"kind": _TEXT, "sharing": _TEXT, "settings": _OBJECT},
    "score": {"split": _TEXT, "value": _NUMBER, "seed": _WHOLE, "epochs": _WHOLE},
    "measure": {"name": _TEXT, "unit": _TEXT, "better": _TEXT},
}
_LATER = frozenset(
    {"inputs", "weights", "latency_rounds", "images", "source"}
)  # keys that tickets of earlier versions lack


def _require(name: str, value: object, wanted: _Json) -> None:
    # `isinstance` would take a bool for a whole number.
    if type(value) not in wanted.types:
        raise TicketError(f"{name} is {reprlib.repr(value)}; write {wanted.words}")


def _object(what: str, given: Any) -> dict[str, Any]:
    """Return a JSON object that has exactly the keys of `what`, each value of the right type."""
    _require(what, given, _OBJECT)
    known = _KEYS[what]
    if unknown := sorted(given.keys() - known):
        raise TicketError(f"{what} has the unknown keys {', '.join(unknown)}; remove them")
    if missing := sorted(known - given.keys() - _LATER):
        raise TicketError(f"{what} lacks the keys {', '.join(missing)}; add them")
    for key, value in given.items():
        _require(f"{key} of {what}", value, known[key])
    return dict(given)


def _decode(document: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a ticket, made from JSON values; a value of another type is refused."""
    given = _object("ticket", document)
    for size in given["input_shape"]:
        _require("a size in input_shape of ticket", size, _WHOLE)
    for passed in given.get("latency_rounds", ()):
        _require("a number in latency_rounds of ticket", passed, _NUMBER)
    for part, count in given.get("images", {}).items():
        _require(f"images of {part} of ticket", count, _WHOLE)
    for package, number in given["versions"].items():
        _require(f"version of {package} of ticket", number, _TEXT)
    return given | {
        "scheme": Scheme.parse(given["scheme"]),
        "attention": tuple(
            AttentionSpec(**_object("attention", item)) for item in given["attention"]
        ),
        "scores": tuple(_score(item) for item in given["scores"]),
        "input_shape": tuple(given["input_shape"]),
        "latency_rounds": tuple(given.get("latency_rounds", ())),
        **({"inputs": Inputs.from_json(given["inputs"])} if "inputs" in given else {}),
        **({"source": _source(given["source"])} if "source" in given else {}),
    }


def _source(given: Any) -> Source:
    found = _object("source", given)
    return Source(**found | {"scheme": Scheme.parse(found["scheme"])})


def _score(given: Any) -> Score:
    """Return a score; one without a measure is an accuracy."""
    if not isinstance(given, dict) or "measure" not in given:
        return Score(**_object("score", given))
    measure = Measure(**_object("measure", given["measure"]))
    plain = {key: value for key, value in given.items() if key != "measure"}
    return Score(**_object("score", plain), measure=measure)
