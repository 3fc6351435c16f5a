"""A folder that cannot be written, as on a disk that is mounted read-only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Take the right to write from a folder and all in it, and from this process root's power."""
    places = [folder, *folder.rglob("*")]
    above = [parent for parent in folder.parents if parent.stat().st_uid == os.getuid()]
    before = {place: place.stat().st_mode for place in (*above, *places)}
    for place in above:
        place.chmod(before[place] | 0o555)
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(_NOBODY)
        yield
    finally:
        if root:
            os.seteuid(0)
        for place, mode in before.items():
            place.chmod(mode)
