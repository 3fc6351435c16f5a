"""How much longer a network takes with attention: everywhere, as published, where it is cheap.

All networks take turns in one run. Where there is a scheme, the cheapest one of as many
connections is looked up in an affine latency model, fitted before to measurements of its own.
"""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy import stats

from sat_optuna.bench.contestants import Contestant, InferencePlan
from sat_optuna.cost.latency import LatencyModel, fit_latency
from sat_optuna.cost.timing import Estimate, increment, network_ms, share_of_increment
from sat_optuna.evidence.statistics import holm
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from sat_optuna.training.checkpoint import versions
from sat_optuna.training.precision import pick_device

__all__ = ["FIT_ROUNDS", "bench_inference", "p_faster"]

FIT_ROUNDS = 9  # a 95 % interval of so many leaves out one on either side
_Times: TypeAlias = Mapping[str, Sequence[float]]


def bench_inference(
    plan: InferencePlan, *, on_round: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Fit the latency models, then measure all networks.

    Args:
        plan: what to measure.
        on_round: called after each round: FIT_ROUNDS of each fit, then `plan.rounds`.

    Returns:
        A JSON document: rows, tests (their p corrected together, by Holm), latency_models, and
        how and where all of it was measured.
    """
    models = [_fit(plan, kinds, on_round) for kinds in plan.fits]
    cheapest = dict(found for model in models for found in _cheapest(plan, model))
    modules = {
        kind: (*members, cheapest[kind]) if kind in cheapest else members
        for kind, members in plan.contestants.items()
    }
    everyone = [plan.plain, *(one for members in modules.values() for one in members)]
    nets = {one.name: materialise(plan.supernet([one.spec]), one.scheme) for one in everyone}
    times = network_ms(nets, plan.shape, batch=plan.batch, rounds=plan.rounds, on_round=on_round)
    tests = _tests(modules, plan, times)
    rows = [_row(plan.plain, (), plan, times, tests)]
    rows += [_row(c, members, plan, times, tests) for members in modules.values() for c in members]
    how = {
        "batch": plan.batch,
        "resolution": plan.shape[-1],
        "threads": torch.get_num_threads(),
    }
    return {
        "backbone": plan.backbone,
        "backbone_settings": dict(plan.settings),
        "classes": plan.classes,
        "modules": {kind: dict(members[-1].spec.settings) for kind, members in modules.items()},
        "device": _device(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": versions(),
        "rounds": plan.rounds,
        **how,
        "rows": [row | how for row in rows],
        "tests": tests,
        "latency_models": [_summary(model) for model in models],
    }


def p_faster(times: Sequence[float], than: Sequence[float]) -> float:
    """Return the one-sided p of one network being no faster than another, paired by round.

    Wilcoxon's signed-rank test of the log ratios, so that slow rounds weigh no more than others.

    Args:
        times: milliseconds of the one that may be faster.
        than: milliseconds of the other, of the same rounds.
    """
    ratios = np.log(np.divide(times, than))
    if not ratios.any():  # of nothing but zeros scipy makes NaN
        return 1.0
    return float(stats.wilcoxon(ratios, alternative="less").pvalue)


def _fit(
    plan: InferencePlan, kinds: Sequence[str], on_round: Callable[[], None] | None
) -> LatencyModel:
    supernet = plan.supernet(plan.contestants[kind][-1].spec for kind in kinds)
    return fit_latency(
        supernet, plan.shape, batch=plan.batch, rounds=FIT_ROUNDS, on_round=on_round
    )


def _cheapest(plan: InferencePlan, model: LatencyModel) -> Iterator[tuple[str, Contestant]]:
    """Look up, for each kind of the model, the cheapest scheme beside its reference."""
    for choice, kind in enumerate(model.kinds, start=1):
        reference = plan.references[kind]
        count = reference.scheme.connections
        found = model.cheapest(count, kind=choice)
        scheme = Scheme.of((picked > 0 for picked in found.choices), found.stages)
        note = f"the cheapest {count} blocks by the latency model"
        yield kind, Contestant(reference.spec, "cheapest", scheme, note)


def _tests(
    modules: Mapping[str, Sequence[Contestant]], plan: InferencePlan, times: _Times
) -> list[dict[str, Any]]:
    """Test each scheme against the same module everywhere, the cheapest against its reference."""
    pairs = [
        (one, other)
        for kind, members in modules.items()
        for one in members
        for other in members
        if (other.network == "share-full" and one.network in {"ticket", "given", "cheapest"})
        or (other == plan.references.get(kind) and one.network == "cheapest")
    ]
    found = [p_faster(times[one.name], times[other.name]) for one, other in pairs]
    return [
        {
            "faster": one.name,
            "than": other.name,
            "p": p,
            "p_holm": corrected,
            **_rounded("difference_percent", increment(times[one.name], times[other.name]), 100),
        }
        for (one, other), p, corrected in zip(pairs, found, holm(found), strict=True)
    ]


def _row(
    one: Contestant,
    members: Sequence[Contestant],
    plan: InferencePlan,
    times: _Times,
    tests: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Make a contestant's row.

    Args:
        one: the contestant.
        members: all of its module, none for plain; the first is what full means: with a module a
            block where there is such a network, else with one a stage.
        plan: of all.
        times: of all.
        tests: of all.
    """
    passed, plain = times[one.name], times[plan.plain.name]
    full = members[0] if members else None
    corrected = {test["than"]: test["p_holm"] for test in tests if test["faster"] == one.name}
    against = {other.network: corrected.get(other.name) for other in members}
    reference = plan.references.get(one.spec.kind)
    added = increment(passed, plain) if full else None
    share = share_of_increment(passed, times[full.name], plain) if full else None
    return {
        "module": one.spec.kind if full else None,
        "network": one.network,
        "scheme": str(one.scheme),
        "ms": round(median(passed), 3),
        **_rounded("increment_percent", added, 100),
        **_rounded("share_of_full", share),
        "full": full.network if full else None,
        "p_cheaper_than_share_full": against.get("share-full"),
        "p_cheaper_than_ticket": corrected.get(reference.name) if reference else None,
        "note": one.note,
    }


def _summary(model: LatencyModel) -> dict[str, Any]:
    """Return a latency model as JSON."""
    residual = model.residual_percent
    return {
        "kinds": model.kinds,
        "runs": model.runs,
        "rounds": model.rounds,
        "fresh_schemes": model.fresh,
        "residual_percent": residual if residual is None else round(residual, 3),
        **_rounded("plain_ms", model.plain_ms),
        "increments_ms": {
            kind: [_rounded("ms", block[number]) for block in model.increments_ms]
            for number, kind in enumerate(model.kinds)
        },
    }


def _rounded(name: str, estimate: Estimate | None, scale: float = 1) -> dict[str, float | None]:
    ends = {"": "value", "_low": "low", "_high": "high"}
    return {
        name + suffix: None if estimate is None else round(scale * getattr(estimate, end), 3)
        for suffix, end in ends.items()
    }


def _device() -> str:
    device = pick_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    return f"{device.type} {name}"
