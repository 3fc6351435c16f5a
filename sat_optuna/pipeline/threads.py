"""How many threads a process computes with: as many as study.toml says, whatever the machine has.

Threads of one process wait for each other at each layer by spinning. Beside other work that makes
a small network's epoch many times slower, and which bits come out depends on their number. So it
is one unless the study says more, and never a choice by the load of the machine.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["computing_with"]

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Let torch and the BLAS libraries of this process use so many threads for a while.

    What is not imported yet reads its number of threads from the environment later and keeps it;
    processes that are begun meanwhile inherit it.

    Args:
        threads: at least 1.
    """
    from threadpoolctl import threadpool_limits

    kept = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(dict.fromkeys(_VARIABLES, str(threads)))
    loaded = sys.modules.get("torch")
    before = loaded.get_num_threads() if loaded else 0
    if loaded:
        loaded.set_num_threads(threads)
    try:
        with threadpool_limits(threads, user_api="blas"):
            yield
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if loaded:
            loaded.set_num_threads(before)
