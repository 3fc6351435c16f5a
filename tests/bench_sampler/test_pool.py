"""Worker processes: how they compute, and how they end."""

import os
import subprocess
import sys
import time
from pathlib import Path

from pool import one_thread_pool
from sat_optuna.processes import is_dead, worker_name

PROGRAM = Path(__file__).parents[2] / "studies" / "bench-sampler"
KILLED = """
import os
from pool import one_thread_pool

if __name__ == "__main__":
    with one_thread_pool(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        os.kill(os.getpid(), 9)
"""


def test_workers_have_one_thread_and_this_process_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with one_thread_pool(1) as pool:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            assert pool.submit(os.getenv, name).result() == "1"
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "MKL_NUM_THREADS" not in os.environ


def test_workers_end_with_a_killed_parent():
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        stdout=subprocess.PIPE,
        check=False,
        timeout=60,
        cwd=PROGRAM,
    )
    assert done.returncode == -9
    worker, until = int(done.stdout), time.monotonic() + 20
    while not is_dead(worker_name(worker)) and time.monotonic() < until:
        time.sleep(0.05)
    assert is_dead(worker_name(worker))
