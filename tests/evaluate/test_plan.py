"""What a plan says is what happens: passes, memory, and what a limit makes of it."""

import re
import subprocess
import sys

import pytest

from sat_optuna.evaluate import Evaluator, planner, stack
from sat_optuna.evaluate.footprint import LiveBytes
from sat_optuna.evaluate.parts import HEAD, STEM, attention, branch, merge
from sat_optuna.evaluate.plan import MemoryLimitError, passes_of, passes_of_all
from sat_optuna.evaluate.prefixes import every_choices, in_units
from sat_optuna.scheme import Scheme
from tests.evaluate.scoring import alone, chunks, some_images
from tests.networks import tiny_supernet

MB = 2**20


def test_passes_by_hand():
    units = [[(0, 0, 1), (0, 1, 0), (0, 1, 1)], [(1, 0, 0)]]
    assert passes_of(units) == {
        STEM: 2,
        branch(0): 2,
        merge(0): 2,
        attention(0, 1): 1,
        branch(1): 2,
        merge(1): 3,
        attention(1, 1): 1,
        branch(2): 3,
        merge(2): 4,
        attention(2, 1): 2,
        HEAD: 4,
    }


@pytest.mark.parametrize(
    ("blocks", "kinds", "unit"), [(6, 1, 64), (6, 1, 8), (4, 2, 9), (3, 2, 1)]
)
def test_passes_of_all_schemes_need_no_list_of_them(blocks, kinds, unit):
    listed = passes_of(in_units(every_choices(blocks, kinds), unit))
    assert passes_of_all(blocks, kinds, unit) == listed


def test_all_schemes_cost_a_branch_pass_for_each_prefix():
    one = Evaluator(tiny_supernet(["se", "sge"]), some_images(8))
    plan = one.plan()
    assert (plan.schemes, plan.branch_passes, plan.naive_passes) == (
        3**6,
        (3**6 - 1) // 2,
        6 * 3**6,
    )
    listed = one.plan(one.all_schemes())
    same = ("schemes", "chunk", "unit", "branch_passes", "naive_passes", "peak_bytes")
    assert [getattr(plan, name) for name in same] == [getattr(listed, name) for name in same]
    deep = Evaluator(tiny_supernet(blocks=(8, 8, 8)), some_images(2)).plan()
    assert deep.schemes == 2**24
    assert 2**24 <= deep.branch_passes < 1.02 * 2**24
    assert deep.naive_seconds > 5 * deep.seconds > 0


def test_the_plan_in_words():
    text = str(Evaluator(tiny_supernet(), some_images(8), calibration=chunks(5)).plan())
    assert re.fullmatch(
        r"64 schemes on 8 images and 5 to calibrate on: 63 branch passes instead of 384, \d+ MB, "
        r"about \d+\.\d s instead of \d+\.\d s, in chunks of 8 images and units of 1,024 schemes",
        text,
    )


@pytest.mark.parametrize("kinds", [["se"], ["cbam", "dia"]], ids="+".join)
@pytest.mark.parametrize("calibration", [(), (200, 200)])
@pytest.mark.parametrize("few", [False, True])
def test_live_tensors_are_those_of_the_plan(monkeypatch, kinds, calibration, few):
    # Slabs without an end that is not used, and no holes in the heap: tensors alone are counted.
    monkeypatch.setattr(stack, "_SLAB", {})
    monkeypatch.setattr(planner, "_MAPPED", {})
    net, images = tiny_supernet(kinds, blocks=(2, 1, 1)), some_images(300)
    one = Evaluator(net, images, calibration=chunks(*calibration), chunk=150)
    every = one.all_schemes()
    asked = every[:: len(every) // 7] if few else every
    live = LiveBytes()
    with live:
        one.score_many(asked)
    planned = one.plan(asked).peak_bytes
    assert 0.85 < live.most / planned < 1.1


def test_less_memory_takes_smaller_chunks_and_units_and_scores_stay():
    net, images = tiny_supernet(), some_images(60)
    calibration = chunks(8)
    free = Evaluator(net, images, calibration=calibration).plan()
    seen = set()
    for megabytes in (4.0, 2.0, 1.0, 0.8, 0.7):
        one = Evaluator(net, images, calibration=calibration, memory=int(megabytes * MB))
        plan = one.plan()
        assert plan.peak_bytes <= megabytes * MB
        seen.add((plan.chunk, plan.unit))
        assert plan.branch_passes >= free.branch_passes
        some = one.all_schemes()[::9]
        assert one.score_many(some) == alone(
            net, some, images, calibration, one.layout(some).chunk
        )
    assert len(seen) >= 4


def test_not_enough_memory_for_one_scheme_says_what_would_do():
    net, images = tiny_supernet(), some_images(60)
    one = Evaluator(net, images, calibration=chunks(8), memory=1000)
    with pytest.raises(
        MemoryLimitError, match=r"0 MB of memory given.*calibrated in chunks of 8"
    ) as said:
        one.score_all()
    (needed,) = map(int, re.findall(r"takes (\d+) MB; give that much, or take", str(said.value)))
    Evaluator(net, images, calibration=chunks(8), memory=needed * MB).score(
        Scheme.parse("11-111-1")
    )


PROGRAM = """
import re, sys
from sat_optuna.evaluate import Evaluator
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.supernet import Supernet
from tests.evaluate.scoring import chunks, some_images

def memory():
    text = open("/proc/self/status").read()
    return [1024 * int(re.search(name + r":\\s+(\\d+)", text)[1]) for name in ("VmRSS", "VmHWM")]

backbone, blocks, images, calibration, chunk = sys.argv[1], *map(eval, sys.argv[2:6])
shape, count = (3, 32, 32), sum(blocks)
kinds = sys.argv[6].split("+")
net = Supernet(backbone, attention=kinds, in_channels=3, classes=10, seed=0, blocks=blocks)
few = [Scheme.of([choice] * count, blocks) for choice in range(len(kinds) + 1)]
Evaluator(net, some_images(16, shape, 10), calibration=chunks(16, shape=shape)).score_many(few)
sets = chunks(calibration, shape=shape) if calibration else []
one = Evaluator(net, some_images(images, shape, 10), calibration=sets, chunk=chunk)
# One connection each, and none: every level of the tree is open on the way to the last block.
rows = [[int(k == on) for k in range(count)] for on in range(count + 1)]
some = [Scheme.of(row, blocks) for row in rows]
before = memory()[0]
planned = one.plan(some).peak_bytes
one.score_many(some)
print(planned, memory()[1] - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "blocks", "images", "calibration", "chunk", "kinds"),
    [
        ("resnet164", "(2, 2, 2)", 500, 0, 250, "se"),
        ("resnet20", "(6, 1, 1)", 500, 0, 500, "se"),
        ("resnet20", "(6, 6, 3)", 400, 0, 400, "sge"),
        ("resnet20", "(3, 3, 12)", 1000, 0, 500, "cbam"),
        ("resnet20", "(9, 9, 9)", 220, 128, 220, "dia"),
        ("resnet20", "(2, 2, 1)", 20, 1300, 20, "se+sge"),
    ],
)
def test_resident_memory_grows_as_planned(backbone, blocks, images, calibration, chunk, kinds):
    numbers = map(str, (images, calibration, chunk))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, backbone, blocks, *numbers, kinds],
        capture_output=True,
        text=True,
        check=True,
    )
    planned, grown = map(int, done.stdout.split())
    assert planned > 500e6
    assert 0.8 < grown / planned < 1.2
