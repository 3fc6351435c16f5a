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
    "Peak",
    "passes_of",
    "passes_of_all",
    "peak_of",
    "without_leaves",
]


class MemoryLimitError(SatOptunaError, ValueError):
    """A limit of memory that not even one scheme and one image fit in."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The most bytes that walks take for one image.

    Attributes:
        held: of what waits for other choices, in the stack.
        passing: of what comes and goes, by the bytes of the largest tensor that does.
    """

    held: float
    passing: Mapping[float, float]

    def __or__(self, other: "Peak") -> "Peak":
        """Return the most that one of two takes."""
        sizes = {**self.passing, **other.passing}
        both = (self.passing, other.passing)
        passing = {size: max(one.get(size, 0.0) for one in both) for size in sizes}
        return Peak(max(self.held, other.held), passing)


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
        live_bytes: the most memory in use, beside what was before.
        peak_bytes: the most memory taken; a heap leaves holes between what is in use.
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
    live_bytes: int
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
) -> Peak:
    """Return the most bytes for one image that the walk through some schemes takes.

    Args:
        schemes: their choices, sorted, each once.
        taken: by each part.
        leaves: False: the walk ends with the last block's branch.
    """
    depth = len(schemes[0])
    most_held, passing = 0.0, dict[float, float]()
    # A node; what waits in the stack, and beside it, for others than it; where its features are.
    stack: list[tuple[Node, float, float, bool]] = [(root(schemes), 0.0, 0.0, False)]
    while stack:
        node, held, beside, from_stack = stack.pop()
        before = taken[merge(node.depth - 1) if node.depth else STEM]
        after = taken[HEAD if node.depth == depth else branch(node.depth)]
        for size, running in (
            (before.largest, _entering(node, schemes, taken, from_stack=from_stack)),
            (max(before.largest, after.largest), beside + before.result + after.working),
            (after.largest, after.working),  # its input may be larger, and lie elsewhere
        ):
            passing[size] = max(passing.get(size, 0.0), running)
        if node.depth == (depth if leaves else depth - 1):
            continue
        below = list(children(schemes, node))[::-1]
        pushed = len(below) > 1 and node.depth + 1 < depth
        most_held = max(most_held, held + pushed * after.result)
        for place, child in enumerate(below):
            waits = after.result if place else 0.0  # the last child gives up what its parent held
            in_stack, in_heap = (waits, 0.0) if pushed else (0.0, waits)
            stack.append((child, held + in_stack, in_heap, pushed))
    return Peak(most_held, passing)


def _entering(
    node: Node, schemes: Sequence[Choices], taken: Mapping[Part, Footprint], *, from_stack: bool
) -> float:
    """Return the passing bytes on the way from the features above to a node's input."""
    if not node.depth:
        return taken[STEM].working
    block, choice = node.depth - 1, schemes[node.first][node.depth - 1]
    split = 0.0 if from_stack else taken[branch(block)].result
    merging = taken[merge(block)].working
    if not choice:
        return split + merging
    attending = taken[attention(block, choice)]
    return split + max(attending.working, attending.result + merging)
