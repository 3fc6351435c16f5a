"""Files are written to a temporary file, which is then renamed: nobody ever sees half of one.

A SQLite file is named by a URL, whose special characters a path may hold.
"""

import contextlib
import errno
import hashlib
import math
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sat_optuna.errors import WriteError

__all__ = [
    "check_is_file",
    "check_writable",
    "sha256_of",
    "sqlite_url",
    "unusable_values",
    "write_atomically",
    "write_text",
]

_DEEPEST = 32  # a ticket's configuration is four deep
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = write_atomically(Path(folder) / "a" / "b.bin", lambda p: p.write_bytes(b"12"))
    ...     made.read_bytes()
    b'12'

    Args:
        path: where the file shall be; its folder is made if it is missing.
        write: called with the temporary path; whatever it raises leaves `path` as it was.

    Returns:
        `path`.

    Raises:
        WriteError: the disk is full, the folder cannot be written, or the like.
    """
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)  # its mode follows the umask; tempfile would give 0600
        write(temporary)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteError(
            f"cannot write {path}: {reason}; what was there is untouched, so make room or choose "
            "another folder and run the same command again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def check_is_file(path: Path) -> None:
    """Make sure that reading a file comes to an end, as that of a pipe or a device may not.

    Raises:
        OSError: it is not there, or is no file: a folder, a pipe, a device.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def check_writable(path: Path) -> None:
    """Make sure that a file can be written at `path`; call it before a long computation.

    The folder is made if it is missing. A file that exists already is not touched.

    Raises:
        WriteError: no file can be written there.
    """
    probe = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise WriteError(
            f"cannot write {path}: {error.strerror or error}; choose another folder"
        ) from error


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def write_text(path: Path, text: str) -> Path:
    """Write `text` as UTF-8 through `write_atomically`."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def unusable_values(document: Any) -> Iterator[str]:
    """Yield a phrase for each value of a JSON or TOML document that nothing here could handle.

    >>> [*unusable_values({"a": [1, "red"], "b": {"c": float("inf")}})]
    ['b.c is inf; write a finite number']

    Such are nests deeper than any of ours, numbers that are not finite or need more than 64 bits,
    and texts with control characters, which a file system, a database or a terminal would choke on
    or obey.
    """
    todo = [("", document, 0)]
    while todo:
        key, value, depth = todo.pop()
        if depth > _DEEPEST:
            yield f"{key[:60]} ... is nested more than {_DEEPEST} deep; write it flat"
            return
        if isinstance(value, dict):
            held = [(f"{key}.{k}" if key else k, v, depth + 1) for k, v in value.items()]
            todo += reversed(held)
            if any(_CONTROL.search(str(k)) for k in value):
                yield f"{key or 'it'} has a key with control characters; remove them"
        elif isinstance(value, list):
            todo += [(key, item, depth + 1) for item in reversed(value)]
        elif isinstance(value, str) and _CONTROL.search(value):
            yield f"{key} has control characters; remove them"
        elif isinstance(value, int) and abs(value) >= 2**63:
            yield f"{key} is a whole number of more than 64 bits; write a smaller one"
        elif isinstance(value, float) and not math.isfinite(value):
            yield f"{key} is {value}; write a finite number"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sqlite_url(path: Path) -> str:
    """Return SQLAlchemy's URL of a SQLite file, which need not exist.

    >>> sqlite_url(Path("/tmp/a b/study.db")), sqlite_url(Path("/tmp/100%?/study.db"))
    ('sqlite:////tmp/a b/study.db', 'sqlite+pysqlite:////tmp/100%25%3F/study.db')
    """
    from sqlalchemy.engine import URL

    url = URL.create("sqlite", database=str(path)).render_as_string()
    if url == f"sqlite:///{path}":
        return url
    # MLflow makes the folder of a sqlite:/// URL as it is written, escapes and all; of this none.
    return URL.create("sqlite+pysqlite", database=str(path)).render_as_string()
