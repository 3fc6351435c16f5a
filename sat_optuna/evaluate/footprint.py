"""What each part of a supernet takes: bytes while it runs and of what it returns; seconds."""

import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sat_optuna.evaluate.heap import trim
from sat_optuna.evaluate.parts import Part, Parts, attention, branch, merge
from sat_optuna.supernet.batchnorm import evaluating

__all__ = ["Footprint", "LiveBytes", "footprints", "seconds_of"]

_TRIED = 2  # images that bytes are counted with
_ATEN = torch.ops.aten
# Whether autograd is on decides which of them is seen.
_CONVOLUTIONS = (_ATEN.convolution, _ATEN.conv1d, _ATEN.conv2d, _ATEN.conv3d)


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that a part takes for one image.

    Attributes:
        result: of what it returns, its input where that is handed on too.
        working: the most that it needs while it runs, beside its input; a convolution copies what
            it reads and writes into an order of its own, one after the other.
        largest: of the largest tensor that it makes.
    """

    result: float
    working: float
    largest: float


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.most = 0
        self.largest = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._watch(tensor.untyped_storage())
        if func.overloadpacket in _CONVOLUTIONS and made.is_contiguous():
            self.most = max(self.most, self.now + max(made.nbytes, args[0].nbytes))
        return made

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        known = self._seen.get(key)
        if known is not None and known() is storage:
            return

        def gone(_ref: object) -> None:
            self.now -= size

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)
        self.largest = max(self.largest, size)


def footprints(parts: Parts, images: Tensor) -> dict[Part, Footprint]:
    """Count the bytes that each part takes for an image.

    Args:
        parts: of the network, which stays as it is.
        images: (N, C, H, W), of which a few are used.
    """
    found: dict[Part, Footprint] = {}
    states: dict[Part, float] = {}
    x = images[:_TRIED]
    live = LiveBytes()

    def run(part: Part, call: Callable[[], Any]) -> Any:
        before = live.most = live.now
        live.largest = 0
        made = call()
        sizes = (_size(made), live.most - before, live.largest)
        found[part] = Footprint(*(size / len(x) for size in sizes))
        if part.what == "attention":
            states[part] = _size(made[1]) / len(x)
        return made

    with evaluating(parts.net), torch.inference_mode(), live:
        parts.tour(x.clone(), run)
    return _with_states(parts, found, states)


def _with_states(
    parts: Parts, found: Mapping[Part, Footprint], states: Mapping[Part, float]
) -> dict[Part, Footprint]:
    """Add the states that are handed on beside what branches and merges return, all kinds'."""
    whole, handed = dict(found), dict[int, float]()
    for block in range(len(parts.blocks)):
        if parts.begins_stage(block):
            handed = {}
        _add(whole, branch(block), sum(handed.values()))
        for choice in range(1, parts.kinds + 1):
            handed[choice] = max(handed.get(choice, 0.0), states[attention(block, choice)])
        _add(whole, merge(block), sum(handed.values()))
    return whole


def _add(found: dict[Part, Footprint], part: Part, size: float) -> None:
    found[part] = replace(found[part], result=found[part].result + size)


def seconds_of(parts: Parts, images: Tensor, *, rounds: int = 3) -> dict[Part, list[float]]:
    """Time each part on some images, each round all of them in turn, the first not counted.

    The memory that this took is given back, for a walk finds little use for such pieces of it.

    Args:
        parts: of the network, which stays as it is; in eval mode.
        images: (N, C, H, W).
        rounds: that are counted.
    """
    times: dict[Part, list[float]] = {}
    device = images.device

    def run(part: Part, call: Callable[[], Any]) -> Any:
        start = _now(device)
        made = call()
        times.setdefault(part, []).append(_now(device) - start)
        return made

    with evaluating(parts.net), torch.inference_mode():
        for _ in range(rounds + 1):
            parts.tour(images, run)
    trim()
    # A part that hands a state on was run twice a round.
    return {part: passed[len(passed) // (rounds + 1) :] for part, passed in times.items()}


def _size(made: Any) -> int:
    storages: dict[int, int] = {}
    for leaf in tree_leaves(made):
        if isinstance(leaf, Tensor):
            storage = leaf.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
