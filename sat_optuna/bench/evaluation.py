"""How much faster schemes are scored through the tree than one by one, and how near the floor.

The floor is the time of the parts alone, each as often as the tree must run it:

    stem + sum over k of 2^(k-1) (branch_k + attention_k + 2 merge_k) + 2^m head

Tree, one-by-one and floor take turns in each round, so that what else the machine does falls on
all; ratios are taken within a round. One-by-one is timed on a few schemes, others each round, and
scaled to all of them.
"""

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from statistics import median
from typing import Any

import torch
from torch import Tensor

from sat_optuna.bench.problems import BenchError
from sat_optuna.checkpoint import versions
from sat_optuna.data.split import TensorImages
from sat_optuna.devices import pick_device
from sat_optuna.draws import draw_scheme
from sat_optuna.evaluate import Evaluator, accuracy, score_scheme
from sat_optuna.evaluate.footprint import seconds_of
from sat_optuna.evaluate.parts import Parts
from sat_optuna.evaluate.plan import passes_of
from sat_optuna.registry import nearest
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for
from sat_optuna.supernet import Supernet
from sat_optuna.surgery import materialise
from sat_optuna.timing import median_of

__all__ = ["CASES", "GROWTH", "HONEST_PAIRS", "Case", "bench_evaluation", "evaluation_markdown"]

_SHAPE, _CLASSES = (3, 32, 32), 10
_CALIBRATED = 0.512  # calibration images for each image, as 512 are for 1,000
_CALIBRATION_CHUNK = 128
HONEST_PAIRS = 30


@dataclass(frozen=True, slots=True)
class Case:
    """Some schemes of a resnet with SE, of width 16.

    Attributes:
        blocks: of each stage.
        schemes: how many random ones; 0 for all.
        images: part of the images asked for that they are scored on.
    """

    blocks: tuple[int, int, int]
    schemes: int = 0
    images: float = 1.0


CASES = {
    "m8": Case((3, 3, 2)),
    "m9": Case((3, 3, 3)),
    "m12": Case((4, 4, 4)),
    "m16": Case((6, 5, 5), schemes=900, images=0.5),
    "m54": Case((18, 18, 18), schemes=900, images=0.2),
}
# What the time grows with, beside m: images, and the number of schemes.
GROWTH = {
    "m8, half the images": Case((3, 3, 2), images=0.5),
    "m8, twice the images": Case((3, 3, 2), images=2.0),
    "m16, 100 schemes": Case((6, 5, 5), schemes=100, images=0.5),
    "m16, 300 schemes": Case((6, 5, 5), schemes=300, images=0.5),
}


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
    images: int = 100,
    rounds: int = 3,
    sample: int = 6,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Time all cases without and with calibration.

    Args:
        cases: names of `CASES` and `GROWTH`; all where none is given.
        images: that schemes are scored on, for a case of part 1.
        rounds: of all cases.
        sample: schemes scored one by one in a round.
        on_step: called after each case of a round, with its name.

    Returns:
        A JSON document: rows, the ratio of a scheme's score to evaluating its network, and how
        and where all of it was measured.

    Raises:
        BenchError: there is no such case.
    """
    known = CASES | GROWTH
    names = tuple(cases) or tuple(known)
    for name in names:
        if name not in known:
            hint = nearest(name, known) or f"; known: {', '.join(known)}"
            raise BenchError(f"no case {name!r}{hint}")
    tasks = [
        _Task(name, known[name], images, calibrated=calibrated)
        for name in names
        for calibrated in (False, True)
    ]
    for turn in range(rounds):
        for task in tasks:
            task.run(turn, sample)
            if on_step:
                on_step(task.title)
    device = pick_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} {name}",
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "rounds": rounds,
        "chunk": tasks[0].chunk,
        "rows": [asdict(task.row()) for task in tasks],
        "score_over_network": _honesty(images),
    }


class _Task:
    """A case that is timed round by round."""

    def __init__(self, name: str, case: Case, images: int, *, calibrated: bool) -> None:
        self.name = name
        self.title = f"{name}{', calibrated' if calibrated else ''}"
        size = max(2, round(images * case.images))
        given = _given(case.blocks, size, calibrated=calibrated)
        self._net, self._images, self._calibration = given
        self._evaluator = Evaluator(self._net, self._images, calibration=self._calibration)
        self._schemes = tuple(_schemes(self._evaluator, case))
        layout = self._evaluator.layout(self._schemes)
        self.chunk = layout.chunk
        ordered = sorted(scheme.choices for scheme in self._schemes)
        self._passes = passes_of([ordered])
        self._trees: list[float] = []
        self._ones: list[float] = []
        self._floors: list[float] = []
        self._timed = 0

    def run(self, turn: int, sample: int) -> None:
        """Time one round: one by one, the floor and the tree, between two halves of the others."""
        chance = generator_for("sample", self.title, turn)
        picked = torch.randperm(len(self._schemes), generator=chance)[: 2 * max(1, sample // 2)]
        some = [self._schemes[place] for place in picked.tolist()]
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
            branch_passes=sum(n for part, n in self._passes.items() if part.what == "branch"),
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
        times = seconds_of(Parts(self._net), x, rounds=5)
        once = sum(median(times[part]) * n for part, n in self._passes.items())
        return once * len(self._images) / len(x)


def _given(
    blocks: tuple[int, int, int], size: int, *, calibrated: bool
) -> tuple[Supernet, TensorImages, list[Tensor]]:
    """Return a supernet, images of noise and the calibration set."""
    device = pick_device()
    net = Supernet(
        "resnet20", attention=("se",), in_channels=3, classes=_CLASSES, seed=0, blocks=blocks
    ).to(device)
    images = _noise(size).to(device)
    needed = round(_CALIBRATED * size) if calibrated else 0
    noise = _noise(max(needed, 2)).to(device)
    chunks = [x for x, _ in noise.batches(None, _CALIBRATION_CHUNK)] if needed else []
    return net, images, chunks


def _noise(size: int) -> TensorImages:
    drawn = generator_for("bench", size)
    pixels = torch.randint(0, 256, (size, *_SHAPE), generator=drawn, dtype=torch.uint8)
    labels = torch.randint(0, _CLASSES, (size,), generator=drawn)
    half = (0.5,) * _SHAPE[0]
    return TensorImages(pixels, labels, half, half)


def _schemes(evaluator: Evaluator, case: Case) -> Iterator[Scheme]:
    """Yield all schemes, or so many different random ones."""
    if not case.schemes:
        yield from evaluator.all_schemes()
        return
    seen: set[Scheme] = set()
    for step in count():
        if len(seen) == case.schemes:
            return
        scheme = draw_scheme(case.blocks, 1, connect=0.5, draws="iid", seed=0, step=step)
        if scheme not in seen:
            seen.add(scheme)
            yield scheme


def _honesty(images: int) -> dict[str, Any]:
    """Time a scheme's score against evaluating the network of that scheme, in pairs."""
    net, valid, calibration = _given((3, 3, 3), images, calibrated=True)
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
    network, batch = materialise(net, scheme), evaluator.layout([scheme]).chunk

    def alone() -> object:
        if chunks:
            return score_scheme(network, None, calibration=chunks, images=images, batch=batch)
        return accuracy(network, images, batch=batch)

    runs = (lambda: evaluator.score(scheme), alone)
    alone()  # a new network's first pass is slower
    times = [0.0, 0.0]
    for place in (0, 1) if turn % 2 else (1, 0):
        start = time.perf_counter()
        runs[place]()
        times[place] = time.perf_counter() - start
    return times[0] / times[1]


def evaluation_markdown(document: dict[str, Any]) -> str:
    """Return the document's rows as a page of Markdown."""
    columns = (
        "case", "schemes", "images", "calibration", "branch_passes", "tree_s", "one_by_one_s",
        "timed", "faster", "floor_s", "floor_share",
    )  # fmt: skip
    lines = [
        f"{document['rounds']} rounds on {document['threads']} threads of {document['device']} "
        f"({document['capability']}), chunks of {document['chunk']} images; medians over the "
        "rounds, in brackets the lowest and the highest; one by one is scaled up from the `timed` "
        "schemes.",
        "",
        f"| {' | '.join(columns)} |",
        "|" + " --- |" * len(columns),
    ]
    for row in document["rows"]:
        shown = {k: "-" if v is None else str(v) for k, v in row.items()}
        shown["faster"] += f" ({row['faster_low']} to {row['faster_high']})"
        lines.append(f"| {' | '.join(shown[name] for name in columns)} |")
    honest = document["score_over_network"]
    lines += [
        "",
        f"A scheme's score over evaluating the network of that scheme, {honest['pairs']} pairs, "
        "median with its 95 % interval: "
        + "; ".join(
            f"{title} {honest[title]['ratio']} ({honest[title]['low']} to {honest[title]['high']})"
            for title in ("without calibration", "with calibration")
        )
        + ".",
        "",
    ]
    return "\n".join(lines)
