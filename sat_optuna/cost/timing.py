"""Milliseconds of forward passes that take turns, and what they say of one another.

What is compared is measured in the same rounds, so that what else the machine does falls on all of
it. Milliseconds are of this machine and hour; increments and shares, taken round by round, are
what can be compared.
"""

import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TypeVar

import torch
from torch import Tensor, nn

from sat_optuna.errors import SatOptunaError
from sat_optuna.seeds import generator_for
from sat_optuna.supernet.batchnorm import evaluating

__all__ = [
    "LEAST_ROUNDS",
    "Estimate",
    "TimingError",
    "check_rounds",
    "images_for",
    "increment",
    "interleaved_ms",
    "latencies_ms",
    "median_of",
    "network_ms",
    "share_of_increment",
]

LEAST_ROUNDS = 6  # 2 / 2^6 is the first below 5 %
_LEVEL = 0.95
_WARM_UP = 3
Name = TypeVar("Name", bound=Hashable)


class TimingError(SatOptunaError, ValueError):
    """A measurement that cannot be made as asked."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median over rounds with its 95 % interval.

    Attributes:
        value: the median.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float


def images_for(model: nn.Module, input_shape: tuple[int, int, int], count: int) -> Tensor:
    """Return `count` images of noise, of the dtype and on the device of a network's weights."""
    like = next(model.parameters(), torch.empty(0))
    pixels = torch.randn(count, *input_shape, generator=generator_for("images"))
    return pixels.to(like)


def interleaved_ms(
    passes: Mapping[Name, Callable[[], object]],
    *,
    device: torch.device,
    rounds: int,
    warm_up: int = _WARM_UP,
    seed: int = 0,
    on_round: Callable[[], None] | None = None,
) -> dict[Name, list[float]]:
    """Time several passes in inference mode, each once a round, in an order drawn anew each round.

    Args:
        passes: by name, what is timed.
        device: where they run; it is waited for.
        rounds: of all passes.
        warm_up: rounds before them that are not timed.
        seed: of the orders.
        on_round: called after each timed round.

    Returns:
        By name, the milliseconds of each round.
    """
    names = list(passes)
    times: dict[Name, list[float]] = {name: [] for name in names}
    with torch.inference_mode():
        for turn in range(-warm_up, rounds):
            order = torch.randperm(len(names), generator=generator_for("turns", seed, turn))
            for index in order.tolist():
                passed = _milliseconds(passes[names[index]], device)
                if turn >= 0:
                    times[names[index]].append(passed)
            if turn >= 0 and on_round:
                on_round()
    return times


def latencies_ms(
    models: Mapping[str, nn.Module],
    input_shape: tuple[int, int, int],
    *,
    batch: int,
    repeats: int,
) -> dict[str, float]:
    """Return the median milliseconds that a forward pass of one batch takes, for each network.

    In eval and inference mode, after a warm-up, all networks in turn in each round.

    Args:
        models: called as `model(images)`; all on the same device.
        input_shape: (C, H, W) of an image.
        batch: images a pass.
        repeats: timed passes of each network.
    """
    times = network_ms(models, input_shape, batch=batch, rounds=repeats)
    return {name: statistics.median(passed) for name, passed in times.items()}


def network_ms(
    models: Mapping[str, nn.Module],
    input_shape: tuple[int, int, int],
    *,
    batch: int,
    rounds: int,
    on_round: Callable[[], None] | None = None,
) -> dict[str, list[float]]:
    """Return, for each network, the milliseconds of each round; see `latencies_ms`."""
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model))
        images = {name: images_for(net, input_shape, batch) for name, net in models.items()}
        device = next((batch.device for batch in images.values()), torch.device("cpu"))
        passes = {name: partial(net, images[name]) for name, net in models.items()}
        return interleaved_ms(passes, device=device, rounds=rounds, on_round=on_round)


def median_of(values: Sequence[float]) -> Estimate:
    """Return the median with the 95 % interval between order statistics.

    It asks nothing of the distribution: of n values, the median lies below the j-th smallest, or
    above the j-th largest, with the probability of fewer than j heads in n tosses each.

    Raises:
        TimingError: there are too few values for any such interval.
    """
    rank = _rank(len(values))
    ordered = sorted(values)
    return Estimate(statistics.median(ordered), ordered[rank - 1], ordered[-rank])


def increment(times: Sequence[float], base: Sequence[float]) -> Estimate:
    """Return by what share one network takes longer than another, round by round.

    Args:
        times: a network's milliseconds, one a round.
        base: the plain network's, of the same rounds.

    Raises:
        TimingError: there are too few rounds for an interval.
    """
    return median_of([time / plain - 1 for time, plain in zip(times, base, strict=True)])


def share_of_increment(
    times: Sequence[float], full: Sequence[float], base: Sequence[float]
) -> Estimate | None:
    """Return what share of full's increment over plain a network has, round by round.

    A round in which full took no longer than plain has no share; whichever side it would have
    been on, the interval holds.

    Args:
        times: a network's milliseconds, one a round.
        full: the full network's, of the same rounds.
        base: the plain network's, of the same rounds.

    Returns:
        The share; None where full's own increment cannot be told from 0.

    Raises:
        TimingError: there are too few rounds for an interval.
    """
    if increment(full, base).low <= 0:
        return None
    rounds = list(zip(times, full, base, strict=True))
    shares = sorted(
        (time - plain) / (most - plain) for time, most, plain in rounds if most > plain
    )
    # Full's j-th smallest increment is above 0, so fewer than j rounds are left out.
    rank = _rank(len(rounds)) - (len(rounds) - len(shares))
    return Estimate(statistics.median(shares), shares[rank - 1], shares[-rank])


def check_rounds(rounds: int) -> None:
    """Make sure that so many rounds have an interval.

    Raises:
        TimingError: they are too few.
    """
    if rounds < LEAST_ROUNDS:
        raise TimingError(
            f"{rounds} rounds given; give at least {LEAST_ROUNDS}, fewer have no "
            f"{_LEVEL:.0%} interval"
        )


def _rank(count: int) -> int:
    """Return j: the median lies between the j-th smallest and largest of so many values."""
    check_rounds(count)
    rank, below = 0, 1.0  # ways to toss `rank` heads or fewer
    while below / 2**count <= (1 - _LEVEL) / 2:
        rank += 1
        below += math.comb(count, rank)
    return rank


def _milliseconds(run: Callable[[], object], device: torch.device) -> float:
    _synchronise(device)
    start = perf_counter()
    run()
    _synchronise(device)
    return 1000 * (perf_counter() - start)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
