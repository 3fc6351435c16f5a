"""Every error that the package raises on purpose: what is wrong, what was given, what to do.

The message is one sentence.

SatOptunaError
├── SchemeError        (ValueError)   a scheme of the wrong length, digit or form
├── TicketError        (ValueError)   a ticket that cannot be read or contradicts itself
├── ConfigError        (ValueError)   study.toml: all its faults at once
├── UnknownName        (KeyError)     a name that no registry holds
├── DataError          (ValueError)   a data set that is missing or broken
├── CheckpointError    (ValueError)   a checkpoint that cannot be read or belongs to something else
├── TrainingError      (RuntimeError) a training whose loss is no longer finite
├── StudyError         (RuntimeError) a study that cannot be opened, continued or found
├── WriteError         (OSError)      a file that could not be written; no half of it is left
└── ServerError        (RuntimeError) a server that cannot start

A module that needs a type for itself alone derives it from SatOptunaError in its own file.
"""

import re
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
    "errors_as",
    "one_line",
    "readable",
]

_LONGEST = 2000  # characters of a line
# What moves a terminal's cursor, turns the direction of writing or cannot be written at all.
_UNWRITABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_CREDENTIALS = (
    re.compile(r"(://)[^/:@\s]+:(?!\d+(?:[/?#\s][^@]*$|$))\S*@"),  # a password, no port; it
    re.compile(r"(://)[^/\s]*@"),  # may hold @ and slashes, so the last @ ends it
    re.compile(r"((?:^|[?&])(?:password|passwd|pwd|token)=)[^&\s]*", re.IGNORECASE),
)


def readable(text: str) -> str:
    r"""Return a text as it is shown: no password in a URL, no control characters, no endless line.

    >>> readable("cannot reach postgresql://me:p@ss@host/db")
    'cannot reach postgresql://host/db'
    >>> readable("\x1b[31mred"), len(readable("x" * 100_000)) < 2000
    ('\\x1b[31mred', True)

    Every error of this package is shown through it.
    """
    for credentials in _CREDENTIALS:
        text = credentials.sub(r"\1", text)
    text = _UNWRITABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return "\n".join(
        line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 4 :]}"
        for line in text.split("\n")
    )


class SatOptunaError(Exception):
    """Root of the tree; `str` of it is the message, readable (KeyError's own would add quotes)."""

    def __str__(self) -> str:
        return readable(str(self.args[0])) if self.args else ""


class SatOptunaWarning(UserWarning):
    """Something that a user should know and that stops nothing."""


class SchemeError(SatOptunaError, ValueError):
    """A scheme of the wrong length, digit or form."""


class TicketError(SatOptunaError, ValueError):
    """A ticket that cannot be read or contradicts itself."""


class ConfigError(SatOptunaError, ValueError):
    """A study.toml with faults.

    >>> print(ConfigError("study.toml", ["epochs is -1", "no backbone 'resnet21'"]))
    study.toml: 2 faults
      epochs is -1
      no backbone 'resnet21'

    Attributes:
        source: the file.
        faults: all of its faults, a sentence each.
    """

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
    """A name that no registry holds."""


class DataError(SatOptunaError, ValueError):
    """A data set that is missing or broken."""


class CheckpointError(SatOptunaError, ValueError):
    """A checkpoint that cannot be read or belongs to something else."""


class TrainingError(SatOptunaError, RuntimeError):
    """A training whose loss is no longer finite."""


class StudyError(SatOptunaError, RuntimeError):
    """A study that cannot be opened, continued or found."""


class WriteError(SatOptunaError, OSError):
    """A file that could not be written; no half of it is left."""


class ServerError(SatOptunaError, RuntimeError):
    """A server that cannot start."""


def one_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message.

    >>> one_line(EOFError("the file is cut off"))
    'EOFError: the file is cut off'
    """
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    return f"{name}: {lines[0]}" if lines else name


@contextmanager
def errors_as(kind: type[SatOptunaError], what: str, remedy: str) -> Iterator[None]:
    """Raise whatever foreign code raises (a plugin, a network, torch) as an error of ours.

    >>> with errors_as(DataError, "cannot read a.png", "fetch it again"):
    ...     raise EOFError("the file is cut off")
    Traceback (most recent call last):
    sat_optuna.errors.DataError: cannot read a.png (EOFError: the file is cut off); fetch it again

    A SatOptunaError passes as it is.

    Args:
        kind: the error to raise.
        what: what fails; type and message of the foreign error follow in brackets.
        remedy: what to do.

    Raises:
        SatOptunaError: of that kind.
    """
    try:
        yield
    except SatOptunaError:
        raise
    except Exception as error:
        raise kind(f"{what} ({one_line(error)}); {remedy}") from error
