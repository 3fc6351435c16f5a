"""Ratios: a supernet beside networks of the same schemes, and torch.compile beside none."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from time import perf_counter
from typing import Any

import torch

from sat_optuna.bench.handwritten import hand_written
from sat_optuna.bench.training_plan import LIMITS, Network, TrainingPlan, ratio_of, timed
from sat_optuna.config.config import TrainConfig
from sat_optuna.evaluate import score_scheme
from sat_optuna.events import OnEvent
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.random_schemes import draw_scheme
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.training.precision import arithmetic_for, pick_device
from sat_optuna.training.step import TrainingStep

__all__ = ["compiled_ratio", "supernet_ratio"]

_SCHEMES = 4  # a pair runs one forward pass or step for each
_CALIBRATION = (2, 128)  # chunks, and images of each
_SCORED = 500  # images


def supernet_ratio(
    what: str, network: Network, plan: TrainingPlan, on_event: OnEvent
) -> dict[str, Any]:
    """Measure a ratio of a supernet's time to that of other networks; return its row.

    Args:
        what: one of `LIMITS`.
        network: its supernet is compared.
        plan: says how many pairs are timed.
        on_event: told of each pair.
    """
    supernet = network.supernet()
    draw = partial(draw_scheme, supernet.stages, 1, connect=0.5, draws="iid", seed=0)
    schemes = [draw(step=step) for step in range(_SCHEMES)]
    build = dict(zip(LIMITS, (_forwards, _steps, _scores), strict=True))[what]
    ours, other = build(network, supernet, schemes, plan.config)
    times = timed({"ours": ours, "other": other}, plan, on_event)
    found = ratio_of("ratio", times["ours"], times["other"])
    return {
        "what": what,
        "network": network.name,
        "pairs": plan.rounds,
        **found,
        "limit": LIMITS[what],
        "kept": found["ratio_high"] < LIMITS[what],
    }


def compiled_ratio(network: Network, plan: TrainingPlan, on_event: OnEvent) -> dict[str, Any]:
    """Measure a training step through torch.compile beside a step without it; return its row.

    Args:
        network: with attention in every block, or plain.
        plan: says how many pairs are timed.
        on_event: told of each pair.
    """
    supernet = network.supernet()
    arithmetic = arithmetic_for(plan.config, supernet, pick_device())
    scheme = Scheme.uniform(supernet.stages, int(network.attention))
    x, labels = next(network.images(network.batch).batches(None, network.batch))

    def step(*, compiled: bool) -> Callable[[], object]:
        net = materialise(supernet, scheme).train()
        taken = TrainingStep(net, replace(plan.config, compile=compiled), arithmetic)
        return partial(taken, x, labels, rate=1e-3)

    passes = {"compiled": step(compiled=True), "other": step(compiled=False)}
    with _nothing_compiled():
        begun = perf_counter()
        passes["compiled"]()
        compiling = perf_counter() - begun
        times = timed(passes, plan, on_event)
    return {
        "network": network.name,
        **asdict(arithmetic),
        "compile_s": round(compiling, 1),
        "pairs": plan.rounds,
        **ratio_of("ratio", times["compiled"], times["other"]),
    }


@contextmanager
def _nothing_compiled() -> Iterator[None]:
    """Let torch.compile start inside the block with empty caches, in memory and on disk."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    torch.compiler.reset()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[name] = folder
        try:
            yield
        finally:
            os.environ.pop(name)
            if before is not None:
                os.environ[name] = before


_Pair = tuple[Callable[[], object], Callable[[], object]]


def _forwards(
    network: Network, supernet: Supernet, schemes: list[Scheme], _config: TrainConfig
) -> _Pair:
    """Return forward passes in eval mode of the supernet, and of hand-written networks."""
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
    """Return training steps of the supernet under each scheme, and of the schemes' networks."""
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
    """Return the scoring of a scheme with recalibration, in the supernet and in its network."""
    scheme = schemes[0]
    net = materialise(supernet, scheme)
    images = network.images(_SCORED)
    chunks, size = _CALIBRATION
    calibration = [x for x, _ in network.images(chunks * size).batches(None, size)]
    score = partial(score_scheme, calibration=calibration, images=images)
    return partial(score, supernet, scheme), partial(score, net, None)
