"""Costs of networks as limits of a search: affine in the choices, and never exceeded."""

import numpy as np
import optuna
import pytest

from sat_optuna.cost.affine import AffineCost
from sat_optuna.cost.latency import fit_latency
from sat_optuna.cost.operations import CostModel
from sat_optuna.sampler import PolicyGradientSampler
from sat_optuna.scheme import Scheme
from sat_optuna.search.space import cost_limit, scheme_space
from tests.networks import KINDS, SHAPE, name_of, tiny_supernet


def affine_value(cost: AffineCost, scheme: Scheme) -> float:
    value = cost.base + sum(r[c] for r, c in zip(cost.added, scheme.choices, strict=True))
    return value + sum(
        extra
        for extra, pairs in cost.extras
        if any(scheme.choices[block] == choice for block, choice in pairs)
    )


@pytest.mark.parametrize("attention", KINDS, ids=name_of)
def test_affine_costs_are_those_of_the_cost_model(attention):
    """For random schemes, shared modules included: base + added + extras = `cost`, exactly."""
    net = tiny_supernet(attention)
    costs = CostModel(net, SHAPE)
    rng = np.random.default_rng(0)
    for _ in range(8):
        scheme = Scheme.of(rng.integers(len(attention) + 1, size=sum(net.stages)), net.stages)
        cost = costs.cost(scheme)
        assert affine_value(costs.affine("params"), scheme) == cost.params
        assert affine_value(costs.affine("macs"), scheme) == cost.macs
        assert affine_value(costs.affine("elementwise"), scheme) == cost.elementwise


def test_affine_latency_is_what_the_model_predicts():
    net = tiny_supernet(("se",))
    model = fit_latency(net, SHAPE, batch=1, rounds=6, fresh=0)
    for text in ("00-000-0", "10-010-1", "11-111-1"):
        scheme = Scheme.parse(text)
        assert affine_value(model.affine(), scheme) == pytest.approx(model.predict(scheme))


@pytest.mark.parametrize("attention", [("dia",), ("se", "cbam")], ids=str)
def test_a_network_of_a_budget_has_no_more_parameters(attention):
    """Through `cost_limit`, a shared module (DIA) being paid once a stage."""
    net = tiny_supernet(attention)
    costs = CostModel(net, SHAPE)
    full = costs.cost(Scheme.uniform(net.stages, 1)).params
    plain = costs.cost(Scheme.uniform(net.stages, 0)).params
    at_most = plain + (full - plain) // 2
    space = scheme_space(net.stages, attention)
    limit = cost_limit(costs.affine("params"), net.stages, at_most=at_most)
    sampler = PolicyGradientSampler(seed=0, search_space=space, budget={"params": limit})
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        picked = [c.index(trial.suggest_categorical(n, c)) for n, c in space.items()]
        return float(costs.cost(Scheme.of(picked, net.stages)).params)

    study.optimize(objective, n_trials=20)
    values = [trial.value or 0.0 for trial in study.get_trials(deepcopy=False)]
    assert max(values) <= at_most
    assert max(values) > plain
