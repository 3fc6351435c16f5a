"""BatchNorm statistics of one scheme, estimated anew on a calibration set."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sat_optuna.errors import DataError
from sat_optuna.scheme import Scheme

__all__ = ["evaluating", "recalibrated"]


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
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [
        (norm, norm.momentum, {name: value.clone() for name, value in norm.named_buffers()})
        for norm in norms
    ]
    with evaluating(net):
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # an average over the chunks, not a decaying one
                norm.train()
            with torch.no_grad():
                for batch in batches:
                    net(batch) if scheme is None else net(batch, scheme)
            net.eval()
            yield
        finally:
            for norm, momentum, buffers in before:
                norm.momentum = momentum
                for name, value in buffers.items():
                    norm.get_buffer(name).copy_(value)
