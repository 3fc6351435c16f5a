"""The sampler in Optuna: history as its state, what trials mean to it, learning.

In several processes: `test_workers.py`.
"""

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from sat_optuna.sampler.actor_critic import ActorCritic, Batch, Controller, PaperController
from sat_optuna.sampler.sampler import (
    POLICY_KEY,
    PolicyGradientSampler,
    SamplerSettingsError,
)

PRESETS = ("default", "paper")
KINDS = ("none", "se", "sge")
NAMES = [f"s{i // 3}.b{i % 3:02}" for i in range(6)]
SPACE: dict[str, BaseDistribution] = {name: CategoricalDistribution(KINDS) for name in NAMES}


def objective(trial: optuna.Trial) -> float:
    picked = [KINDS.index(trial.suggest_categorical(name, KINDS)) for name in NAMES]
    return float(sum((i + 1) * choice for i, choice in enumerate(picked)))


def study_with(
    preset: Any = "default",
    *,
    seed: int = 5,
    storage: Any = None,
    direction: Any = "maximize",
    **kwargs: Any,
) -> optuna.Study:
    sampler = PolicyGradientSampler(seed=seed, preset=preset, **kwargs)
    return optuna.create_study(
        study_name="s",
        storage=storage,
        sampler=sampler,
        direction=direction,
        load_if_exists=storage is not None,
    )


def spaces(sizes: list[int]) -> dict[str, BaseDistribution]:
    return {f"p{i}": CategoricalDistribution(range(size)) for i, size in enumerate(sizes)}


def policy_of(study: optuna.Study) -> dict[str, dict[Any, float]]:
    return sampler_of(study).policy(study)


def sampler_of(study: optuna.Study) -> PolicyGradientSampler:
    assert isinstance(study.sampler, PolicyGradientSampler)
    return study.sampler


def proposals(study: optuna.Study) -> list[tuple[int, ...]]:
    trials = study.get_trials(deepcopy=False)
    return [tuple(KINDS.index(t.params[name]) for name in NAMES) for t in trials]


def unbroken(preset: str, trials: int) -> list[tuple[int, ...]]:
    study = study_with(preset)
    study.optimize(objective, n_trials=trials)
    return proposals(study)


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder}/study.db"


@pytest.mark.golden
@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        (
            "default",
            "200012 212211 011201 201100 001120 | 012222 120222 102222 222122 112122 222220",
        ),
        (
            "paper",
            "200012 212211 011201 201100 001120 | 212111 112222 122110 021212 122220 112221",
        ),
    ],
)
def test_pinned_proposals(preset, expected):
    """Whoever changes these must raise its version in `settings`: old studies would go astray."""
    text = ["".join(map(str, row)) for row in unbroken(preset, 34)]
    assert " ".join([*text[:5], "|", *text[-6:]]) == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_split_runs_propose_what_one_run_proposes(preset):
    study = study_with(preset)
    for trials in (5, 1, 13, 7):
        study.optimize(objective, n_trials=trials)
        study.sampler = PolicyGradientSampler(seed=5, preset=preset)  # nothing is handed over
    assert proposals(study) == unbroken(preset, 26)


def test_split_runs_on_a_journal_propose_the_same(tmp_path):
    def reopened() -> optuna.Study:
        backend = JournalFileBackend(str(tmp_path / "journal.log"))
        return study_with(storage=JournalStorage(backend))

    for trials in (3, 8, 9):
        reopened().optimize(objective, n_trials=trials)
    assert proposals(reopened()) == unbroken("default", 20)


@pytest.mark.parametrize(("preset", "batch"), [("default", 8), ("paper", 3)])
def test_asking_a_whole_batch_first_proposes_the_same(preset, batch):
    study, plain = study_with(preset, batch=batch), study_with(preset, batch=batch)
    for _ in range(24 // batch):
        trials = [study.ask(SPACE) for _ in range(batch)]
        for trial in trials:
            study.tell(trial, objective(trial))
    plain.optimize(objective, n_trials=24)
    assert proposals(study) == proposals(plain)


@pytest.mark.parametrize("number", [0, 3, 12])
@pytest.mark.parametrize("stored", [0, 2, 5])
def test_attached_again_with_or_without_its_record_a_trial_is_drawn_the_same(number, stored):
    """Also with none: the kill may come before the record is written."""
    expected = unbroken("default", 13)
    study = study_with()
    study.optimize(objective, n_trials=number)
    running = create_trial(
        state=TrialState.RUNNING,
        params={n: KINDS[c] for n, c in list(zip(NAMES, expected[number], strict=True))[:stored]},
        distributions={n: SPACE[n] for n in NAMES[:stored]},
    )
    study.add_trial(running)
    study.sampler = PolicyGradientSampler(seed=5)
    attached = study.get_trials(deepcopy=False)[number]
    trial = optuna.trial.Trial(study, attached._trial_id)
    study.tell(trial, objective(trial))
    study.optimize(objective, n_trials=12 - number)
    assert proposals(study) == expected


def test_a_trial_keeps_its_proposal_when_later_ones_finish_first():
    study, plain = study_with(batch=8), study_with(batch=8)
    plain.optimize(objective, n_trials=16)
    study.optimize(objective, n_trials=9)
    late = study.ask()
    study.optimize(objective, n_trials=12)
    study.sampler = PolicyGradientSampler(seed=5, batch=8)
    attached = optuna.trial.Trial(study, late._trial_id)
    study.tell(attached, objective(attached))
    assert proposals(study)[:16] == proposals(plain)


def test_a_trial_killed_before_its_record_is_drawn_from_what_came_before_it():
    study = study_with()
    study.optimize(objective, n_trials=9)
    study.add_trial(create_trial(state=TrialState.RUNNING))
    study.optimize(objective, n_trials=12)
    late = optuna.trial.Trial(study, study.get_trials(deepcopy=False)[9]._trial_id)
    study.tell(late, objective(late))
    assert proposals(study)[:10] == unbroken("default", 10)


def test_an_empty_study_has_no_policy_yet():
    assert policy_of(study_with()) == {}


@pytest.mark.parametrize(("batch", "versions"), [(1, (0, 17)), (8, (0, 2))])
def test_a_running_trial_holds_the_policy_back_until_it_is_finished(batch, versions):
    study = study_with(batch=batch)
    first = study.ask(SPACE)
    study.optimize(objective, n_trials=16)
    trials = study.get_trials(deepcopy=False)
    assert {t.system_attrs[POLICY_KEY]["v"] for t in trials[1:]} == {versions[0]}
    study.tell(first, objective(first))
    assert study.ask().storage.get_trial(17).system_attrs[POLICY_KEY]["v"] == versions[1]


@pytest.mark.parametrize(
    ("preset", "batch"), [("default", 1), ("default", 4), ("paper", 3)], ids=str
)
def test_the_record_is_what_a_controller_told_whole_batches_proposes(preset, batch):
    """And its log probability that of the policy before the rule against repeats."""
    study = study_with(preset, batch=batch)
    study.optimize(objective, n_trials=30)
    rows = np.array(proposals(study))
    values = np.array([[t.value] for t in study.get_trials(deepcopy=False)])
    for trial in study.get_trials(deepcopy=False)[1:]:
        record, known = trial.system_attrs[POLICY_KEY], trial.number // batch
        assert (record["n"], record["v"]) == (trial.number, known)
        controller: Controller = ActorCritic([3] * 6)
        if preset == "paper":
            controller = PaperController([3] * 6, seed=5)
        for end in range(batch, known * batch + 1, batch):
            logs = [
                # As it was drawn: the paper preset needs it, the other does not look.
                study.get_trials(deepcopy=False)[n].system_attrs.get(POLICY_KEY, {}).get("lp")
                for n in range(end - batch, end)
            ]
            lps = np.array([math.nan if lp is None else lp for lp in logs])
            controller.tell(Batch(rows[end - batch : end], values[end - batch : end], lps))
        scheme, log_prob = controller.propose(
            np.random.default_rng([5, trial.number]), seen=rows[: trial.number]
        )
        assert list(record["x"].values()) == scheme.tolist() == rows[trial.number].tolist()
        assert record["lp"] == pytest.approx(log_prob, abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(2, 4), min_size=1, max_size=3),
    st.sampled_from(PRESETS),
    st.integers(0, 50),
)
def test_no_repeat_until_the_space_is_finished_and_none_of_it_is_left_out(sizes, preset, seed):
    space = spaces(sizes)
    study = study_with(preset, seed=seed)
    for _ in range(math.prod(sizes)):
        trial = study.ask(space)
        study.tell(trial, float(sum(trial.params.values())))
    schemes = {tuple(t.params.values()) for t in study.get_trials(deepcopy=False)}
    assert len(schemes) == math.prod(sizes)
    study.tell(study.ask(space), 0.0)  # a finished space goes on with repeats
    assert study.get_trials(deepcopy=False)[-1].state == TrialState.COMPLETE


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


def learned(preset: str, weights: NDArray[Any], seed: int) -> tuple[bool, bool, float]:
    """Search a linear reward for 150 trials: is the best found, and the mode, the optimum?"""
    names = [f"b{i}" for i in range(len(weights))]
    study = study_with(preset, seed=seed)

    def linear(trial):
        return float(weights @ [trial.suggest_categorical(name, [0, 1]) for name in names])

    study.optimize(linear, n_trials=150)
    policy = policy_of(study)
    mode = [max(policy[name], key=policy[name].__getitem__) for name in names]
    found = math.isclose(study.best_value, weights[weights > 0].sum(), abs_tol=1e-9)
    sure = math.prod(max(policy[name].values()) for name in names)
    return found, mode == (weights > 0).astype(int).tolist(), sure


def test_default_learns_a_linear_reward_of_nine_bits_on_19_of_20_seeds():
    """All three: the best trial is the optimum, the policy's mode is, and it gets P > 1/2.

    No repeats in 512 schemes would find the optimum by chance with 150 / 512 = 0.29 a seed.
    """
    runs = []
    for seed in range(20):
        weights = np.random.default_rng([1, seed]).normal(size=9)
        runs.append(learned("default", weights, seed))
    assert sum(found and mode and sure > 0.5 for found, mode, sure in runs) >= 19


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ramp", "uniform"])
def test_default_learns_other_linear_rewards_too(kind):
    good = 0
    for seed in range(20):
        rng = np.random.default_rng([2, seed])
        signs = rng.choice([-1.0, 1.0], 9)
        weights = (np.arange(9) + 1.0) * signs if kind == "ramp" else rng.uniform(-1, 1, 9)
        found, mode, _ = learned("default", weights, seed)
        good += found and mode
    assert good >= 19


def test_paper_finds_the_optimum_of_a_linear_reward():
    found = [
        learned("paper", np.random.default_rng([1, s]).normal(size=9), s)[0] for s in range(5)
    ]
    assert sum(found) >= 4


def test_minimising_the_negative_is_maximising():
    study = study_with(direction="minimize")
    study.optimize(lambda t: -objective(t), n_trials=26)
    assert proposals(study) == unbroken("default", 26)


def test_a_failed_trial_keeps_its_place_and_teaches_nothing():
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
    assert sampler_of(study)._memory(study, None).version == 2


def test_several_objectives_are_signed_and_weigh_the_same():
    sampler = PolicyGradientSampler(seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for _ in range(120):
        trial = study.ask(spaces([2] * 6))
        bits = list(trial.params.values())
        study.tell(trial, [bits[0] + bits[1] + bits[2], 1000.0 * (bits[3] + bits[4] + bits[5])])
    policy = sampler.policy(study)
    assert [max(row, key=row.__getitem__) for row in policy.values()] == [1, 1, 1, 0, 0, 0]


def test_reward_function_replaces_the_objective_and_its_errors_surface():
    def reward(trial):
        return -trial.value

    study = study_with(reward=reward)
    study.optimize(objective, n_trials=26)
    opposite = study_with(direction="minimize")
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


def test_other_parameters_are_drawn_at_random_with_one_warning(caplog):
    optuna.logging.enable_propagation()
    study = study_with()

    def mixed(trial):
        return trial.suggest_float("x", 0, 1) + trial.suggest_int("n", 0, 9) + objective(trial)

    try:
        study.optimize(mixed, n_trials=12)
    finally:
        optuna.logging.disable_propagation()
    warned = [r for r in caplog.records if "is not categorical" in r.getMessage()]
    assert len(warned) == 1
    assert len({t.params["x"] for t in study.get_trials(deepcopy=False)}) == 12
    again = study_with()
    again.optimize(mixed, n_trials=12)
    assert [t.params for t in again.trials] == [t.params for t in study.trials]


def test_other_settings_are_refused_and_leave_no_running_trial():
    study = study_with()
    study.optimize(objective, n_trials=3)
    running = study.ask(SPACE)
    study.sampler = PolicyGradientSampler(seed=5, batch=4)
    with pytest.raises(SamplerSettingsError, match=r"'s'.*batch: 1, now 4.*new study"):
        study.optimize(objective, n_trials=1, catch=(Exception,))
    with pytest.raises(SamplerSettingsError):
        optuna.trial.Trial(study, running._trial_id)  # which is left as it is
    states = [t.state for t in study.get_trials(deepcopy=False)]
    assert states == [TrialState.COMPLETE] * 3 + [TrialState.RUNNING, TrialState.FAIL]
    study.sampler = PolicyGradientSampler(seed=5)
    study.ask()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "seed -1"),
        ({"batch": 0}, "batch 0"),
        ({"batch": 0, "preset": "paper"}, "batch 0"),
        ({"learning_rate": 0.0}, r"learning_rate 0\.0"),
        ({"learning_rate": 1.5}, r"learning_rate 1\.5.*at most 1"),
        ({"options": {"rnd": False}}, "option 'rnd' given; known are warmup"),
        ({"options": {"pairs": 1}, "preset": "paper"}, "option 'pairs' given; known are rnd"),
        ({"preset": "papr"}, "preset 'papr'"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        PolicyGradientSampler(**{"seed": 0, **wrong})


def test_options_reach_the_controller_and_are_kept_with_the_study():
    cases: list[tuple[Any, dict[str, Any]]] = [
        ("default", {"warmup": 3}),
        ("paper", {"temperature": 0.1}),
    ]
    for preset, options in cases:
        study = study_with(preset, options=options)
        study.optimize(objective, n_trials=26)
        assert proposals(study) != unbroken(preset, 26)
        study.sampler = PolicyGradientSampler(seed=5, preset=preset)
        with pytest.raises(SamplerSettingsError, match=f"options: .*{next(iter(options))}"):
            study.ask()


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
    states = {trial.state for trial in study.get_trials(deepcopy=False)}
    assert TrialState.PRUNED in states
    assert sampler_of(study).recommend(study).state == TrialState.COMPLETE


def test_settings_are_json_and_a_pickled_sampler_proposes_the_same():
    sampler = PolicyGradientSampler(seed=5)
    assert json.loads(json.dumps(sampler.settings())) == sampler.settings()
    study = study_with()
    study.optimize(objective, n_trials=10)
    study.sampler = pickle.loads(pickle.dumps(study.sampler))
    study.optimize(objective, n_trials=10)
    assert proposals(study) == unbroken("default", 20)


def test_a_study_made_anew_in_the_same_storage_is_not_taken_for_the_old_one(tmp_path):
    storage = optuna.storages.RDBStorage(sqlite(tmp_path))
    study = study_with(storage=storage)
    study.optimize(objective, n_trials=9)
    optuna.delete_study(study_name="s", storage=storage)
    again = study_with(storage=storage)
    again.sampler = study.sampler
    again.optimize(objective, n_trials=9)
    assert proposals(again) == unbroken("default", 9)


def test_a_pruner_that_shows_a_part_of_the_trials_changes_nothing():
    study = study_with()
    study.pruner = optuna.pruners.HyperbandPruner(max_resource=9)

    def reporting(trial):
        value = objective(trial)
        trial.report(value, step=1)
        return value

    study.optimize(reporting, n_trials=26)
    assert proposals(study) == unbroken("default", 26)


def test_two_threads_share_a_sampler():
    study = study_with()
    study.optimize(objective, n_trials=40, n_jobs=2)
    trials = study.get_trials(deepcopy=False)
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 40
    fresh = PolicyGradientSampler(seed=5).policy(study)
    assert policy_of(study) == fresh
