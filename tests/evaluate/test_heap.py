"""Free memory goes back where a process has grown by more than it was allowed."""

import itertools
import subprocess
import sys

import pytest
import torch

from sat_optuna.evaluate import Evaluator, heap
from tests.evaluate.scoring import chunks, some_images
from tests.networks import tiny_supernet

MB = 2**20

# 64 blocks of 1 MB in the heap, below the last of which 63 are freed: no top that could shrink.
PROGRAM = """
import ctypes, sys
from sat_optuna.evaluate.heap import HeapLimit

def resident():
    return 4096 * int(open("/proc/self/statm").read().split()[1])

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.mallopt(-3, 32 * 2**20)
start = resident()
with HeapLimit(int(sys.argv[1])) as limit:
    blocks = [libc.malloc(2**20) for _ in range(65)]
    for block in blocks:
        ctypes.memset(block, 1, 2**20)
    for block in blocks[:-1]:
        libc.free(block)
    freed = resident()
    limit.keep()
    print(freed - start, resident() - start)
limit.keep()  # outside it does nothing
"""


def grown(growth: int) -> tuple[int, int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(growth)], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    return before, after


@pytest.mark.parametrize("growth", [0, 200 * MB])
def test_nothing_is_given_back_below_the_limit_or_without_one(growth):
    before, after = grown(growth)
    assert before > 60 * MB
    assert abs(after - before) < MB


def test_what_is_free_is_given_back_above_the_limit():
    before, after = grown(16 * MB)
    assert before > 60 * MB
    assert after < 10 * MB


def test_memory_in_use_is_not_asked_for_again_and_again(monkeypatch):
    asked = []
    monkeypatch.setattr(heap, "trim", lambda: asked.append(1))
    with heap.HeapLimit(8 * MB) as limit:
        kept = torch.ones(32 * MB, dtype=torch.uint8)
        for _ in range(10):
            limit.keep()
    assert len(asked) == 1
    assert kept.all()


def test_a_plan_is_what_scoring_is_held_to_and_scores_stay(monkeypatch):
    limits = []
    usual = heap.HeapLimit.__init__

    def noted(self, growth):
        limits.append(growth)
        usual(self, growth)

    monkeypatch.setattr(heap.HeapLimit, "__init__", noted)
    one = Evaluator(tiny_supernet(), some_images(60), calibration=chunks(8))
    free = one.score_all()
    plan = one.plan()
    assert 0 < plan.live_bytes <= plan.peak_bytes
    asked: list[None] = []
    real = heap.trim
    monkeypatch.setattr(heap, "trim", lambda: asked.append(real()))
    ever_more = itertools.count(0, 10 * plan.live_bytes)
    monkeypatch.setattr(heap.HeapLimit, "_resident", lambda _: next(ever_more))
    assert one.score_all() == free
    assert limits == [0, plan.live_bytes]
    assert len(asked) > 2**6
