"""How fast networks train here: our loop beside the usual one, and what a supernet costs extra.

All that is compared takes turns in one run, in orders drawn anew, so that what else the machine
does falls on all. Ratios are medians over the rounds with their distribution-free 95 % intervals.
"""

import json
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from sat_optuna.bench.training_plan import LIMITS, Network, TrainingPlan, ratio_of, timed
from sat_optuna.bench.training_ratios import compiled_ratio, supernet_ratio
from sat_optuna.bench.usual import augmented_loader, bare_loader, usual_fit
from sat_optuna.config.config import TrainConfig
from sat_optuna.data import load_dataset
from sat_optuna.errors import SatOptunaError
from sat_optuna.evaluate import accuracy
from sat_optuna.evidence.statistics import summarise
from sat_optuna.files import write_text
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
    from sat_optuna.data.split import TensorImages

__all__ = ["TrainingBenchError", "bench_training"]

_SETTINGS = tuple(
    Arithmetic(precision, memory_format)
    for precision in ("float32", "bfloat16")
    for memory_format in ("contiguous", "channels_last")
)
_FLAGS = ("avx2", "avx512_f", "avx512_vnni", *BFLOAT16_FLAGS)


class TrainingBenchError(SatOptunaError, ValueError):
    """A file that this benchmark cannot go on with."""


def bench_training(
    plan: TrainingPlan,
    *,
    out: Path | None = None,
    on_turn: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Measure the speed of both loops, ours in each setting; the ratios; both loops' accuracies.

    Args:
        plan: what to measure.
        out: JSON file, rewritten after each network, ratio and at the end; what it holds already
            is not done again.
        on_turn: called after each round, and after each training for the accuracies.

    Returns:
        A JSON document: rows (loops and settings), ratios, compiled (steps through
        torch.compile, where the plan or `out` has them), accuracy, and how and where all of it was
        measured.

    Raises:
        TrainingBenchError: `out` holds something else.
    """
    header = _header(plan)
    document = header | {"rows": [], "ratios": [], "compiled": [], "accuracy": {}}
    if out and out.exists():
        document |= _held(out, header)

    def keep() -> None:
        if out:
            write_text(out, json.dumps(document, indent=1, ensure_ascii=False) + "\n")

    for network in plan.networks:
        if all(row["network"] != network.name for row in document["rows"]):
            document["rows"] += _loops(network, plan, on_turn)
            keep()
    held = {(row["what"], row["network"]) for row in document["ratios"]}
    for network in plan.networks:
        for what in LIMITS if network.attention else ():
            if (what, network.name) not in held:
                document["ratios"].append(supernet_ratio(what, network, plan, on_turn))
                keep()
    for network in plan.networks if plan.compile else ():
        if all(row["network"] != network.name for row in document["compiled"]):
            document["compiled"].append(compiled_ratio(network, plan, on_turn))
            keep()
    document["accuracy"] = document["accuracy"] or _accuracy(plan, on_turn)
    keep()
    return document


def _header(plan: TrainingPlan) -> dict[str, Any]:
    device = pick_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} {name}",
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_flags": [flag for flag in _FLAGS if flag in cpu_flags()],
        "threads": torch.get_num_threads(),
        "rounds": plan.rounds,
        "seeds": plan.seeds,
        "epochs": plan.epochs,
        "networks": [network.name for network in plan.networks],
        "versions": versions(),
    }


def _held(out: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file holds that was begun in the same way."""
    try:
        held = json.loads(out.read_text(encoding="utf-8"))
        found = {name: held.pop(name) for name in ("rows", "ratios", "accuracy")}
        found["compiled"] = held.pop("compiled", [])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise TrainingBenchError(
            f"{out} holds something else than training speeds; choose another --out"
        ) from error
    if other := sorted(name for name in header if held.get(name) != header[name]):
        raise TrainingBenchError(
            f"{out} was begun with another {', '.join(other)}; choose another --out, or move it "
            "away"
        )
    return found


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
    times = timed(passes, plan, on_turn)
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


def _accuracy(plan: TrainingPlan, on_turn: Callable[[], None] | None) -> dict[str, Any]:
    """Train the same networks by both loops on mnist5k, and compare their test accuracies."""
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
