"""Every error the package raises on purpose: one sentence of what, what was given, what to do.

SatOptunaError
├── SchemeError        (ValueError)   a scheme of the wrong length, digit or form
├── TicketError        (ValueError)   a ticket file that cannot be read or believed
├── ConfigError        (ValueError)   study.toml: all its faults at once
├── UnknownName        (KeyError)     a name no registry holds
├── DataError          (ValueError)   a data set that is missing or broken
├── CheckpointError    (ValueError)   a checkpoint that cannot be read or belongs to something else
├── TrainingError      (RuntimeError) a training whose loss is no longer finite
├── StudyError         (RuntimeError) a study that cannot be opened, continued or found
├── WriteError         (OSError)      a file that could not be written; nothing was half-written
└── ServerError        (RuntimeError) a server that cannot start

A part that needs a type for itself alone derives it from SatOptunaError in its own file.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "SatOptunaError",
    "SatOptunaWarning",
    "SchemeError",
    "ServerError",
    "StudyError",
    "TicketError",
    "TrainingError",
    "UnknownName",
    "WriteError",
    "quoted",
    "saying",
]


class SatOptunaError(Exception):
    """Root of the tree; its text is the message as given (KeyError alone would add quotes)."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class SatOptunaWarning(UserWarning):
    """Something that a user should know and that stops nothing."""


class SchemeError(SatOptunaError, ValueError):
    """A scheme of the wrong length, digit or form."""


class TicketError(SatOptunaError, ValueError):
    """A ticket file that cannot be read or believed."""


class ConfigError(SatOptunaError, ValueError):
    """A study.toml with faults; `faults` holds them all, a sentence each."""

    def __init__(self, source: str, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        self.source = source
        if len(self.faults) == 1:
            text = f"{source}: {self.faults[0]}"
        else:
            text = "\n  ".join([f"{source}: {len(self.faults)} faults", *self.faults])
        super().__init__(text)

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[str, tuple[str, ...]]]:
        """Rebuild from source and faults, so that the error crosses process borders."""
        return type(self), (self.source, self.faults)


class UnknownName(SatOptunaError, KeyError):  # noqa: N818  reads as what it is
    """A name no registry holds."""


class DataError(SatOptunaError, ValueError):
    """A data set that is missing or broken."""


class CheckpointError(SatOptunaError, ValueError):
    """A checkpoint that cannot be read or belongs to something else."""


class TrainingError(SatOptunaError, RuntimeError):
    """A training whose loss is no longer finite."""


class StudyError(SatOptunaError, RuntimeError):
    """A study that cannot be opened, continued or found."""


class WriteError(SatOptunaError, OSError):
    """A file that could not be written; nothing was half-written."""


class ServerError(SatOptunaError, RuntimeError):
    """A server that cannot start."""


def quoted(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    return f"{name}: {lines[0]}" if lines else name


@contextmanager
def saying(kind: type[SatOptunaError], what: str, remedy: str) -> Iterator[None]:
    """Turn what foreign code raises (a plugin's, a network's, torch's) into one sentence of ours.

    Errors of ours pass as they are.

    Args:
        kind: the error to raise instead.
        what: what fails; type and message of the error follow in brackets.
        remedy: what to do.

    Raises:
        SatOptunaError: of that kind.
    """
    try:
        yield
    except SatOptunaError:
        raise
    except Exception as error:
        raise kind(f"{what} ({quoted(error)}); {remedy}") from error
