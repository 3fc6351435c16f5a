"""Processes for benchmarks: begun anew, one thread each, and ended when the benchmark is."""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from sat_optuna.bench.problems import BenchError

__all__ = ["one_thread_pool"]

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextlib.contextmanager
def one_thread_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes of one thread; an error within the block ends them mid-work.

    Raises:
        BenchError: a process was ended from outside.
    """
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with _one_thread(), ProcessPoolExecutor(workers, context, initializer=_watch_parent) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise BenchError(
                "a worker process was ended from outside, perhaps for lack of memory; the same "
                "command goes on from what is finished"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()
            raise


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes begun within the block compute with one thread."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _watch_parent() -> None:
    """End this process when the one that began it has ended, be it by a kill."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
