"""What the training benchmark measures, and how it times and compares."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch

from sat_optuna.config.config import TrainConfig
from sat_optuna.cost.timing import (
    check_rounds,
    interleaved_ms,
    interval_fields,
    median_of,
)
from sat_optuna.data.images import TensorImages
from sat_optuna.events import OnEvent
from sat_optuna.seeds import generator_for
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.training.precision import pick_device

__all__ = ["LIMITS", "NETWORKS", "Network", "TrainingPlan", "ratio_of", "timed"]

_WARM_UP = 1  # rounds
Name = TypeVar("Name", bound=Hashable)

# By ratio, the limit that the upper end of its interval should stay below.
LIMITS = {
    "masked forward / hand-written network": 1.05,
    "supernet step / step of the materialised network": 1.08,
    "score / scoring the materialised network": 1.1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A CIFAR ResNet that is measured.

    >>> Network(width=8, attention=True, batch=64).name
    'resnet20 with SE, width 8, 3x32x32, batch 64'

    Attributes:
        backbone: its name.
        width, stem_stride: its settings.
        attention: whether the loops train it with SE in every block, or plain.
        shape: (C, H, W) of its images, which are noise.
        batch: number of images of a step.
        steps: number of steps of one timed pass.
    """

    backbone: str = "resnet20"
    width: int = 16
    stem_stride: int = 1
    attention: bool = False
    shape: tuple[int, int, int] = (3, 32, 32)
    batch: int = 128
    steps: int = 2

    @property
    def name(self) -> str:
        """Its name in the tables."""
        stride = f", stem stride {self.stem_stride}" if self.stem_stride > 1 else ""
        what = f"{self.backbone} with SE" if self.attention else self.backbone
        size = "x".join(map(str, self.shape))
        return f"{what}, width {self.width}{stride}, {size}, batch {self.batch}"

    def supernet(self, *, seed: int = 0) -> Supernet:
        """Build the supernet with the kind SE; its weights are drawn with the seed."""
        return Supernet(
            self.backbone,
            attention=("se",),
            in_channels=self.shape[0],
            classes=10,
            seed=seed,
            width=self.width,
            stem_stride=self.stem_stride,
        ).to(pick_device())

    def images(self, count: int) -> TensorImages:
        """Draw `count` images of noise and their labels."""
        drawn = generator_for("bench", 0)
        pixels = torch.randint(0, 256, (count, *self.shape), generator=drawn, dtype=torch.uint8)
        labels = torch.randint(0, 10, (count,), generator=drawn)
        half = (0.5,) * self.shape[0]
        return TensorImages(pixels, labels, half, half).to(pick_device())


NETWORKS = (
    Network(),
    Network(attention=True, batch=64),
    Network(width=8, stem_stride=2, attention=True, shape=(1, 28, 28), batch=64, steps=6),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """What to measure.

    Attributes:
        networks: trained by both loops; the supernet's ratios are measured on those with
            attention.
        rounds: number of rounds of everything that is timed.
        seeds: number of trainings of each loop on mnist5k, whose accuracies are compared.
        epochs: of each of these trainings.
        compile: whether steps through torch.compile are timed as well.
        config: of all trainings.
    """

    networks: tuple[Network, ...] = NETWORKS
    rounds: int = 31
    seeds: int = 5
    epochs: int = 4
    compile: bool = False
    config: TrainConfig = field(default_factory=lambda: TrainConfig(flip=True))

    def __post_init__(self) -> None:
        check_rounds(self.rounds)

    @property
    def turns(self) -> int:
        """Number of events that `bench_training` reports in all."""
        ratios = sum(network.attention for network in self.networks) * len(LIMITS)
        compiled = len(self.networks) * self.compile
        return (len(self.networks) + ratios + compiled) * self.rounds + 2 * self.seeds


def timed(
    passes: Mapping[Name, Callable[[], object]],
    plan: TrainingPlan,
    on_event: OnEvent,
) -> dict[Name, list[float]]:
    """Time passes that may train, in turns; return the milliseconds of each round."""
    return interleaved_ms(
        {name: partial(_with_gradients, run) for name, run in passes.items()},
        device=pick_device(),
        rounds=plan.rounds,
        warm_up=_WARM_UP,
        on_event=on_event,
    )


def _with_gradients(run: Callable[[], object]) -> None:
    with torch.inference_mode(mode=False):
        run()


def ratio_of(name: str, times: list[float], base: list[float]) -> dict[str, Any]:
    """Return the median over the rounds of times / base with its interval, as fields of a row."""
    ratios = [time / other for time, other in zip(times, base, strict=True)]
    return interval_fields(name, median_of(ratios), digits=3)
