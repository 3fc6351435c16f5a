"""MLflow's limits: what is longer than it takes is cut here, with a mark, and never in silence."""

import hashlib
import posixpath
import re
from collections.abc import Iterable

__all__ = ["BATCH", "NAME", "PARAM", "POINTS", "TAG", "cut", "finite", "keys_of"]

NAME, PARAM, TAG = 250, 6000, 8000  # characters of a key or a run's name, a param, a tag
BATCH, POINTS = 100, 800  # params or tags of a request; metrics, beside which both have room


def cut(text: object, most: int) -> str:
    """Return a value as text of a given length at most; of a longer one the end says that.

    >>> cut("short", 100), cut("x" * 300, 60)[-50:]
    ('short', 'xxxxxxx... (cut by sat_optuna from 300 characters)')
    """
    # A lone surrogate, which JSON and Optuna may hold, can be written nowhere.
    whole = str(text).encode("utf-8", "backslashreplace").decode()
    if len(whole) <= most:
        return whole
    mark = f"... (cut by sat_optuna from {len(whole):,} characters)"
    return whole[: most - len(mark)] + mark


def keys_of(names: Iterable[str]) -> dict[str, str]:
    """Return for each name a key that MLflow takes, of which no two are the same.

    >>> keys_of(["s1.b00", "odd (%)", "a//b", "odd [%]"])
    {'s1.b00': 's1.b00', 'odd (%)': 'odd ___', 'a//b': 'a__b', 'odd [%]': 'odd ___ cb1cd0'}

    A key is a path in letters, digits and few signs, of 250 characters at most. One that is cut,
    or that another name has already, ends in some digits of the name's SHA-256.
    """
    keys: dict[str, str] = {}
    for name in names:
        key = re.sub(r"[^\w\-. :/]", "_", name)
        path = posixpath.normpath(key)
        if path != key or path == "." or path.startswith(("..", "/")):
            key = re.sub(r"^\.+", "_", key.replace("/", "_")) or "_"
        if len(key) > NAME or key in keys.values():
            digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()
            key = f"{key[: NAME - 7]} {digest[:6]}"
        keys[name] = key
    return keys


def finite(value: float) -> float:
    """Return a number as a float, and of a whole number beyond its range the infinity.

    >>> finite(3), finite(-(10**400))
    (3.0, -inf)
    """
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
