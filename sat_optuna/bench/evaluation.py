"""How much faster schemes are scored through the tree than one by one, and how near the floor.

The floor is the time of the parts alone, each as often as the tree must run it:

    stem + sum over k of 2^(k-1) (branch_k + attention_k + 2 merge_k) + 2^m head

Of random schemes, the nodes are counted, and half of them are taken to carry attention.

Tree, one-by-one and floor take turns in each round, so that what else the machine does falls on
all; ratios are taken within a round. One-by-one is timed on a few schemes, others each round, and
scaled to all of them.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from sat_optuna.bench.document import device_name
from sat_optuna.bench.evaluation_cases import CASES, GROWTH, Case, networks_of, schemes_of
from sat_optuna.cost.timing import median_of
from sat_optuna.data.images import TensorImages
from sat_optuna.errors import UnknownName
from sat_optuna.evaluate import Evaluator, evaluate_network, score_scheme
from sat_optuna.evaluate.parts import Parts
from sat_optuna.evaluate.plan import node_seconds
from sat_optuna.events import Event, OnEvent, ignore
from sat_optuna.registry import nearest
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.random_schemes import draw_scheme
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.training.checkpoint import versions

__all__ = ["HONEST_PAIRS", "bench_evaluation"]

HONEST_PAIRS = 30
_HONEST_IMAGES = 100


@dataclass(frozen=True, slots=True)
class Row:
    """One case, medians over the rounds.

    Attributes:
        case: its name.
        m: number of blocks.
        schemes: scored.
        images: scored on.
        calibration: images that BatchNorm is calibrated on for each scheme, 0 for none.
        branch_passes: of the tree.
        tree_s: seconds for all schemes.
        one_by_one_s: seconds for all schemes, scaled up from `timed`.
        timed: schemes that were timed one by one, of all rounds.
        faster: how many times faster the tree is.
        faster_low, faster_high: the lowest and the highest of the rounds.
        floor_s: seconds of the parts alone; None with calibration.
        floor_share: of the tree's time.
    """

    case: str
    m: int
    schemes: int
    images: int
    calibration: int
    branch_passes: int
    tree_s: float
    one_by_one_s: float
    timed: int
    faster: float
    faster_low: float
    faster_high: float
    floor_s: float | None
    floor_share: float | None


def bench_evaluation(
    *,
    cases: Iterable[str] = (),
    images: int = 50,
    rounds: int = 2,
    sample: int = 6,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Time all cases without and with calibration.

    Args:
        cases: names of `CASES` and `GROWTH`; all where none is given.
        images: that schemes are scored on, for a case of part 1.
        rounds: of all cases.
        sample: schemes scored one by one in a round.
        on_event: called after each case of a round, which the event's message names.

    Returns:
        A JSON document: rows, the ratio of a scheme's score to evaluating its network, and how
        and where all of it was measured.

    Raises:
        UnknownName: there is no such case.
    """
    known = CASES | GROWTH
    names = tuple(cases) or tuple(known)
    for name in names:
        if name not in known:
            hint = nearest(name, known) or f"; known: {', '.join(known)}"
            raise UnknownName(f"no case {name!r}{hint}")
    tasks = [
        _Task(name, known[name], images, calibrated=calibrated)
        for name in names
        for calibrated in (False, True)
    ]
    turns = [(turn, task) for turn in range(rounds) for task in tasks]
    for done, (turn, task) in enumerate(turns, start=1):
        task.run(turn, sample)
        on_event(Event(step="bench evaluation", done=done, total=len(turns), message=task.title))
    return {
        "device": device_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "rounds": rounds,
        "chunk": tasks[0].chunk,
        "rows": [asdict(task.row()) for task in tasks],
        "score_over_network": _honesty(min(images, _HONEST_IMAGES)),
    }


class _Task:
    """A case that is timed round by round."""

    def __init__(self, name: str, case: Case, images: int, *, calibrated: bool) -> None:
        self.name = name
        self.title = f"{name}{', calibrated' if calibrated else ''}"
        size = max(2, round(images * case.images))
        given = networks_of(case.blocks, size, calibrated=calibrated)
        self._net, self._images, self._calibration = given
        self._evaluator = Evaluator(self._net, self._images, calibration=self._calibration)
        self._schemes = tuple(schemes_of(self._evaluator, case))
        self.chunk = self._evaluator.chunk
        # By depth, the nodes of the tree: the distinct prefixes of so many choices.
        self._nodes = [
            len({scheme.choices[:depth] for scheme in self._schemes})
            for depth in range(sum(case.blocks) + 1)
        ]
        self._trees: list[float] = []
        self._ones: list[float] = []
        self._floors: list[float] = []
        self._timed = 0

    def run(self, turn: int, sample: int) -> None:
        """Time one round: one by one, the floor and the tree, between two halves of the others."""
        chance = generator_for("sample", self.title, turn)
        picked = torch.randperm(len(self._schemes), generator=chance)[: 2 * max(1, sample // 2)]
        some = [self._schemes[index] for index in picked.tolist()]
        half = len(some) // 2
        if not turn:
            self._evaluator.score(some[0])  # a first pass is slower
        first, floor = self._one_by_one(some[:half]), self._floor()
        start = time.perf_counter()
        self._evaluator.score_many(self._schemes)
        self._trees.append(time.perf_counter() - start)
        last, again = self._one_by_one(some[half:]), self._floor()
        self._ones.append((first + last) / len(some) * len(self._schemes))
        self._floors.append((floor + again) / 2)
        self._timed += len(some)

    def row(self) -> Row:
        """Return what the rounds came to."""
        faster = [one / tree for one, tree in zip(self._ones, self._trees, strict=True)]
        shares = [floor / tree for floor, tree in zip(self._floors, self._trees, strict=True)]
        plain = not self._calibration
        return Row(
            case=self.name,
            m=sum(self._net.stages),
            schemes=len(self._schemes),
            images=len(self._images),
            calibration=sum(map(len, self._calibration)),
            branch_passes=sum(self._nodes[:-1]),
            tree_s=round(median(self._trees), 3),
            one_by_one_s=round(median(self._ones), 2),
            timed=self._timed,
            faster=round(median(faster), 2),
            faster_low=round(min(faster), 2),
            faster_high=round(max(faster), 2),
            floor_s=round(median(self._floors), 3) if plain else None,
            floor_share=round(median(shares), 3) if plain else None,
        )

    def _one_by_one(self, schemes: Sequence[Scheme]) -> float:
        start = time.perf_counter()
        for scheme in schemes:
            self._evaluator.score(scheme)
        return time.perf_counter() - start

    def _floor(self) -> float:
        """Return the seconds of all parts, each timed alone on a chunk."""
        x = next(self._images.batches(None, self.chunk))[0]
        rounds = [node_seconds(Parts(self._net), x) for _ in range(6)][1:]
        seconds = [median(passed) for passed in zip(*rounds, strict=True)]
        once: float = sum(each * n for each, n in zip(seconds, self._nodes, strict=True))
        return once * len(self._images) / len(x)


def _honesty(images: int) -> dict[str, Any]:
    """Time a scheme's score against evaluating the network of that scheme, in pairs."""
    net, valid, calibration = networks_of((3, 3, 3), images, calibrated=True)
    document: dict[str, Any] = {"pairs": HONEST_PAIRS}
    for title, chunks in (("without calibration", []), ("with calibration", calibration)):
        evaluator = Evaluator(net, valid, calibration=chunks)
        ratios = [_ratio(evaluator, net, valid, chunks, turn) for turn in range(-2, HONEST_PAIRS)][
            2:
        ]
        found = median_of(ratios)
        document[title] = {
            "ratio": round(found.value, 3),
            "low": round(found.low, 3),
            "high": round(found.high, 3),
        }
    return document


def _ratio(
    evaluator: Evaluator, net: Supernet, images: TensorImages, chunks: list[Tensor], turn: int
) -> float:
    scheme = draw_scheme((3, 3, 3), 1, connect=0.5, draws="iid", seed=1, step=turn + 2)
    network, batch = materialise(net, scheme), evaluator.chunk

    def alone() -> object:
        if chunks:
            return score_scheme(network, None, calibration=chunks, images=images, batch=batch)
        return evaluate_network(network, images, batch=batch)

    runs = (lambda: evaluator.score(scheme), alone)
    alone()  # a new network's first pass is slower
    times = [0.0, 0.0]
    for index in (0, 1) if turn % 2 else (1, 0):
        start = time.perf_counter()
        runs[index]()
        times[index] = time.perf_counter() - start
    return times[0] / times[1]
