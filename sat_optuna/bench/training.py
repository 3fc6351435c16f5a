"""How fast a network trains in each precision and memory format, beside float32 contiguous."""

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from sat_optuna.checkpoint import versions
from sat_optuna.config import TrainConfig
from sat_optuna.data.split import TensorImages
from sat_optuna.devices import pick_device
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for
from sat_optuna.supernet import Supernet
from sat_optuna.surgery import materialise
from sat_optuna.training import fit

__all__ = ["SETTINGS", "Speed", "bench_training"]

# (precision, memory format); the first is what the others are compared with.
SETTINGS = (
    ("float32", "contiguous"),
    ("float32", "channels_last"),
    ("bfloat16", "contiguous"),
    ("bfloat16", "channels_last"),
)
_NETWORKS = {
    "resnet20 width 8, stem stride 2, 1x28x28, batch 64": (8, 2, 1, 28, 64),
    "resnet20 width 16, stem stride 1, 3x32x32, batch 128": (16, 1, 3, 32, 128),
}
_STEPS = 4


@dataclass(frozen=True, slots=True)
class Speed:
    """One row.

    Attributes:
        network: what was trained.
        precision, memory_format: how.
        threads: of this process.
        images_per_s: median over the rounds.
        ratio: to float32 contiguous, the median of the ratios within each round.
    """

    network: str
    precision: str
    memory_format: str
    threads: int
    images_per_s: float
    ratio: float


def bench_training(
    *, rounds: int = 5, on_round: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Measure all settings, interleaved, so that what else the machine does falls on all.

    Args:
        rounds: each times every setting once; the first comes after a warm-up.
        on_round: called after each timed setting.

    Returns:
        A JSON document: rows, device, versions.
    """
    device = pick_device()
    rows = [
        asdict(row)
        for network, shape in _NETWORKS.items()
        for row in _rows(network, shape, device, rounds=rounds, on_round=on_round)
    ]
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} {name}",
        "capability": torch.backends.cpu.get_cpu_capability(),
        "rounds": rounds,
        "versions": versions(),
        "rows": rows,
    }


def _rows(
    network: str,
    shape: tuple[int, int, int, int, int],
    device: torch.device,
    *,
    rounds: int,
    on_round: Callable[[], None] | None,
) -> Iterator[Speed]:
    width, stride, channels, side, batch = shape
    drawn = generator_for("bench", 0)
    pixels = torch.randint(
        0, 256, (_STEPS * batch, channels, side, side), generator=drawn, dtype=torch.uint8
    )
    labels = torch.randint(0, 10, (len(pixels),), generator=drawn)
    half = (0.5,) * channels
    images = TensorImages(pixels, labels, half, half).to(device)
    supernet = Supernet(
        "resnet20",
        attention=("se",),
        in_channels=channels,
        classes=10,
        seed=0,
        width=width,
        stem_stride=stride,
    )
    full = materialise(supernet, Scheme.uniform(supernet.stages, 1)).to(device)
    times: dict[tuple[str, str], list[float]] = {setting: [] for setting in SETTINGS}
    for turn in range(-1, rounds):
        for setting in SETTINGS:
            config = replace(
                TrainConfig(batch=batch), precision=setting[0], memory_format=setting[1]
            )
            start = time.perf_counter()
            fit(full, images, epochs=1, seed=0, config=config)  # ends on a copy to the CPU
            if turn >= 0:
                times[setting].append(time.perf_counter() - start)
                if on_round:
                    on_round()
    base = times[SETTINGS[0]]
    for setting, passed in times.items():
        ratios = [one / other for one, other in zip(base, passed, strict=True)]
        yield Speed(
            network,
            *setting,
            torch.get_num_threads(),
            round(len(pixels) / statistics.median(passed), 1),
            round(statistics.median(ratios), 3),
        )
