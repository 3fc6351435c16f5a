"""All 512 schemes of ResNet-20 with SE on 10,000 images: through the tree and one by one."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch

from sat_optuna.bench.evaluation_cases import CASES, networks_of
from sat_optuna.evaluate import Evaluator
from sat_optuna.seeds import generator_for
from training import spread

__all__ = ["all_schemes"]

CHUNKS: tuple[int, ...] = (0, 500)  # images a pass; 0 is the default, here 2,500
ROUNDS = 3
SAMPLE = 4  # schemes timed one by one in a round, others each time


def all_schemes(*, cut: bool) -> Iterator[dict[str, Any]]:
    """Time the tree in chunks of two sizes beside schemes one by one, in turns; calibrated.

    Yields:
        A row a chunk: seconds of the tree, and of all schemes one by one (scaled up from a
        sample), and how many times faster the tree is: median, least, most.
    """
    chunks = CHUNKS
    images, blocks = 10_000, CASES["m9"].blocks
    if cut:
        images, blocks, chunks = 20, (1, 1, 1), (0, 10)
    net, data, calibration = networks_of(blocks, images, calibrated=True)
    calibration = calibration[:4]  # 512 images, as a study takes
    for chunk in chunks:
        evaluator = Evaluator(net, data, calibration=calibration, chunk=chunk)
        yield {"chunk": evaluator.chunk, "default": not chunk, **_timed(evaluator)}


def _timed(evaluator: Evaluator) -> dict[str, Any]:
    schemes = evaluator.all_schemes()
    evaluator.score(schemes[0])  # the first pass is slower
    trees, ones = [], []
    for turn in range(ROUNDS):
        start = time.perf_counter()
        evaluator.score_many(schemes)  # the results are fetched, so the device has finished
        middle = time.perf_counter()
        chance = generator_for("sample", turn)
        picked = torch.randperm(len(schemes), generator=chance)[:SAMPLE].tolist()
        for index in picked:
            evaluator.score(schemes[index])
        trees.append(middle - start)
        ones.append((time.perf_counter() - middle) / SAMPLE * len(schemes))
    return {
        "schemes": len(schemes),
        "images": len(evaluator.images),
        "tree_s": round(statistics.median(trees), 3),
        "one_by_one_s": round(statistics.median(ones), 2),
        "faster": spread(one / tree for one, tree in zip(ones, trees, strict=True)),
    }
