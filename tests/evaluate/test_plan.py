"""What a plan says of all schemes, and what a limit of memory makes of an evaluation."""

import json
import re
import subprocess
import sys

import pytest

from sat_optuna.evaluate import Evaluator
from sat_optuna.evaluate.plan import MemoryLimitError
from sat_optuna.scheme import Scheme
from tests.evaluate.scoring import alone, chunks, some_images
from tests.networks import tiny_supernet

MB = 2**20


def test_all_schemes_cost_a_branch_pass_for_each_prefix():
    plan = Evaluator(tiny_supernet(["se", "sge"]), some_images(8)).plan()
    assert (plan.schemes, plan.branch_passes, plan.naive_passes) == (
        3**6,
        (3**6 - 1) // 2,
        6 * 3**6,
    )
    deep = Evaluator(tiny_supernet(blocks=(8, 8, 8)), some_images(2)).plan()
    assert deep.schemes == 2**24
    # Each unit of 2^10 schemes comes down 14 blocks to its own 2^10 - 1 branches.
    assert deep.branch_passes == 2**14 * (14 + 2**10 - 1)
    assert deep.naive_seconds > 5 * deep.seconds > 0


def test_the_plan_in_words():
    text = str(Evaluator(tiny_supernet(), some_images(8), calibration=chunks(5)).plan())
    assert re.fullmatch(
        r"64 schemes on 8 images and 5 to calibrate on: 63 branch passes instead of 384, at most "
        r"\d+ MB, about \d+\.\d s instead of \d+\.\d s, in chunks of 8 images and units of 1,024 "
        r"schemes",
        text,
    )


def test_less_memory_takes_smaller_chunks_and_units_and_scores_stay():
    net, images = tiny_supernet(), some_images(60)
    calibration = chunks(8)
    free = Evaluator(net, images, calibration=calibration)
    least = free.plan().memory
    seen = set()
    for share in (0.999, 0.99, 0.97, 0.95):
        limit = int(share * least)
        one = Evaluator(net, images, calibration=calibration, memory=limit)
        plan = one.plan()
        assert plan.memory <= limit
        assert (plan.chunk, plan.unit) == (one.chunk, one.unit)
        assert plan.branch_passes >= free.plan().branch_passes
        seen.add((one.chunk, one.unit))
        some = one.all_schemes()[::9]
        assert one.score_many(some) == alone(net, some, images, calibration, one.chunk)
        assert one.score(some[0]) == one.score_many(some)[some[0]]
    assert len(seen) == 4
    assert max(seen) < (free.chunk, free.unit)


def test_the_same_limit_always_makes_the_same_chunk():
    net, images = tiny_supernet(["dia"]), some_images(60)
    made = [Evaluator(net, images, memory=34 * MB) for _ in range(2)]
    made[0].score_all()
    made.append(Evaluator(net, images, memory=34 * MB))
    assert len({(one.chunk, one.unit) for one in made}) == 1


def test_not_enough_memory_for_one_scheme_says_what_would_do():
    net, images = tiny_supernet(), some_images(60)
    with pytest.raises(
        MemoryLimitError,
        match=r"^1 MB of memory given, and one scheme on one image at a time takes \d+ MB, 0 MB "
        r"of it for the cache, with calibration chunks of 8 images; give that much, or take a "
        r"smaller cache or smaller calibration chunks$",
    ) as said:
        Evaluator(net, images, calibration=chunks(8), memory=MB)
    (needed,) = map(int, re.findall(r"takes (\d+) MB", str(said.value)))
    one = Evaluator(net, images, calibration=chunks(8), memory=needed * MB)
    assert one.score(Scheme.parse("11-111-1")).n == 60


PROGRAM = """
import json, re, sys, torch
from sat_optuna.evaluate import Evaluator
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.supernet import Supernet
from tests.evaluate.scoring import chunks, some_images

def memory(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

case = json.loads(sys.argv[1])
shape, blocks, kinds = (3, case["size"], case["size"]), case["blocks"], case["kinds"]
net = Supernet(
    case["backbone"], attention=kinds, in_channels=3, classes=10, seed=0, blocks=blocks
)
images = some_images(case["images"], shape, 10)
calibration = chunks(*case["calibration"], shape=shape)
# Each kind at one block alone, and none: every level of the tree is open on the way to the last
# block. Behind them some schemes of chance.
count = sum(blocks)
every = range(count)
rows = [[k * (n == on) for n in every] for k in range(len(kinds) + 1) for on in every]
chance = torch.Generator().manual_seed(0)
rows += torch.randint(0, len(kinds) + 1, (10, count), generator=chance).tolist()
before = memory("VmRSS")
one = Evaluator(net, images, calibration=calibration, memory=case["memory"])
one.score_many(Scheme.of(row, blocks) for row in rows)
print(json.dumps([one.chunk, one.unit, memory("VmHWM") - before]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "blocks", "kinds", "size", "calibration", "megabytes"),
    [
        ("resnet20", (3, 3, 3), ["se"], 32, (64, 64), 120),
        ("resnet20", (1, 1, 1), ["se"], 96, (16,), 200),
        ("resnet20", (9, 9, 9), ["dia"], 32, (), 300),
        ("resnet20", (3, 3, 3), ["simam", "spa"], 32, (32,), 150),
        ("preresnet110", (2, 2, 2), ["cbam", "dia"], 32, (32, 32), 80),
        ("resnet164", (2, 1, 2), ["bam"], 32, (), 110),
    ],
)
def test_a_process_grows_by_no_more_than_the_limit(
    backbone, blocks, kinds, size, calibration, megabytes
):
    case = {
        "backbone": backbone,
        "blocks": blocks,
        "kinds": kinds,
        "size": size,
        "calibration": calibration,
        "images": 150,
        "memory": megabytes * MB,
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(case)],
        capture_output=True,
        text=True,
        check=True,
    )
    chunk, unit, grown = json.loads(done.stdout)
    assert (chunk, unit) < (100, 729)  # the limit was felt
    assert grown <= megabytes * MB
