"""The rivals, and the runs that they make."""

import itertools
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution

import duel
import rivals
from duel import play
from evolution import EvolutionSampler, one_plus_one, regularised_evolution
from problems import make_problem
from rivals import RIVALS, make_rival
from sat_optuna.errors import UnknownName
from tests.bench_sampler.made import untimed

QUICK = [name for name in RIVALS if name != "gp"]  # gp needs torch, and time


@pytest.fixture
def budget(monkeypatch):
    """Called with a number of evaluations, gives it to all runs of this process."""

    def give(evaluations):
        def made(name, seed):
            return replace(make_problem(name, seed), evaluations=evaluations)

        monkeypatch.setattr(duel, "make_problem", made)

    return give


@pytest.mark.parametrize("rival", QUICK)
def test_a_run_is_its_seed(rival, budget):
    budget(15)
    one, again, other = (play("nk16", rival, seed) for seed in (1, 1, 2))
    assert untimed(one) == untimed(again)
    assert one.path != other.path
    assert (one.done, one.evaluations) == (15, 15)
    assert one.path[0][0] == 1
    assert one.value == one.path[-1][1] == one.curve()[-1]
    assert np.all(np.diff(one.curve()) >= 0)
    assert 0 < one.distinct <= 1
    assert one.versions["optuna"] == optuna.__version__
    assert (one.recommended is not None) == (rival in ("default", "paper"))


def test_all_choices_of_a_parameter_are_tried(table, budget):
    budget(60)
    for rival in QUICK:
        assert play(table, rival, 0).value == 3.5, rival


def test_the_chosen_scheme_of_a_noisy_problem_is_the_best_looking_one(budget):
    budget(30)
    got = play("ticket54-noisy", "random", 0)
    problem = make_problem("ticket54-noisy", 0)
    assert any(np.diff(got.curve()) < 0)
    rewards, truths = [], []
    for number in range(30):
        seed = int(np.random.default_rng([0, number]).integers(2**32))
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
        params = study.ask(make_rival("random").space(problem)).params
        scheme = np.array([params[name] for name in sorted(params)])
        rewards.append(problem.evaluate(scheme, number))
        truths.append(problem.truth(scheme))
    assert got.value == truths[int(np.argmax(rewards))]


def test_gp_ends_at_its_cap(table, monkeypatch):
    assert (RIVALS.get("gp").cap_s, RIVALS.get("gp").version[-6:]) == (20, ", 20 s")
    monkeypatch.setattr(duel, "make_rival", lambda name: replace(make_rival(name), cap_s=1e-9))
    got = play(table, "gp", 0)
    assert (got.done, got.evaluations) == (1, 27)
    assert got.curve().tolist() == [got.value] * 27


def test_variants_pass_their_settings_on(budget):
    budget(40)
    plain = play("nk16", "default", 0)
    assert plain.path != play("nk16", "default:batch=10", 0).path
    same = play("nk16", "paper:learning_rate=0.05+rnd=true", 0)
    assert same.path == play("nk16", "paper", 0).path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tpee", "no rival 'tpee'; did you mean 'tpe'"),
        ("tpe:seed=1", "only default and paper take them"),
        ("default:batch", "setting 'batch' has no value; write NAME=VALUE"),
        ("default:batch=yes", "has no JSON value"),
        ("paper:none=1", "option 'none' given; known are"),
        ("default:batch=0", "batch 0 given"),
    ],
)
def test_unknown_rivals_and_settings_are_one_sentence(name, words):
    with pytest.raises(UnknownName, match=words):
        make_rival(name)


def test_cmaes_without_its_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr(rivals, "find_spec", lambda _name: None)
    with pytest.raises(UnknownName, match=r"needs cmaes; .*'sat_optuna\[bench\]'"):
        make_rival("cmaes")


def test_one_choice_and_an_exhausted_space_stop_nobody(tmp_path, budget):
    np.savez(tmp_path / "t.npz", schemes=np.array([[0, 0], [0, 1]]), values=np.array([1, 2]))
    budget(12)
    for rival in QUICK:
        assert play(f"table:{tmp_path / 't.npz'}", rival, 0).value == 2


def evolved(rule, trials):
    space = {f"x{index}": CategoricalDistribution(tuple("abc")) for index in range(6)}
    study = optuna.create_study(direction="maximize", sampler=EvolutionSampler(rule, space, 3))
    rewards = np.random.default_rng(0).permutation(trials).astype(float)
    for reward in rewards:
        study.tell(study.ask(dict(space)), float(reward))
    return [tuple(t.params[name] for name in space) for t in study.trials], rewards


def changes(one, other):
    return sum(a != b for a, b in zip(one, other, strict=True))


def test_one_plus_one_changes_the_best_and_never_repeats():
    schemes, rewards = evolved(one_plus_one, 120)
    assert len(set(schemes)) == 120
    best = [schemes[int(np.argmax(rewards[:n]))] for n in range(1, 120)]
    changed = list(itertools.starmap(changes, zip(schemes[1:], best, strict=True)))
    assert min(changed) == 1
    assert np.mean(changed[:40]) < 2.2


def test_regularised_evolution_changes_one_choice_of_a_living_trial():
    schemes, rewards = evolved(regularised_evolution, 60)
    ranks = []
    for n in range(10, 60):
        near = [m for m in range(n - 10, n) if changes(schemes[n], schemes[m]) == 1]
        assert near
        ranks.append(max((rewards[n - 10 : n] <= rewards[m]).sum() for m in near))
    assert min(ranks) >= 3  # the best of three different ones
    assert np.mean(ranks) > 6.5
