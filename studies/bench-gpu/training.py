"""Training images/s: our loop in each precision and layout, the usual loop, a graphed one."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from torch import nn

from sat_optuna.bench.graphed import GraphedLoop
from sat_optuna.bench.training_plan import Network, TrainingPlan, ratio_of, timed
from sat_optuna.bench.usual import augmented_loader, usual_fit
from sat_optuna.cost.timing import interval_text
from sat_optuna.events import ignore
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from sat_optuna.training.loop import fit
from sat_optuna.training.precision import Arithmetic

__all__ = ["resnet20", "resnet56", "wide_resnet20", "wide_resnet56"]

SETTINGS = tuple(
    Arithmetic(precision, memory_format)
    for precision in ("float32", "bfloat16", "float16")
    for memory_format in ("contiguous", "channels_last")
)
GRAPHED = (SETTINGS[0], Arithmetic("bfloat16", "channels_last"))
ROUNDS = 6  # the fewest that have an interval


def resnet20(*, cut: bool) -> Iterator[dict[str, Any]]:
    """ResNet-20 of width 16."""
    return loops(Network(steps=40), cut=cut)


def resnet56(*, cut: bool) -> Iterator[dict[str, Any]]:
    """ResNet-56 of width 16."""
    return loops(Network(backbone="resnet56", steps=20), cut=cut)


def wide_resnet20(*, cut: bool) -> Iterator[dict[str, Any]]:
    """ResNet-20 of width 32."""
    return loops(Network(width=32, steps=30), cut=cut)


def wide_resnet56(*, cut: bool) -> Iterator[dict[str, Any]]:
    """ResNet-56 of width 32."""
    return loops(Network(backbone="resnet56", width=32, steps=15), cut=cut)


def loops(network: Network, *, cut: bool) -> Iterator[dict[str, Any]]:
    """Time an epoch of each loop in turns; images of noise, CIFAR's shape.

    Yields:
        A row a loop: images a second, and how many times as fast it is as the usual loop and as
        the graphed one of the same precision (medians over the rounds with 95 % intervals).
    """
    if cut:
        width = network.width // 8
        network = Network(width=width, batch=8, steps=1, shape=(3, 8, 8))
    plan = TrainingPlan(networks=(network,), rounds=ROUNDS)
    config = replace(plan.config, batch=network.batch)
    images = network.images(network.steps * network.batch)
    supernet = network.supernet()

    def fresh() -> nn.Module:
        return materialise(supernet, Scheme.uniform(supernet.stages, 0))

    passes: dict[tuple[str, Arithmetic], Callable[[], object]] = {}
    for setting in SETTINGS:
        asked = replace(config, **asdict(setting))
        passes["ours", setting] = partial(fit, fresh(), images, epochs=1, seed=0, config=asked)
    loader = augmented_loader(images, config)
    usual = partial(usual_fit, fresh(), loader, epochs=1, config=config)
    passes["usual", SETTINGS[0]] = usual
    failure: RuntimeError | None = None
    for setting in GRAPHED:
        try:
            graphed = GraphedLoop(fresh(), images, config, setting)
        except RuntimeError as error:  # the other loops are measured all the same
            failure = error
        else:
            passes["graphed by hand", setting] = partial(graphed.run, epochs=1, seed=0)
    times = timed(passes, plan, ignore)
    for (loop, setting), passed in times.items():
        bases = {"times_usual": ("usual", SETTINGS[0])}
        hand = "graphed by hand", GRAPHED[setting.precision != "float32"]
        if hand in times:
            bases["times_graphed"] = hand
        yield {
            "network": network.name,
            "loop": loop,
            **asdict(setting),
            "images_per_s": round(1000 * len(images) / statistics.median(passed)),
            **{
                name: interval_text(ratio_of(name, times[base], passed), name, "{:.2f}")
                for name, base in bases.items()
            },
        }
    if failure:
        raise failure
