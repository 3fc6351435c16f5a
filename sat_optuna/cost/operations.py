"""What a network costs: parameters, operations of one image, milliseconds of a batch."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sat_optuna.cost.affine import AffineCost
from sat_optuna.cost.timing import images_for, latencies_ms
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.supernet.supernet import FeatureRecorder, Supernet, walk

__all__ = ["Cost", "CostModel", "Operations", "count", "measure"]

_aten = torch.ops.aten
# These make a tensor or a view, and compute nothing. Other views are known by `func.is_view`.
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
        _aten.unsafe_chunk,
        _aten.unsafe_split,
        _aten.unsafe_split_with_sizes,
        _aten.zeros,
        _aten.zeros_like,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a network costs.

    >>> measure(nn.Conv2d(3, 8, 3), (3, 10, 10))
    Cost(params=224, macs=13824, elementwise=0, latency_ms=None)

    Three things are not counted: the bias that a convolution or a product adds, views, and making
    a tensor of constants. A sigmoid counts like a sum. A recurrent or transformer layer of PyTorch
    that runs as one fused kernel counts as one element-wise operation.

    Attributes:
        params: number of parameters, each counted once.
        macs: multiply-adds of convolutions and matrix products for one image, as the literature
            gives them.
        elementwise: all other operations for one image: sums and other reductions, pooling,
            normalisation, softmax, copies and so on. Each counts as many times as the largest
            tensor that it reads or writes has elements. Attention with few `macs` may have many.
        latency_ms: median milliseconds of the forward pass of a batch; None if not measured.
    """

    params: int
    macs: int
    elementwise: int
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Operations:
    """What `Cost` says of the same names."""

    macs: int
    elementwise: int


class CostModel:
    """The cost of any scheme of a supernet, without building its network.

    >>> net = Supernet(
    ...     "resnet20", attention=("se",), in_channels=3, classes=10, seed=0, blocks=(1, 1, 1)
    ... )
    >>> model = CostModel(net, (3, 32, 32))
    >>> model.cost(Scheme.parse("0-0-1")).params - model.cost(Scheme.parse("0-0-0")).params
    580

    A scheme costs what the backbone without attention costs, plus the operations of each connected
    module on the features of its block, plus the parameters of each module that is used; a module
    that blocks share counts once.
    """

    def __init__(self, supernet: Supernet, input_shape: tuple[int, int, int]) -> None:
        """Count the backbone's operations, and those of each module on the features of its block.

        Args:
            supernet: the network of the schemes; it is not changed.
            input_shape: (C, H, W) of an image.

        Raises:
            BackboneError: images of that size do not go through the network.
        """
        supernet.check_input(input_shape)
        self._supernet = supernet
        recorders = [FeatureRecorder() for _ in supernet.stages]
        # Under the full scheme the walk asks for each block's module. A recorder computes nothing.
        full = Scheme.uniform(supernet.stages, 1)
        choices = range(1, len(supernet.specs) + 1)
        with evaluating(supernet), torch.no_grad():
            image = images_for(supernet, input_shape, 1)
            self._plain = count(lambda: walk(supernet.view, recorders, full, image))
            self._added = [
                [count(partial(stage.module_for(choice, i), features, None)) for choice in choices]
                for stage, recorder in zip(supernet.stage_attention, recorders, strict=True)
                for i, features in enumerate(recorder.features)
            ]
        self._plain_params = _parameters(supernet.backbone)

    def cost(self, scheme: Scheme) -> Cost:
        """Return the cost of a scheme; `measure` of its materialised network returns the same.

        Raises:
            SchemeError: the scheme does not fit the supernet.
        """
        self._supernet.check(scheme)
        used: dict[nn.Module, int] = {}
        stages = zip(self._supernet.stage_attention, scheme.by_stage(), strict=True)
        for source, choices in stages:
            for index, choice in enumerate(choices):
                if choice:
                    module = source.module_at(choice, index)
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

    def affine(self, name: Literal["params", "macs", "elementwise"]) -> AffineCost:
        """Return one of the costs as a function of the choices, with the values of `cost`."""
        if name != "params":
            rows = ([getattr(operations, name) for operations in row] for row in self._added)
            return AffineCost(getattr(self._plain, name), tuple((0, *row) for row in rows))
        users: dict[nn.Module, list[tuple[int, int]]] = {}
        choices = range(1, len(self._supernet.specs) + 1)
        block = 0
        stages = zip(self._supernet.stage_attention, self._supernet.stages, strict=True)
        for source, blocks in stages:
            for index in range(blocks):
                for choice in choices:
                    users.setdefault(source.module_at(choice, index), []).append((block, choice))
                block += 1
        added = [[0.0] * (1 + len(choices)) for _ in range(block)]
        extras = []
        for module, pairs in users.items():
            if len(pairs) > 1:
                extras.append((float(_parameters(module)), tuple(pairs)))
                continue
            ((only_block, choice),) = pairs
            added[only_block][choice] = float(_parameters(module))
        return AffineCost(self._plain_params, tuple(map(tuple, added)), tuple(extras))


def measure(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    latency: bool = False,
    batch: int = 128,
    repeats: int = 30,
) -> Cost:
    """Return what a network costs in eval mode; the network is not changed.

    >>> measure(nn.Linear(8, 4), (1, 1, 8)).macs
    32

    Args:
        model: called as `model(images)`.
        input_shape: (C, H, W) of an image.
        latency: whether to measure `latency_ms` as well. To compare networks, time them together
            with `cost.timing.latencies_ms`.
        batch: number of images of a timed pass.
        repeats: number of timed passes.
    """
    with evaluating(model), torch.no_grad():
        operations = count(partial(model, images_for(model, input_shape, 1)))
    timed = {"model": model} if latency else {}
    milliseconds = latencies_ms(timed, input_shape, batch=batch, repeats=repeats)
    return Cost(
        params=_parameters(model),
        macs=operations.macs,
        elementwise=operations.elementwise,
        latency_ms=milliseconds.get("model"),
    )


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations below autograd, where PyTorch has split compound ones into simple ones."""

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


def _product(args: Sequence[Any], _result: Tensor) -> int:
    # A product that adds a bias has the bias as its first argument.
    left, right = args[-2:]
    return int(left.numel() * (right.shape[-1] if right.ndim > 1 else 1))


def _attention(args: Sequence[Any], _result: object) -> int:
    query, key, value = args[:3]  # (..., L, E), (..., S, E), (..., S, V)
    return int(query[..., 0].numel() * key.shape[-2] * (key.shape[-1] + value.shape[-1]))


_PRODUCTS: Mapping[Any, Callable[[Sequence[Any], Any], int]] = {
    _aten.convolution: _convolution,
    **dict.fromkeys(
        (_aten.mm, _aten.bmm, _aten.mv, _aten.dot, _aten.addmm, _aten.addmv, _aten.baddbmm),
        _product,
    ),
    **dict.fromkeys(
        (
            _aten._scaled_dot_product_cudnn_attention,
            _aten._scaled_dot_product_efficient_attention,
            _aten._scaled_dot_product_flash_attention,
            _aten._scaled_dot_product_flash_attention_for_cpu,
        ),
        _attention,
    ),
}


def count(run: Callable[[], object]) -> Operations:
    """Count the operations of a function of tensors, which is called once."""
    counter = _Counter()
    with counter:
        run()
    return Operations(counter.macs, counter.elementwise)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
