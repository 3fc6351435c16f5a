"""Processes: names that no two of them ever share, whether one lives, the cores they may use."""

import os
import subprocess
from pathlib import Path
from platform import node

__all__ = ["cores", "is_dead", "worker_name"]


def cores() -> int:
    """Return the cores that this process may use, which a container makes fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_name(pid: int | None = None) -> str:
    """Return the name `host/pid/start` of a process, by default of this one.

    >>> worker_name() == worker_name()
    True
    >>> is_dead(worker_name())
    False

    `start` says when the machine was booted and when the process began. So a process that the
    system gives the number of a dead one has another name.
    """
    pid = os.getpid() if pid is None else pid
    return f"{node()}/{pid}/{_start(pid) or 'ended'}"


def is_dead(worker: str) -> bool:
    """Return whether the process of a `worker_name` has ended for certain.

    A process of another machine counts as alive, because this machine cannot see it; so does a
    text that is no such name.
    """
    host, _, rest = worker.partition("/")
    pid, _, start = rest.partition("/")
    return host == node() and pid.isdecimal() and _start(int(pid)) != start


def _start(pid: int) -> str | None:
    """Return when a process began, as a text; None if it has ended."""
    proc = Path("/proc")
    if (proc / "self/stat").exists():
        try:
            # The command's name in brackets is skipped: it may hold spaces and brackets itself.
            fields = (proc / f"{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        boot = (proc / "sys/kernel/random/boot_id").read_text()[:8]
        return None if fields[0] == "Z" else f"{boot}-{fields[19]}"
    listed = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip().replace(" ", "-") or None
