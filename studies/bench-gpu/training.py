"""Training images/s: our loop in each precision and layout, the usual loop, a graphed one."""

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from sat_optuna.bench.graphed import GraphedLoop
from sat_optuna.bench.training_plan import Network
from sat_optuna.bench.usual import augmented_loader, usual_fit
from sat_optuna.config.config import TrainConfig
from sat_optuna.data.images import TensorImages
from sat_optuna.errors import SatOptunaWarning
from sat_optuna.events import Event
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for
from sat_optuna.supernet.materialise import materialise
from sat_optuna.training.checkpoint import EpochRecord
from sat_optuna.training.loop import fit
from sat_optuna.training.precision import Arithmetic, pick_device
from sat_optuna.training.step import strategy_for

__all__ = ["resnet20", "resnet56", "spread", "wide_resnet20", "wide_resnet56"]

# Without float16: it is never a graph, and eagerly it was no faster than bfloat16.
SETTINGS = tuple(
    Arithmetic(precision, memory_format)
    for precision in ("float32", "bfloat16")
    for memory_format in ("contiguous", "channels_last")
)
GRAPHED = (SETTINGS[0], SETTINGS[3])
ROUNDS = 6  # the fewest whose least and most are a 95 % interval of the median


def resnet20(*, cut: bool) -> Iterator[dict[str, Any]]:
    """ResNet-20 of width 16."""
    return loops(Network(steps=20), cut=cut)


def resnet56(*, cut: bool) -> Iterator[dict[str, Any]]:
    """ResNet-56 of width 16."""
    return loops(Network(backbone="resnet56", steps=10), cut=cut)


def wide_resnet20(*, cut: bool) -> Iterator[dict[str, Any]]:
    """ResNet-20 of width 32."""
    return loops(Network(width=32, steps=20), cut=cut)


def wide_resnet56(*, cut: bool) -> Iterator[dict[str, Any]]:
    """ResNet-56 of width 32."""
    return loops(Network(backbone="resnet56", width=32, steps=6), cut=cut)


def loops(network: Network, *, cut: bool) -> Iterator[dict[str, Any]]:
    """Time an epoch of each loop in turns; images of noise, CIFAR's shape.

    Ours is trained by what `auto` means here, "graph" or "eager". Graphs, ours and the one by
    hand, are recorded outside of the timed part.

    Yields:
        A row a loop: images a second, and how many times as fast it is as the usual loop and as
        the graphed one of the same precision (median, least and most of the rounds). They come
        at the end, or where something is raised, of the rounds that are done.
    """
    if cut:
        width = network.width // 8
        network = Network(width=width, batch=8, steps=1, shape=(3, 8, 8))
    config = TrainConfig(flip=True, batch=network.batch)
    images = network.images(network.steps * network.batch)
    supernet = network.supernet()

    def fresh() -> nn.Module:
        return materialise(supernet, Scheme.uniform(supernet.stages, 0))

    passes: dict[tuple[str, Arithmetic], Callable[[], float]] = {}
    failure: Exception | None = None
    times: dict[tuple[str, Arithmetic], list[float]] = {}
    try:
        for setting in SETTINGS:
            asked = replace(config, **asdict(setting))
            passes["ours", setting] = partial(_second_epoch, fresh(), images, asked)
        loader = augmented_loader(images, config)
        usual = partial(usual_fit, fresh(), loader, epochs=1, config=config)
        passes["usual", SETTINGS[0]] = partial(_seconds, usual)
        for setting in GRAPHED:
            try:
                by_hand = GraphedLoop(fresh(), images, config, setting)
            except RuntimeError as error:  # the other loops are measured all the same
                failure = error
            else:
                epoch = partial(by_hand.run, epochs=1, seed=0)
                passes["graphed by hand", setting] = partial(_seconds, epoch)
        with warnings.catch_warnings():
            warnings.simplefilter("error", SatOptunaWarning)  # that a graph cannot be recorded
            for done in _rounds(passes):
                for way, seconds in done.items():
                    times.setdefault(way, []).append(seconds)
    except Exception as error:  # whatever was measured before is kept
        failure = error
    for (loop, setting), taken in times.items():
        strategy = _strategy(fresh(), setting, config) if loop == "ours" else ""
        hand = "graphed by hand", GRAPHED[setting.precision != "float32"]
        bases = {"times_usual": ("usual", SETTINGS[0]), "times_graphed": hand}
        yield {
            "network": network.name,
            "loop": loop,
            "strategy": strategy,
            **asdict(setting),
            "rounds": len(taken),
            "images_per_s": round(len(images) / statistics.median(taken)),
            **{
                name: spread(a / b for a, b in zip(times[base], taken, strict=True))
                for name, base in bases.items()
                if base in times
            },
        }
    if failure:
        raise failure


def spread(values: Iterator[float]) -> str:
    """Return "median (least to most)" of some values.

    >>> spread(iter([3.0, 1.0, 2.5]))
    '2.50 (1.00 to 3.00)'
    """
    held = [*values]
    return f"{statistics.median(held):.2f} ({min(held):.2f} to {max(held):.2f})"


def _strategy(net: nn.Module, setting: Arithmetic, config: TrainConfig) -> str:
    device = pick_device()
    return strategy_for(config, net, device, precision=setting.precision, drawn=False)


def _rounds(
    passes: dict[tuple[str, Arithmetic], Callable[[], float]],
) -> Iterator[dict[tuple[str, Arithmetic], float]]:
    """Yield the seconds of each round, each in an order of its own, after one that warms up."""
    ways = [*passes]
    for turn in range(-1, ROUNDS):
        order = torch.randperm(len(ways), generator=generator_for("turns", turn)).tolist()
        taken = {ways[index]: passes[ways[index]]() for index in order}
        if turn >= 0:
            yield {way: taken[way] for way in ways}


def _seconds(run: Callable[[], object]) -> float:
    """Time what fetches its losses in the end, so that the device has finished."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _second_epoch(net: nn.Module, images: TensorImages, config: TrainConfig) -> float:
    """Train two epochs; return the seconds of the second, for in the first a graph is recorded."""
    ends = []

    def on_event(event: Event) -> None:
        if isinstance(event.made, EpochRecord):
            ends.append(time.perf_counter())

    fit(net, images, epochs=2, seed=0, config=config, on_event=on_event)
    return ends[1] - ends[0]
