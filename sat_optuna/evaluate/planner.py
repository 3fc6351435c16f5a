"""How many images and schemes at a time a limit of memory allows, and what scoring will take."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import or_
from statistics import median

from torch import Tensor

from sat_optuna.evaluate.footprint import Footprint, footprints, seconds_of
from sat_optuna.evaluate.parts import Part, Parts
from sat_optuna.evaluate.plan import (
    EvaluationPlan,
    MemoryLimitError,
    Peak,
    passes_of,
    passes_of_all,
    peak_of,
    without_leaves,
)
from sat_optuna.evaluate.prefixes import Choices, every_choices, in_units, subtree_size

__all__ = ["Layout", "Planner"]

_CHUNK = {"cpu": 100}  # images a pass, by device; see studies/bench-speed
_OTHER_CHUNK = 500
_LEAST_CHUNK = 16  # fewer images a pass cost more than smaller units do
_UNIT = 1024  # schemes at most between two records, and sets of statistics at a time
_ALLOCATOR = 1.1  # what is freed is not always there for what comes next
# Bytes from which on glibc maps a tensor apart from its heap, in which smaller ones leave holes
# that the next of the same size do not fit in; how much of that there is to what they take at
# most themselves (-0.1 to 1 was measured, with a `HeapLimit` at what is in use).
_MAPPED = {"cpu": 2**25}
_HOLES = 0.5
_PIXEL = 5  # bytes of a channel's value: as it is stored, and as a float


@dataclass(frozen=True, slots=True)
class Layout:
    """How many images, and how many schemes, are run at a time."""

    chunk: int
    unit: int


@dataclass(frozen=True, slots=True)
class _Need:
    """Bytes that scoring takes.

    Attributes:
        fixed: whatever the chunk is.
        image: for each image of a chunk.
        calibrating: for each image of a calibration chunk.
        calibration_chunk: images of the largest.
        mapped: of a tensor that leaves no hole.
    """

    fixed: float
    image: Peak
    calibrating: Peak
    calibration_chunk: int
    mapped: int

    def live(self, chunk: int) -> int:
        """Return the most bytes in use."""
        held = max(one.held * images for one, images in self._runs(chunk))
        most = max(taken for _, taken in self._passing(chunk))
        return math.ceil(self.fixed + held + _ALLOCATOR * most)

    def peak(self, chunk: int) -> int:
        """Return the most bytes taken, with the holes that are left between those in use."""
        small = (taken for size, taken in self._passing(chunk) if size < self.mapped)
        return math.ceil(self.live(chunk) + _HOLES * max(small, default=0.0))

    def _runs(self, chunk: int) -> tuple[tuple[Peak, int], ...]:
        return (self.image, chunk), (self.calibrating, self.calibration_chunk)

    def _passing(self, chunk: int) -> Iterator[tuple[float, float]]:
        """Yield bytes of a largest tensor, and of all that come and go beside it."""
        for one, images in self._runs(chunk):
            for size, taken in one.passing.items():
                yield size * images, taken * images


class Planner:
    """Counts, measures and times what an evaluation takes.

    Args:
        parts: of the network.
        batch: (n, C, H, W) images to measure with.
        images: number of those that schemes are scored on.
        calibration: the calibration set.
        norms: bytes of one set of statistics of each part.
        leaves: whether the last block's attention, merge and the head are calibrated too.
        cache: bytes of activations that may be kept from call to call.
    """

    def __init__(
        self,
        parts: Parts,
        batch: Tensor,
        *,
        images: int,
        calibration: Sequence[Tensor],
        norms: Mapping[Part, int],
        leaves: bool,
        cache: int,
    ) -> None:
        self._parts, self._batch, self._images = parts, batch, images
        self._calibration, self._norms, self._leaves = calibration, norms, leaves
        self._cache = cache
        usual = min(_CHUNK.get(batch.device.type, _OTHER_CHUNK), images)
        self.usual = Layout(usual, subtree_size(parts.kinds, _UNIT))

    @cached_property
    def footprints(self) -> dict[Part, Footprint]:
        """The bytes that each part takes for an image."""
        return footprints(self._parts, self._batch)

    def fit(self, schemes: Sequence[Choices] | None, memory: int, chunk: int) -> Layout:
        """Return the largest layout that a limit allows.

        Smaller units hold fewer levels of the tree at a time, and each runs its way down anew.

        Args:
            schemes: sorted, each once; None for all there are.
            memory: bytes; 0 for no limit.
            chunk: images a pass that are wanted; 0 for the usual number.

        Raises:
            MemoryLimitError: not even one scheme fits with one image.
        """
        chunk = min(chunk, self._images) if chunk else self.usual.chunk
        if not memory:
            return Layout(chunk, self.usual.unit)
        unit = self.usual.unit
        while True:
            need = self._need(schemes, unit)
            least = 1 if unit == 1 else min(chunk, _LEAST_CHUNK)
            for fitting in range(chunk, least - 1, -1):
                if need.peak(fitting) <= memory:
                    return Layout(fitting, unit)
            if unit == 1:
                raise self._too_little(memory, need)
            unit //= self._parts.kinds + 1

    def plan(self, schemes: Sequence[Choices] | None, layout: Layout) -> EvaluationPlan:
        """Return what scoring schemes in a layout takes; parts are timed for it.

        Args:
            schemes: sorted, each once; None for all there are.
            layout: of `fit`.
        """
        blocks, kinds = len(self._parts.blocks), self._parts.kinds
        if schemes is None:
            count = (kinds + 1) ** blocks
            passes = passes_of_all(blocks, kinds, layout.unit)
            alone = passes_of_all(blocks, kinds, 1)
        else:
            count = len(schemes)
            passes = passes_of(in_units(schemes, layout.unit))
            alone = passes_of((choices,) for choices in schemes)
        seconds = self._image_seconds(layout.chunk)
        need = self._need(schemes, layout.unit)
        return EvaluationPlan(
            schemes=count,
            images=self._images,
            calibration=sum(map(len, self._calibration)),
            chunk=layout.chunk,
            unit=layout.unit,
            branch_passes=sum(n for part, n in passes.items() if part.what == "branch"),
            naive_passes=count * blocks,
            live_bytes=need.live(layout.chunk),
            peak_bytes=need.peak(layout.chunk),
            seconds=self._seconds(passes, seconds),
            naive_seconds=self._seconds(alone, seconds),
        )

    def _need(self, schemes: Sequence[Choices] | None, unit: int) -> _Need:
        blocks = len(self._parts.blocks)
        if schemes is None:  # one unit is like the other
            units = [next(in_units(every_choices(blocks, self._parts.kinds), unit))]
        else:
            units = list(in_units(schemes, unit))
        taken = self.footprints
        image = reduce(or_, (peak_of(one, taken) for one in units))
        calibrating = reduce(or_, (peak_of(one, taken, leaves=self._leaves) for one in units))
        statistics = max(
            sum(self._norms.get(part, 0) * n for part, n in passes_of([one]).items())
            for one in units
        )
        pixels = _PIXEL * self._batch[0].numel()
        return _Need(
            # Whether each image is right is held a byte each.
            fixed=statistics + max(map(len, units)) * self._images + self._cache,
            image=replace(image, passing={k: v + pixels for k, v in image.passing.items()}),
            calibrating=calibrating,
            calibration_chunk=max(map(len, self._calibration), default=0),
            mapped=_MAPPED.get(self._batch.device.type, 0),
        )

    def _image_seconds(self, chunk: int) -> dict[Part, float]:
        """Return what each part takes for an image where so many are run at a time."""
        copies = math.ceil(chunk / len(self._batch))
        batch = self._batch.repeat(copies, 1, 1, 1)[:chunk]
        times = seconds_of(self._parts, batch)
        return {part: median(passed) / chunk for part, passed in times.items()}

    def _seconds(self, passes: Counter[Part], seconds: Mapping[Part, float]) -> float:
        calibrated = sum(map(len, self._calibration))
        calibrating = passes if self._leaves else without_leaves(passes, len(self._parts.blocks))
        return (
            sum(n * seconds[part] for part, n in passes.items()) * self._images
            + sum(n * seconds[part] for part, n in calibrating.items()) * calibrated
        )

    def _too_little(self, memory: int, need: _Need) -> MemoryLimitError:
        size = need.calibration_chunk
        calibrated = f", calibrated in chunks of {size}," if size else ""
        less = ", or take a smaller calibration chunk" if size else ""
        return MemoryLimitError(
            f"{memory / 2**20:,.0f} MB of memory given, and one scheme on one image at a time"
            f"{calibrated} takes {math.ceil(need.peak(1) / 2**20):,} MB; give that much{less}"
        )
