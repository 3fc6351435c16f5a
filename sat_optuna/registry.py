"""Names for things that can be plugged in; known without importing what they stand for."""

import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

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


@dataclass(frozen=True, slots=True)
class _Family(Generic[T]):
    resolve: Callable[[str], T] | str
    names: Callable[[], Iterable[str]]


class Registry(Generic[T]):
    """A table from names to things of one kind.

    An entry is the thing itself or the text `"module:attribute"`, imported when it is first asked
    for, so that listing names costs no import of torch.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T | str] = {}
        self._families: dict[str, _Family[T]] = {}

    def add(self, name: str, thing: T | str) -> None:
        """Register `thing`, or the text `"module:attribute"` where it is found.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already; choose another name")
        self._entries[name] = thing

    def add_family(
        self,
        prefix: str,
        resolve: Callable[[str], T] | str,
        *,
        names: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """Register all names that start with `prefix`, made by a function when asked for.

        Args:
            prefix: for example `timm:`.
            resolve: called with the rest of the name, or the text `"module:function"` where it is
                found; it raises UnknownName for a rest it does not know.
            names: called for the whole names to list; imports nothing heavy.

        Raises:
            ValueError: the prefix is taken.
        """
        if prefix in self._families:
            raise ValueError(f"{self.kind} {prefix!r} is registered already; choose another name")
        self._families[prefix] = _Family(resolve, names)

    def get(self, name: str) -> T:
        """Return the thing of that name.

        Raises:
            UnknownName: no such name; the message offers the nearest one and lists all.
        """
        self.check(name)
        if name in self._entries:
            entry: T = _imported(self._entries[name])
            self._entries[name] = entry
            return entry
        prefix = self._family(name)
        resolve = cast("Callable[[str], T]", _imported(self._families[prefix].resolve))
        return resolve(name.removeprefix(prefix))

    def check(self, name: str) -> None:
        """Raise UnknownName unless `name` is registered; imports nothing.

        Of a family the prefix alone is looked at.
        """
        if name not in self:
            near = nearest(name, self) or ";"
            raise UnknownName(f"no {self.kind} {name!r}{near} known: {', '.join(self)}")

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted; those of families after the others."""
        families = (name for family in self._families.values() for name in sorted(family.names()))
        return (*sorted(self._entries), *families)

    def __contains__(self, name: object) -> bool:
        return name in self._entries or (isinstance(name, str) and bool(self._family(name)))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _family(self, name: str) -> str:
        """Return the prefix of the family that a name belongs to, or the empty text."""
        return next((p for p in self._families if name.startswith(p) and name != p), "")


def _imported(entry: Any) -> Any:
    """Return a thing, imported where it is the text `"module:attribute"`."""
    if not isinstance(entry, str):
        return entry
    module, _, attribute = entry.partition(":")
    return getattr(importlib.import_module(module), attribute)
