"""Names for things that can be plugged in; known without importing what they stand for."""

import difflib
import importlib
from collections.abc import Iterable
from typing import Generic, TypeVar, cast

from sat_optuna.errors import UnknownName

__all__ = ["Registry", "nearest"]

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the nearest known name, or the empty string.

    Upper and lower case count as the same.
    """
    lowered = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return f"; did you mean {lowered[near[0]]!r}?" if near else ""


class Registry(Generic[T]):
    """A table from names to things of one kind.

    An entry is the thing itself or the text `"module:attribute"`, imported when it is first asked
    for, so that listing names costs no import of torch.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T | str] = {}

    def add(self, name: str, thing: T | str) -> None:
        """Register `thing`, or the text `"module:attribute"` where it is found.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already; choose another name")
        self._entries[name] = thing

    def get(self, name: str) -> T:
        """Return the thing of that name.

        Raises:
            UnknownName: no such name; the message offers the nearest one and lists all.
        """
        self.check(name)
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = cast("T", getattr(importlib.import_module(module), attribute))
            self._entries[name] = entry
        return entry

    def check(self, name: str) -> None:
        """Raise UnknownName unless `name` is registered; imports nothing."""
        if name not in self._entries:
            near = nearest(name, self._entries) or ";"
            raise UnknownName(f"no {self.kind} {name!r}{near} known: {', '.join(self.names())}")

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        return tuple(sorted(self._entries))
