"""One memory of what is done: a record a step, of what decided it and what it made.

A step is done where its record says so, is of the same decisions, and what it made still has the
digest that was noted. A file alone proves nothing: a fresh clone holds committed reports and
tickets, and a folder that was tampered with may hold anything.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sat_optuna.config.config import differences
from sat_optuna.errors import StudyError
from sat_optuna.files import sha256_of, write_text

__all__ = ["Done", "Records", "digest_of", "plain"]


@dataclass(frozen=True, slots=True)
class Done:
    """What decided a step, and what it has made.

    Attributes:
        decided: keys of study.toml that are not at their defaults, and what the step took from
            earlier ones; plain JSON values.
        made: by name, the digest of each thing that the step made.
        finished: whether the step came to its end.
    """

    decided: Mapping[str, Any]
    made: Mapping[str, str] = field(default_factory=dict)
    finished: bool = False


class Records:
    """The records of a study's steps, a JSON file each.

    Args:
        folder: where they lie; made with the first record.
        study: the study's name, for messages.
    """

    def __init__(self, folder: Path, *, study: str) -> None:
        self._folder, self._study = folder, study
        self._read: dict[str, Done | None] = {}

    def get(self, step: str) -> Done | None:
        """Return the record of a step; None where there is none that can be read."""
        if step not in self._read:
            try:
                document = json.loads(self._path(step).read_text(encoding="utf-8"))
                record = Done(**document)
                whole = isinstance(record.decided, dict) and isinstance(record.made, dict)
                self._read[step] = record if whole else None
            except (OSError, ValueError, TypeError):
                self._read[step] = None
        return self._read[step]

    def held(self, step: str, decided: Mapping[str, Any], *, there: str) -> Done:
        """Return the record of a step of which something is there already.

        Args:
            step: its name.
            decided: what decides it now.
            there: names what is there, for messages.

        Raises:
            StudyError: something else decided what is there, or no record says what did.
        """
        record = self.get(step)
        if record is None:
            raise StudyError(
                f"{there} is there and no record of what decided it, as where work/ was removed "
                f"or an earlier version began study {self._study!r}; bring work/ back from a "
                "copy, finish it with that version, or make a new study"
            )
        if changed := differences(record.decided, plain(decided)):
            raise StudyError(
                f"{there} was made with another configuration: {'; '.join(changed)}; restore that "
                "to continue it, or make a new study (only search.trials, search.timeout and "
                "[retrain] may change)"
            )
        return record

    def write(self, step: str, record: Done) -> None:
        """Keep the record of a step."""
        kept = Done(plain(record.decided), dict(record.made), record.finished)
        if self.get(step) == kept:
            return
        write_text(self._path(step), json.dumps(asdict(kept), indent=1) + "\n")
        self._read[step] = kept

    def add(
        self, step: str, made: Mapping[str, str], *, decided: Mapping[str, Any] | None = None
    ) -> None:
        """Note more that a step under way has made: digests by name.

        Args:
            step: its name.
            made: what is new.
            decided: what decides the step, noted with the first that it has made.
        """
        record = self.get(step) or Done(decided or {})
        self.write(step, replace(record, made={**record.made, **made}))

    def is_current(self, step: str, decided: Mapping[str, Any], files: Mapping[str, Path]) -> bool:
        """Tell whether a step is finished, decided as now, and its files are as it left them.

        Args:
            step: its name.
            decided: what decides it now.
            files: by name, what it made.
        """
        record = self.get(step)
        return (
            record is not None
            and self.is_finished(step, decided)
            and all(
                path.is_file() and sha256_of(path) == record.made.get(name)
                for name, path in files.items()
            )
        )

    def is_finished(self, step: str, decided: Mapping[str, Any]) -> bool:
        """Tell whether a step came to its end, decided as now."""
        record = self.get(step)
        return (
            record is not None
            and record.finished
            and not differences(record.decided, plain(decided))
        )

    def _path(self, step: str) -> Path:
        return self._folder / f"{step}.json"


def digest_of(value: object) -> str:
    """Return the SHA-256 of a JSON value as 64 hex digits.

    >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def plain(decided: Mapping[str, Any]) -> dict[str, Any]:
    """Return what JSON makes of a mapping, so that it compares equal to what was read."""
    made: dict[str, Any] = json.loads(json.dumps(decided))
    return made
