"""Names for things that can be plugged in; listing names imports nothing that they stand for."""

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from sat_optuna.errors import UnknownName

__all__ = ["Registry", "nearest"]

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name that is nearest, or the empty text where none is near.

    >>> nearest("Sgee", ("se", "sge", "dia"))
    "; did you mean 'sge'?"

    >>> nearest("optimizer", ("compile", "batch", "lr"))
    ''

    Near is what a third of its letters makes of it, changed, added, left out or swapped, or what
    it begins or ends. Upper and lower case count as the same.
    """
    known, asked, most = [*known], name.lower(), max(1, len(name) // 3)
    edits = {
        other: _edits(asked, other.lower())
        for other in known
        if abs(len(other) - len(name)) <= most
    }
    near = min(edits, key=lambda other: edits[other], default="")
    if not near or edits[near] > most:
        parts = [other for other in known if _is_part(asked, other.lower())]
        near = min(parts, key=lambda other: abs(len(other) - len(name)), default="")
    return f"; did you mean {near!r}?" if near else ""


def _edits(one: str, other: str) -> int:
    """Return how many letters to change, add, leave out or swap make one text of another."""
    before: list[int] = [0] * (len(other) + 1)
    last: list[int] = [*range(len(other) + 1)]
    for i, letter in enumerate(one, start=1):
        row = [i]
        for j, wanted in enumerate(other, start=1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (letter != wanted)))
            if i > 1 and j > 1 and (one[i - 2], letter) == (wanted, other[j - 2]):
                row[-1] = min(row[-1], before[j - 2] + 1)
        before, last = last, row
    return last[-1]


def _is_part(one: str, other: str) -> bool:
    """Tell whether a text, of four letters at least, begins or ends another."""
    part, whole = sorted((one, other), key=len)
    return len(part) >= 4 and (whole.startswith(part) or whole.endswith(part))


def _no_hint(_name: str) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class _Family(Generic[T]):
    resolve: Callable[[str], T] | str
    names: Callable[[], Iterable[str]]


class Registry(Generic[T]):
    """A table from names to things of one kind.

    >>> numbers = Registry("number")
    >>> numbers.add("three", 3)
    >>> numbers.add("fraction", "fractions:Fraction")  # imported when it is first asked for
    >>> numbers.names(), numbers.get("three"), numbers.get("fraction")
    (('fraction', 'three'), 3, <class 'fractions.Fraction'>)

    Args:
        kind: what the things are, for messages.
        hint: of a name that is not there, what is known of it: "; it is ... ," or the empty text.

    Attributes:
        kind: as given.
    """

    def __init__(self, kind: str, *, hint: Callable[[str], str] = _no_hint) -> None:
        self.kind = kind
        self._hint = hint
        self._entries: dict[str, T | str] = {}
        self._families: dict[str, _Family[T]] = {}

    def add(self, name: str, thing: T | str) -> None:
        """Register a thing under a name.

        Args:
            name: what users call it.
            thing: the thing itself, or the text `"module:attribute"` that says where it is. A
                text is imported when the name is first asked for, so listing names stays cheap.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already; choose another name")
        self._entries[name] = thing

    def remove(self, name: str) -> None:
        """Take a name out again, for example to register a changed class in a notebook.

        Raises:
            UnknownName: no such name was registered by `add`.
        """
        if name not in self._entries:
            known = ", ".join(self.single_names())
            raise UnknownName(f"no {self.kind} {name!r} can be removed; give one of {known}")
        del self._entries[name]

    def add_family(
        self,
        prefix: str,
        resolve: Callable[[str], T] | str,
        *,
        names: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """Register all names that start with a prefix; a function makes what they stand for.

        Args:
            prefix: for example `timm:`.
            resolve: called with the rest of the name, it returns the thing or raises UnknownName;
                or the text `"module:function"` that says where it is.
            names: called without arguments, it returns the names to list, each with the prefix;
                it imports nothing heavy.

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
        """Make sure that a name is registered, without importing what it stands for.

        Of a name that belongs to a family, only the prefix is checked.

        Raises:
            UnknownName: no such name.
        """
        if name not in self:
            near = self.near(name) or ";"
            raise UnknownName(f"no {self.kind} {name!r}{near} known: {', '.join(self)}")

    def near(self, name: str) -> str:
        """Return a hint at what a name that is not there may mean, or the empty text."""
        return self._hint(name) or nearest(name, self)

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted; those of families come after the others."""
        families = (name for family in self._families.values() for name in sorted(family.names()))
        return (*self.single_names(), *families)

    def single_names(self) -> tuple[str, ...]:
        """Return the names that were registered one by one, sorted; families are left out."""
        return tuple(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries or (isinstance(name, str) and bool(self._family(name)))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _family(self, name: str) -> str:
        """Return the prefix of the family that a name belongs to, or the empty text."""
        return next((p for p in self._families if name.startswith(p) and name != p), "")


def _imported(entry: Any) -> Any:
    """Return a thing; the text `"module:attribute"` is imported first."""
    if not isinstance(entry, str):
        return entry
    module, _, attribute = entry.partition(":")
    return getattr(importlib.import_module(module), attribute)
