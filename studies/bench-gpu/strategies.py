"""What a CUDA graph gains a step, what torch.compile gains it, and several networks at a time.

What cannot be recorded as a graph warns, and is then a measurement that failed.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import nn

from sat_optuna.bench.batched import BatchedStep
from sat_optuna.bench.graphed import GraphedLoop
from sat_optuna.bench.training_plan import Network, TrainingPlan, ratio_of, timed
from sat_optuna.config.config import TrainConfig
from sat_optuna.cost.timing import interval_text
from sat_optuna.errors import SatOptunaWarning
from sat_optuna.events import Event, ignore
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.random_schemes import draw_scheme
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.training.checkpoint import EpochRecord
from sat_optuna.training.loop import Training, fit_together
from sat_optuna.training.precision import Arithmetic, fastest_kernels, pick_device
from sat_optuna.training.static import StaticStep
from sat_optuna.training.step import TrainingStep

__all__ = ["batched", "compiled", "steps", "supernets", "together"]

FLOAT32 = Arithmetic("float32", "contiguous")
LAST = Arithmetic("float32", "channels_last")  # what `auto` means
BFLOAT16 = Arithmetic("bfloat16", "channels_last")
ROUNDS = 6  # the fewest that have an interval
SEEDS, SCHEMES = 4, 5


def steps(*, cut: bool) -> Iterator[dict[str, Any]]:
    """Time steps of ResNet-20 with SE, eager and as a graph, in widths 16 and 32."""
    hows = (FLOAT32,) if cut else (FLOAT32, BFLOAT16)
    ways = [(strategy, how) for how in hows for strategy in ("eager", "graph")]
    for width in (16,) if cut else (16, 32):
        yield from _steps(Network(width=width, attention=True, steps=20), ways, cut=cut)


def supernets(*, cut: bool) -> Iterator[dict[str, Any]]:
    """Time steps of supernets, a random scheme each, eagerly and by graphs of their blocks.

    Yields:
        A row a way, as of `steps`; beside them the memory that the first step took on a GPU, with
        the recording.
    """
    ways = [("eager", FLOAT32), ("blocks", FLOAT32)]
    ways += [] if cut else [("blocks", LAST), ("blocks", BFLOAT16)]
    measured = [(Network(attention=True, steps=10), "se"), (Network(steps=10), "dia")]
    if not cut:
        measured += [
            (Network(width=32, attention=True, steps=10), "se"),
            (Network(backbone="resnet56", attention=True, steps=6), "se"),
        ]
    for given, kind in measured:
        network = _cut(given) if cut else given
        images = network.images(network.steps * network.batch)
        batches = list(images.batches(None, network.batch))
        passes: dict[tuple[str, Arithmetic], Callable[[], object]] = {}
        memory = {}
        for strategy, arithmetic in ways:
            net = Supernet(
                network.backbone,
                attention=(kind,),
                in_channels=3,
                classes=10,
                seed=0,
                width=network.width,
            )
            step = TrainingStep(
                net.train().to(images.device), TrainConfig(flip=True), arithmetic, strategy
            )
            drawn = [
                draw_scheme(net.stages, 1, connect=0.5, draws="iid", seed=0, step=number)
                for number in range(network.steps)
            ]
            passes[strategy, arithmetic] = partial(_take, step, batches, drawn)
            memory[strategy, arithmetic] = _mib_of(
                partial(_take, step, batches[:1], drawn[:1]), images.device
            )
        for way, row in zip(passes, _rows(network, passes, len(images)), strict=True):
            yield {**row, "network": f"supernet {row['network']}", "kind": kind} | memory[way]


def _mib_of(step: Callable[[], object], device: torch.device) -> dict[str, int]:
    """Return the memory that a first step takes on a GPU at its peak, and what it then keeps."""
    if device.type != "cuda":
        step()
        return {}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    with warnings.catch_warnings():
        warnings.simplefilter("error", SatOptunaWarning)
        with fastest_kernels(device):
            step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before[0]
    torch.cuda.empty_cache()
    kept = torch.cuda.memory_reserved() - before[1]
    return {"peak_mib": round(peak / 2**20), "kept_mib": round(kept / 2**20)}


def compiled(*, cut: bool) -> list[dict[str, Any]]:
    """Time steps of ResNet-20 with SE, width 16, eager and through torch.compile."""
    ways = [("eager", FLOAT32), ("eager" if cut else "compiled", FLOAT32)]
    return _steps(Network(attention=True, steps=20), ways, cut=cut)


def batched(*, cut: bool) -> list[dict[str, Any]]:
    """Time a step of 4 seeds batched by torch.func, beside the step of one network.

    Returns:
        A row a way: images a second of all networks, and how many times those of the first way.
    """
    network = Network(attention=True, steps=10)
    if cut:
        network = _cut(network)
    images = network.images(network.steps * network.batch)
    batches = list(images.batches(None, network.batch))
    supernet, config = network.supernet(), TrainConfig(flip=True)

    def fresh() -> nn.Module:
        return materialise(supernet, Scheme.uniform(supernet.stages, 1)).train()

    seeds = [BatchedStep([fresh() for _ in range(SEEDS)], config) for _ in range(2)]
    recorded = StaticStep(
        seeds[1],
        seeds[1].state,
        [*seeds[1].weights.values()],
    )
    stacked = [
        (x.expand(SEEDS, *x.shape).contiguous(), labels.expand(SEEDS, -1).contiguous())
        for x, labels in batches
    ]
    alone = TrainingStep(fresh(), config, FLOAT32, "graph")
    passes: dict[str, Callable[[], object]] = {
        "graph, one network": partial(_take, alone, batches),
        "batched seeds, eager": lambda: [seeds[0](*batch) for batch in stacked],
        "batched seeds, graph": lambda: [recorded(*batch) for batch in stacked],
    }
    plan = TrainingPlan(networks=(network,), rounds=ROUNDS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SatOptunaWarning)
        with fastest_kernels(images.device):
            times = timed(passes, plan, ignore)
    one = times["graph, one network"]
    rows = []
    for name, passed in times.items():
        count = 1 if passed is one else SEEDS
        each = [milliseconds / count for milliseconds in passed]
        found = ratio_of("times_one", one, each)
        rows.append(
            {
                "way": name,
                "networks": count,
                "step_ms": round(statistics.median(passed) / network.steps, 2),
                "images_per_s": round(1000 * len(images) / statistics.median(each)),
                "times_one": interval_text(found, "times_one", "{:.2f}"),
            }
        )
    return rows


def _steps(
    network: Network, ways: Sequence[tuple[str, Arithmetic]], *, cut: bool
) -> list[dict[str, Any]]:
    """Return a row a way: images a second, and how many times as fast it is as eager float32."""
    if cut:
        network = _cut(network)
    config = TrainConfig(flip=True)
    images = network.images(network.steps * network.batch)
    batches = list(images.batches(None, network.batch))
    supernet = network.supernet()
    passes: dict[tuple[str, Arithmetic], Callable[[], object]] = {}
    for strategy, arithmetic in ways:
        net = materialise(supernet, Scheme.uniform(supernet.stages, 1)).train()
        asked = replace(config, compile=strategy == "compiled")
        made = TrainingStep(net, asked, arithmetic, "graph" if strategy == "graph" else "eager")
        passes[strategy, arithmetic] = partial(_take, made, batches)
    return _rows(network, passes, len(images))


def _rows(
    network: Network, passes: Mapping[tuple[str, Arithmetic], Callable[[], object]], images: int
) -> list[dict[str, Any]]:
    plan = TrainingPlan(networks=(network,), rounds=ROUNDS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SatOptunaWarning)
        with fastest_kernels(pick_device()):
            times = timed(passes, plan, ignore)
    rows = []
    for (strategy, arithmetic), passed in times.items():
        found = ratio_of("times_eager", times["eager", FLOAT32], passed)
        rows.append(
            {
                "network": network.name,
                "strategy": strategy,
                "precision": arithmetic.precision,
                "memory_format": arithmetic.memory_format,
                "step_ms": round(statistics.median(passed) / network.steps, 2),
                "images_per_s": round(1000 * images / statistics.median(passed)),
                "times_eager": interval_text(found, "times_eager", "{:.2f}"),
            }
        )
    return rows


def _take(
    step: TrainingStep, batches: Sequence[Any], schemes: Iterable[Scheme | None] = repeat(None)
) -> None:
    for batch, scheme in zip(batches, schemes, strict=False):
        step(*batch, rate=0.01, scheme=scheme)


def together(*, cut: bool) -> list[dict[str, Any]]:
    """Train 5 schemes x 4 seeds of ResNet-20 with SE, width 16, one after the other and together.

    Returns:
        A row a way; milliseconds are those of one network's share. The first epoch, in which
        graphs are recorded, is told apart from the others, whose ratios have intervals.
        Where networks come one after the other, one a scheme is trained: more of them take as long
        each.
    """
    network, epochs = Network(attention=True, steps=15), ROUNDS + 1
    if cut:
        network = _cut(network)
    supernet, images = network.supernet(), network.images(network.steps * network.batch)
    config = TrainConfig(
        batch=network.batch, flip=True, precision="float32", memory_format="contiguous"
    )
    eager = replace(config, strategy="eager")
    graph = replace(config, strategy="graph")
    schemes, seeds = (2, 1) if cut else (SCHEMES, SEEDS)
    ways: dict[str, tuple[TrainConfig, int, int]] = {  # steps, seeds, networks at a time
        "eager, one after the other": (eager, 1, 1),
        "graph, one after the other": (graph, 1, 1),
        f"eager, {schemes} together": (eager, 1, schemes),
        f"graph, {schemes} together": (graph, 1, schemes),
        f"graph, {schemes * seeds} together": (graph, seeds, schemes * seeds),
    }
    by_hand = "graph by hand, one after the other"
    passed = {}
    for name, (asked, count, at_a_time) in ways.items():
        nets = _networks(supernet, schemes, count)
        taken = _epochs(nets, images, asked, epochs=epochs, at_a_time=at_a_time)
        passed[name] = [1000 * seconds / len(nets) for seconds in taken]
    nets = _networks(supernet, schemes, 1)
    taken = _epochs_by_hand(nets, images, config, epochs=epochs)
    passed[by_hand] = [1000 * seconds / len(nets) for seconds in taken]
    rows = []
    for name, each in passed.items():
        first, *others = each
        found = {
            **ratio_of("times_eager", passed["eager, one after the other"][1:], others),
            **ratio_of("times_by_hand", passed[by_hand][1:], others),
        }
        rows.append(
            {
                "strategy": name,
                "first_epoch_ms": round(first),
                "epoch_ms": round(statistics.median(others), 1),
                "images_per_s": round(1000 * len(images) / statistics.median(others)),
                "times_eager": interval_text(found, "times_eager", "{:.2f}"),
                "times_by_hand": interval_text(found, "times_by_hand", "{:.2f}"),
            }
        )
    return rows


def _networks(supernet: Supernet, schemes: int, seeds: int) -> list[nn.Module]:
    drawn = [
        draw_scheme(supernet.stages, 1, connect=0.5, draws="iid", seed=0, step=number)
        for number in range(schemes)
    ]
    return [materialise(supernet, scheme) for scheme in drawn for _ in range(seeds)]


def _epochs(
    nets: Sequence[nn.Module], images: Any, config: TrainConfig, *, epochs: int, at_a_time: int
) -> list[float]:
    """Train networks, so many at a time; return the seconds that all took for each epoch."""
    seconds = [0.0] * epochs
    with warnings.catch_warnings():
        warnings.simplefilter("error", SatOptunaWarning)
        for begin in range(0, len(nets), at_a_time):
            ends = [time.perf_counter()] + [0.0] * epochs

            def on_event(event: Event, ends: list[float] = ends) -> None:
                if isinstance(event.made, EpochRecord):  # of the last network, in the end
                    ends[event.made.epoch + 1] = time.perf_counter()

            fit_together(
                Training(net, images, epochs=epochs, seed=seed, config=config, on_event=on_event)
                for seed, net in enumerate(nets[begin : begin + at_a_time])
            )
            for epoch in range(epochs):
                seconds[epoch] += ends[epoch + 1] - ends[epoch]
    return seconds


def _epochs_by_hand(
    nets: Sequence[nn.Module], images: Any, config: TrainConfig, *, epochs: int
) -> list[float]:
    """Train networks one after the other by a hand-written loop; return seconds as `_epochs`."""
    seconds = [0.0] * epochs
    for net in nets:
        ends = [time.perf_counter()]
        loop = GraphedLoop(net, images, config, FLOAT32)
        for epoch in range(epochs):
            loop.run(epochs=1, seed=0)
            ends.append(time.perf_counter())
            seconds[epoch] += ends[-1] - ends[-2]
    return seconds


def _cut(network: Network) -> Network:
    width = max(4, network.width // 8)
    return replace(network, width=width, batch=8, steps=1, shape=(3, 16, 16))
