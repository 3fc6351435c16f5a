"""Choices that are fixed: by `fixed`, by PartialFixedSampler around it, by enqueued trials.

What must hold is that the limits are kept and that no scheme repeats before all were seen, both of
the whole schemes, and both counted here by enumeration.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import PartialFixedSampler
from optuna.trial import TrialState

from sat_optuna.sampler import CostLimit, PolicyGradientSampler
from sat_optuna.sampler.budget import Budget, Constraints
from sat_optuna.sampler.policy import Policy
from sat_optuna.sampler.storage import SamplerSettingsError
from tests.sampler.schemes import all_schemes
from tests.sampler.studies import PRESETS

BOTH = pytest.mark.parametrize("preset", PRESETS)
Scheme = tuple[str, ...]


def space_of(blocks: int, *kinds: str) -> dict[str, tuple[str, ...]]:
    return {f"s1.b{block:02}": ("none", *(kinds or ("se",))) for block in range(blocks)}


def partly_fixed(fixed: Mapping[str, Any], inner: Any) -> PartialFixedSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return PartialFixedSampler(dict(fixed), inner)


def by_setting(fixed: Mapping[str, str], **settings: Any) -> Any:
    return PolicyGradientSampler(seed=3, fixed=fixed, **settings)


def by_wrapper(fixed: Mapping[str, str], **settings: Any) -> Any:
    return partly_fixed(fixed, PolicyGradientSampler(seed=3, **settings))


def by_nested_wrappers(fixed: Mapping[str, str], **settings: Any) -> Any:
    """A wrapper a choice; the outermost wins over another choice of one further inside."""
    sampler: Any = PolicyGradientSampler(seed=3, **settings)
    sampler = partly_fixed(dict.fromkeys(fixed, "none"), sampler)
    for name, choice in fixed.items():
        sampler = partly_fixed({name: choice}, sampler)
    return sampler


def by_both(fixed: Mapping[str, str], **settings: Any) -> Any:
    first, *rest = fixed.items()
    inner = PolicyGradientSampler(seed=3, fixed=dict([first]), **settings)
    return partly_fixed(dict(rest), inner)


WAYS = pytest.mark.parametrize("way", [by_setting, by_wrapper, by_nested_wrappers, by_both])


def scored(space: Mapping[str, Sequence[str]]) -> Callable[[optuna.Trial], float]:
    def objective(trial: optuna.Trial) -> float:
        picked = [c.index(trial.suggest_categorical(n, c)) for n, c in space.items()]
        return float(np.dot(picked, np.cos(np.arange(len(picked)))))

    return objective


def searched(sampler: Any, space: Mapping[str, Sequence[str]], trials: int) -> list[Scheme]:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(scored(space), n_trials=trials)
    return [tuple(t.params[name] for name in space) for t in study.get_trials(deepcopy=False)]


def within(
    space: Mapping[str, Sequence[str]],
    fixed: Mapping[str, str],
    allowed: Callable[[Scheme], bool] = lambda _: True,
) -> set[Scheme]:
    """All schemes with the fixed choices that are allowed, by enumeration."""
    names = list(space)
    return {
        scheme
        for scheme in itertools.product(*space.values())
        if all(scheme[names.index(n)] == c for n, c in fixed.items()) and allowed(scheme)
    }


@WAYS
@BOTH
def test_every_scheme_with_the_fixed_choices_comes_once_and_no_other(way, preset):
    space = space_of(7)
    fixed = {"s1.b06": "se", "s1.b02": "none", "s1.b04": "se"}
    schemes = searched(way(fixed, preset=preset, search_space=space), space, 16)
    assert len(set(schemes)) == 16
    assert set(schemes) == within(space, fixed)


@WAYS
@BOTH
@pytest.mark.parametrize("kinds", [("se",), ("se", "eca")])
def test_fixed_choices_and_a_limit_of_connections_are_kept_together(way, preset, kinds):
    """Down to the last scheme that keeps both; then the same ones come again."""
    space = space_of(6, *kinds)
    fixed = {"s1.b05": "se", "s1.b00": kinds[-1]}
    allowed = within(space, fixed, lambda scheme: sum(c != "none" for c in scheme) <= 3)
    sampler = way(fixed, preset=preset, search_space=space, max_connections=3)
    schemes = searched(sampler, space, len(allowed) + 3)
    assert set(schemes[:-3]) == allowed
    assert set(schemes) == allowed


@WAYS
def test_fixed_choices_of_kinds_that_share_a_module_are_kept_with_every_limit(way):
    """A limit with an extra that a fixed choice pays (one module for all), and another limit."""
    space = space_of(6, "se", "dia")
    names = list(space)
    costs = {name: [0.0, 5.0, 1.0 + i] for i, name in enumerate(names)}
    shared = {name: [2] for name in names}
    limits = {"params": CostLimit(at_most=42.0, base=10.0, costs=costs, extras=[(9.0, shared)])}
    fixed = {"s1.b04": "dia", "s1.b01": "se"}

    def allowed(scheme: Scheme) -> bool:
        picked = [("none", "se", "dia").index(c) for c in scheme]
        paid = sum(costs[n][k] for n, k in zip(names, picked, strict=True)) + 9.0 * (2 in picked)
        return paid + 10.0 <= 42.0 and sum(k > 0 for k in picked) <= 4

    expected = within(space, fixed, allowed)
    sampler = way(fixed, search_space=space, budget=limits, max_connections=4)
    assert set(searched(sampler, space, len(expected))) == expected


@WAYS
def test_replicates_measure_schemes_with_the_fixed_choices_again(way):
    space, fixed = space_of(5), {"s1.b03": "se", "s1.b04": "none"}
    sampler = way(fixed, search_space=space, replicates=3, max_connections=3)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(lambda trial: 2.0 * trial.number % 7 + scored(space)(trial), n_trials=40)
    schemes = [tuple(t.params[name] for name in space) for t in study.get_trials(deepcopy=False)]
    allowed = within(space, fixed, lambda scheme: scheme.count("se") <= 3)
    assert set(schemes) == allowed
    assert max(map(schemes[:8].count, allowed)) <= 3


def test_without_a_search_space_the_rule_holds_from_the_second_trial_on():
    """Optuna's own recipe: fix, after some trials, what the study knows by then."""
    space, fixed = space_of(6), {"s1.b00": "se", "s1.b05": "none"}
    study = optuna.create_study(direction="maximize", sampler=PolicyGradientSampler(seed=0))
    study.optimize(scored(space), n_trials=5)
    before = {tuple(t.params.values()) for t in study.get_trials(deepcopy=False)}
    study.sampler = partly_fixed(fixed, study.sampler)
    rest = within(space, fixed) - before
    study.optimize(scored(space), n_trials=len(rest))
    assert {tuple(t.params.values()) for t in study.get_trials(deepcopy=False)[5:]} == rest


def test_all_parameters_fixed_is_one_scheme_around_the_sampler_and_refused_inside():
    space = space_of(3)
    fixed = dict.fromkeys(space, "se")
    sampler = PolicyGradientSampler(seed=0, search_space=space)
    assert set(searched(partly_fixed(fixed, sampler), space, 3)) == {("se",) * 3}
    with pytest.raises(ValueError, match=r"fixed names all 3 parameters of search_space, .*leave"):
        PolicyGradientSampler(seed=0, search_space=space, fixed=fixed)


@WAYS
def test_fixed_choices_that_leave_nothing_in_the_budget_are_refused(way):
    """The inside way at once, the others before the first trial; and no trial is left RUNNING."""
    space, fixed = space_of(5), {"s1.b01": "se", "s1.b04": "se"}
    message = r"no scheme with the fixed choices {'s1.b01': 'se', 's1.b04': 'se'} keeps the budget"
    with pytest.raises(ValueError, match=message + " connections; raise it, or fix fewer"):
        searched(way(fixed, search_space=space, max_connections=1), space, 1)


def test_what_a_wrapper_fixes_is_refused_where_the_space_lacks_it():
    space = space_of(3)
    inner = PolicyGradientSampler(seed=0, search_space=space)
    study = optuna.create_study(sampler=partly_fixed({"s1.b01": 1}, inner))
    with pytest.raises(ValueError, match=r"gives 's1.b01' the choice 1; its choices are 'none', "):
        study.optimize(scored(space), n_trials=1)
    assert [t.state for t in study.get_trials(deepcopy=False)] == [TrialState.FAIL]


class Hiding(optuna.samplers.BaseSampler):
    """A wrapper that fixes the first block, and of which nobody knows that it does."""

    def __init__(self, inner: optuna.samplers.BaseSampler) -> None:
        self._inner = inner

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        space = self._inner.infer_relative_search_space(study, trial)
        return {name: d for name, d in space.items() if name != "s1.b00"}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: Any, param_name: str, _: Any) -> Any:
        return "se"

    def before_trial(self, study: Any, trial: Any) -> None:
        self._inner.before_trial(study, trial)


def test_a_wrapper_that_fixes_what_it_does_not_say_is_refused():
    space = space_of(3)
    inner = PolicyGradientSampler(seed=0, search_space=space, max_connections=2)
    study = optuna.create_study(sampler=Hiding(inner))
    with pytest.raises(ValueError, match=r"Hiding around .* takes 's1.b00' out .*fixed={\.\.\.}"):
        study.optimize(scored(space), n_trials=1)
    assert [t.state for t in study.get_trials(deepcopy=False)] == [TrialState.FAIL]


def test_a_trial_that_is_attached_again_keeps_what_was_fixed_meanwhile():
    """Its proposal was drawn before the wrapper came, and would be over the limit with it."""
    space, fixed = space_of(6), {"s1.b00": "se", "s1.b01": "se", "s1.b02": "se"}
    for seed in range(8):
        sampler = PolicyGradientSampler(seed=seed, search_space=space, max_connections=3)
        study = optuna.create_study(sampler=sampler)
        left = study.ask()
        study.sampler = partly_fixed(fixed, sampler)
        again = optuna.trial.Trial(study, left._trial_id)
        assert [again.suggest_categorical(n, c) for n, c in space.items()].count("se") == 3


def test_fixed_choices_belong_to_the_settings_of_a_study_and_none_are_as_before():
    space = space_of(3)
    plain = PolicyGradientSampler(seed=0, search_space=space)
    assert "fixed" not in plain.settings()
    study = optuna.create_study(sampler=plain)
    study.optimize(scored(space), n_trials=1)
    study.sampler = PolicyGradientSampler(seed=0, search_space=space, fixed={"s1.b00": "se"})
    with pytest.raises(SamplerSettingsError, match=r"fixed: None, now {'s1.b00': \"'se'\"}"):
        study.optimize(scored(space), n_trials=1)


def test_the_policy_shows_fixed_choices_as_certain():
    space = space_of(3)
    for sampler in (
        PolicyGradientSampler(seed=0, search_space=space, fixed={"s1.b01": "se"}),
        partly_fixed({"s1.b01": "se"}, PolicyGradientSampler(seed=0, search_space=space)),
    ):
        study = optuna.create_study(sampler=sampler)
        inner: Any = getattr(sampler, "_base_sampler", sampler)
        policy = inner.policy(study)
        assert policy["s1.b01"] == {"none": 0.0, "se": 1.0}
        assert policy["s1.b00"] == {"none": 0.5, "se": 0.5}


@BOTH
def test_a_scheme_enqueued_in_part_keeps_the_budget_with_the_rest(preset):
    space = space_of(6)
    sampler = PolicyGradientSampler(seed=0, preset=preset, search_space=space, max_connections=2)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for name in ("s1.b05", "s1.b03"):
        for _ in range(6):
            study.enqueue_trial({name: "se"})
    study.optimize(scored(space), n_trials=12)
    schemes = [tuple(t.params[name] for name in space) for t in study.get_trials(deepcopy=False)]
    assert set(schemes[:6]) == within(space, {"s1.b05": "se"}, lambda s: s.count("se") <= 2)
    both = within(space, {"s1.b03": "se"}, lambda s: s.count("se") <= 2) - set(schemes[:6])
    assert set(schemes[6:11]) == both


@pytest.mark.parametrize(
    ("asked", "scheme"),
    [
        (dict.fromkeys(space_of(4), "se"), ("se",) * 4),  # whole
        ({"s1.b00": "se", "s1.b03": "se"}, ("se", "none", "none", "se")),  # the rest costs least
    ],
)
def test_what_is_enqueued_above_the_budget_is_run_as_asked_for_and_said(asked, scheme, caplog):
    space = space_of(4)
    sampler = PolicyGradientSampler(seed=0, search_space=space, max_connections=1)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial(asked)
    optuna.logging.enable_propagation()
    with caplog.at_level("WARNING", logger="optuna"):
        study.optimize(scored(space), n_trials=4)
    optuna.logging.disable_propagation()
    schemes = [tuple(t.params[name] for name in space) for t in study.get_trials(deepcopy=False)]
    assert schemes[0] == scheme
    assert all(other.count("se") <= 1 for other in schemes[1:])
    said = [r.getMessage() for r in caplog.records if "enqueued" in r.getMessage()]
    assert said == [
        "the choices that trial 0 was enqueued with break the budget connections; it is run as "
        "asked for, and what was left out of it is chosen to cost the least"
    ]


@settings(deadline=None)
@given(st.lists(st.integers(2, 4), min_size=2, max_size=5), st.integers(0, 999), st.booleans())
def test_draws_given_fixed_choices_are_all_that_enumeration_finds(sizes, seed, limited):
    """With limits and without, however the fixed slots lie: each scheme once, then repeats."""
    rng = np.random.default_rng(seed)
    every, width = all_schemes(tuple(sizes)), max(sizes)
    slots = rng.permutation(len(sizes))[: rng.integers(1, len(sizes) + 1)]
    fixed = {int(slot): int(rng.integers(sizes[slot])) for slot in slots}
    costs = rng.integers(0, 9, size=(2, len(sizes), width)).astype(float)
    extras = [(1, 5.0, rng.random((len(sizes), width)) < 0.5)]
    totals = costs[:, np.arange(len(sizes)), every].sum(axis=2)
    budget = Budget(sizes, np.quantile(totals, 0.6, axis=1), costs, extras)
    makes = np.array([all(row[i] == k for i, k in fixed.items()) for row in every])
    allowed = every[makes & (budget.allows(every) | (not limited))]
    held = budget.holding(fixed)
    assert held.is_possible() == (makes & budget.allows(every)).any()
    policy = Policy.from_logits(rng.normal(scale=4, size=(len(sizes), width)), tuple(sizes))
    seen = every[rng.random(len(every)) < 0.2]
    known = {row.tobytes() for row in seen}
    new = [row.tobytes() for row in allowed if row.tobytes() not in known]
    drawn = []
    for _ in new:
        constraints = Constraints(seen, fixed, held if limited else None)
        drawn.append(constraints.draw(policy, rng))
        seen = np.vstack([seen, drawn[-1]])
    assert sorted(row.tobytes() for row in drawn) == sorted(new)


def test_a_fixed_choice_far_from_the_first_block_is_found_to_fit_at_once():
    """54 blocks, at most 6, of which the last 5 are fixed: 50 schemes, and no walk around them."""
    space = space_of(54)
    fixed = {f"s1.b{block}": "se" for block in range(49, 54)}
    sampler = by_wrapper(fixed, search_space=space, max_connections=6)
    schemes = searched(sampler, space, 50)
    assert set(schemes) == {
        tuple("se" if i in (one, *range(49, 54)) else "none" for i in range(54))
        for one in range(50)
    }
    assert math.comb(49, 0) + math.comb(49, 1) == 50
