"""Optuna's samplers, seeded by trial number: an interrupted study equals an unbroken one."""

import functools

import optuna
import pytest
from optuna.testing.pytest_samplers import BasicSamplerTestCase
from optuna.trial import TrialState, create_trial

from sat_optuna.errors import StudyError, UnknownName
from sat_optuna.sampler.storage import SamplerSettingsError
from sat_optuna.search.baselines import BASELINES, NumberSeededSampler

NAMES = [f"s1.b{i:02}" for i in range(6)]
KINDS = ("none", "se", "sge")


# The GP takes seconds for what the others do at once; the brute-force sampler knows grids alone.
QUICK = [name for name in BASELINES.names() if name not in ("gp", "brute-force")]


class TestConformance(BasicSamplerTestCase):
    @pytest.fixture(params=QUICK)
    def sampler(self, request):
        return lambda: NumberSeededSampler(request.param, seed=0)


def objective(trial: optuna.Trial) -> float:
    picked = [KINDS.index(trial.suggest_categorical(name, KINDS)) for name in NAMES]
    return float(sum((i + 1) * choice for i, choice in enumerate(picked)))


def study_with(name: str, seed: int = 3) -> optuna.Study:
    sampler = NumberSeededSampler(name, seed=seed)
    return optuna.create_study(direction="maximize", sampler=sampler)


def proposals(study: optuna.Study) -> list[tuple[str, ...]]:
    return [tuple(t.params[n] for n in NAMES) for t in study.get_trials(deepcopy=False)]


@functools.cache
def unbroken(name: str, trials: int, seed: int = 3) -> list[tuple[str, ...]]:
    study = study_with(name, seed)
    study.optimize(objective, n_trials=trials)
    return proposals(study)


@pytest.mark.parametrize("name", [*QUICK, "brute-force"])
def test_split_runs_propose_what_one_run_proposes(name):
    study = study_with(name)
    for trials in (7, 20, 33):  # NSGA-II's second generation begins at 50
        study.optimize(objective, n_trials=trials)
        study.sampler = NumberSeededSampler(name, seed=3)
    assert proposals(study) == unbroken(name, 60)
    assert unbroken(name, 20, seed=4) != unbroken(name, 20)


@pytest.mark.parametrize("name", [*QUICK, "brute-force"])
@pytest.mark.parametrize("number", [2, 20, 55])
def test_a_trial_attached_again_is_drawn_the_same(name, number):
    expected = unbroken(name, 60)
    study = study_with(name)
    study.optimize(objective, n_trials=number)
    dead = study.ask()
    for parameter in NAMES[:3]:
        dead.suggest_categorical(parameter, KINDS)
    study.sampler = NumberSeededSampler(name, seed=3)
    trial = optuna.trial.Trial(study, dead._trial_id)
    study.tell(trial, objective(trial))
    study.optimize(objective, n_trials=59 - number)
    assert proposals(study) == expected


def test_tpe_learns_what_random_does_not():
    late = {
        name: sum(sum(KINDS.index(k) for k in row) for row in unbroken(name, 60)[40:])
        for name in ("tpe", "random")
    }
    assert late["tpe"] > 1.2 * late["random"]


def test_other_settings_are_refused():
    study = study_with("tpe")
    study.optimize(objective, n_trials=2)
    study.sampler = NumberSeededSampler("random", seed=3)
    with pytest.raises(SamplerSettingsError, match="'optuna/tpe', now 'optuna/random'"):
        study.optimize(objective, n_trials=1)
    assert study.get_trials(deepcopy=False)[2].state == TrialState.FAIL


def test_studies_begun_elsewhere_are_continued():
    study = study_with("nsga2")
    study.add_trial(create_trial(value=1.0))
    study.optimize(objective, n_trials=2)
    assert len(study.get_trials(deepcopy=False)) == 3


def test_unknown_baseline_points_to_the_nearest():
    with pytest.raises(UnknownName, match=r"'tpee'; did you mean 'tpe'.*nsga2, random, tpe"):
        NumberSeededSampler("tpee", seed=0)


def asked_in_batches(name, directions, stops, settings):
    """A study of 8 schemes, asked four at a time; its sampler is made anew at each stop."""
    study = optuna.create_study(directions=directions)
    for stop in stops:
        study.sampler = NumberSeededSampler(name, seed=3, settings=settings)
        while len(study.trials) < stop:
            asked = [study.ask() for _ in range(4)]
            chosen = [[t.suggest_categorical(f"b{i}", KINDS[:2]) for i in range(3)] for t in asked]
            for trial, kinds in zip(asked, chosen, strict=True):
                used = kinds.count("se")
                study.tell(trial, [used % 3, used][: len(directions)])
    return [tuple(trial.params.values()) for trial in study.trials]


@pytest.mark.parametrize("directions", [["maximize"], ["maximize", "minimize"]])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tpe", {"n_startup_trials": 4}),
        ("random", {}),
        ("nsga2", {"population_size": 4, "mutation_prob": 0.5}),
        pytest.param(
            "gp",
            {"n_startup_trials": 4, "deterministic_objective": True},
            marks=pytest.mark.slow,
        ),
        ("brute-force", {}),
    ],
)
def test_each_sampler_is_a_function_of_history_also_of_several_objectives(
    name, settings, directions
):
    unbroken = asked_in_batches(name, directions, (8,), settings)
    assert asked_in_batches(name, directions, (4, 8), settings) == unbroken
    assert len(set(unbroken)) == 8 or name != "brute-force"


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("tpe", {"n_startup_trails": 4}, "'n_startup_trails'.*did you mean 'n_startup_trials'"),
        ("tpe", {"gamma": 4}, "has 'gamma'.* does not take; known: .*n_ei_candidates"),
        ("gp", {"n_startup_trials": "4"}, "n_startup_trials = '4' to sampler 'gp'; .*type int"),
        ("nsga2", {"population_size": 1}, "sampler 'nsga2' cannot be made: .*population_size"),
        ("random", {"x": 1}, "has 'x', .* 'random' does not take; it has none that can be set"),
        ("brute-force", {"avoid_premature_stop": 1}, "avoid_premature_stop = 1 .*type bool"),
        ("tpe", {"seed": 4}, "has 'seed'"),
    ],
)
def test_settings_that_a_sampler_does_not_take_are_refused(name, settings, words):
    with pytest.raises(StudyError, match=words):
        NumberSeededSampler(name, seed=0, settings=settings)


def test_settings_are_part_of_what_a_study_was_begun_with():
    assert "settings" not in NumberSeededSampler("tpe", seed=0).settings()
    changed = NumberSeededSampler("tpe", seed=0, settings={"n_startup_trials": 4})
    study = study_with("tpe", seed=0)
    study.optimize(objective, n_trials=1)
    with pytest.raises(SamplerSettingsError, match=r"settings: None, now {'n_startup_trials': 4}"):
        changed.before_trial(study, study.ask()._get_latest_trial())
