"""What the sampler does with spaces, choices, rewards and studies that nobody would plan for."""

import json
import math
from typing import Any, cast

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState, create_trial

from sat_optuna.sampler.actor_critic import ActorCritic, PaperController
from sat_optuna.sampler.sampler import (
    POLICY_KEY,
    SETTINGS_KEY,
    PolicyGradientSampler,
    SamplerSettingsError,
)
from sat_optuna.search.baselines import NumberSeededSampler

CONTROLLERS = {"default": ActorCritic, "paper": PaperController}
DIGITS = tuple(range(4))
NAMES = ("a", "b", "c")
SPACE: dict[str, BaseDistribution] = {name: CategoricalDistribution(DIGITS) for name in NAMES}

pytestmark = pytest.mark.parametrize("preset", CONTROLLERS)


def study_with(preset: Any, *, storage: str | None = None, **kwargs: Any) -> optuna.Study:
    directions = kwargs.pop("directions", ["maximize"])
    sampler = PolicyGradientSampler(seed=5, preset=preset, **kwargs)
    return optuna.create_study(storage=storage, sampler=sampler, directions=directions)


def sampler_of(study: optuna.Study) -> PolicyGradientSampler:
    assert isinstance(study.sampler, PolicyGradientSampler)
    return study.sampler


def policy_of(study: optuna.Study) -> dict[str, dict[Any, float]]:
    return sampler_of(study).policy(study)


def objective(trial: optuna.Trial) -> float:
    return float(sum(trial.suggest_categorical(name, DIGITS) for name in NAMES))


def states(study: optuna.Study) -> list[TrialState]:
    return [t.state for t in study.get_trials(deepcopy=False)]


def rows(study: optuna.Study) -> list[dict[str, Any]]:
    return [t.params for t in study.get_trials(deepcopy=False)]


def test_without_parameters_there_is_nothing_to_learn(preset):
    study = study_with(preset)
    study.optimize(lambda trial: float(trial.number), n_trials=20)
    assert policy_of(study) == {}
    assert states(study) == [TrialState.COMPLETE] * 20


def test_the_best_trial_is_recommended_where_nothing_is_categorical(preset):
    study = study_with(preset)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=14)
    assert sampler_of(study).recommend(study) == study.best_trial


def test_parameters_of_one_choice_get_it_and_are_no_part_of_the_policy(preset):
    study, plain = study_with(preset), study_with(preset)

    def with_one(trial):
        assert trial.suggest_categorical("always", ["this"]) == "this"
        return objective(trial)

    study.optimize(with_one, n_trials=20)
    plain.optimize(objective, n_trials=20)
    assert policy_of(study) == policy_of(plain)
    only = study_with(preset)
    only.optimize(lambda t: len(t.suggest_categorical("always", ["this"])), n_trials=14)
    assert policy_of(only) == {}


class Thing:
    """No JSON."""


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")
def test_choices_that_are_no_json_are_learned_in_memory(preset):
    things: Any = [Thing(), Thing(), Thing()]
    study = study_with(preset)
    study.optimize(lambda t: things.index(t.suggest_categorical("x", things)), n_trials=40)
    (row,) = policy_of(study).values()
    assert list(row) == things
    assert row[things[2]] > row[things[0]]
    records = [t.system_attrs.get(POLICY_KEY, {}) for t in study.get_trials(deepcopy=False)]
    assert json.loads(json.dumps(records)) == records


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")
def test_choices_that_cannot_be_keys_are_named_in_the_policy(preset):
    study = study_with(preset)
    study.optimize(lambda t: len(t.suggest_categorical("x", cast("Any", [[1], [1, 2]]))), 14)
    assert list(policy_of(study)["x"]) == ["[1]", "[1, 2]"]


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")
def test_choices_that_are_no_json_are_refused_by_a_database_as_optuna_does(preset):
    study = study_with(preset, storage="sqlite://")
    things: Any = [Thing(), Thing()]
    with pytest.raises(TypeError, match="Thing is not JSON serializable"):
        study.optimize(lambda t: things.index(t.suggest_categorical("x", things)), n_trials=1)
    assert states(study) == [TrialState.FAIL]


def test_none_nan_and_booleans_are_choices_like_others_and_can_be_enqueued(preset):
    choices = (None, True, 0.5, math.nan)
    worth = dict(zip(map(str, choices), range(4), strict=True))
    study = study_with(preset, storage="sqlite://")

    def odd(trial):
        picked = trial.suggest_categorical("odd", choices)
        return worth[str(picked)] + objective(trial)

    for choice in (None, math.nan):
        study.enqueue_trial({"odd": choice})
    study.optimize(odd, n_trials=60)
    assert [str(t.params["odd"]) for t in study.trials[:2]] == ["None", "nan"]
    row = {str(choice): p for choice, p in policy_of(study)["odd"].items()}
    assert list(row) == ["None", "True", "0.5", "nan"]
    assert sum(row.values()) == pytest.approx(1.0)
    assert row["nan"] > row["None"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda t: t.suggest_categorical("a", (*DIGITS, 4)), "does not support dynamic value"),
        (lambda t: t.suggest_float("a", 0, 1), "Cannot set different distribution kind"),
    ],
)
def test_a_parameter_that_changes_fails_with_optunas_words_and_the_study_goes_on(
    preset, changed, message
):
    study = study_with(preset)
    study.optimize(objective, n_trials=14)
    with pytest.raises(ValueError, match=message):
        study.optimize(changed, n_trials=1)
    study.optimize(objective, n_trials=14)
    assert states(study).count(TrialState.FAIL) == 1
    assert states(study).count(TrialState.COMPLETE) == 28
    assert {len(row) for row in policy_of(study).values()} == {4}


def test_parameters_that_come_and_go_are_learned_where_they_are(preset):
    study = study_with(preset)

    def shrinking(trial):
        """First a, b, c; then c leaves and d comes."""
        names = NAMES if trial.number < 25 else ("a", "b", "d")
        return float(sum(trial.suggest_categorical(name, DIGITS) for name in names))

    study.optimize(shrinking, n_trials=70)
    policy = policy_of(study)
    assert list(policy) == ["a", "b", "c", "d"]
    means = {n: sum(c * p for c, p in row.items()) for n, row in policy.items()}
    assert means["a"] > 1.5
    assert means["d"] > 1.5
    assert set(study.get_trials()[-1].params) == {"a", "b", "d"}


@pytest.mark.filterwarnings("ignore:The value nan is not acceptable")
def test_nan_is_a_failed_trial_and_infinities_teach_nothing(preset):
    odd, plain = study_with(preset, batch=4), study_with(preset, batch=4)
    values = {3: math.nan, 9: math.inf, 14: -math.inf}
    for number in range(32):
        trial, other = odd.ask(SPACE), plain.ask(SPACE)
        if number in values:
            odd.tell(trial, values[number])
            plain.tell(other, state=TrialState.FAIL)
        else:
            odd.tell(trial, sum(trial.params.values()))
            plain.tell(other, sum(other.params.values()))
    assert [states(odd)[n].name for n in values] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert rows(odd) == rows(plain)
    assert policy_of(odd) == policy_of(plain)


@pytest.mark.parametrize("value", [math.inf, math.nan, None])
def test_where_no_trial_has_a_reward_the_search_stays_random(preset, value):
    study = study_with(preset, reward=lambda trial: value)
    study.optimize(objective, n_trials=30)
    assert len({tuple(row.values()) for row in rows(study)}) == 30
    for row in policy_of(study).values():
        np.testing.assert_allclose(list(row.values()), 0.25, atol=0.06)
    with pytest.raises(ValueError, match="no complete trial has a reward yet"):
        sampler_of(study).recommend(study)


@pytest.mark.parametrize("directions", [("maximize",), ("maximize", "minimize")], ids=len)
@pytest.mark.parametrize("huge", [1e308, -1e308, 1e200, 1e160])
def test_a_diverged_value_teaches_nothing_and_ends_no_learning(preset, directions, huge):
    diverged, plain = (study_with(preset, directions=list(directions)) for _ in range(2))
    for number in range(40):
        trial, other = diverged.ask(SPACE), plain.ask(SPACE)
        values = [float(sum(trial.params.values())), 0.0][: len(directions)]
        if number % 5:
            diverged.tell(trial, values)
            plain.tell(other, values)
        else:
            diverged.tell(trial, [huge, *values[1:]])
            plain.tell(other, state=TrialState.FAIL)
    assert rows(diverged) == rows(plain)
    assert policy_of(diverged) == policy_of(plain)


@pytest.mark.parametrize(
    "value", [(1.0, 2.0), [1.0], "x", 10**400], ids=["tuple", "list", "text", "too large"]
)
def test_a_reward_that_is_no_number_is_one_sentence(preset, value):
    def mine(trial):
        return value

    study = study_with(preset, reward=mine)
    with pytest.raises(ValueError, match=r"^reward function '.*mine' gave .* for trial 0; return"):
        study.optimize(objective, n_trials=14, catch=(Exception,))


def test_one_infinite_objective_of_two_leaves_the_trial_without_a_reward(preset):
    directions = ["maximize", "minimize"]
    odd, plain = (study_with(preset, directions=directions) for _ in range(2))
    for number in range(40):
        trial, other = odd.ask(SPACE), plain.ask(SPACE)
        total = float(sum(trial.params.values()))
        odd.tell(trial, [math.inf if number % 4 == 0 else total, -total])
        if number % 4:
            plain.tell(other, [total, -total])
        else:
            plain.tell(other, state=TrialState.FAIL)
    assert rows(odd) == rows(plain)
    assert policy_of(odd) == policy_of(plain)


def test_minimising_finds_the_least_and_maximising_the_greatest(preset):
    for direction, best in (("minimize", 0), ("maximize", 3)):
        study = study_with(preset, directions=[direction])
        study.optimize(objective, n_trials=60)
        assert study.best_value == best * len(NAMES)
        means = [sum(c * p for c, p in row.items()) for row in policy_of(study).values()]
        assert all(abs(mean - best) < 1.4 for mean in means)


def test_a_study_begun_by_another_sampler_is_taken_up_as_if_its_trials_were_added(preset):
    others, added = study_with(preset), study_with(preset)
    others.sampler = optuna.samplers.TPESampler(seed=0)
    others.optimize(objective, n_trials=18)
    for trial in others.get_trials():
        added.add_trial(create_trial(params=trial.params, distributions=SPACE, value=trial.value))
    others.sampler = added.sampler
    others.optimize(objective, n_trials=12)
    added.optimize(objective, n_trials=12)
    assert rows(others) == rows(added)
    others.sampler = optuna.samplers.RandomSampler(seed=1)  # and in between
    others.optimize(objective, n_trials=6)
    for trial in others.get_trials()[30:]:
        added.add_trial(create_trial(params=trial.params, distributions=SPACE, value=trial.value))
    others.sampler = added.sampler
    assert policy_of(others) == policy_of(added)


def test_a_study_of_our_other_samplers_or_of_another_version_is_refused(preset):
    study = study_with(preset)
    sampler = study.sampler
    study.sampler = NumberSeededSampler("tpe", seed=5)
    study.optimize(objective, n_trials=2)
    study.sampler = sampler
    with pytest.raises(SamplerSettingsError, match=r"'optuna/tpe', now 'policy-gradient/.*new st"):
        study.optimize(objective, n_trials=1)
    study = study_with(preset)
    old = sampler_of(study).settings() | {"version": 1}
    study._storage.set_study_system_attr(study._study_id, SETTINGS_KEY, old)
    with pytest.raises(
        SamplerSettingsError, match=r"\(version: 1, now \d+\); use those again, or"
    ):
        study.optimize(objective, n_trials=1, catch=(Exception,))
    assert states(study) == [TrialState.FAIL]


def test_enqueued_added_retried_pruned_and_failed_trials_together_leave_nothing_behind(preset):
    """One study with all of them goes on without repeats, whatever opens it next."""

    def begun() -> optuna.Study:
        study = study_with(preset)
        study.optimize(objective, n_trials=5)
        study.enqueue_trial({"a": 0, "b": 1, "c": 2})
        study.enqueue_trial({"b": 3, "unknown": 9})
        study.add_trial(
            create_trial(params=dict.fromkeys(NAMES, 1), distributions=SPACE, value=3.0)
        )
        for number in range(24):
            trial = study.ask(SPACE)
            if number % 5 == 3:
                study.tell(trial, state=TrialState.FAIL)
            elif number % 5 == 4:
                trial.report(float(sum(trial.params.values())), 0)
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, sum(trial.params.values()))
        return study

    one, again = begun(), begun()
    again.sampler = PolicyGradientSampler(seed=5, preset=preset)
    one.optimize(objective, n_trials=10)
    again.optimize(objective, n_trials=10)
    assert rows(one) == rows(again)
    schemes = [tuple(row[name] for name in NAMES) for row in rows(one)]
    assert (schemes[5], schemes[6][1], schemes[7]) == ((0, 1, 2), 3, (1, 1, 1))
    drawn = [scheme for number, scheme in enumerate(schemes) if number not in (5, 7)]
    assert len(set(drawn)) == len(drawn) == 38


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_error_in_the_sampler_surfaces_and_leaves_no_trial_running(preset, n_jobs, monkeypatch):
    """Even where the user catches all errors of the objective."""
    study = study_with(preset)
    study.optimize(objective, n_trials=12)

    def broken(*_given, **_more):
        raise ArithmeticError("a singular matrix")

    monkeypatch.setattr(CONTROLLERS[preset], "propose", broken)
    with pytest.raises(ArithmeticError, match="a singular matrix"):
        study.optimize(objective, n_trials=5, n_jobs=n_jobs, catch=(Exception,))
    with pytest.raises(ArithmeticError, match="a singular matrix"):
        study.ask(SPACE)
    assert set(states(study)[12:]) == {TrialState.FAIL}
    assert states(study)[:12] == [TrialState.COMPLETE] * 12
    monkeypatch.undo()
    study.optimize(objective, n_trials=6)
    assert states(study)[-6:] == [TrialState.COMPLETE] * 6


def test_an_error_while_a_retry_is_learned_for_surfaces_too(preset, monkeypatch):
    """A process that has read nothing yet finds the retry's proposal stored."""
    study = study_with(preset)
    study.optimize(objective, n_trials=12)
    original = study.ask()
    failed = study.get_trials()[12]
    study.tell(original, state=TrialState.FAIL)
    RetryHeartbeatStaleTrialCallback()(study, failed)
    study.sampler = PolicyGradientSampler(seed=5, preset=preset)

    def broken(*_given, **_more):
        raise ArithmeticError("a singular matrix")

    monkeypatch.setattr(CONTROLLERS[preset], "tell", broken)
    with pytest.raises(ArithmeticError, match="a singular matrix"):
        study.optimize(objective, n_trials=1, catch=(Exception,))
