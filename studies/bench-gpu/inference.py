"""ResNet-50 at 224 x 224 with SE, SGE and DIA: inference; training steps and their memory."""

import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from sat_optuna.bench.inference import bench_inference
from sat_optuna.bench.inference_plan import InferencePlan, MeasuredNetwork, plan_inference
from sat_optuna.bench.training_plan import TrainingPlan, ratio_of, timed
from sat_optuna.config.config import TrainConfig
from sat_optuna.cost.timing import interval_text
from sat_optuna.events import ignore
from sat_optuna.supernet.materialise import materialise
from sat_optuna.training.precision import arithmetic_for, pick_device
from sat_optuna.training.step import TrainingStep

__all__ = ["increments", "training_steps"]

MODULES = ("se", "sge", "dia")
ROUNDS = 31


def _plan(*, cut: bool, batch: int) -> InferencePlan:
    if cut:
        return plan_inference(
            "resnet20",
            modules=["se"],
            resolution=16,
            batch=1,
            rounds=6,
            classes=10,
            cheapest=False,
            settings={"width": 4},
        )
    return plan_inference("resnet50", modules=MODULES, batch=batch, rounds=ROUNDS, cheapest=False)


def increments(*, cut: bool) -> Iterator[dict[str, Any]]:
    """Time a forward pass of each network in turns; the increment over plain, in per cent."""
    for batch in (1,) if cut else (64, 1):
        for row in bench_inference(_plan(cut=cut, batch=batch))["rows"]:
            yield {
                "batch": batch,
                "module": row["module"] or "",
                "network": row["network"],
                "scheme": row["scheme"],
                "ms": row["ms"],
                "increment_percent": interval_text(row, "increment_percent", "{:.1f}") or "",
                "share_of_full": interval_text(row, "share_of_full", "{:.2f}") or "",
            }


def training_steps(*, cut: bool) -> Iterator[dict[str, Any]]:
    """Time a training step of each network in turns; peak memory beside it."""
    plan = _plan(cut=cut, batch=32)
    device = pick_device()
    everyone = [plan.plain, *(one for members in plan.networks.values() for one in members)]
    x = torch.rand(plan.batch + cut, *plan.shape, device=device)  # BatchNorm wants two images
    labels = torch.arange(len(x), device=device) % plan.classes
    steps, memory = {}, {}
    for one in everyone:
        steps[one.name] = _step(plan, one, x, labels)
        if device.type == "cuda":
            steps[one.name]()  # gradients and momentum are made
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            steps[one.name]()
            memory[one.name] = round((torch.cuda.max_memory_allocated() - before) / 2**20)
    times = timed(steps, TrainingPlan(networks=(), rounds=6), ignore)
    for one in everyone:
        found = ratio_of("times_plain", times[one.name], times[plan.plain.name])
        yield {
            "module": one.spec.kind if one != plan.plain else "",
            "network": one.role,
            "scheme": str(one.scheme),
            "batch": len(x),
            "step_ms": round(statistics.median(times[one.name]), 2),
            "times_plain": interval_text(found, "times_plain"),
            "step_mib": memory.get(one.name, ""),
        }


def _step(plan: InferencePlan, one: MeasuredNetwork, x: torch.Tensor, labels: torch.Tensor) -> Any:
    net = materialise(plan.supernet([one.spec]), one.scheme).train()
    config = TrainConfig()
    step = TrainingStep(net, config, arithmetic_for(config, net, x.device))
    return partial(step, x, labels, rate=1e-3)
