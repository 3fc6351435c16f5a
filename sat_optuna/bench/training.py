"""How fast networks train here: our loop beside the usual one, and what a supernet costs extra.

All that is compared takes turns in one run, in orders drawn anew, so that what else the machine
does falls on all. Ratios are medians over the rounds with their distribution-free 95 % intervals.
"""

import platform
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from sat_optuna.bench.handwritten import hand_written
from sat_optuna.bench.usual import augmented_loader, bare_loader, usual_fit
from sat_optuna.checkpoint import versions
from sat_optuna.config import TrainConfig
from sat_optuna.data import load_dataset
from sat_optuna.data.split import TensorImages
from sat_optuna.devices import BFLOAT16_FLAGS, Arithmetic, arithmetic_for, cpu_flags, pick_device
from sat_optuna.draws import draw_scheme
from sat_optuna.evaluate import accuracy, score_scheme
from sat_optuna.evidence.statistics import summarise
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for, seeded
from sat_optuna.supernet import Supernet
from sat_optuna.surgery import materialise
from sat_optuna.timing import check_rounds, interleaved_ms, median_of
from sat_optuna.training import fit
from sat_optuna.training_step import TrainingStep

__all__ = ["LIMITS", "NETWORKS", "Network", "TrainingPlan", "bench_accuracy", "bench_training"]

_SETTINGS = tuple(
    Arithmetic(precision, memory_format)
    for precision in ("float32", "bfloat16")
    for memory_format in ("contiguous", "channels_last")
)
_FLAGS = ("avx2", "avx512_f", "avx512_vnni", *BFLOAT16_FLAGS)
_SCHEMES = 4  # of a pair: one forward or step each
_WARM_UP = 1  # rounds
_CALIBRATION, _SCORED = (2, 128), 500  # chunks and images of each; images

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

    def supernet(self) -> Supernet:
        """Build it with a slot for SE in each block."""
        return Supernet(
            "resnet20",
            attention=("se",),
            in_channels=self.shape[0],
            classes=10,
            seed=0,
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
    """

    networks: tuple[Network, ...] = NETWORKS
    rounds: int = 31
    seeds: int = 5
    epochs: int = 4
    config: TrainConfig = field(default_factory=lambda: TrainConfig(flip=True))

    def __post_init__(self) -> None:
        check_rounds(self.rounds)

    @property
    def turns(self) -> int:
        """How often both benchmarks report in all."""
        ratios = sum(network.attention for network in self.networks) * len(LIMITS)
        return (len(self.networks) + ratios) * self.rounds + 2 * self.seeds


def bench_training(
    plan: TrainingPlan, *, on_turn: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Measure the speed of both loops, ours in each setting, and the ratios.

    Args:
        plan: what to measure.
        on_turn: called after each round.

    Returns:
        A JSON document: rows (loops and settings), ratios, and how and where both were measured.
    """
    device = pick_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} {name}",
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_flags": [flag for flag in _FLAGS if flag in cpu_flags()],
        "threads": torch.get_num_threads(),
        "rounds": plan.rounds,
        "versions": versions(),
        "rows": [row for network in plan.networks for row in _loops(network, plan, on_turn)],
        "ratios": [
            row
            for network in plan.networks
            if network.attention
            for row in _ratios(network, plan, on_turn)
        ],
    }


def bench_accuracy(
    plan: TrainingPlan, *, on_turn: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Train the same networks by both loops on mnist5k, and compare their test accuracies.

    Args:
        plan: how often and how long.
        on_turn: called after each training.

    Returns:
        A JSON document: accuracies of both loops, ours minus usual, and what was trained.
    """
    network = Network(stem_stride=2, shape=(1, 28, 28), batch=64)
    config = replace(plan.config, batch=network.batch, flip=False)
    found: dict[str, list[float]] = {"ours": [], "usual": []}
    for seed in range(plan.seeds):
        data = load_dataset("mnist5k", seed=seed, device=str(pick_device()))
        supernet = network.supernet()
        for loop, values in found.items():
            net = materialise(supernet, Scheme.uniform(supernet.stages, 0))
            if loop == "ours":
                fit(net, data.train_and_valid, epochs=plan.epochs, seed=seed, config=config)
            else:
                with seeded("usual", seed):  # torchvision's transforms take no generator
                    loader = augmented_loader(cast("TensorImages", data.train_and_valid), config)
                    usual_fit(net, loader, epochs=plan.epochs, config=config)
            values.append(accuracy(net, data.test).accuracy)
            if on_turn:
                on_turn()
    pairs = zip(found["ours"], found["usual"], strict=True)
    return {
        "data": "mnist5k",
        "network": network.name,
        "epochs": plan.epochs,
        **found,
        **asdict(arithmetic_for(config, network.supernet(), pick_device())),
        "difference": asdict(summarise([ours - usual for ours, usual in pairs])),
    }


def _loops(
    network: Network, plan: TrainingPlan, on_turn: Callable[[], None] | None
) -> Iterator[dict[str, Any]]:
    """Time an epoch of our loop in each setting, of the usual one, and of that one bare."""
    images = network.images(network.steps * network.batch)
    config = replace(plan.config, batch=network.batch)
    supernet = network.supernet()

    def fresh() -> nn.Module:
        return materialise(supernet, Scheme.uniform(supernet.stages, int(network.attention)))

    passes: dict[tuple[str, Arithmetic], Callable[[], object]] = {}
    for setting in _SETTINGS:
        asked = replace(config, **asdict(setting))
        passes["ours", setting] = partial(fit, fresh(), images, epochs=1, seed=0, config=asked)
    loaders = {
        "usual": augmented_loader(images, config),
        "usual, no augmentation": bare_loader(images, config),
    }
    for name, loader in loaders.items():
        usual = partial(usual_fit, fresh(), loader, epochs=1, config=config)
        passes[name, _SETTINGS[0]] = usual
    times = _timed(passes, plan, on_turn)
    chosen = arithmetic_for(TrainConfig(), supernet, pick_device())
    for (loop, setting), passed in times.items():
        yield {
            "network": network.name,
            "loop": loop,
            **asdict(setting),
            "auto": loop == "ours" and setting == chosen,
            "images_per_s": round(1000 * len(images) / statistics.median(passed), 1),
            **_ratio("times_float32", times["ours", _SETTINGS[0]], passed),
            **_ratio("times_usual", times["usual", _SETTINGS[0]], passed),
            **_ratio("times_bare", times["usual, no augmentation", _SETTINGS[0]], passed),
        }


def _ratios(
    network: Network, plan: TrainingPlan, on_turn: Callable[[], None] | None
) -> Iterator[dict[str, Any]]:
    """Time what a supernet does beside what networks of the same schemes do."""
    supernet = network.supernet()
    draw = partial(draw_scheme, supernet.stages, 1, connect=0.5, draws="iid", seed=0)
    schemes = [draw(step=step) for step in range(_SCHEMES)]
    pairs = zip(LIMITS.items(), (_forwards, _steps, _scores), strict=True)
    for (name, limit), build in pairs:
        ours, other = build(network, supernet, schemes, plan.config)
        times = _timed({"ours": ours, "other": other}, plan, on_turn)
        found = _ratio("ratio", times["ours"], times["other"])
        yield {
            "what": name,
            "network": network.name,
            "pairs": plan.rounds,
            **found,
            "limit": limit,
            "kept": found["ratio_high"] < limit,
        }


_Pair = tuple[Callable[[], object], Callable[[], object]]


def _forwards(
    network: Network, supernet: Supernet, schemes: list[Scheme], _config: TrainConfig
) -> _Pair:
    """Return forward passes in eval mode: the supernet's, and those of hand-written networks."""
    nets = [hand_written(supernet, scheme).eval() for scheme in schemes]
    supernet.eval()
    x, _ = next(network.images(network.batch).batches(None, network.batch))

    def masked() -> None:
        with torch.inference_mode():
            for scheme in schemes:
                supernet(x, scheme)

    def plain() -> None:
        with torch.inference_mode():
            for net in nets:
                net(x)

    return masked, plain


def _steps(
    network: Network, supernet: Supernet, schemes: list[Scheme], config: TrainConfig
) -> _Pair:
    """Return training steps: the supernet's under each scheme, and those of their networks."""
    x, labels = next(network.images(network.batch).batches(None, network.batch))
    arithmetic = arithmetic_for(config, supernet, pick_device())
    nets = [TrainingStep(materialise(supernet, s).train(), config, arithmetic) for s in schemes]
    shared = TrainingStep(supernet.train(), config, arithmetic)

    def masked() -> None:
        for scheme in schemes:
            shared(x, labels, rate=1e-3, scheme=scheme)

    def plain() -> None:
        for net in nets:
            net(x, labels, rate=1e-3)

    return masked, plain


def _scores(
    network: Network, supernet: Supernet, schemes: list[Scheme], _config: TrainConfig
) -> _Pair:
    """Return one scheme's score with recalibration: in the supernet, and in its network."""
    scheme = schemes[0]
    net = materialise(supernet, scheme)
    images = network.images(_SCORED)
    chunks, size = _CALIBRATION
    calibration = [x for x, _ in network.images(chunks * size).batches(None, size)]
    score = partial(score_scheme, calibration=calibration, images=images)
    return partial(score, supernet, scheme), partial(score, net, None)


def _timed(
    passes: Mapping[Any, Callable[[], object]],
    plan: TrainingPlan,
    on_turn: Callable[[], None] | None,
) -> dict[Any, list[float]]:
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


def _ratio(name: str, times: list[float], base: list[float]) -> dict[str, float]:
    """Return the median over rounds of times / base, with its interval."""
    found = median_of([time / other for time, other in zip(times, base, strict=True)])
    ends = {"": found.value, "_low": found.low, "_high": found.high}
    return {name + end: round(value, 3) for end, value in ends.items()}
