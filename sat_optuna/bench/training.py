"""How fast networks train here: our loop beside the usual one, and what a supernet costs extra.

Whatever is compared takes turns in one run, in an order that is drawn anew each round, so that
other work of the machine disturbs all of it alike. Ratios are medians over the rounds, with
distribution-free 95 % intervals.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from sat_optuna.bench.document import device_name, held_parts, write_document
from sat_optuna.bench.training_plan import LIMITS, Network, TrainingPlan, ratio_of, timed
from sat_optuna.bench.training_ratios import compiled_ratio, supernet_ratio
from sat_optuna.bench.usual import augmented_loader, bare_loader, usual_fit
from sat_optuna.config.config import TrainConfig
from sat_optuna.data import load_dataset
from sat_optuna.evaluate import accuracy
from sat_optuna.events import Event, OnEvent, counted, ignore
from sat_optuna.evidence.statistics import summarise
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import seeded
from sat_optuna.supernet.materialise import materialise
from sat_optuna.training.checkpoint import versions
from sat_optuna.training.loop import fit
from sat_optuna.training.precision import (
    BFLOAT16_FLAGS,
    Arithmetic,
    arithmetic_for,
    cpu_flags,
    pick_device,
)

if TYPE_CHECKING:
    from sat_optuna.data.images import TensorImages

__all__ = ["bench_training"]

_SETTINGS = tuple(
    Arithmetic(precision, memory_format)
    for precision in ("float32", "bfloat16")
    for memory_format in ("contiguous", "channels_last")
)
_FLAGS = ("avx2", "avx512_f", "avx512_vnni", *BFLOAT16_FLAGS)


def bench_training(
    plan: TrainingPlan, *, out: Path | None = None, on_event: OnEvent = ignore
) -> dict[str, Any]:
    """Measure the speed of both loops (ours in each setting), the ratios, and the accuracies.

        document = bench_training(TrainingPlan(rounds=15), out=Path("mine.json"))

    Args:
        plan: what to measure.
        out: JSON file, which is rewritten after each network and each ratio, and at the end. What
            it holds already is not measured again.
        on_event: told of each round, and of each training for the accuracies; `plan.turns` in all.

    Returns:
        A JSON document: rows (of loops and settings), ratios, compiled (steps through
        torch.compile, if the plan asks for them or `out` has them), accuracy, and how and where
        all of it was measured.

    Raises:
        BenchError: `out` holds something else.
    """
    on_event = counted(on_event, step="bench training", total=plan.turns)
    header = _header(plan)
    parts: dict[str, Any] = {"rows": [], "ratios": [], "compiled": [], "accuracy": {}}
    document = header | held_parts(out, header, parts, what="training speeds")

    def keep() -> None:
        if out:
            write_document(out, document)

    for network in plan.networks:
        if all(row["network"] != network.name for row in document["rows"]):
            document["rows"] += _loops(network, plan, on_event)
            keep()
    held = {(row["what"], row["network"]) for row in document["ratios"]}
    for network in plan.networks:
        for what in LIMITS if network.attention else ():
            if (what, network.name) not in held:
                document["ratios"].append(supernet_ratio(what, network, plan, on_event))
                keep()
    for network in plan.networks if plan.compile else ():
        if all(row["network"] != network.name for row in document["compiled"]):
            document["compiled"].append(compiled_ratio(network, plan, on_event))
            keep()
    document["accuracy"] = document["accuracy"] or _accuracy(plan, on_event)
    keep()
    return document


def _header(plan: TrainingPlan) -> dict[str, Any]:
    return {
        "device": device_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_flags": [flag for flag in _FLAGS if flag in cpu_flags()],
        "threads": torch.get_num_threads(),
        "rounds": plan.rounds,
        "seeds": plan.seeds,
        "epochs": plan.epochs,
        "networks": [network.name for network in plan.networks],
        "versions": versions(),
    }


def _loops(network: Network, plan: TrainingPlan, on_event: OnEvent) -> Iterator[dict[str, Any]]:
    """Time an epoch of our loop in each setting, and of the usual loop, which may augment."""
    images = network.images(network.steps * network.batch)
    # Each `fit` would record a graph anew, for a few steps; studies/bench-gpu measures graphs.
    config = replace(plan.config, batch=network.batch, strategy="eager")
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
    times = timed(passes, plan, on_event)
    chosen = arithmetic_for(TrainConfig(), supernet, pick_device())
    for (loop, setting), passed in times.items():
        yield {
            "network": network.name,
            "loop": loop,
            **asdict(setting),
            "auto": loop == "ours" and setting == chosen,
            "images_per_s": round(1000 * len(images) / statistics.median(passed), 1),
            **ratio_of("times_float32", times["ours", _SETTINGS[0]], passed),
            **ratio_of("times_usual", times["usual", _SETTINGS[0]], passed),
            **ratio_of("times_bare", times["usual, no augmentation", _SETTINGS[0]], passed),
        }


def _accuracy(plan: TrainingPlan, on_event: OnEvent) -> dict[str, Any]:
    """Train the same networks with both loops on mnist5k, and compare their test accuracies."""
    network = Network(stem_stride=2, shape=(1, 28, 28), batch=64)
    config = replace(plan.config, batch=network.batch, flip=False)
    found: dict[str, list[float]] = {"ours": [], "usual": []}
    for seed in range(plan.seeds):
        data = load_dataset("mnist5k", seed=seed, device=str(pick_device()))
        supernet = network.supernet(seed=seed)
        for loop, values in found.items():
            net = materialise(supernet, Scheme.uniform(supernet.stages, 0))
            if loop == "ours":
                fit(net, data.train_and_valid, epochs=plan.epochs, seed=seed, config=config)
            else:
                with seeded("usual", seed):  # torchvision's transforms take no generator
                    loader = augmented_loader(cast("TensorImages", data.train_and_valid), config)
                    usual_fit(net, loader, epochs=plan.epochs, config=config)
            values.append(accuracy(net, data.test))
            on_event(Event(step="fit", done=seed + 1, total=plan.seeds, message=loop))
    pairs = zip(found["ours"], found["usual"], strict=True)
    return {
        "data": "mnist5k",
        "network": network.name,
        "epochs": plan.epochs,
        **found,
        **asdict(arithmetic_for(config, network.supernet(), pick_device())),
        "difference": asdict(summarise([ours - usual for ours, usual in pairs])),
    }
