"""What the training benchmark measures, and how anything in it is timed."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch

from sat_optuna.config.config import TrainConfig
from sat_optuna.cost.timing import check_rounds, interleaved_ms, median_of
from sat_optuna.data.images import TensorImages
from sat_optuna.seeds import generator_for
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.training.precision import pick_device

__all__ = ["LIMITS", "NETWORKS", "Network", "TrainingPlan", "ratio_of", "timed"]

_WARM_UP = 1  # rounds
Name = TypeVar("Name", bound=Hashable)

# What the upper ends of the ratios' intervals should stay below.
LIMITS = {
    "masked forward / hand-written network": 1.05,
    "supernet step / step of the materialised network": 1.08,
    "score / scoring the materialised network": 1.1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A ResNet-20 that is measured.

    Attributes:
        width, stem_stride: its settings.
        attention: whether the loops train it with SE everywhere, or plain.
        shape: (C, H, W) of its images, which are noise.
        batch: images a step.
        steps: of one timed pass.
    """

    width: int = 16
    stem_stride: int = 1
    attention: bool = False
    shape: tuple[int, int, int] = (3, 32, 32)
    batch: int = 128
    steps: int = 2

    @property
    def name(self) -> str:
        """What it is called in the tables."""
        stride = f", stem stride {self.stem_stride}" if self.stem_stride > 1 else ""
        what = "resnet20 with SE" if self.attention else "resnet20"
        size = "x".join(map(str, self.shape))
        return f"{what}, width {self.width}{stride}, {size}, batch {self.batch}"

    def supernet(self, *, seed: int = 0) -> Supernet:
        """Build it with a slot for SE in each block; the seed is of its weights."""
        return Supernet(
            "resnet20",
            attention=("se",),
            in_channels=self.shape[0],
            classes=10,
            seed=seed,
            width=self.width,
            stem_stride=self.stem_stride,
        ).to(pick_device())

    def images(self, count: int) -> TensorImages:
        """Draw so many images of noise and their labels."""
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
        networks: trained by both loops; those with attention are in the ratios too.
        rounds: of everything that is timed.
        seeds: trainings of each loop on mnist5k, whose accuracies are compared.
        epochs: of these.
        compile: whether steps through torch.compile are timed as well.
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
        """How often both benchmarks report in all."""
        ratios = sum(network.attention for network in self.networks) * len(LIMITS)
        compiled = len(self.networks) * self.compile
        return (len(self.networks) + ratios + compiled) * self.rounds + 2 * self.seeds


def timed(
    passes: Mapping[Name, Callable[[], object]],
    plan: TrainingPlan,
    on_turn: Callable[[], None] | None,
) -> dict[Name, list[float]]:
    """Time passes that may train, in turns, and return the milliseconds of each round."""
    return interleaved_ms(
        {name: partial(_with_gradients, run) for name, run in passes.items()},
        device=pick_device(),
        rounds=plan.rounds,
        warm_up=_WARM_UP,
        on_round=on_turn,
    )


def _with_gradients(run: Callable[[], object]) -> None:
    with torch.inference_mode(mode=False):
        run()


def ratio_of(name: str, times: list[float], base: list[float]) -> dict[str, float]:
    """Return the median over rounds of times / base, with its interval."""
    found = median_of([time / other for time, other in zip(times, base, strict=True)])
    ends = {"": found.value, "_low": found.low, "_high": found.high}
    return {name + end: round(value, 3) for end, value in ends.items()}
