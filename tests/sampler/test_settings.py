"""What the settings may be: each refusal is one sentence with what was given and what to do."""

import inspect
import math
from typing import Any

import numpy as np
import optuna
import pytest

from sat_optuna.sampler import CostLimit, PolicyGradientSampler
from sat_optuna.sampler.actor_critic import ActorCritic
from sat_optuna.sampler.published import PaperController
from sat_optuna.sampler.settings import OPTIONS, RATES

TWO = {"a": (0, 1), "b": (0, 1)}
MANY = {f"b{block:02}": (0, 1) for block in range(40)}


def limits(space: Any = TWO, **limits: Any) -> dict[str, Any]:
    return {"search_space": space, "budget": {n: CostLimit(**v) for n, v in limits.items()}}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"preset": "papr"}, r"preset 'papr' given; choose 'default' or 'paper'"),
        ({"seed": -1}, r"seed -1 given; it must be a whole number, 0 or more"),
        ({"seed": "a"}, r"seed 'a' given; it must be a whole number, 0 or more"),
        ({"batch": 0}, r"batch 0 given; it must be a whole number, 1 or more"),
        ({"batch": 0, "preset": "paper"}, r"batch 0 given"),
        ({"replicates": 0}, r"replicates 0 given; it must be a whole number, 1 or more"),
        ({"replicates": 2.5}, r"replicates 2.5 given; it must be a whole number, 1 or more"),
        ({"learning_rate": "a"}, r"learning_rate 'a' given; it must be a number above 0 and at m"),
        ({"learning_rate": 0.0}, r"learning_rate 0\.0 given; it must be a number above 0"),
        ({"learning_rate": 1.5}, r"learning_rate 1\.5 given; .* above 0 and at most 1$"),
        ({"learning_rate": math.nan, "preset": "paper"}, r"learning_rate nan .* above 0$"),
        ({"reward": 3}, r"reward 3 given; give a function of a finished trial, or None"),
        ({"weights": [1, 1], "reward": len}, r"reward and weights given, .*; give one of them"),
        ({"weights": 3}, r"weights 3 given; give numbers from 0 on"),
        ({"weights": "12"}, r"weights '12' given; give numbers from 0 on"),
        ({"weights": [1, -1]}, r"weights \[1, -1\] given; give numbers from 0 on"),
        ({"weights": [0.0, 0.0]}, r"weights \[0.0, 0.0\] given"),
        ({"options": 3}, r"options 3 given; give a dict of them by name"),
        ({"options": {"rnd": False}}, r"option 'rnd' given; known are warmup, thrift, breadth"),
        ({"options": {"pairs": 1}, "preset": "paper"}, r"option 'pairs' given; known are rnd"),
        ({"options": {"draws": 0}}, r"option draws 0 given; it must be a whole number, 1 or more"),
        (
            {"options": {"draws": {1}}},
            r"option draws \{1\} given; it must be a whole number, 1 or",
        ),
        ({"options": {"pairs": 1}}, r"option pairs 1 given; it must be true or false"),
        ({"options": {"breadth": -1}}, r"option breadth -1 given; it must be a number 0 or more"),
        ({"options": {"temperature": 0}, "preset": "paper"}, r"option temperature 0 .* above 0$"),
        ({"search_space": ["a"]}, r"search_space \['a'\] given; give a dict of each parameter's"),
        ({"search_space": {"a": 3}}, r"search_space gives 'a' the choices 3; .* a list of choi"),
        ({"search_space": {"a": []}}, r"search_space gives 'a' the choices \[\]"),
        ({"search_space": {1: (0, 1)}}, r"search_space gives 1 the choices \(0, 1\)"),
        ({"max_connections": -1}, r"max_connections -1 given; it must be a whole number, 0 or mo"),
        ({"max_connections": 1}, r"limit of connections given without search_space; give the par"),
        ({"search_space": TWO, "budget": {"ms": 3}}, r"budget {'ms': 3} given; give a CostLimit"),
        ({"search_space": TWO, "budget": 3}, r"budget 3 given; give a CostLimit for each name"),
        ({"fixed": {"a": 1}}, r"fixed given without search_space; give the parameters and their"),
        ({"search_space": TWO, "fixed": ["a"]}, r"fixed \['a'\] given; give a dict of each fixed"),
        (
            {"search_space": TWO, "fixed": {"c": 1}},
            r"fixed names the parameter 'c', of which search_space has no two choices",
        ),
        (
            {"search_space": TWO, "fixed": {"a": "1"}},
            r"fixed gives 'a' the choice '1'; its choices are 0, 1$",
        ),
        ({"search_space": TWO, "fixed": {"a": 1, "b": 0}}, r"fixed names all 2 .*leave one free"),
        (
            {"search_space": TWO, "fixed": {"a": 1}, "max_connections": 0},
            r"no scheme with the fixed choices {'a': 1} keeps the budget connections; raise it",
        ),
        (limits(ms={"at_most": "x"}), r"'ms' of 'x' over 0.0; give numbers"),
        (limits(ms={"at_most": 3, "base": 5}), r"'ms' of 3 allows nothing: .* costs 5; raise it"),
        (limits(ms={"at_most": math.nan}), r"'ms' of nan allows nothing"),
        (limits(ms={"at_most": 1, "costs": [1]}), r"'ms' has \[1\]; give a dict by parameter"),
        (
            limits(ms={"at_most": 1, "costs": {"c": [0, 1]}}),
            r"'ms' names the parameter 'c', of which search_space has no two choices",
        ),
        (
            limits(ms={"at_most": 1, "costs": {"a": [0]}}),
            r"'ms' gives 'a' the costs \[0\]; give 2 finite numbers, one for each choice",
        ),
        (limits(ms={"at_most": 1, "costs": {"a": 3}}), r"'ms' gives 'a' the costs 3; give 2 fin"),
        (limits(ms={"at_most": 1, "costs": {"a": "xy"}}), r"gives 'a' the costs 'xy'; give 2 fin"),
        (limits(ms={"at_most": 1, "extras": [3]}), r"'ms' has the extra 3; give a cost and the c"),
        (limits(ms={"at_most": 1, "extras": [("x", {})]}), r"'ms' has an extra of 'x'; give 0 or"),
        (
            limits(ms={"at_most": 1, "extras": [(-1, {})]}),
            r"'ms' has an extra of -1; give 0 or mo",
        ),
        (
            limits(ms={"at_most": 1, "extras": [(1, {"a": 1})]}),
            r"'a' of the choices 1; give a list",
        ),
        (limits(ms={"at_most": 1, "extras": [(1, {"a": [2]})]}), r"\[2\]; .* indices from 0 to 1"),
        (limits(ms={"at_most": 1, "extras": [(1, {"a": [-1]})]}), r"\[-1\]; .* from 0 to 1"),
        (
            limits(
                {"a": (0, 1)},
                macs={"at_most": 0, "costs": {"a": [0, 1]}},
                ms={"at_most": 0, "costs": {"a": [1, 0]}},
            ),
            r"no scheme keeps the budgets macs, ms together; raise one",
        ),
        (  # at least twenty connections, and at most nineteen: told by each alone at the end only
            limits(
                MANY,
                more={"at_most": -20, "costs": dict.fromkeys(MANY, (0, -1))},
                less={"at_most": 19, "costs": dict.fromkeys(MANY, (0, 1))},
            ),
            r"none of the first 5.,... partial schemes keeps all limits",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_one_sentence(wrong, message):
    with pytest.raises(ValueError, match=message):
        PolicyGradientSampler(**{"seed": 0, **wrong})


@pytest.mark.parametrize(
    ("preset", "controller"), [("default", ActorCritic), ("paper", PaperController)]
)
def test_the_tables_have_a_range_for_each_argument_of_a_controller(preset, controller):
    given = {"sizes", "seed", "weights"}  # by the sampler itself
    ranges = {"learning_rate": RATES[preset], **OPTIONS[preset]}
    parameters = inspect.signature(controller).parameters
    assert parameters.keys() - given == ranges.keys()
    for name, allowed in ranges.items():
        default = parameters[name].default
        assert allowed.checked(name, default) == default


def test_numbers_of_numpy_are_numbers(tmp_path):
    one, half = np.int64(1), np.float32(0.5)
    numbers: dict[str, Any] = {"seed": one, "batch": one, "replicates": one, "learning_rate": half}
    numbers |= {"max_connections": one, "budget": {"ms": CostLimit(at_most=float(half))}}
    sampler = PolicyGradientSampler(search_space=TWO, **numbers)
    study = optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}", sampler=sampler)
    study.optimize(lambda trial: trial.suggest_categorical("a", TWO["a"]), n_trials=2)
    assert len(study.trials) == 2
