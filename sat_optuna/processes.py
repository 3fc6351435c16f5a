"""Who is at work: a name for a process that no later process can carry, and whether it lives."""

import os
import subprocess
from pathlib import Path
from platform import node

__all__ = ["is_dead", "worker_name"]


def worker_name(pid: int | None = None) -> str:
    """Return `host/pid/start` of a process, by default of this one.

    The start holds the boot and the moment of the process's birth, so that a process that has got
    the number of a dead one has another name.
    """
    pid = os.getpid() if pid is None else pid
    return f"{node()}/{pid}/{_start(pid) or 'ended'}"


def is_dead(worker: str) -> bool:
    """Tell whether the process of a `worker_name` has surely ended.

    A process of another machine, and a name that is none, count as alive: nobody can know.
    """
    host, _, rest = worker.partition("/")
    pid, _, start = rest.partition("/")
    return host == node() and pid.isdecimal() and _start(int(pid)) != start


def _start(pid: int) -> str | None:
    proc = Path("/proc")
    if (proc / "self/stat").exists():
        try:
            # The second field, the command's name, may hold spaces and brackets.
            fields = (proc / f"{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        boot = (proc / "sys/kernel/random/boot_id").read_text()[:8]
        return None if fields[0] == "Z" else f"{boot}-{fields[19]}"
    listed = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip().replace(" ", "-") or None
