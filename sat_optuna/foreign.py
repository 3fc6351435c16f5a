"""What foreign code raises (a plugin's, a user's network's, torch's own), told in a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from sat_optuna.errors import SatOptunaError

__all__ = ["quoted", "saying"]


def quoted(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    return f"{name}: {lines[0]}" if lines else name


@contextmanager
def saying(kind: type[SatOptunaError], what: str, remedy: str) -> Iterator[None]:
    """Turn whatever foreign code raises inside into one sentence; errors of ours stay as they are.

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
