"""Fetching the files of a data set, whole or not at all.

With the standard library alone: torchvision's downloader writes where the files shall be, half
of them if it is stopped, and torchvision cannot be imported beside a torch of another build.
"""

import contextlib
import errno
import gzip
import hashlib
import shutil
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from sat_optuna.errors import DataError, WriteError

__all__ = ["fetch", "staged", "unpack_gzip", "unpack_tar"]

TIMEOUT_SECONDS = 30


@contextlib.contextmanager
def staged(
    root: Path, folder: Path, files: Iterable[str], *, name: str, advice: str
) -> Iterator[Path]:
    """Fetch into a temporary folder, then move each whole file to `folder` by one rename.

    Args:
        root: the folder of the data sets.
        folder: where the files shall be.
        files: their names.
        name: the data set, for messages.
        advice: which files to put where, for messages.

    Yields:
        A temporary folder in `root`, to be filled with `files`.

    Raises:
        DataError: the files could not be fetched.
        WriteError: the disk is full or the folder cannot be written.
    """
    stage: Path | None = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=root))
        yield stage
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            (stage / file).replace(folder / file)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        # A full disk has an errno; a refused connection arrives as URLError, which has none.
        if getattr(error, "errno", None) in _CANNOT_WRITE:
            raise WriteError(
                f"cannot write {name} to {folder} ({error}); make room or choose another folder "
                "with SAT_OPTUNA_DATA"
            ) from error
        reason = getattr(error, "reason", error)  # URLError wraps what went wrong
        raise DataError(f"cannot fetch {name} ({reason}); {advice}") from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)


def fetch(url: str, md5: str, target: Path) -> None:
    """Download `url` to `target`.

    Raises:
        OSError: no answer, or other bytes than those of the MD5 that its publisher names.
    """
    with (
        urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer,
        target.open("wb") as file,
    ):
        shutil.copyfileobj(answer, file, 1 << 20)
    with target.open("rb") as file:
        found = hashlib.file_digest(file, _md5).hexdigest()
    if found != md5:
        raise OSError(f"{url} has the MD5 {found} instead of {md5}")


def unpack_gzip(packed: Path, target: Path) -> None:
    """Write what a gzip file holds to `target`."""
    with gzip.open(packed) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def unpack_tar(packed: Path, folder: str, files: Iterable[str], target: Path) -> None:
    """Write the members `folder`/`file` of a tar archive to `target`/`file`, and no others.

    Links and whatever else is no file of bytes count as not there.

    Raises:
        OSError: one of them is not in the archive.
    """
    wanted = {f"{folder}/{file}": target / file for file in files}
    with tarfile.open(packed) as archive:
        for member in archive:
            wants = member.isreg() and member.name in wanted
            if wants and (content := archive.extractfile(member)) is not None:
                with wanted.pop(member.name).open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
    if wanted:
        raise OSError(f"{packed.name} holds no {', '.join(wanted)}")


_CANNOT_WRITE = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)
