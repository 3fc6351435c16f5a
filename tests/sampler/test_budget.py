"""What a search may not exceed, what it may repeat, and how several objectives are weighed."""

import itertools
import math
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sat_optuna.cost.affine import AffineCost
from sat_optuna.cost.latency import fit_latency
from sat_optuna.cost.operations import CostModel
from sat_optuna.sampler.actor_critic import Budget, Policy, scalarised
from sat_optuna.sampler.sampler import CostLimit, PolicyGradientSampler, SamplerSettingsError
from sat_optuna.scheme import Scheme
from sat_optuna.search.space import cost_limit, scheme_space
from tests.networks import KINDS, SHAPE, name_of, tiny_supernet

PRESETS = ("default", "paper")
patient = settings(deadline=None)


def all_schemes(sizes: Any) -> Any:
    return np.array(list(itertools.product(*(range(size) for size in sizes))))


def random_budget(sizes: Any, seed: int, *, limits: int) -> Budget:
    """Some limits of which each alone allows a part of the schemes; the last has an extra."""
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, 9, size=(limits, len(sizes), max(sizes))).astype(float)
    mask = rng.random((len(sizes), max(sizes))) < 0.5
    extras = [(limits - 1, 5.0, mask)]
    totals = costs[:, np.arange(len(sizes)), all_schemes(sizes)].sum(axis=2)
    return Budget(sizes, np.quantile(totals, 0.6, axis=1), costs, extras)


@patient
@given(
    st.lists(st.integers(2, 4), min_size=1, max_size=4),
    st.integers(0, 999),
    st.integers(1, 3),
    st.sampled_from([0.1, 3.0]),
)
def test_all_schemes_within_a_budget_are_drawn_once_and_no_others(sizes, seed, limits, spread):
    """However unlikely the policy makes them: exactly the set that enumeration finds."""
    budget = random_budget(sizes, seed, limits=limits)
    everything = all_schemes(sizes)
    allowed = {scheme.tobytes() for scheme in everything[budget.allows(everything)]}
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=spread * 3, size=(len(sizes), max(sizes)))
    policy = Policy.from_logits(logits, tuple(sizes)).floored(1e-6)
    seen = np.zeros((0, len(sizes)), dtype=np.int64)
    for _ in allowed:
        seen = np.vstack([seen, policy.draw(rng, seen=seen, budget=budget)])
    assert {scheme.tobytes() for scheme in seen} == allowed
    if allowed:  # finished: it repeats, and still keeps the budget
        assert policy.draw(rng, seen=seen, budget=budget).tobytes() in allowed


@patient
@given(st.integers(0, 999), st.integers(1, 2))
def test_a_tilted_policy_keeps_the_budget_on_average_and_is_the_closest_that_does(seed, limits):
    """Of policies p exp(-lambda c): a mixture with p is over the limit, so lambda is the least."""
    sizes = (2, 3, 4, 2, 3)
    rng = np.random.default_rng(seed)
    costs = rng.random((limits, 5, 4)) * (np.arange(4) < np.array(sizes)[:, None])
    policy = Policy.from_logits(rng.normal(size=(5, 4)), sizes)
    mean = (policy.probabilities * costs).sum(axis=(1, 2))
    other = Policy.from_logits(rng.normal(scale=2, size=(5, 4)), sizes)  # it keeps the limits
    at_most = (other.probabilities * costs).sum(axis=(1, 2))
    budget = Budget(sizes, at_most, costs)
    tilted = budget.tilted(policy.probabilities)
    np.testing.assert_allclose(tilted.sum(axis=1), 1.0)
    after = (tilted * costs).sum(axis=(1, 2))
    assert (after <= at_most + (1e-6 if limits == 1 else 0.05)).all()
    if (mean <= at_most).all():
        np.testing.assert_array_equal(tilted, policy.probabilities)
    elif limits == 1:
        assert after[0] == pytest.approx(at_most[0], abs=1e-5)


def test_a_likely_region_over_the_budget_is_left_for_the_likeliest_within():
    """27 of 54 connections, where the policy wants all: draws are at the limit, not far below."""
    sizes = (2,) * 54
    costs = np.tile([0.0, 1.0], (1, 54, 1))
    budget = Budget(sizes, np.array([27.0]), costs)
    logits = np.tile([0.0, 6.0], (54, 1))
    policy = Policy.from_logits(logits, sizes)
    rng = np.random.default_rng(0)
    nothing = np.zeros((0, 54), dtype=np.int64)
    counts = [int(policy.draw(rng, seen=nothing, budget=budget).sum()) for _ in range(200)]
    assert max(counts) <= 27
    assert np.mean(counts) > 22


@pytest.mark.parametrize("preset", PRESETS)
def test_no_proposal_is_over_the_budget_and_the_best_within_is_found(preset):
    """Each connection pays, so the optimum lies at the limit; what is within is then all seen."""
    names = [f"p{i}" for i in range(7)]
    space = dict.fromkeys(names, ("none", "se", "sge"))
    limit = CostLimit(
        at_most=30.0,
        base=10.0,
        costs={name: [0.0, 4.0, 7.0 + i] for i, name in enumerate(names)},
        extras=((3.0, {"p0": [1], "p1": [1, 2]}),),
    )

    def cost(params: dict[str, str]) -> float:
        total = 10.0 + sum(limit.costs[n][space[n].index(params[n])] for n in names)
        shared = params["p0"] == "se" or params["p1"] != "none"
        return total + 3.0 * shared

    def objective(trial: optuna.Trial) -> float:
        picked = [space[n].index(trial.suggest_categorical(n, space[n])) for n in names]
        return float(np.dot(picked, np.arange(1, 8)))

    sampler = PolicyGradientSampler(
        seed=1, preset=preset, search_space=space, budget={"params": limit}, max_connections=3
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    within = []
    for choices in itertools.product(*space.values()):
        params = dict(zip(names, choices, strict=True))
        if cost(params) <= 30 and sum(c != "none" for c in choices) <= 3:
            within.append(params)
    study.optimize(objective, n_trials=len(within))
    proposed = [trial.params for trial in study.get_trials(deepcopy=False)]
    assert all(p in within for p in proposed)
    assert len({tuple(p.items()) for p in proposed}) == len(within)
    study.optimize(objective, n_trials=3)
    assert all(trial.params in within for trial in study.get_trials(deepcopy=False))


def test_a_budget_costs_the_default_few_trials_to_search_in():
    """54 blocks of different gain, at most 10: the ten that gain most are found or nearly."""
    gains = np.random.default_rng(0).normal(size=54)
    space = {f"p{i:02d}": ("none", "se") for i in range(54)}
    sampler = PolicyGradientSampler(seed=0, search_space=space, max_connections=10)
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        chosen = [trial.suggest_categorical(name, c) == "se" for name, c in space.items()]
        assert sum(chosen) <= 10
        return float(gains @ chosen)

    study.optimize(objective, n_trials=120)
    assert study.best_value > 0.9 * np.sort(gains)[-10:].sum()


def test_first_trial_is_proposed_where_the_space_is_known():
    space = {"a": (0, 1), "b": (0, 1, 2), "one": ("only",)}
    study = optuna.create_study(sampler=PolicyGradientSampler(seed=0, search_space=space))
    trial = study.ask()
    assert trial.suggest_categorical("a", (0, 1)) in (0, 1)
    assert study.get_trials(deepcopy=False)[0].system_attrs["sat:policy"]["x"].keys() == {"a", "b"}
    assert trial.suggest_categorical("one", ("only",)) == "only"
    assert trial.suggest_categorical("new", ("x", "y")) in ("x", "y")  # joins the space later
    study.tell(trial, 1.0)
    later = study.ask()
    later.suggest_categorical("new", ("x", "y"))
    assert "new" in study.get_trials(deepcopy=False)[1].system_attrs["sat:policy"]["x"]


def test_enqueued_choices_hold_even_over_the_budget():
    space = {f"p{i}": (0, 1) for i in range(5)}
    sampler = PolicyGradientSampler(seed=0, search_space=space, max_connections=1)
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial({"p0": 1, "p1": 1})
    trial = study.ask()
    picked = {name: trial.suggest_categorical(name, c) for name, c in space.items()}
    assert (picked["p0"], picked["p1"]) == (1, 1)
    study.tell(trial, 0.0)
    study.optimize(lambda t: sum(t.suggest_categorical(n, c) for n, c in space.items()), 5)
    assert all(sum(t.params.values()) <= 1 for t in study.get_trials(deepcopy=False)[1:])


TWO = {"a": (0, 1), "b": (0, 1)}


MANY = {f"b{block:02}": (0, 1) for block in range(40)}
# At least twenty connections, and at most nineteen: told by each alone only at the end.
OPPOSED = {
    "search_space": MANY,
    "budget": {
        "more": CostLimit(at_most=-20, costs={name: [0, -1] for name in MANY}),
        "less": CostLimit(at_most=19, costs={name: [0, 1] for name in MANY}),
    },
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_connections": 1}, r"limit of connections given without search_space; give the par"),
        (
            {"search_space": TWO, "max_connections": -1},
            r"max_connections -1 given; it must be a whole number, 0 or more",
        ),
        (
            {"search_space": TWO, "budget": {"macs": CostLimit(at_most=3, base=5)}},
            r"'macs' of 3 allows nothing: the cheapest scheme costs 5; raise it",
        ),
        (
            {"search_space": TWO, "budget": {"macs": CostLimit(at_most=math.nan)}},
            r"'macs' of nan allows nothing",
        ),
        (
            {
                "search_space": {"a": (0, 1)},
                "budget": {
                    "macs": CostLimit(at_most=0, costs={"a": [0, 1]}),
                    "ms": CostLimit(at_most=0, costs={"a": [1, 0]}),
                },
            },
            r"no scheme keeps the budgets macs, ms together; raise one",
        ),
        (
            {"search_space": TWO, "budget": {"ms": CostLimit(at_most=1, costs={"c": [0, 1]})}},
            r"'ms' names the parameter 'c', of which search_space has no two choices",
        ),
        (
            {"search_space": TWO, "budget": {"ms": CostLimit(at_most=1, costs={"a": [0]})}},
            r"'ms' gives 'a' the costs \[0\]; give 2 finite numbers, one for each choice",
        ),
        (
            {"search_space": TWO, "budget": {"ms": CostLimit(at_most=1, extras=((-1, {}),))}},
            r"'ms' has an extra of -1; give 0 or more",
        ),
        ({"search_space": TWO, "budget": {"ms": 3}}, r"budget {'ms': 3} given; give a CostLimit"),
        ({"search_space": TWO, "budget": 3}, r"budget 3 given; give a CostLimit for each name"),
        ({"search_space": ["a"]}, r"search_space \['a'\] given; give a dict of each parameter's"),
        ({"search_space": {"a": 3}}, r"search_space gives 'a' the choices 3; .* a list of choi"),
        ({"search_space": {"a": []}}, r"search_space gives 'a' the choices \[\]"),
        ({"search_space": {1: (0, 1)}}, r"search_space gives 1 the choices \(0, 1\)"),
        (OPPOSED, r"none of the first 5.,... beginnings of schemes keeps all limits"),
        ({"replicates": 0}, r"replicates 0 given; it must be a whole number, 1 or more"),
        ({"replicates": 2.5}, r"replicates 2.5 given; it must be a whole number, 1 or more"),
        ({"seed": None}, r"seed None given; it must be a whole number, 0 or more"),
        (
            {"options": {"draws": {1}}},
            r"option draws \{1\} given; it must be a whole number, 1 or more",
        ),
        (
            {"weights": [1, 1], "reward": lambda _trial: 0.0},
            r"reward and weights given, .*; give one of them",
        ),
        ({"reward": 3}, r"reward 3 given; give a function of a finished trial, or None"),
        ({"learning_rate": "a"}, r"learning_rate 'a' given; it must be a number above 0 and at m"),
        ({"learning_rate": math.nan, "preset": "paper"}, r"learning_rate nan .* above 0$"),
        ({"options": 3}, r"options 3 given; give a dict of them by name"),
        ({"options": {"draws": 0}}, r"option draws 0 given; it must be a whole number, 1 or more"),
        ({"options": {"pairs": 1}}, r"option pairs 1 given; it must be true or false"),
        ({"options": {"breadth": -1}}, r"option breadth -1 given; it must be a number 0 or more"),
        (
            {"options": {"temperature": 0}, "preset": "paper"},
            r"option temperature 0 given; it must be a number above 0",
        ),
        ({"weights": 3}, r"weights 3 given; give numbers from 0 on"),
        ({"weights": "12"}, r"weights '12' given; give numbers from 0 on"),
        ({"weights": [1, -1]}, r"weights \[1, -1\] given; give numbers from 0 on"),
        ({"weights": [0.0, 0.0]}, r"weights \[0.0, 0.0\] given"),
    ],
)
def test_a_setting_that_cannot_be_is_one_sentence(wrong, message):
    with pytest.raises(ValueError, match=message):
        PolicyGradientSampler(**{"seed": 0, **wrong})


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"at_most": "x"}, r"'ms' of 'x' over 0.0; give numbers"),
        ({"at_most": 1, "costs": [1]}, r"'ms' has \[1\]; give a dict by parameter"),
        ({"at_most": 1, "costs": {"a": 3}}, r"'ms' gives 'a' the costs 3; give 2 finite numbers"),
        ({"at_most": 1, "costs": {"a": "xy"}}, r"'ms' gives 'a' the costs 'xy'; give 2 finite"),
        ({"at_most": 1, "extras": [3]}, r"'ms' has the extra 3; give a cost and the choices it"),
        ({"at_most": 1, "extras": [("x", {})]}, r"'ms' has an extra of 'x'; give 0 or more"),
        (
            {"at_most": 1, "extras": [(1, {"a": 1})]},
            r"'a' of the choices 1; give a list of places",
        ),
        ({"at_most": 1, "extras": [(1, {"a": [2]})]}, r"choices \[2\]; .* places from 0 to 1"),
        ({"at_most": 1, "extras": [(1, {"a": [-1]})]}, r"choices \[-1\]; .* from 0 to 1"),
    ],
)
def test_a_limit_that_cannot_be_is_one_sentence(limit, message):
    with pytest.raises(ValueError, match=message):
        PolicyGradientSampler(seed=0, search_space=TWO, budget={"ms": CostLimit(**limit)})


def test_a_budget_that_gives_up_says_so_before_it_is_broken():
    """None means: nothing but what is known; it must not come to stand for: anything."""
    costs = np.zeros((2, 40, 2))
    costs[0, :, 1], costs[1, :, 1] = -1, 1
    opposed = Budget([2] * 40, np.array([-20.0, 19.0]), costs)
    rng, even = np.random.default_rng(0), np.full((40, 2), 0.5)
    with pytest.raises(ValueError, match="beginnings of schemes keeps all limits"):
        opposed.drawn(rng, even, ())
    assert opposed.drawn(rng, even, {b"something"}) is None


def test_numbers_of_numpy_are_numbers(tmp_path):
    one, half = np.int64(1), np.float32(0.5)
    numbers: dict[str, Any] = {"seed": one, "batch": one, "replicates": one, "learning_rate": half}
    numbers |= {"max_connections": one, "budget": {"ms": CostLimit(at_most=float(half))}}
    sampler = PolicyGradientSampler(search_space=TWO, **numbers)
    study = optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}", sampler=sampler)
    study.optimize(lambda trial: trial.suggest_categorical("a", TWO["a"]), n_trials=2)
    assert len(study.trials) == 2


def test_a_parameter_that_no_limit_counts_is_said(caplog):
    sampler = PolicyGradientSampler(seed=0, search_space={"a": (0, 1)}, max_connections=1)
    study = optuna.create_study(sampler=sampler)
    optuna.logging.enable_propagation()
    with caplog.at_level("WARNING", logger="optuna"):
        study.optimize(
            lambda trial: sum(trial.suggest_categorical(name, (0, 1)) for name in "ab"), n_trials=3
        )
    optuna.logging.disable_propagation()
    said = [record.getMessage() for record in caplog.records if "search_space" in record.message]
    assert said == [
        "'b' is not in search_space, and no limit counts its choices; name it there with the "
        "others"
    ]


def test_another_budget_is_another_study():
    study = optuna.create_study(
        sampler=PolicyGradientSampler(seed=0, search_space=TWO, max_connections=1)
    )
    study.ask()
    study.sampler = PolicyGradientSampler(seed=0, search_space=TWO, max_connections=2)
    with pytest.raises(SamplerSettingsError, match=r"budget: .*connections"):
        study.ask()


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


def affine_value(cost: AffineCost, scheme: Scheme) -> float:
    value = cost.base + sum(r[c] for r, c in zip(cost.added, scheme.choices, strict=True))
    return value + sum(
        extra
        for extra, pairs in cost.extras
        if any(scheme.choices[block] == choice for block, choice in pairs)
    )


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


@pytest.mark.parametrize("preset", PRESETS)
def test_replicates_measure_promising_schemes_again_and_no_scheme_too_often(preset):
    rng = np.random.default_rng(0)

    def objective(trial: optuna.Trial) -> float:
        picked = [trial.suggest_categorical(f"p{i}", (0, 1)) for i in range(8)]
        return sum(picked) + float(rng.normal())

    def counted(replicates: int) -> tuple[dict[tuple[int, ...], int], optuna.Study]:
        sampler = PolicyGradientSampler(seed=0, preset=preset, replicates=replicates)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(objective, n_trials=120)
        counts: dict[tuple[int, ...], int] = {}
        for trial in study.get_trials(deepcopy=False):
            scheme = tuple(trial.params[f"p{i}"] for i in range(8))
            counts[scheme] = counts.get(scheme, 0) + 1
        return counts, study

    once, _ = counted(1)
    assert set(once.values()) == {1}
    counts, study = counted(3)
    assert max(counts.values()) == 3
    again = [scheme for scheme, count in counts.items() if count > 1]
    assert 3 <= len(again) < 30
    # Promising: better than schemes are on average, by far.
    assert np.mean([sum(scheme) for scheme in again]) > 4.5
    assert isinstance(study.sampler, PolicyGradientSampler)
    best = study.sampler.recommend(study)
    mine = [t for t in study.get_trials(deepcopy=False) if t.params == best.params]
    assert best.value == max(t.value or 0.0 for t in mine)


def test_several_objectives_are_weighed_as_stated():
    """Against a formula of the docstring, and in what the search prefers."""
    values = np.array([[1.0, 10.0], [2.0, 30.0], [6.0, 20.0]])
    z = (values - values.mean(axis=0)) / values.std(axis=0)
    np.testing.assert_allclose(scalarised(values), z.mean(axis=1))
    np.testing.assert_allclose(scalarised(values, (3, 1)), (3 * z[:, 0] + z[:, 1]) / 4)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        ones = sum(trial.suggest_categorical(f"p{i}", (0, 1)) for i in range(10))
        return float(ones), float(ones)  # to maximise and to minimise: they are opposed

    for weights, wanted in (((1.0, 0.1), 10), ((0.1, 1.0), 0)):
        study = optuna.create_study(
            directions=["maximize", "minimize"],
            sampler=PolicyGradientSampler(seed=0, weights=weights),
        )
        study.optimize(objective, n_trials=60)
        assert any(sum(t.params.values()) == wanted for t in study.get_trials(deepcopy=False))
        assert isinstance(study.sampler, PolicyGradientSampler)
        likely = [row[1] for row in study.sampler.policy(study).values()]
        assert abs(np.mean(likely) - wanted / 10) < 0.2


def test_weights_that_do_not_fit_the_objectives_surface():
    study = optuna.create_study(sampler=PolicyGradientSampler(seed=0, weights=(1, 2)))
    with pytest.raises(ValueError, match="2 weights given for the 1 objectives of study"):
        study.optimize(lambda t: t.suggest_categorical("a", (0, 1)), n_trials=2, catch=Exception)
