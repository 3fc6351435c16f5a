"""Milliseconds of forward passes that take turns, and how to compare them.

Whatever is compared is measured in the same rounds, so that other work of the machine disturbs all
of it alike. Milliseconds belong to one machine at one time. Increments and shares, computed round
by round, can be compared with those of other runs.
"""

import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sat_optuna.errors import SatOptunaError
from sat_optuna.events import Event, OnEvent, ignore
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
    "interval_fields",
    "interval_text",
    "latencies_ms",
    "median_of",
    "network_ms",
    "share_of_increment",
]

LEAST_ROUNDS = 6  # 2 / 2^6 is below 5 %, and 2 / 2^5 is not
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
    """Return `count` images of noise, in the dtype and on the device of a network's weights."""
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
    on_event: OnEvent = ignore,
) -> dict[Name, list[float]]:
    """Time several passes in inference mode: each round runs each of them once.

    >>> times = interleaved_ms(
    ...     {"sum": lambda: torch.ones(9).sum(), "sort": lambda: torch.ones(9).sort()},
    ...     device=torch.device("cpu"), rounds=6,
    ... )
    >>> {name: len(milliseconds) for name, milliseconds in times.items()}
    {'sum': 6, 'sort': 6}

    Args:
        passes: by name, what is timed.
        device: where the passes run; the clock stops when the device has finished.
        rounds: number of rounds that are timed.
        warm_up: number of rounds before them that are not timed.
        seed: of the order of the passes, which is drawn anew in each round.
        on_event: told of each timed round.

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
            if turn >= 0:
                on_event(Event(step="latency", done=turn + 1, total=rounds))
    return times


def latencies_ms(
    models: Mapping[str, nn.Module],
    input_shape: tuple[int, int, int],
    *,
    batch: int,
    repeats: int,
) -> dict[str, float]:
    """Return the median milliseconds of a forward pass of one batch, for each network.

    The networks take turns, in eval and inference mode, after a warm-up.

    Args:
        models: by name, networks that are called as `model(images)`; all on the same device.
        input_shape: (C, H, W) of an image.
        batch: number of images of a pass.
        repeats: number of timed passes of each network.
    """
    times = network_ms(models, input_shape, batch=batch, rounds=repeats)
    return {name: statistics.median(passed) for name, passed in times.items()}


def network_ms(
    models: Mapping[str, nn.Module],
    input_shape: tuple[int, int, int],
    *,
    batch: int,
    rounds: int,
    on_event: OnEvent = ignore,
) -> dict[str, list[float]]:
    """Return the milliseconds of each round, for each network; measured as by `latencies_ms`."""
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model))
        images = {name: images_for(net, input_shape, batch) for name, net in models.items()}
        device = next((batch.device for batch in images.values()), torch.device("cpu"))
        passes = {name: partial(net, images[name]) for name, net in models.items()}
        return interleaved_ms(passes, device=device, rounds=rounds, on_event=on_event)


def median_of(values: Sequence[float]) -> Estimate:
    """Return the median of some values with its 95 % interval.

    >>> median_of([3.0, 1.0, 2.0, 5.0, 4.0, 6.0])
    Estimate(value=3.5, low=1.0, high=6.0)

    The ends of the interval are the j-th smallest and the j-th largest value. This holds for any
    distribution: the median of the distribution lies below the j-th smallest of n values with the
    probability of fewer than j heads in n tosses of a coin, and likewise above the j-th largest.

    Raises:
        TimingError: there are too few values for such an interval.
    """
    rank = _rank(len(values))
    ordered = sorted(values)
    return Estimate(statistics.median(ordered), ordered[rank - 1], ordered[-rank])


def increment(times: Sequence[float], base: Sequence[float]) -> Estimate:
    """Return by what share a network takes longer than the plain one; 0.2 is 20 % longer.

    >>> increment([15.0] * 6, [10.0] * 6).value
    0.5

    Args:
        times: the network's milliseconds in each round.
        base: the plain network's milliseconds in the same rounds.

    Raises:
        TimingError: there are too few rounds for an interval.
    """
    return median_of([time / plain - 1 for time, plain in zip(times, base, strict=True)])


def share_of_increment(
    times: Sequence[float], full: Sequence[float], base: Sequence[float]
) -> Estimate | None:
    """Return a network's increment over plain as a share of the full network's increment.

    A round in which full was no slower than plain has no share. The interval is widened by such
    rounds, so that it holds on whichever side their shares would have been.

    Args:
        times: the network's milliseconds in each round.
        full: the full network's milliseconds in the same rounds.
        base: the plain network's milliseconds in the same rounds.

    Returns:
        The share; None if the full network's own increment cannot be told from 0.

    Raises:
        TimingError: there are too few rounds for an interval.
    """
    if increment(full, base).low <= 0:
        return None
    rounds = list(zip(times, full, base, strict=True))
    shares = sorted(
        (time - plain) / (most - plain) for time, most, plain in rounds if most > plain
    )
    # The j-th smallest increment of full is above 0, so fewer than j rounds have no share.
    rank = _rank(len(rounds)) - (len(rounds) - len(shares))
    return Estimate(statistics.median(shares), shares[rank - 1], shares[-rank])


def interval_fields(
    name: str, estimate: Estimate | None, *, scale: float = 1, digits: int | None = None
) -> dict[str, Any]:
    """Return an estimate as three fields of a JSON row; each is None if there is no estimate.

    >>> interval_fields("percent", Estimate(0.25, 0.125, 0.5), scale=100)
    {'percent': 25.0, 'percent_low': 12.5, 'percent_high': 50.0}

    Args:
        name: of the value's field; the ends' fields are NAME_low and NAME_high.
        estimate: the value with its interval.
        scale: factor of all three.
        digits: decimals that all three are rounded to; None does not round.
    """
    names = (name, f"{name}_low", f"{name}_high")
    if estimate is None:
        return dict.fromkeys(names)
    ends = (scale * end for end in (estimate.value, estimate.low, estimate.high))
    shown = (end if digits is None else round(end, digits) for end in ends)
    return dict(zip(names, shown, strict=True))


def interval_text(row: Mapping[str, Any], name: str, form: str = "{:.3f}") -> str | None:
    """Return the fields that `interval_fields` made as text; None if there was no estimate.

    >>> interval_text({"ms": 25.0, "ms_low": 12.5, "ms_high": 50.0}, "ms", "{:.1f}")
    '25.0 (12.5 to 50.0)'

    Args:
        row: holds the three fields.
        name: of the value's field.
        form: how a number is printed.
    """
    if row[name] is None:
        return None
    value, low, high = (form.format(row[name + end]) for end in ("", "_low", "_high"))
    return f"{value} ({low} to {high})"


def check_rounds(rounds: int) -> None:
    """Make sure that a number of rounds is enough for an interval.

    Raises:
        TimingError: there are too few.
    """
    if rounds < LEAST_ROUNDS:
        raise TimingError(
            f"{rounds} rounds given; give at least {LEAST_ROUNDS}, fewer have no "
            f"{_LEVEL:.0%} interval"
        )


def _rank(count: int) -> int:
    """Return j of `median_of`: the interval goes from the j-th smallest to the j-th largest."""
    check_rounds(count)
    rank, below = 0, 1.0  # below: the number of ways to toss `rank` heads or fewer
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
