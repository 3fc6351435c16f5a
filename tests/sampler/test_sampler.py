"""The sampler in Optuna: its proposals are a function of history, settings and seed.

What each trial means to it: test_history.py. In several processes: test_workers.py.
"""

import itertools
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
from optuna.storages import JournalStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from sat_optuna.config.config import StudyConfig
from sat_optuna.sampler import CostLimit, PolicyGradientSampler
from sat_optuna.sampler.actor_critic import ActorCritic
from sat_optuna.sampler.budget import Constraints
from sat_optuna.sampler.controller import Batch, Controller
from sat_optuna.sampler.published import PaperController
from sat_optuna.sampler.storage import (
    POLICY_KEY,
    SamplerSettingsError,
    claim_study,
    seed_of_name,
)
from sat_optuna.search.baselines import NumberSeededSampler
from sat_optuna.search.storage import open_storage
from sat_optuna.search.study import create_study
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
CONTROLLERS = {"default": ActorCritic, "paper": PaperController}
TWO = {"a": (0, 1), "b": (0, 1)}


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder}/study.db"


GOLDEN = {
    "default": "200012 212211 011201 201100 001120 | 012222 120222 102222 222122 112122 222220",
    "paper": "200012 212211 011201 201100 001120 | 212111 112222 122110 021212 122220 112221",
}


@pytest.mark.golden
@BOTH
def test_pinned_proposals(preset):
    """Whoever changes these must raise the preset's version: old studies would go astray."""
    text = ["".join(map(str, row)) for row in unbroken(preset, 34)]
    assert " ".join([*text[:5], "|", *text[-6:]]) == GOLDEN[preset]


@pytest.mark.parametrize("seed", [5, None])
@BOTH
def test_split_runs_propose_what_one_run_proposes(preset, seed):
    study = study_with(preset, seed=seed)
    for trials in (5, 1, 13, 7):
        study.optimize(objective, n_trials=trials)
        study.sampler = PolicyGradientSampler(seed=seed, preset=preset)  # nothing is handed over
    assert proposals(study) == unbroken(preset, 26, seed=seed)


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


def test_without_a_seed_the_studys_name_is_the_seed():
    found = unbroken("default", 19, seed=None)
    assert found == unbroken("default", 19, seed=seed_of_name("s"))
    assert found != unbroken("default", 19, seed=None, name="t")
    # Optuna draws a name for a study that is given none.
    assert unbroken("default", 5, seed=None, name=None) != unbroken(
        "default", 5, seed=None, name=None
    )


def test_the_seed_of_a_name_is_stored_as_a_number(tmp_path):
    """So the command line and a script may both go on with a study, each with or without it."""
    sampler = PolicyGradientSampler()
    assert sampler.settings()["seed"] is None
    storage = open_storage(tmp_path / "study.db")
    study = create_study(storage, "s", config=StudyConfig(), sampler=sampler)
    study.optimize(objective, n_trials=3)
    study.sampler = PolicyGradientSampler(seed=seed_of_name("s"))
    study.optimize(objective, n_trials=3)
    study.sampler = PolicyGradientSampler()
    study.optimize(objective, n_trials=3)
    assert proposals(study) == unbroken("default", 9, seed=None)
    study.sampler = PolicyGradientSampler(seed=5)
    with pytest.raises(SamplerSettingsError, match=rf"\(seed: {seed_of_name('s')}, now 5\)"):
        study.optimize(objective, n_trials=1)
    url = sqlite(tmp_path)
    optuna.copy_study(from_study_name="s", from_storage=url, to_storage=url, to_study_name="copy")
    copy = optuna.load_study(study_name="copy", storage=url, sampler=PolicyGradientSampler())
    with pytest.raises(SamplerSettingsError, match=r"'copy' was begun with other .*seed: "):
        copy.optimize(objective, n_trials=1)


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
            np.random.default_rng([5, trial.number]), Constraints(rows[: trial.number])
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


def test_first_trial_is_proposed_where_the_space_is_known():
    space = {"a": (0, 1), "b": (0, 1, 2), "one": ("only",)}
    study = study_with(search_space=space)

    def asked() -> optuna.Trial:
        trial = study.ask()
        assert trial.suggest_categorical("a", (0, 1)) in (0, 1)
        assert trial.suggest_categorical("one", ("only",)) == "only"
        assert trial.suggest_categorical("new", ("x", "y")) in ("x", "y")
        return trial

    study.tell(asked(), 1.0)
    asked()
    first, second = (t.system_attrs[POLICY_KEY]["x"] for t in study.get_trials(deepcopy=False))
    assert first.keys() == {"a", "b"}
    assert second.keys() == {"a", "b", "new"}


@BOTH
def test_no_proposal_is_over_the_budget_and_the_best_within_is_found(preset):
    """Each connection pays, so the optimum lies at the limit; what is within is then all seen."""
    names = [f"p{i}" for i in range(7)]
    costs = {name: [0.0, 4.0, 7.0 + i] for i, name in enumerate(names)}
    limit = CostLimit(
        at_most=30.0, base=10.0, costs=costs, extras=((3.0, {"p0": [1], "p1": [1, 2]}),)
    )

    def allowed(picked: tuple[int, ...]) -> bool:
        cost = 10.0 + sum(costs[name][k] for name, k in zip(names, picked, strict=True))
        shared = picked[0] == 1 or picked[1] > 0
        return cost + 3.0 * shared <= 30 and sum(k > 0 for k in picked) <= 3

    def paying(trial: optuna.Trial) -> float:
        picked = [KINDS.index(trial.suggest_categorical(name, KINDS)) for name in names]
        return float(np.dot(picked, np.arange(1, 8)))

    study = study_with(
        preset,
        search_space=dict.fromkeys(names, KINDS),
        budget={"params": limit},
        max_connections=3,
    )
    within = set(filter(allowed, itertools.product(range(3), repeat=7)))
    study.optimize(paying, n_trials=len(within))
    assert set(proposals(study, names)) == within
    study.optimize(paying, n_trials=3)
    assert set(proposals(study, names)) == within


def test_a_budget_costs_the_default_few_trials_to_search_in():
    """54 blocks of different gain, at most 10: the ten that gain most are found or nearly."""
    gains = np.random.default_rng(0).normal(size=54)
    space = {f"p{i:02d}": ("none", "se") for i in range(54)}
    study = study_with(seed=0, search_space=space, max_connections=10)

    def gain(trial: optuna.Trial) -> float:
        chosen = [trial.suggest_categorical(name, c) == "se" for name, c in space.items()]
        assert sum(chosen) <= 10
        return float(gains @ chosen)

    study.optimize(gain, n_trials=120)
    assert study.best_value > 0.9 * np.sort(gains)[-10:].sum()


def test_enqueued_choices_hold_even_over_the_budget():
    space = {f"p{i}": (0, 1) for i in range(5)}
    study = study_with(search_space=space, max_connections=1)
    study.enqueue_trial({"p0": 1, "p1": 1})
    study.optimize(lambda t: sum(t.suggest_categorical(n, c) for n, c in space.items()), 6)
    first, *others = study.get_trials(deepcopy=False)
    assert (first.params["p0"], first.params["p1"]) == (1, 1)
    assert all(sum(t.params.values()) <= 1 for t in others)


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
    assert states(study) == [TrialState.COMPLETE] * 3 + [TrialState.RUNNING, TrialState.FAIL]
    study.sampler = PolicyGradientSampler(seed=5)
    study.ask()


def test_another_budget_is_another_study():
    study = study_with(search_space=TWO, max_connections=1)
    study.ask()
    study.sampler = PolicyGradientSampler(seed=5, search_space=TWO, max_connections=2)
    with pytest.raises(SamplerSettingsError, match=r"budget: .*connections"):
        study.ask()


@BOTH
def test_a_study_of_our_other_samplers_or_of_another_version_is_refused(preset):
    study = study_with(preset)
    sampler = study.sampler
    study.sampler = NumberSeededSampler("tpe", seed=5)
    study.optimize(objective, n_trials=2)
    study.sampler = sampler
    with pytest.raises(SamplerSettingsError, match=r"'optuna/tpe', now 'policy-gradient/.*new st"):
        study.optimize(objective, n_trials=1)
    study = study_with(preset)
    claim_study(study, sampler_of(study).settings() | {"version": 1})
    with pytest.raises(
        SamplerSettingsError, match=r"\(version: 1, now \d+\); use those again, or"
    ):
        study.optimize(objective, n_trials=1, catch=(Exception,))
    assert states(study) == [TrialState.FAIL]


@pytest.mark.parametrize(
    ("preset", "options"), [("default", {"warmup": 3}), ("paper", {"temperature": 0.1})]
)
def test_options_reach_the_controller_and_are_kept_with_the_study(preset, options):
    study = study_with(preset, options=options)
    study.optimize(objective, n_trials=26)
    assert proposals(study) != unbroken(preset, 26)
    study.sampler = PolicyGradientSampler(seed=5, preset=preset)
    with pytest.raises(SamplerSettingsError, match=f"options: .*{next(iter(options))}"):
        study.ask()


def broken(*_given):
    raise ArithmeticError("a singular matrix")


@pytest.mark.parametrize("n_jobs", [1, 2])
@BOTH
def test_an_error_in_the_sampler_surfaces_and_leaves_no_trial_running(preset, n_jobs, monkeypatch):
    """Even where the user catches all errors of the objective."""
    study = study_with(preset)
    study.optimize(objective, n_trials=12)

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


@BOTH
def test_an_error_while_a_retry_is_learned_for_surfaces_too(preset, monkeypatch):
    """A process that has read nothing yet finds the retry's proposal stored."""
    study = study_with(preset)
    study.optimize(objective, n_trials=12)
    original = study.ask()
    failed = study.get_trials()[12]
    study.tell(original, state=TrialState.FAIL)
    RetryHeartbeatStaleTrialCallback()(study, failed)
    study.sampler = PolicyGradientSampler(seed=5, preset=preset)

    monkeypatch.setattr(CONTROLLERS[preset], "tell", broken)
    with pytest.raises(ArithmeticError, match="a singular matrix"):
        study.optimize(objective, n_trials=1, catch=(Exception,))


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
    assert states(study) == [TrialState.COMPLETE] * 40
    assert policy_of(study) == PolicyGradientSampler(seed=5).policy(study)
