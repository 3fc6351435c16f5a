"""What scoring takes, in bytes and seconds, and how many images a limit of memory allows.

Bytes are those of tensors, counted in one pass of two images through all parts: the same network
and images always give the same numbers. Seconds come from one timed pass of a chunk.
"""

import math
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sat_optuna.errors import SatOptunaError
from sat_optuna.evaluate.parts import Part, Parts
from sat_optuna.supernet.batchnorm import evaluating

__all__ = ["EvaluationPlan", "MemoryLimitError", "Need", "node_seconds"]

_LEAST_CHUNK = 16  # fewer images a pass cost more time than smaller units do
# A process grows by more than its tensors take. First passes build their programs (`_PROCESS`
# bytes). What is freed leaves holes that the next tensor does not fit in, and convolutions copy
# what they read, so tensors that come and go and those that wait are counted several times. Up to
# 3.7 and 1.3 times were measured on CPUs; tests/evaluate/test_plan.py measures again.
_PROCESS = 2**25
_PASSING, _WAITING = 4.0, 1.5


class MemoryLimitError(SatOptunaError, ValueError):
    """A limit of memory that not even one scheme and one image fit in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """What scoring all schemes takes.

    Attributes:
        schemes: how many there are.
        images: they are scored on.
        calibration: images that BatchNorm is calibrated on, 0 for none.
        chunk: images a pass.
        unit: schemes at most that are scored at once; a run that ends early loses no more.
        branch_passes: blocks run through their convolutions, each for all images.
        naive_passes: the same with each scheme scored alone.
        memory: bytes that the process grows by at most.
        seconds: estimated, from one timed pass.
        naive_seconds: the same with each scheme scored alone.
    """

    schemes: int
    images: int
    calibration: int
    chunk: int
    unit: int
    branch_passes: int
    naive_passes: int
    memory: int
    seconds: float
    naive_seconds: float

    def __str__(self) -> str:
        """Say it in one line."""
        calibrated = f" and {self.calibration:,} to calibrate on" if self.calibration else ""
        return (
            f"{self.schemes:,} schemes on {self.images:,} images{calibrated}: "
            f"{self.branch_passes:,} branch passes instead of {self.naive_passes:,}, at most "
            f"{self.memory / 2**20:,.0f} MB, about {_duration(self.seconds)} instead of "
            f"{_duration(self.naive_seconds)}, in chunks of {self.chunk} images and units of "
            f"{self.unit:,} schemes"
        )


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors made inside it: those alive `now`, and the `most` so far."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self._seen.update(
            _storages((args, kwargs))
        )  # what is older, and views of it, are left out
        made = func(*args, **(kwargs or {}))
        for storage in _storages(made):
            if storage not in self._seen:
                self._seen.add(storage)
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return made

    def _add(self, size: int) -> None:
        self.now += size
        self.most = max(self.most, self.now)


def _storages(made: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]


def _size(made: Any) -> int:
    sizes: dict[int, int] = {one.data_ptr(): one.nbytes() for one in _storages(made)}
    return sum(sizes.values())


class Need:
    """Bytes that a process grows by, at most, while schemes are scored; counted in one pass.

    Args:
        parts: of the network, which stays as it is.
        x: (N, C, H, W) images; two will do.
        calibration_chunk: images of the largest calibration chunk, 0 for none.
        scheme: bytes that each scheme of a unit takes, whatever the chunk is.
        cache: bytes of activations that may be kept.

    Attributes:
        entered: bytes of an image, by number of choices made: what the next block is given.
    """

    def __init__(
        self, parts: Parts, x: Tensor, *, calibration_chunk: int, scheme: int, cache: int
    ) -> None:
        self._calibration_chunk, self._scheme, self._cache = calibration_chunk, scheme, cache
        self.entered: list[float] = []
        self._splits: list[float] = []  # bytes of an image, by block: what its branch returns
        states: dict[int, int] = {}

        def run(part: Part, call: Callable[..., Any], *arguments: Any) -> Any:
            made = call(*arguments)
            if part.what == "attention":
                states[part.choice] = max(states.get(part.choice, 0), _size(made[1]))
                return made
            if part.what == "branch" and part.block in parts.firsts:
                states.clear()
            found = self._splits if part.what == "branch" else self.entered
            found.append((_size(made) + sum(states.values())) / len(x))
            return made

        with evaluating(parts.net), torch.inference_mode(), _LiveBytes() as live:
            parts.tour(x.clone(), run)
        # Bytes of an image: all tensors alive at a time on the way of one scheme.
        self._passing: float = live.most / len(x)

    def of(self, chunk: int, unit: int) -> int:
        """Return the bytes for so many images a pass and schemes at once."""
        # A split waits because another scheme of the unit still needs it: one for each at most.
        waiting = sum(sorted(self._splits, reverse=True)[: unit - 1])
        tensors = _PASSING * self._passing + _WAITING * waiting
        at_once = max(chunk, self._calibration_chunk)
        return math.ceil(_PROCESS + self._cache + unit * self._scheme + at_once * tensors)

    def fit(self, memory: int, chunk: int, units: Iterable[int]) -> tuple[int, int]:
        """Return how many images a pass and how many schemes at once a limit allows.

        Args:
            memory: bytes.
            chunk: images a pass at most.
            units: numbers of schemes to choose from, the largest first, the last one 1.

        Raises:
            MemoryLimitError: not even one scheme fits with one image.
        """
        for unit in units:
            least = 1 if unit == 1 else min(chunk, _LEAST_CHUNK)
            for fitting in range(chunk, least - 1, -1):
                if self.of(fitting, unit) <= memory:
                    return fitting, unit
        raise MemoryLimitError(
            f"{memory / 2**20:,.0f} MB of memory given, and one scheme on one image at a time "
            f"takes {math.ceil(self.of(1, 1) / 2**20):,} MB, {self._cache / 2**20:,.0f} MB of it "
            f"for the cache, with calibration chunks of {self._calibration_chunk} images; give "
            "that much, or take a smaller cache or smaller calibration chunks"
        )


def node_seconds(parts: Parts, x: Tensor) -> list[float]:
    """Time what a walk runs at a node of its tree, in seconds by depth.

    Attention is the mean over all choices, none among them. The first time in a process is slow.

    Args:
        parts: of the network, which stays as it is.
        x: (N, C, H, W) images.
    """
    times: dict[Part, float] = {}

    def run(part: Part, call: Callable[..., Any], *arguments: Any) -> Any:
        start = _now(x.device)
        made = call(*arguments)
        times[part] = _now(x.device) - start  # with a state, of attention that is run twice
        return made

    with evaluating(parts.net), torch.inference_mode():
        parts.tour(x, run)
    found = [0.0] * (len(parts.blocks) + 1)
    for part, seconds in times.items():
        share = 1 / (parts.kinds + 1) if part.what == "attention" else 1.0
        found[part.depth(len(parts.blocks))] += share * seconds
    return found


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
