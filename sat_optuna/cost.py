"""What a network costs: parameters, operations of one image, milliseconds of a batch."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sat_optuna.attention.contract import State
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for
from sat_optuna.supernet import Supernet, evaluating, walk

__all__ = ["Cost", "CostModel", "latencies_ms", "measure"]

_WARM_UP = 3
_aten = torch.ops.aten
# Making a tensor, or naming its memory anew, computes nothing; views know themselves.
_FREE = frozenset(
    {
        _aten._unsafe_view,
        _aten.arange,
        _aten.detach_,
        _aten.empty,
        _aten.empty_like,
        _aten.empty_strided,
        _aten.full,
        _aten.full_like,
        _aten.new_empty,
        _aten.new_full,
        _aten.new_ones,
        _aten.new_zeros,
        _aten.ones,
        _aten.ones_like,
        _aten.scalar_tensor,
        _aten.zeros,
        _aten.zeros_like,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a network costs.

    Attributes:
        params: number of parameters, each counted once.
        macs: multiply-adds of convolutions and matrix products for one image, the number that
            the literature prints.
        elementwise: all other operations for one image, element-wise ones and reductions: one for
            each element of what they read or write, whichever is more. Attention that is cheap in
            `macs` can be dear here.
        latency_ms: median milliseconds of the forward pass of a batch; None where not measured.
    """

    params: int
    macs: int
    elementwise: int
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class _Operations:
    macs: int
    elementwise: int


class CostModel:
    """The cost of any scheme of a supernet, without building it.

    A scheme costs what the bare backbone costs, plus the operations of each connected module on
    the features of its block, plus the parameters of each distinct module that is used.
    """

    def __init__(self, supernet: Supernet, input_shape: tuple[int, int, int]) -> None:
        """Count the backbone, and each attention module alone on its block's features.

        Args:
            supernet: what the schemes are of; it is left as it was.
            input_shape: (C, H, W) of an image.
        """
        self._supernet = supernet
        recorders = [_Recorder() for _ in supernet.stages]
        full = Scheme.uniform(
            supernet.stages, 1
        )  # each block is asked; a recorder computes nothing
        choices = range(1, len(supernet.specs) + 1)
        with evaluating(supernet), torch.no_grad():
            image = _images(supernet, input_shape, 1)
            self._plain = _count(lambda: walk(supernet.backbone, recorders, full, image))
            self._added = [
                [_count(partial(stage.module_for(choice, i), features)) for choice in choices]
                for stage, recorder in zip(supernet.stage_attention, recorders, strict=True)
                for i, features in enumerate(recorder.features)
            ]
        self._plain_params = _parameters(supernet.backbone)

    def cost(self, scheme: Scheme) -> Cost:
        """Return the cost of a scheme, equal to `measure` of its materialised network.

        Raises:
            SchemeError: the scheme does not fit the supernet.
        """
        self._supernet.check(scheme)
        used: dict[nn.Module, int] = {}
        stages = zip(self._supernet.stage_attention, scheme.by_stage(), strict=True)
        for source, choices in stages:
            for index, choice in enumerate(choices):
                if choice:
                    module = source.module_for(choice, index)
                    used[module] = _parameters(module)
        added = [
            self._added[block][choice - 1] for block, choice in enumerate(scheme.choices) if choice
        ]
        return Cost(
            params=self._plain_params + sum(used.values()),
            macs=self._plain.macs + sum(operations.macs for operations in added),
            elementwise=self._plain.elementwise
            + sum(operations.elementwise for operations in added),
        )


def measure(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    latency: bool = False,
    batch: int = 128,
    repeats: int = 30,
) -> Cost:
    """Return what a network costs, in eval mode; its modes are left as they were.

    Args:
        model: called as `model(images)`.
        input_shape: (C, H, W) of an image.
        latency: whether to time it too; to compare networks, time them together with
            `latencies_ms`.
        batch: images a timed pass.
        repeats: timed passes.
    """
    with evaluating(model), torch.no_grad():
        operations = _count(partial(model, _images(model, input_shape, 1)))
    timed = {"model": model} if latency else {}
    milliseconds = latencies_ms(timed, input_shape, batch=batch, repeats=repeats)
    return Cost(
        params=_parameters(model),
        macs=operations.macs,
        elementwise=operations.elementwise,
        latency_ms=milliseconds.get("model"),
    )


def latencies_ms(
    models: Mapping[str, nn.Module],
    input_shape: tuple[int, int, int],
    *,
    batch: int,
    repeats: int,
) -> dict[str, float]:
    """Return the median milliseconds that a forward pass of one batch takes, for each network.

    In eval and inference mode, after a warm-up, all networks in turn in each round, so that what
    else the machine does falls on all of them; each round starts with another one.

    Args:
        models: called as `model(images)`.
        input_shape: (C, H, W) of an image.
        batch: images a pass.
        repeats: timed passes of each network.
    """
    names = list(models)
    times: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        for model in models.values():
            stack.enter_context(evaluating(model))
        images = {name: _images(model, input_shape, batch) for name, model in models.items()}
        for turn in range(-_WARM_UP, repeats):
            first = turn % len(names) if names else 0
            for name in names[first:] + names[:first]:
                passed = _seconds(models[name], images[name])
                if turn >= 0:
                    times[name].append(passed)
    return {name: 1000 * statistics.median(passed) for name, passed in times.items()}


class _Recorder:
    """Stands where a stage's attention would, and notes what features it is given."""

    def __init__(self) -> None:
        self.features: list[Tensor] = []

    def module_for(
        self, _choice: int, _block: int, /
    ) -> Callable[..., tuple[Tensor, State | None]]:
        return self._record

    def _record(self, features: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        self.features.append(features)
        return features, state


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations below autograd, where compound ones have been taken apart."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self.elementwise = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        products = _PRODUCTS.get(func.overloadpacket)
        if products is not None:
            self.macs += products(args, result)
        elif not func.is_view and func.overloadpacket not in _FREE:
            tensors = chain(args, result if isinstance(result, tuple | list) else (result,))
            self.elementwise += max(
                (t.numel() for t in tensors if isinstance(t, Tensor)), default=0
            )
        return result


def _convolution(args: Sequence[Any], result: Tensor) -> int:
    images, weight, transposed = args[0], args[1], args[6]
    # A weight is (out, in / groups, ...); transposed, (in, out / groups, ...).
    each = math.prod(weight.shape[1:])
    return int((images if transposed else result).numel() * each)


def _product(args: Sequence[Any], result: Tensor) -> int:
    # Of mm, bmm (left, right) and addmm, baddbmm (bias, left, right): the second but last.
    left = args[-2]
    return int(result.numel() * left.shape[-1])


_PRODUCTS: Mapping[Any, Callable[[Sequence[Any], Tensor], int]] = {
    _aten.convolution: _convolution,
    _aten.mm: _product,
    _aten.bmm: _product,
    _aten.addmm: _product,
    _aten.baddbmm: _product,
}


def _count(run: Callable[[], object]) -> _Operations:
    counter = _Counter()
    with counter:
        run()
    return _Operations(counter.macs, counter.elementwise)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _images(model: nn.Module, input_shape: tuple[int, int, int], count: int) -> Tensor:
    like = next(model.parameters(), torch.empty(0))
    pixels = torch.randn(count, *input_shape, generator=generator_for("images"))
    return pixels.to(like)


def _seconds(model: nn.Module, images: Tensor) -> float:
    _synchronise(images.device)
    start = time.perf_counter()
    model(images)
    _synchronise(images.device)
    return time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
