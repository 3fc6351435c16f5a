"""What scoring schemes will take: passes of each part, memory, seconds."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sat_optuna.errors import SatOptunaError
from sat_optuna.evaluate.footprint import Footprint
from sat_optuna.evaluate.parts import HEAD, STEM, Part, attention, branch, merge
from sat_optuna.evaluate.prefixes import Choices, Node, children, common, root

__all__ = [
    "EvaluationPlan",
    "MemoryLimitError",
    "passes_of",
    "passes_of_all",
    "peak_of",
    "without_leaves",
]


class MemoryLimitError(SatOptunaError, ValueError):
    """A limit of memory that not even one scheme and one image fit in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """What scoring some schemes takes.

    Attributes:
        schemes: how many different ones.
        images: they are scored on.
        calibration: images that BatchNorm is calibrated on, 0 for none.
        chunk: images a pass.
        unit: schemes at most that are scored at once; a run that ends early loses no more.
        branch_passes: blocks run through their convolutions, each for all images.
        naive_passes: the same with each scheme scored alone.
        peak_bytes: the most memory taken, beside what was taken before.
        seconds: estimated, from one timed pass; by naive scoring `naive_seconds`.
        naive_seconds: with each scheme scored alone.
    """

    schemes: int
    images: int
    calibration: int
    chunk: int
    unit: int
    branch_passes: int
    naive_passes: int
    peak_bytes: int
    seconds: float
    naive_seconds: float

    def __str__(self) -> str:
        """Say it in one line."""
        calibrated = f" and {self.calibration:,} to calibrate on" if self.calibration else ""
        return (
            f"{self.schemes:,} schemes on {self.images:,} images{calibrated}: "
            f"{self.branch_passes:,} branch passes instead of {self.naive_passes:,}, "
            f"{self.peak_bytes / 2**20:,.0f} MB, about {_duration(self.seconds)} instead of "
            f"{_duration(self.naive_seconds)}, in chunks of {self.chunk} images and units of "
            f"{self.unit:,} schemes"
        )


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def passes_of(units: Iterable[Sequence[Choices]]) -> Counter[Part]:
    """Count how often each part is run for the schemes of some units.

    Args:
        units: of each, the choices of its schemes, sorted, each once.
    """
    passes: Counter[Part] = Counter()
    for unit in units:
        passes[STEM] += 1
        passes[HEAD] += len(unit)
        before: Choices = ()
        for choices in unit:
            shared = common(before, choices) if before else 0
            # The node at which it parts from the one before has run its branch.
            first = shared + 1 if before else 0
            passes.update(branch(block) for block in range(first, len(choices)))
            for block in range(shared, len(choices)):
                passes[merge(block)] += 1
                if choices[block]:
                    passes[attention(block, choices[block])] += 1
            before = choices
    return passes


def passes_of_all(blocks: int, kinds: int, unit: int) -> Counter[Part]:
    """Count the same for all schemes, without listing them.

    Args:
        blocks: m.
        kinds: K.
        unit: schemes of a unit, a power of K + 1.
    """
    choices = kinds + 1
    units = max(1, int(choices**blocks) // unit)

    def nodes(depth: int) -> int:  # each unit comes down to its subtree from the stem
        return max(units, int(choices**depth))

    passes = Counter({STEM: units, HEAD: choices**blocks})
    for block in range(blocks):
        passes[branch(block)] = nodes(block)
        passes[merge(block)] = nodes(block + 1)
        for choice in range(1, choices):
            passes[attention(block, choice)] = nodes(block + 1) // choices
    return passes


def without_leaves(passes: Mapping[Part, int], blocks: int) -> Counter[Part]:
    """Return the passes that end with the last block's branch."""
    last = blocks - 1
    return Counter(
        {
            part: count
            for part, count in passes.items()
            if part != HEAD and (part.block < last or part.what == "branch")
        }
    )


def peak_of(
    schemes: Sequence[Choices], taken: Mapping[Part, Footprint], *, leaves: bool = True
) -> float:
    """Return the most bytes for one image that the walk through some schemes holds at a time.

    Args:
        schemes: their choices, sorted, each once.
        taken: by each part.
        leaves: False: the walk ends with the last block's branch.
    """
    depth = len(schemes[0])
    most = 0.0
    stack: list[tuple[Node, float, bool]] = [(root(schemes), 0.0, False)]
    while stack:
        node, held, open_above = stack.pop()
        most = max(most, held + _entering(node, schemes, taken))
        if open_above:  # its parent's features are kept for the other choices
            held += taken[branch(node.depth - 1)].result
        entered = taken[merge(node.depth - 1) if node.depth else STEM].result
        part = HEAD if node.depth == depth else branch(node.depth)
        most = max(most, held + entered + taken[part].working)
        if node.depth < (depth if leaves else depth - 1):
            below = list(children(schemes, node))[::-1]
            stack += [(child, held, place > 0) for place, child in enumerate(below)]
    return most


def _entering(node: Node, schemes: Sequence[Choices], taken: Mapping[Part, Footprint]) -> float:
    """Return the bytes that are taken on the way from the features above to a node's input."""
    if not node.depth:
        return taken[STEM].working
    block, choice = node.depth - 1, schemes[node.first][node.depth - 1]
    split, merging = taken[branch(block)].result, taken[merge(block)].working
    if not choice:
        return split + merging
    attending = taken[attention(block, choice)]
    return split + max(attending.working, attending.result + merging)
