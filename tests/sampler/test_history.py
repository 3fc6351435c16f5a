"""What the trials of a study mean to the sampler, and odd spaces, choices, rewards and studies."""

import json
import math
from collections import Counter
from typing import Any, cast

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState, create_trial

from sat_optuna.sampler import PolicyGradientSampler
from sat_optuna.sampler.actor_critic import ActorCritic
from sat_optuna.sampler.controller import Batch
from sat_optuna.sampler.storage import POLICY_KEY
from tests.sampler.studies import (
    KINDS,
    NAMES,
    PRESETS,
    SPACE,
    objective,
    policy_of,
    proposals,
    sampler_of,
    spaces,
    states,
    study_with,
    unbroken,
)

BOTH = pytest.mark.parametrize("preset", PRESETS)
DIGITS = tuple(range(4))
LETTERS = ("a", "b", "c")
DIGIT_SPACE: dict[str, BaseDistribution] = {
    name: CategoricalDistribution(DIGITS) for name in LETTERS
}


def total(trial: optuna.Trial) -> float:
    return float(sum(trial.suggest_categorical(name, DIGITS) for name in LETTERS))


def rows(study: optuna.Study) -> list[dict[str, Any]]:
    return [t.params for t in study.get_trials(deepcopy=False)]


@BOTH
def test_without_parameters_there_is_nothing_to_learn(preset):
    study = study_with(preset)
    study.optimize(lambda trial: float(trial.number), n_trials=20)
    assert policy_of(study) == {}
    assert states(study) == [TrialState.COMPLETE] * 20


@BOTH
def test_the_best_trial_is_recommended_where_nothing_is_categorical(preset):
    study = study_with(preset)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=14)
    assert sampler_of(study).recommend(study) == study.best_trial


@BOTH
def test_parameters_of_one_choice_get_it_and_are_no_part_of_the_policy(preset):
    study, plain = study_with(preset), study_with(preset)

    def with_one(trial):
        assert trial.suggest_categorical("always", ["this"]) == "this"
        return total(trial)

    study.optimize(with_one, n_trials=20)
    plain.optimize(total, n_trials=20)
    assert policy_of(study) == policy_of(plain)
    only = study_with(preset)
    only.optimize(lambda t: len(t.suggest_categorical("always", ["this"])), n_trials=14)
    assert policy_of(only) == {}


class Thing:
    """No JSON."""


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")
@BOTH
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
@BOTH
def test_choices_that_cannot_be_keys_are_named_in_the_policy(preset):
    study = study_with(preset)
    study.optimize(lambda t: len(t.suggest_categorical("x", cast("Any", [[1], [1, 2]]))), 14)
    assert list(policy_of(study)["x"]) == ["[1]", "[1, 2]"]


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")
@BOTH
def test_choices_that_are_no_json_are_refused_by_a_database_as_optuna_does(preset):
    study = study_with(preset, storage="sqlite://")
    things: Any = [Thing(), Thing()]
    with pytest.raises(TypeError, match="Thing is not JSON serializable"):
        study.optimize(lambda t: things.index(t.suggest_categorical("x", things)), n_trials=1)
    assert states(study) == [TrialState.FAIL]


@BOTH
def test_none_nan_and_booleans_are_choices_like_others_and_can_be_enqueued(preset):
    choices = (None, True, 0.5, math.nan)
    worth = dict(zip(map(str, choices), range(4), strict=True))
    study = study_with(preset, storage="sqlite://")

    def odd(trial):
        picked = trial.suggest_categorical("odd", choices)
        return worth[str(picked)] + total(trial)

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
@BOTH
def test_a_parameter_that_changes_fails_with_optunas_words_and_the_study_goes_on(
    preset, changed, message
):
    study = study_with(preset)
    study.optimize(total, n_trials=14)
    with pytest.raises(ValueError, match=message):
        study.optimize(changed, n_trials=1)
    study.optimize(total, n_trials=14)
    assert states(study).count(TrialState.FAIL) == 1
    assert states(study).count(TrialState.COMPLETE) == 28
    assert {len(row) for row in policy_of(study).values()} == {4}


@BOTH
def test_parameters_that_come_and_go_are_learned_where_they_are(preset):
    study = study_with(preset)

    def shrinking(trial):
        """First a, b, c; then c leaves and d comes."""
        names = LETTERS if trial.number < 25 else ("a", "b", "d")
        return float(sum(trial.suggest_categorical(name, DIGITS) for name in names))

    study.optimize(shrinking, n_trials=70)
    policy = policy_of(study)
    assert list(policy) == ["a", "b", "c", "d"]
    means = {n: sum(c * p for c, p in row.items()) for n, row in policy.items()}
    assert means["a"] > 1.5
    assert means["d"] > 1.5
    assert set(study.get_trials()[-1].params) == {"a", "b", "d"}


def test_conditional_parameters_and_a_space_that_grows():
    study = study_with()

    def conditional(trial):
        kind = trial.suggest_categorical("kind", ["a", "b"])
        value = trial.suggest_categorical(f"only-{kind}", [0, 1, 2])
        late = trial.suggest_categorical("late", [0, 1]) if trial.number > 20 else 0
        return (kind == "b") * 3 + value + 5 * late

    study.optimize(conditional, n_trials=80)
    policy = policy_of(study)
    assert set(policy) == {"kind", "only-a", "only-b", "late"}
    assert policy["late"][1] > 0.5
    assert policy["only-b"][2] > policy["only-b"][0]


def assert_as_if_failed(preset, odd_values, *, goals=1, **settings):
    """A study whose trials have odd values goes on as one in which these trials fail."""
    directions = ("maximize", "minimize")[:goals]
    odd, plain = (study_with(preset, directions=directions, **settings) for _ in range(2))
    for number in range(40):
        trial, other = odd.ask(DIGIT_SPACE), plain.ask(DIGIT_SPACE)
        ones = float(sum(trial.params.values()))
        values = [ones, -ones][:goals]
        if number in odd_values:
            odd.tell(trial, [odd_values[number], *values[1:]])
            plain.tell(other, state=TrialState.FAIL)
        else:
            odd.tell(trial, values)
            plain.tell(other, values)
    assert rows(odd) == rows(plain)
    assert policy_of(odd) == policy_of(plain)
    return [states(odd)[number].name for number in odd_values]


@pytest.mark.filterwarnings("ignore:The value nan is not acceptable")
@BOTH
def test_nan_is_a_failed_trial_and_infinities_teach_nothing(preset):
    ended = assert_as_if_failed(preset, {3: math.nan, 9: math.inf, 14: -math.inf}, batch=4)
    assert ended == ["FAIL", "COMPLETE", "COMPLETE"]


@pytest.mark.parametrize("goals", [1, 2])
@pytest.mark.parametrize("huge", [1e308, -1e308, 1e200, 1e160, math.inf])
@BOTH
def test_a_diverged_value_teaches_nothing_and_ends_no_learning(preset, goals, huge):
    """Of several objectives one is enough."""
    assert_as_if_failed(preset, dict.fromkeys(range(0, 40, 5), huge), goals=goals)


@pytest.mark.parametrize("value", [math.inf, math.nan, None])
@BOTH
def test_where_no_trial_has_a_reward_the_search_stays_random(preset, value):
    study = study_with(preset, reward=lambda trial: value)
    study.optimize(total, n_trials=30)
    assert len({tuple(row.values()) for row in rows(study)}) == 30
    for row in policy_of(study).values():
        np.testing.assert_allclose(list(row.values()), 0.25, atol=0.06)
    with pytest.raises(ValueError, match="no complete trial has a reward yet"):
        sampler_of(study).recommend(study)


@pytest.mark.parametrize(
    "value", [(1.0, 2.0), [1.0], "x", 10**400], ids=["tuple", "list", "text", "too large"]
)
@BOTH
def test_a_reward_that_is_no_number_is_one_sentence(preset, value):
    def mine(trial):
        return value

    study = study_with(preset, reward=mine)
    with pytest.raises(ValueError, match=r"^reward function '.*mine' gave .* for trial 0; return"):
        study.optimize(total, n_trials=14, catch=(Exception,))


@BOTH
def test_minimising_finds_the_least_and_maximising_the_greatest(preset):
    for direction, best in (("minimize", 0), ("maximize", 3)):
        study = study_with(preset, directions=(direction,))
        study.optimize(total, n_trials=60)
        assert study.best_value == best * len(LETTERS)
        means = [sum(c * p for c, p in row.items()) for row in policy_of(study).values()]
        assert all(abs(mean - best) < 1.4 for mean in means)


def test_minimising_the_negative_is_maximising():
    study = study_with(directions=("minimize",))
    study.optimize(lambda t: -objective(t), n_trials=26)
    assert proposals(study) == unbroken("default", 26)


def test_reward_function_replaces_the_objective_and_its_errors_surface():
    def reward(trial):
        return -trial.value

    study = study_with(reward=reward)
    study.optimize(objective, n_trials=26)
    opposite = study_with(directions=("minimize",))
    opposite.optimize(objective, n_trials=26)
    assert proposals(study) == proposals(opposite)
    assert sampler_of(study).settings()["reward"].endswith("reward")

    def broken(trial):
        raise KeyError("missing")

    study = study_with(reward=broken)
    with pytest.raises(KeyError, match="missing"):
        study.optimize(objective, n_trials=9, catch=(Exception,))
    with pytest.raises(KeyError, match="missing"):  # the first error left nothing half-read
        study.ask()


def test_several_objectives_are_signed_and_weigh_the_same():
    study = study_with(directions=("maximize", "minimize"))
    for _ in range(120):
        trial = study.ask(spaces([2] * 6))
        bits = list(trial.params.values())
        study.tell(trial, [bits[0] + bits[1] + bits[2], 1000.0 * (bits[3] + bits[4] + bits[5])])
    policy = policy_of(study)
    assert [max(row, key=row.__getitem__) for row in policy.values()] == [1, 1, 1, 0, 0, 0]


def test_several_objectives_are_weighed_in_what_the_search_prefers():
    def opposed(trial: optuna.Trial) -> tuple[float, float]:
        ones = sum(trial.suggest_categorical(f"p{i}", (0, 1)) for i in range(10))
        return float(ones), float(ones)  # one to maximise and one to minimise

    for weights, wanted in (((1.0, 0.1), 10), ((0.1, 1.0), 0)):
        study = study_with(directions=("maximize", "minimize"), weights=weights)
        study.optimize(opposed, n_trials=60)
        assert any(sum(row.values()) == wanted for row in rows(study))
        likely = [row[1] for row in policy_of(study).values()]
        assert abs(np.mean(likely) - wanted / 10) < 0.2


def test_weights_that_do_not_fit_the_objectives_surface():
    with pytest.raises(
        ValueError, match="2 weights given for the 1 objectives of study 's'; give"
    ):
        study_with(weights=(1, 2)).optimize(objective, n_trials=2, catch=Exception)


@pytest.mark.parametrize(("batch", "versions"), [(1, (0, 17)), (8, (0, 2))])
def test_a_running_trial_holds_the_policy_back_until_it_is_finished(batch, versions):
    study = study_with(batch=batch)
    first = study.ask(SPACE)
    study.optimize(objective, n_trials=16)
    trials = study.get_trials(deepcopy=False)
    assert {t.system_attrs[POLICY_KEY]["v"] for t in trials[1:]} == {versions[0]}
    study.tell(first, objective(first))
    assert study.ask().storage.get_trial(17).system_attrs[POLICY_KEY]["v"] == versions[1]


def test_running_failed_and_waiting_trials_count_as_seen():
    space = spaces([2, 2])
    for seed in range(10):
        study = study_with(seed=seed)
        study.enqueue_trial({"p0": 1, "p1": 1})
        waiting = study.ask(space)
        failed = study.ask(space)
        study.tell(failed, state=TrialState.FAIL)
        running = study.ask(space)
        last = study.ask(space)
        got = {tuple(t.params.values()) for t in (waiting, failed, running, last)}
        assert len(got) == 4


def test_a_partly_fixed_trial_is_completed_to_an_unseen_scheme():
    space = spaces([2, 2])
    for seed in range(10):
        study = study_with(seed=seed)
        study.add_trial(create_trial(params={"p0": 0, "p1": 1}, distributions=space, value=1.0))
        study.enqueue_trial({"p0": 0})
        assert study.ask(space).params == {"p0": 0, "p1": 0}


def test_a_failed_trial_keeps_its_position_and_teaches_nothing():
    study = study_with()
    for number in range(20):
        trial = study.ask(SPACE)
        if number in (2, 5, 6):
            study.tell(trial, state=TrialState.FAIL)
        elif number == 7:
            study.tell(trial, math.inf)
        else:
            study.tell(trial, objective(trial))
    without = [t for t in study.get_trials() if t.number not in (2, 5, 6, 7)]
    values = np.array([[t.value] for t in without])
    rows = np.array([[KINDS.index(t.params[name]) for name in NAMES] for t in without])
    controller = ActorCritic([3] * 6)
    controller.tell(Batch(rows, values, np.full(len(rows), math.nan)))
    got = np.array([list(row.values()) for row in policy_of(study).values()])
    assert got.max() > 0.4
    np.testing.assert_array_equal(got, controller.policy.probabilities)


def test_a_pruned_trial_counts_with_its_last_report_or_not_at_all():
    pruned, complete = study_with(), study_with()
    for study in (pruned, complete):
        for number in range(16):
            trial = study.ask(SPACE)
            if study is pruned and number == 3:
                trial.report(99.0, step=0)
                trial.report(objective(trial), step=1)
                study.tell(trial, state=TrialState.PRUNED)
            elif study is pruned and number == 4:
                study.tell(trial, state=TrialState.PRUNED)
            elif number == 4:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, objective(trial))
    assert policy_of(pruned) == policy_of(complete)


def test_added_and_enqueued_trials_teach_as_if_drawn():
    drawn, added, enqueued = study_with(), study_with(), study_with()
    drawn.optimize(objective, n_trials=16)
    for trial in drawn.get_trials():
        added.add_trial(create_trial(params=trial.params, distributions=SPACE, value=trial.value))
        enqueued.enqueue_trial(trial.params)
    enqueued.optimize(objective, n_trials=16)
    assert policy_of(added) == policy_of(drawn)
    assert policy_of(enqueued) == policy_of(drawn)


def test_a_retry_repeats_its_originals_proposal_and_counts_under_its_own_number():
    study = study_with(batch=8)
    study.optimize(objective, n_trials=10)
    original = study.ask(SPACE)
    failed = study.get_trials()[10]
    study.tell(original, state=TrialState.FAIL)
    failed.params, failed.distributions = {}, {}  # it stopped before its first parameter
    RetryHeartbeatStaleTrialCallback()(study, failed)
    retry = study.ask(SPACE)
    assert retry.number == 11
    assert retry.params == original.params
    study.tell(retry, objective(retry))
    study.optimize(objective, n_trials=4)
    assert study.ask().storage.get_trial(16).system_attrs[POLICY_KEY]["v"] == 2


@BOTH
def test_a_study_begun_by_another_sampler_is_taken_up_as_if_its_trials_were_added(preset):
    others, added = study_with(preset), study_with(preset)

    def add_from(number: int) -> None:
        for t in others.get_trials()[number:]:
            added.add_trial(
                create_trial(params=t.params, distributions=DIGIT_SPACE, value=t.value)
            )

    others.sampler = optuna.samplers.TPESampler(seed=0)
    others.optimize(total, n_trials=18)
    add_from(0)
    others.sampler = added.sampler
    others.optimize(total, n_trials=12)
    added.optimize(total, n_trials=12)
    assert rows(others) == rows(added)
    others.sampler = optuna.samplers.RandomSampler(seed=1)  # and in between
    others.optimize(total, n_trials=6)
    add_from(30)
    others.sampler = added.sampler
    assert policy_of(others) == policy_of(added)


@BOTH
def test_enqueued_added_retried_pruned_and_failed_trials_together_leave_nothing_behind(preset):
    """One study with all of them goes on without repeats, whatever opens it next."""

    def begun() -> optuna.Study:
        study = study_with(preset)
        study.optimize(total, n_trials=5)
        study.enqueue_trial({"a": 0, "b": 1, "c": 2})
        study.enqueue_trial({"b": 3, "unknown": 9})
        study.add_trial(
            create_trial(params=dict.fromkeys(LETTERS, 1), distributions=DIGIT_SPACE, value=3.0)
        )
        for number in range(24):
            trial = study.ask(DIGIT_SPACE)
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
    one.optimize(total, n_trials=10)
    again.optimize(total, n_trials=10)
    assert rows(one) == rows(again)
    schemes = [tuple(row[name] for name in LETTERS) for row in rows(one)]
    assert (schemes[5], schemes[6][1], schemes[7]) == ((0, 1, 2), 3, (1, 1, 1))
    drawn = [scheme for number, scheme in enumerate(schemes) if number not in (5, 7)]
    assert len(set(drawn)) == len(drawn) == 38


def test_the_recommended_trial_is_one_of_the_scheme_that_all_trials_speak_for():
    study = study_with()
    with pytest.raises(ValueError, match="no complete trial"):
        sampler_of(study).recommend(study)
    study.optimize(objective, n_trials=5)
    assert sampler_of(study).recommend(study) == study.best_trial  # within the warm-up
    noise = np.random.default_rng(0)
    study.optimize(lambda t: objective(t) + 9 * noise.normal(), n_trials=60)
    recommended = sampler_of(study).recommend(study)
    controller = ActorCritic([3] * 6)
    values = np.array([[t.value] for t in study.get_trials(deepcopy=False)])
    controller.tell(Batch(np.array(proposals(study)), values, np.full(65, math.nan)))
    schemes, merits = controller.merits()
    expected = schemes[merits.argmax()]
    assert proposals(study)[recommended.number] == tuple(expected.tolist())
    assert recommended.value == max(
        t.value or -math.inf for t in study.trials if t.params == recommended.params
    )
    paper = study_with("paper")
    paper.optimize(objective, n_trials=12)
    assert sampler_of(paper).recommend(paper) == paper.best_trial


def test_what_is_recommended_is_a_complete_trial_of_any_number():
    study = study_with()
    study.ask()  # never ends
    study.optimize(objective, n_trials=5)
    assert sampler_of(study).recommend(study) == study.best_trial

    def pruned_if_good(trial):
        value = objective(trial)
        if value > 0:
            trial.report(value + 9, 0)
            raise optuna.TrialPruned
        return value

    study.optimize(pruned_if_good, n_trials=40)
    assert TrialState.PRUNED in states(study)
    assert sampler_of(study).recommend(study).state == TrialState.COMPLETE


@BOTH
def test_replicates_measure_promising_schemes_again_and_no_scheme_too_often(preset):
    rng = np.random.default_rng(0)

    def noisy(trial: optuna.Trial) -> float:
        picked = [trial.suggest_categorical(f"p{i}", (0, 1)) for i in range(8)]
        return sum(picked) + float(rng.normal())

    def counted(study: optuna.Study) -> Counter[tuple[int, ...]]:
        study.optimize(noisy, n_trials=120)
        return Counter(tuple(row[f"p{i}"] for i in range(8)) for row in rows(study))

    assert set(counted(study_with(preset, seed=0)).values()) == {1}
    study = study_with(preset, seed=0, replicates=3)
    counts = counted(study)
    assert max(counts.values()) == 3
    again = [scheme for scheme, count in counts.items() if count > 1]
    assert 3 <= len(again) < 30
    # Promising: better than schemes are on average, by far.
    assert np.mean([sum(scheme) for scheme in again]) > 4.5
    best = sampler_of(study).recommend(study)
    mine = [t for t in study.get_trials(deepcopy=False) if t.params == best.params]
    assert best.value == max(t.value or 0.0 for t in mine)
