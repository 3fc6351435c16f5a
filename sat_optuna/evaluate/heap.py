"""What the C library keeps of freed memory, and how it is held to what a plan said.

Tensors that come and go leave pieces in glibc's heap that the next ones do not fit in. How many
depends on where the system happened to put the program, and differs by the size of a plan's
passing tensors from run to run; giving the pieces back makes it no more than was said.
"""

import ctypes
import mmap
import os
import sys
from pathlib import Path
from types import TracebackType

__all__ = ["HeapLimit", "trim"]

_STATM = Path("/proc/self/statm")


def trim() -> None:
    """Give back what is free in the heap, where the C library can."""
    if sys.platform == "linux":
        release = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
        if release is not None:
            release(0)


class HeapLimit:
    """Gives free memory back whenever a process has grown by more than it should.

    It is used with `with`, and what the process had on the way in is what it grows from. On
    systems that do not tell what a process has, nothing is given back.

    Args:
        growth: bytes; 0 for no limit.
    """

    def __init__(self, growth: int) -> None:
        self._growth = growth
        self._most = 0
        self._file = -1

    def __enter__(self) -> "HeapLimit":
        if self._growth and _STATM.exists():
            self._file = os.open(_STATM, os.O_RDONLY)  # once, as it is asked for at every step
            self._most = self._resident() + self._growth
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _raised: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def keep(self) -> None:
        """Give free memory back if the process has grown by more than the limit."""
        if self._file >= 0 and self._resident() > self._most:
            trim()
            # What is in use cannot be given back: asking for it at each step would only take time.
            self._most = max(self._most, self._resident() + self._growth // 16)

    def _resident(self) -> int:
        return int(os.pread(self._file, 128, 0).split()[1]) * mmap.PAGESIZE
