"""What a key of the configuration may hold: one check for study.toml and for Python.

The limits are the metadata of the field; `config.py` states them.
"""

import math
from collections.abc import Mapping
from dataclasses import Field, fields
from numbers import Integral, Real
from typing import Any

from sat_optuna.errors import ConfigError
from sat_optuna.registry import nearest
from sat_optuna.ticket import Setting

__all__ = ["Checked", "checked", "fitted"]

_LISTS = (tuple[int, ...], tuple[str, ...])
_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


class Checked:
    """A section of the configuration that checks its values when it is built.

    >>> from sat_optuna.config.config import TrainConfig
    >>> TrainConfig(lr=1).lr
    1.0
    >>> TrainConfig(schedule="cosin")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sat_optuna.errors.ConfigError: TrainConfig: schedule is 'cosin'; did you mean 'cosine'? ...
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        section: Any = type(self)
        given = {f.name: getattr(self, f.name) for f in fields(section) if "comment" in f.metadata}
        for name, value in checked(section.__name__, section, given).items():
            object.__setattr__(self, name, value)


def checked(source: str, section: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as the fields of a section hold them.

    Args:
        source: who was given them, for the message.
        section: a dataclass of config.py.
        given: the values, by the names of its fields.

    Raises:
        ConfigError: all faults at once.
    """
    specs = {spec.name: spec for spec in fields(section)}
    fits = {name: fitted(value, specs[name]) for name, value in given.items()}
    faults = [f"{name} is {given[name]!r}{hint}" for name, (_, hint) in fits.items() if hint]
    if faults:
        raise ConfigError(source, faults)
    return {name: value for name, (value, _) in fits.items()}


def fitted(given: Any, spec: Field[Any]) -> tuple[Any, str]:
    """Return the value that a field holds for what is given, and what is wrong with it.

    Args:
        given: of study.toml, or of Python, whose other kinds of numbers count as well.
        spec: the field, with its limits.

    Returns:
        The value, and the empty text or what to write instead, for example
        `"; write at least 1"`; the value is `given` then.
    """
    if spec.type == Mapping[str, str]:
        return _fitted_table(given)
    if spec.type in (Mapping[str, Setting], Mapping[str, Any]):
        return _fitted_settings(given, lists=spec.type == Mapping[str, Any])
    if spec.type in _LISTS:
        return _fitted_list(given, spec)
    if spec.type not in _WORDS:  # the kinds of attention, which check themselves
        return given, ""
    value = _plain(given, spec.type)
    hint = _fault(value, spec)
    return (given, hint) if hint else (value, "")


def _plain(given: Any, kind: Any) -> Any:
    """Return a number of another type, for example NumPy's, as the int or float that is due."""
    if isinstance(given, bool):
        return given
    if kind is int and isinstance(given, Integral):
        return int(given)
    if kind is float and isinstance(given, Real):
        exact = not isinstance(given, Integral) or abs(int(given)) < 2**53
        return float(given) if exact else given
    return given


def _fault(value: Any, spec: Field[Any]) -> str:
    kind: Any = spec.type
    limits = spec.metadata
    if type(value) is not kind:
        return f"; write {_WORDS[kind]}"
    if kind is float and not math.isfinite(value):
        return "; write a finite number"
    if "family" in limits and value.startswith(limits["family"]) and value != limits["family"]:
        return ""
    if reason := limits.get("refused", {}).get(value):
        return f"; {reason}"
    if value not in limits.get("choices", (value,)):
        named = [f"{limits['family']}NAME"] if "family" in limits else []
        options = ", ".join(repr(choice) for choice in (*limits["choices"], *named))
        return f"{nearest(value, limits['choices']) or ';'} choose one of: {options}"
    if "least" in limits and value < limits["least"]:
        return f"; write at least {limits['least']}"
    if "most" in limits and value > limits["most"]:
        return f"; write at most {limits['most']}"
    return ""


def _fitted_table(given: Any) -> tuple[Any, str]:
    """Take a table of texts; TOML reads the bare key s1.b00 as the table s1 with the key b00."""
    table: dict[Any, Any] = {}
    for key, value in given.items() if isinstance(given, Mapping) else [("", None)]:
        inner = value.items() if isinstance(value, Mapping) else ()
        table |= {f"{key}.{name}": text for name, text in inner} or {key: value}
    texts = all(isinstance(text, str) for pair in table.items() for text in pair)
    hint = '; write a table of texts such as { "s1.b00" = "none" }'
    return (table, "") if texts else (given, hint)


def _fitted_settings(given: Any, *, lists: bool) -> tuple[Any, str]:
    """Take a table of numbers, texts and truth values, and of lists of these if `lists`.

    A tuple becomes a list.
    """
    known = "finite numbers, texts, true or false such as { name = 20 }"
    if lists:
        known = "finite numbers, texts, true, false or lists such as { rate = 0.1 }"
    table: dict[Any, Any] = {}
    for key, value in given.items() if isinstance(given, Mapping) else [(None, None)]:
        listed = list(value) if lists and isinstance(value, list | tuple) else None
        table[key], items = (value, [value]) if listed is None else (listed, listed)
        plain = all(type(item) in (int, float, str, bool) for item in items)
        finite = plain and all(math.isfinite(item) for item in items if type(item) is float)
        if not isinstance(key, str) or not finite:
            return given, f"; write a table of {known}"
    return table, ""


def _fitted_list(given: Any, spec: Field[Any]) -> tuple[Any, str]:
    values = tuple(given) if isinstance(given, list | tuple) else None
    if spec.type == tuple[str, ...]:
        texts = values is not None and all(isinstance(item, str) for item in values)
        return (values, "") if texts else (given, "; write a list of texts")
    least, fewest = spec.metadata["least"], spec.metadata.get("fewest", 0)
    values = values and tuple(_plain(item, int) for item in values)
    if values is None or not all(type(item) is int for item in values):
        return given, "; write a list of whole numbers"
    if min(values, default=least) < least:
        return given, f"; write whole numbers of at least {least}"
    if fewest and (len(set(values)) < len(values) or len(values) < fewest):
        return given, f"; write at least {fewest} numbers, each once"
    return values, ""
