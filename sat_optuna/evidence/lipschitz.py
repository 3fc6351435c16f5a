"""How far the results of a network can move when what goes into it moves by at most a radius.

A `Ball` is a batch of tensors with a radius each: all x' with ||x'_n - x_n||_2 <= r_n. Torch's
operations on it give a ball that holds all results, so a network or a part of it is bounded by
running it. The radius that comes out, over the one that went in, is a Lipschitz constant on this
ball alone:

    convolution    max over frequencies of ||W(f)||_2 (Sedghi et al., ICLR 2019), which padding
                   with zeros and strides cannot exceed; frequencies are sampled, and between
                   them it is at most 1 / cos(pi d / N) larger for d offsets and N samples (Ehlich
                   and Zeller, 1964)
    linear         ||W||_2
    BatchNorm      max over channels of |weight| / sqrt(var + eps), in eval mode; after a
                   convolution the norm of both together
    ReLU           1, as of dropout, in eval mode
    enlargement    bilinear: the norms of its two matrices, of rows and of columns, multiplied
    sigmoid        its steepest slope in the ball: 1 / 4 only where the ball reaches 0
    y * x          (max |y| + r_y) r_x + r_y max over channels of ||x_c||, y the gates

An operation without a bound here is refused.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from typing_extensions import override

from sat_optuna.errors import SatOptunaError

__all__ = ["Ball", "LipschitzError", "Norms", "kernel_norm"]

_SAMPLES = 16  # frequencies for each offset of a kernel
_ROUNDING = 1e-9

# By the ids of what a norm is of, with these, so that no other can have their ids meanwhile.
Norms: TypeAlias = dict[tuple[int, ...], tuple[tuple[Tensor, ...], float]]


class LipschitzError(SatOptunaError, ValueError):
    """An operation of a network that no bound is known for."""


class Ball(Tensor):
    """A batch of tensors, each the centre of a ball.

    >>> ball = Ball.of(torch.zeros(2, 3, 4, 4), torch.tensor([1.0, 2.0]))
    >>> (ball * 3).mean((2, 3)).radius  # over 16 pixels
    tensor([0.7500, 1.5000])

    Attributes:
        radius: (N,), in the Euclidean norm over all dimensions but the first.
    """

    radius: Tensor
    _norms: Norms
    # Of the result of a convolution: its weight, its groups and the radius of what went in.
    _convolved: tuple[Tensor, int, Tensor] | None = None

    @classmethod
    def of(cls, centre: Tensor, radius: Tensor, norms: Norms | None = None) -> "Ball":
        """Return the ball around each row.

        Args:
            centre: (N, ...).
            radius: (N,), 0 or more.
            norms: of weights that were computed before; None to begin anew.
        """
        ball = centre.as_subclass(cls)
        ball.radius, ball._norms = radius, {} if norms is None else norms
        return ball

    @property
    def centre(self) -> Tensor:
        """The (N, ...) centres."""
        with torch._C.DisableTorchFunctionSubclass():
            return self.as_subclass(Tensor)

    @classmethod
    @override
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation on the centres, and find the radius of what it gives.

        Raises:
            LipschitzError: no bound is known for it.
        """
        kwargs = kwargs or {}
        given: list[Ball] = []
        with torch._C.DisableTorchFunctionSubclass():
            bare, named = _bare(args, given), {k: _bare(v, given) for k, v in kwargs.items()}
            result = func(*bare, **named)
            if not isinstance(result, Tensor):
                return result
            name = getattr(func, "__name__", str(func)).strip("_")
            rule = _RULES.get(name)
            first = given[0]
            if rule is None or result.dim() == 0 or len(result) != len(first.radius):
                raise LipschitzError(
                    f"no bound is known for the operation {name!r} of this network; bound one of "
                    "convolutions, BatchNorm, ReLU and channel gates, as the CIFAR ResNets are"
                )
            radius = rule(_Call(name, func, args, kwargs, result, first._norms))
            if bare and result is bare[0]:  # changed in place
                cast("Ball", args[0]).radius = radius
            ball = cls.of(result, radius, first._norms)
            if name == "conv2d":
                ball._convolved = (args[1], args[6], first.radius)
            return ball


def kernel_norm(weight: Tensor, *, groups: int = 1) -> float:
    """Return an upper bound of a convolution's spectral norm, for maps of any size.

    Args:
        weight: (C_out, C_in / groups, ...), the kernel's sides last.
        groups: of the convolution.
    """
    sides = weight.shape[2:]
    offsets = [side // 2 for side in sides]
    sampled = [max(1, _SAMPLES * offset) for offset in offsets]
    over = math.prod(1 / math.cos(math.pi * d / n) for d, n in zip(offsets, sampled, strict=True))
    dims = tuple(range(2, weight.dim()))
    at = torch.fft.fftn(weight.detach().double(), s=sampled, dim=dims).flatten(2)
    at = at.reshape(groups, -1, *at.shape[1:]).permute(0, 3, 1, 2)  # group, frequency, out, in
    return (over + _ROUNDING) * float(torch.linalg.matrix_norm(at, 2).max())


class _Call:
    """An operation on balls, as its rule sees it."""

    def __init__(
        self,
        name: str,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        result: Tensor,
        norms: Norms,
    ) -> None:
        self.name, self.func, self.args, self.kwargs = name, func, args, kwargs
        self.result, self.norms = result, norms

    @property
    def ball(self) -> Ball:
        """The ball that it was called with first."""
        return cast("Ball", self.args[0])

    def argument(self, name: str, place: int, default: Any = None) -> Any:
        """Return what was given by name or place."""
        given = self.args[place] if len(self.args) > place else default
        return self.kwargs.get(name, given)

    def norm_of(self, *weights: Tensor, norm: Callable[[], float]) -> float:
        """Return the norm of something that weights decide, which is computed once."""
        key = tuple(map(id, weights))
        if key not in self.norms:
            self.norms[key] = (weights, norm())
        return self.norms[key][1]

    def refuse(self, what: str) -> None:
        raise LipschitzError(f"no bound is known for {self.name!r} {what}; choose another network")


def _bare(value: Any, given: list[Ball]) -> Any:
    """Return arguments with centres in place of balls, which are noted."""
    if isinstance(value, Ball):
        given.append(value)
        return value.as_subclass(Tensor)
    if type(value) in (list, tuple):
        return type(value)(_bare(entry, given) for entry in value)
    return value


def _same(call: _Call) -> Tensor:
    return call.ball.radius


def _indexed(call: _Call) -> Tensor:
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    if not all(isinstance(entry, slice | int | None) or entry is ... for entry in index):
        call.refuse("by a list")
    return call.ball.radius


def _padded(call: _Call) -> Tensor:
    if call.argument("mode", 2, "constant") != "constant":
        call.refuse("with other values than a constant")
    return call.ball.radius


def _convolved(call: _Call) -> Tensor:
    groups = call.argument("groups", 6, 1)
    weight = call.argument("weight", 1)
    return call.ball.radius * call.norm_of(weight, norm=lambda: kernel_norm(weight, groups=groups))


def _linear(call: _Call) -> Tensor:
    weight = call.argument("weight", 1)
    return call.ball.radius * call.norm_of(
        weight, norm=lambda: float(torch.linalg.matrix_norm(weight.double(), 2))
    )


def _normalised(call: _Call) -> Tensor:
    if call.argument("training", 5, False):
        call.refuse("in train mode")
    variance: Tensor = call.argument("running_var", 2)
    scale = (variance + call.argument("eps", 7, 1e-5)).rsqrt()
    weight = call.argument("weight", 3)
    scale = scale if weight is None else scale * weight
    if call.ball._convolved is None:
        return call.ball.radius * float(scale.abs().max())
    kernel, groups, radius = call.ball._convolved
    return radius * call.norm_of(
        kernel,
        variance,
        norm=lambda: kernel_norm(kernel * scale[:, None, None, None], groups=groups),
    )


def _sigmoid(call: _Call) -> Tensor:
    ball = call.ball
    nearest = (ball.centre.flatten(1).abs() - ball.radius[:, None]).clamp_min(0)
    slope = (torch.sigmoid(nearest) * torch.sigmoid(-nearest)).amax(1)
    # No gate can leave 0..1.
    return (ball.radius * slope).clamp_max(math.sqrt(call.result[0].numel()))


def _mean(call: _Call) -> Tensor:
    return call.ball.radius / math.sqrt(call.ball.numel() / call.result.numel())


def _spread(call: _Call) -> Tensor:
    count = call.ball.numel() / call.result.numel()
    left = count - call.argument("correction", 2, 1)
    if left < 1:
        call.refuse("of a single value")
    return call.ball.radius / math.sqrt(left)


def _summed(call: _Call) -> Tensor:
    return call.ball.radius * math.sqrt(call.ball.numel() / call.result.numel())


def _pooled(call: _Call) -> Tensor:
    """Averages of pixels are a matrix, the same for each channel."""
    height, width = call.ball.shape[2:]
    single = torch.eye(height * width, dtype=torch.float64).reshape(-1, 1, height, width)
    matrix = call.func(single, *call.args[1:], **call.kwargs).flatten(1)
    return call.ball.radius * float(torch.linalg.matrix_norm(matrix, 2))


def _enlarged(call: _Call) -> Tensor:
    """Rows and columns are enlarged one after the other, by a matrix each: a Kronecker product."""
    if call.argument("mode", 3, "nearest") != "bilinear":
        call.refuse("in another mode than 'bilinear'")
    height, width = call.ball.shape[2:]
    single = [torch.eye(side, dtype=torch.float64) for side in (height, width)]
    # The other side's rows of weights add up to 1, so that a map of equal columns stays one.
    rows = single[0][:, None, :, None].expand(-1, 1, height, width)
    columns = single[1][:, None, None, :].expand(-1, 1, height, width)
    matrices = (
        call.func(rows, *call.args[1:], **call.kwargs)[:, 0, :, 0],
        call.func(columns, *call.args[1:], **call.kwargs)[:, 0, 0, :],
    )
    return call.ball.radius * math.prod(float(torch.linalg.matrix_norm(m, 2)) for m in matrices)


def _dropped(call: _Call) -> Tensor:
    if call.argument("training", 2, True):
        call.refuse("in train mode")
    return call.ball.radius


def _expanded(call: _Call) -> Tensor:
    return call.ball.radius * math.sqrt(call.result.numel() / call.ball.numel())


def _joined(call: _Call) -> Tensor:
    parts = [part for part in call.args[0] if isinstance(part, Ball)]
    return torch.stack([part.radius for part in parts]).square().sum(0).sqrt()


def _added(call: _Call) -> Tensor:
    balls = [value for value in call.args[:2] if isinstance(value, Ball)]
    radii = [ball.radius * math.sqrt(call.result.numel() / ball.numel()) for ball in balls]
    return sum(radii[1:], radii[0])


def _multiplied(call: _Call) -> Tensor:
    balls = [value for value in call.args[:2] if isinstance(value, Ball)]
    if len(balls) == 1:
        (other,) = (value for value in call.args[:2] if not isinstance(value, Ball))
        most = other.abs().max() if isinstance(other, Tensor) else abs(other)
        return balls[0].radius * most * math.sqrt(call.result.numel() / balls[0].numel())
    gate, x = sorted(balls, key=Tensor.numel)
    if gate.dim() != x.dim() or x.shape != call.result.shape:
        call.refuse("of two tensors that are both spread out")
    alike = [dim for dim in range(1, x.dim()) if gate.shape[dim] == 1]
    squared = x.centre.square()
    norms = (squared.sum(alike, keepdim=True) if alike else squared).flatten(1).amax(1).sqrt()
    most = gate.centre.flatten(1).abs().amax(1) + gate.radius
    return most * x.radius + gate.radius * norms


_RULES: Mapping[str, Callable[[_Call], Tensor]] = {
    **dict.fromkeys(("relu", "to", "contiguous", "flatten", "reshape", "view", "clone"), _same),
    **dict.fromkeys(("add", "radd", "iadd", "sub"), _added),
    **dict.fromkeys(("mul", "rmul", "imul"), _multiplied),
    **dict.fromkeys(("conv1d", "conv2d"), _convolved),
    **dict.fromkeys(("adaptive_avg_pool2d", "avg_pool2d"), _pooled),
    **dict.fromkeys(("stack", "cat"), _joined),
    "batch_norm": _normalised,
    "dropout": _dropped,
    "expand_as": _expanded,
    "getitem": _indexed,
    "interpolate": _enlarged,
    "linear": _linear,
    "mean": _mean,
    "pad": _padded,
    "sigmoid": _sigmoid,
    "std": _spread,
    "sum": _summed,
}
