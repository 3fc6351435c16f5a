"""How much longer a network takes with attention: everywhere, as published, where it is cheap.

All networks take turns in one run. For a sparse scheme, the cheapest scheme with as many
connections is looked up in an affine latency model, which is fitted to measurements of its own
before the networks are measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy import stats

from sat_optuna.bench.document import device_name
from sat_optuna.bench.inference_plan import FIT_ROUNDS, InferencePlan, MeasuredNetwork
from sat_optuna.cost.latency import LatencyModel, fit_latency
from sat_optuna.cost.timing import (
    increment,
    interval_fields,
    network_ms,
    share_of_increment,
)
from sat_optuna.events import OnEvent, counted, ignore
from sat_optuna.evidence.statistics import holm
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from sat_optuna.training.checkpoint import versions

__all__ = ["bench_inference", "p_faster"]

_DIGITS = 3
_Times: TypeAlias = Mapping[str, Sequence[float]]
_percent = partial(interval_fields, scale=100, digits=_DIGITS)


def bench_inference(plan: InferencePlan, *, on_event: OnEvent = ignore) -> dict[str, Any]:
    """Fit the latency models, then measure all networks.

        document = bench_inference(plan_inference("resnet50", modules=["se", "dia"]))

    Args:
        plan: what to measure.
        on_event: told of each round, `plan.turns` in all.

    Returns:
        A JSON document: rows, tests (with p-values that Holm's method corrects together),
        latency_models, and how and where all of it was measured.
    """
    on_event = counted(on_event, step="bench inference", total=plan.turns)
    models = [_fit(plan, kinds, on_event) for kinds in plan.fits]
    cheapest = dict(found for model in models for found in _cheapest(plan, model))
    modules = {
        kind: (*members, cheapest[kind]) if kind in cheapest else members
        for kind, members in plan.networks.items()
    }
    everyone = [plan.plain, *(one for members in modules.values() for one in members)]
    nets = {one.name: materialise(plan.supernet([one.spec]), one.scheme) for one in everyone}
    times = network_ms(nets, plan.shape, batch=plan.batch, rounds=plan.rounds, on_event=on_event)
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
        "device": device_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": versions(),
        "rounds": plan.rounds,
        **how,
        "rows": [row | how for row in rows],
        "tests": tests,
        "latency_models": [_summary(model) for model in models],
    }


def p_faster(times: Sequence[float], than: Sequence[float]) -> float:
    """Return the one-sided p-value of the hypothesis that a network is no faster than another.

    >>> p_faster([9.0, 9.5, 9.1, 9.2, 9.6, 9.4], [10.0] * 6)
    0.015625

    It is Wilcoxon's signed-rank test of the log ratios, round by round. With logarithms a slow
    round has no more weight than a fast one.

    Args:
        times: milliseconds of the network that may be faster, in each round.
        than: milliseconds of the other network, in the same rounds.
    """
    ratios = np.log(np.divide(times, than))
    if not ratios.any():  # scipy returns NaN if all are zero
        return 1.0
    return float(stats.wilcoxon(ratios, alternative="less").pvalue)


def _fit(plan: InferencePlan, kinds: Sequence[str], on_event: OnEvent) -> LatencyModel:
    supernet = plan.supernet(plan.networks[kind][-1].spec for kind in kinds)
    return fit_latency(
        supernet, plan.shape, batch=plan.batch, rounds=FIT_ROUNDS, on_event=on_event
    )


def _cheapest(plan: InferencePlan, model: LatencyModel) -> Iterator[tuple[str, MeasuredNetwork]]:
    """Look up, for each kind, the cheapest scheme with as many connections as its reference."""
    for choice, kind in enumerate(model.kinds, start=1):
        reference = plan.references[kind]
        count = reference.scheme.connections
        found = model.cheapest(count, kind=choice)
        scheme = Scheme.of((picked > 0 for picked in found.choices), found.stages)
        note = f"the cheapest {count} blocks by the latency model"
        yield kind, MeasuredNetwork(reference.spec, "cheapest", scheme, note)


def _tests(
    modules: Mapping[str, Sequence[MeasuredNetwork]], plan: InferencePlan, times: _Times
) -> list[dict[str, Any]]:
    """Test each scheme against share-full, and each cheapest scheme against its reference."""
    pairs = [
        (one, other)
        for kind, members in modules.items()
        for one in members
        for other in members
        if (other.role == "share-full" and one.role in {"ticket", "given", "cheapest"})
        or (other == plan.references.get(kind) and one.role == "cheapest")
    ]
    found = [p_faster(times[one.name], times[other.name]) for one, other in pairs]
    return [
        {
            "faster": one.name,
            "than": other.name,
            "p": p,
            "p_holm": corrected,
            **_percent("difference_percent", increment(times[one.name], times[other.name])),
        }
        for (one, other), p, corrected in zip(pairs, found, holm(found), strict=True)
    ]


def _row(
    one: MeasuredNetwork,
    members: Sequence[MeasuredNetwork],
    plan: InferencePlan,
    times: _Times,
    tests: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Make the row of a network.

    Args:
        one: the network.
        members: all networks of its module; none for plain. The first one is what "full" means in
            the row: full, or share-full for a module that blocks always share.
        plan: of all networks.
        times: of all networks.
        tests: of all networks.
    """
    passed, plain = times[one.name], times[plan.plain.name]
    full = members[0] if members else None
    corrected = {test["than"]: test["p_holm"] for test in tests if test["faster"] == one.name}
    against = {other.role: corrected.get(other.name) for other in members}
    reference = plan.references.get(one.spec.kind)
    added = increment(passed, plain) if full else None
    share = share_of_increment(passed, times[full.name], plain) if full else None
    return {
        "module": one.spec.kind if full else None,
        "network": one.role,
        "scheme": str(one.scheme),
        "ms": round(median(passed), 3),
        **_percent("increment_percent", added),
        **interval_fields("share_of_full", share, digits=_DIGITS),
        "full": full.role if full else None,
        "p_cheaper_than_share_full": against.get("share-full"),
        "p_cheaper_than_ticket": corrected.get(reference.name) if reference else None,
        "note": one.note,
    }


def _summary(model: LatencyModel) -> dict[str, Any]:
    """Return a latency model as JSON values."""
    residual = model.residual_percent
    return {
        "kinds": model.kinds,
        "runs": model.runs,
        "rounds": model.rounds,
        "fresh_schemes": model.fresh,
        "residual_percent": residual if residual is None else round(residual, 3),
        **interval_fields("plain_ms", model.plain_ms, digits=_DIGITS),
        "increments_ms": {
            kind: [
                interval_fields("ms", block[number], digits=_DIGITS)
                for block in model.increments_ms
            ]
            for number, kind in enumerate(model.kinds)
        },
    }
