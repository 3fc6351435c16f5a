"""Files are written to a temporary file, which is then renamed: nobody ever sees half of one.

A SQLite file is named by a URL, whose special characters a path may hold.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from sat_optuna.errors import WriteError

__all__ = [
    "check_writable",
    "sha256_of",
    "sqlite_file",
    "sqlite_url",
    "write_atomically",
    "write_text",
]


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


def sqlite_file(url: str) -> Path | None:
    """Return the file that a URL of SQLAlchemy's names; None where it is of another database.

    >>> sqlite_file(sqlite_url(Path("/tmp/100%?/study.db"))), sqlite_file("https://mlflow:5000")
    (PosixPath('/tmp/100%?/study.db'), None)
    """
    from sqlalchemy.engine import make_url

    if not url.startswith("sqlite"):
        return None
    return Path(make_url(url).database or "")
