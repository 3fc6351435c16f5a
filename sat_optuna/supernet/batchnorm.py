"""BatchNorm statistics of one scheme, estimated anew on a calibration set."""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sat_optuna.device import memory_for
from sat_optuna.errors import DataError
from sat_optuna.scheme import Scheme

__all__ = [
    "Statistics",
    "averaged",
    "averaged_norms",
    "borrowed",
    "evaluating",
    "fresh_statistics",
    "recalibrated",
    "set_statistics",
]

# The running mean and variance of a BatchNorm, (C,) each, and its number of batches so far, ().
Statistics: TypeAlias = tuple[Tensor, ...]
_NAMES = ("running_mean", "running_var", "num_batches_tracked")


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a network in eval mode, and give each of its modules its own mode back afterwards."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def borrowed(norms: Collection[_BatchNorm]) -> Iterator[None]:
    """Let BatchNorms be given other statistics; on leaving they have their own and their momentum.

    Inside, a norm in train mode averages over its batches: none of them counts more than another.

    Args:
        norms: those with running statistics.
    """
    before = [
        (norm, norm.momentum, tuple(norm.get_buffer(name) for name in _NAMES)) for norm in norms
    ]
    try:
        for norm in norms:
            norm.momentum = None
        yield
    finally:
        for norm, momentum, statistics in before:
            norm.momentum = momentum
            set_statistics(norm, statistics)


def set_statistics(norm: _BatchNorm, statistics: Statistics) -> None:
    """Put statistics in the place of a BatchNorm's own; no value is copied."""
    for name, value in zip(_NAMES, statistics, strict=True):
        setattr(norm, name, value)


def fresh_statistics(norm: _BatchNorm) -> Statistics:
    """Return the statistics that a BatchNorm begins with.

    The number of batches is on the CPU, where reading it waits for nothing.
    """
    count = torch.zeros((), dtype=torch.int64)
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    return torch.zeros_like(mean), torch.ones_like(variance), count


@contextlib.contextmanager
def recalibrated(
    net: nn.Module, scheme: Scheme | None, batches: Sequence[Tensor]
) -> Iterator[None]:
    """Give a network the BatchNorm statistics that one scheme has on a calibration set.

    The statistics are plain averages over the chunks, from one pass in which BatchNorm alone is in
    train mode. Inside, the network is in eval mode; on leaving, buffers, momentum and modes are
    what they were.

    Args:
        net: a supernet, or any other network where `scheme` is None.
        scheme: the supernet's scheme.
        batches: the calibration set, (n, C, H, W) each, on the network's device; the chunks are
            part of the result.

    Raises:
        DataError: no batch was given.
    """
    if not batches:
        raise DataError("no calibration batch given; give at least one to average BatchNorm over")

    def forward(batch: Tensor) -> object:
        return net(batch) if scheme is None else net(batch, scheme)

    largest = max(map(len, batches))
    with averaged(net, forward, batches, what=f"calibration in chunks of {largest} images"):
        yield


def averaged_norms(net: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorms of a network that have statistics to be estimated anew."""
    return [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@contextlib.contextmanager
def averaged(
    net: nn.Module, forward: Callable[[Any], object], batches: Iterable[Any], *, what: str
) -> Iterator[None]:
    """Give a network the BatchNorm statistics of some passes; see `recalibrated`.

    A BatchNorm that no pass runs keeps its own.

    Args:
        net: the network.
        forward: called with each batch, it runs the network or a part of it.
        batches: the calibration set.
        what: is done, for the message that there is no memory.
    """
    norms = averaged_norms(net)
    with evaluating(net), borrowed(norms):
        own = {norm: tuple(norm.get_buffer(name) for name in _NAMES) for norm in norms}
        for norm in norms:
            set_statistics(norm, fresh_statistics(norm))
            norm.train()
        with memory_for(what, "give smaller calibration chunks"), torch.no_grad():
            for batch in batches:
                forward(batch)
        for norm in norms:
            if not norm.get_buffer("num_batches_tracked"):
                set_statistics(norm, own[norm])
        net.eval()
        yield
