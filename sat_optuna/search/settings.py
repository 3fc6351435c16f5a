"""Which settings of a sampler study.toml can hold: numbers, texts, true or false."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from sat_optuna.errors import StudyError
from sat_optuna.registry import nearest
from sat_optuna.ticket import Setting

__all__ = ["check_settings"]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "None": (),
}


def check_settings(name: str, make: Callable[..., Any], settings: Mapping[str, Setting]) -> None:
    """Make sure that a sampler takes these settings.

    Args:
        name: of the sampler, for messages.
        make: its class. A setting without an annotation may be of any type.
        settings: what is set.

    Raises:
        StudyError: one is not known, or is of another type.
    """
    known = _settable(make)
    for key, value in settings.items():
        if key not in known:
            listed = f"known: {', '.join(known)}" if known else "it has none that can be set"
            raise StudyError(
                f"search.sampler_settings has {key!r}, which sampler {name!r} does not take"
                f"{nearest(key, known) or ';'} {listed}"
            )
        if known[key] and type(value) not in known[key]:
            words = " or ".join(dict.fromkeys(kind.__name__ for kind in known[key]))
            raise StudyError(
                f"search.sampler_settings gives {key} = {value!r} to sampler {name!r}; give it "
                f"one of type {words}"
            )


def _settable(make: Callable[..., Any]) -> dict[str, tuple[type, ...]]:
    """Return the types of each setting; none for one that says none."""
    found: dict[str, tuple[type, ...]] = {}
    for parameter in inspect.signature(make).parameters.values():
        if parameter.name in ("seed", "search_space") or parameter.kind in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        ):
            continue
        if parameter.annotation is inspect.Parameter.empty:
            found[parameter.name] = ()
            continue
        text = parameter.annotation
        text = text if isinstance(text, str) else getattr(text, "__name__", str(text))
        parts = [part.strip() for part in text.split("|")]
        if all(part in _TYPES for part in parts):
            found[parameter.name] = tuple(kind for part in parts for kind in _TYPES[part])
    return found
