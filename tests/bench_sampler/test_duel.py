"""Contenders, runs, the file of runs, the statistics, the tables and the picture."""

import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from scipy import stats

from sat_optuna.bench import sampler as bench
from sat_optuna.bench.comparison import (
    RECOMMENDED,
    bootstrap,
    compared,
    normalised,
    paired_p,
    scales,
    standings,
)
from sat_optuna.bench.contenders import CONTENDERS, make_contender
from sat_optuna.bench.evolution import OnePlusOne, RegularisedEvolution
from sat_optuna.bench.problems import BenchError, make_problem
from sat_optuna.bench.runs import Run, RunLog, Task
from sat_optuna.bench.sampler import DEFAULT_RIVALS, bench_sampler, play
from sat_optuna.bench.sampler_report import draw_curves, sampler_markdown
from sat_optuna.errors import UnknownName, WriteError

QUICK = [name for name in CONTENDERS.names() if name != "gp"]  # gp needs torch, and time
UNTIMED: dict[str, Any] = {"ms": 0.0, "cpu_s": 0.0}


def task(problem="nk16", rival="random", seed=0, evaluations=15, cap_s=60.0):
    return Task(problem, rival, seed, evaluations, cap_s)


def run(problem="nk16", rival="default", seed=0, value=0.5, **more):
    given: dict[str, Any] = {
        "evaluations": 4,
        "version": "1",
        "done": 4,
        "path": ((1, value / 2), (3, value)),
        "recommended": None,
        "distinct": 1.0,
        "ms": 1.0,
        "cpu_s": 0.1,
    }
    return Run(problem=problem, rival=rival, seed=seed, value=value, **(given | more))


@pytest.fixture
def table(tmp_path):
    """The name of a problem of 27 schemes."""
    schemes = np.array(list(itertools.product(range(3), repeat=3)))
    np.savez(tmp_path / "table.npz", schemes=schemes, values=schemes @ [1.0, 0.5, 0.25])
    return f"table:{tmp_path / 'table.npz'}"


def test_the_default_rivals_are_all_there_are():
    assert sorted(DEFAULT_RIVALS) == list(CONTENDERS.names())


@pytest.mark.parametrize("rival", QUICK)
def test_a_run_is_its_seed(rival):
    one, again, other = (play(task(rival=rival, seed=seed)) for seed in (1, 1, 2))
    assert replace(one, **UNTIMED) == replace(again, **UNTIMED)
    assert one.path != other.path
    assert (one.done, one.evaluations) == (15, 15)
    assert one.path[0][0] == 1
    assert one.value == one.path[-1][1] == one.curve()[-1]
    assert np.all(np.diff(one.curve()) >= 0)
    assert 0 < one.distinct <= 1
    assert one.versions["optuna"] == optuna.__version__
    assert (one.recommended is not None) == (rival in ("default", "paper"))


def test_all_choices_of_a_parameter_are_tried(table):
    for rival in QUICK:
        assert play(task(table, rival, evaluations=60)).value == 3.5, rival


def test_the_chosen_scheme_of_a_noisy_problem_is_the_best_looking_one():
    got = play(task("ticket54-noisy", "random", evaluations=30))
    problem = make_problem("ticket54-noisy", 0)
    assert any(np.diff(got.curve()) < 0)
    rewards, truths = [], []
    for number in range(30):
        seed = int(np.random.default_rng([0, number]).integers(2**32))
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
        params = study.ask(CONTENDERS.get("random").space(problem)).params
        scheme = np.array([params[name] for name in sorted(params)])
        rewards.append(problem.evaluate(scheme, number))
        truths.append(problem.truth(scheme))
    assert got.value == truths[int(np.argmax(rewards))]


def test_gp_ends_at_its_cap():
    got = play(task(rival="gp", evaluations=5, cap_s=1e-9))
    assert (got.done, got.evaluations, got.version.endswith(", 1e-09 s")) == (1, 5, True)
    assert got.curve().tolist() == [got.value] * 5


def test_variants_pass_their_settings_on():
    plain = play(task(rival="default", evaluations=40))
    batched = play(task(rival="default:batch=10", evaluations=40))
    assert plain.path != batched.path
    same = play(task(rival="paper:learning_rate=0.05+rnd=true", evaluations=40))
    assert same.path == play(task(rival="paper", evaluations=40)).path


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
        make_contender(name)


def test_cmaes_without_its_package_is_one_sentence(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(BenchError, match=r"needs cmaes.*'sat_optuna\[bench\]'"):
        play(task(rival="cmaes"))


def evolved(kind, trials):
    categorical = {f"x{place}": CategoricalDistribution(tuple("abc")) for place in range(6)}
    study = optuna.create_study(direction="maximize", sampler=kind(categorical, 3))
    space: dict[str, BaseDistribution] = dict(categorical)
    rewards = np.random.default_rng(0).permutation(trials).astype(float)
    for reward in rewards:
        study.tell(study.ask(space), float(reward))
    schemes = [tuple(t.params[name] for name in space) for t in study.trials]
    return schemes, rewards


def test_one_plus_one_changes_the_best_and_never_repeats():
    schemes, rewards = evolved(OnePlusOne, 120)
    assert len(set(schemes)) == 120
    changes = [
        sum(a != b for a, b in zip(schemes[n], schemes[int(np.argmax(rewards[:n]))], strict=True))
        for n in range(1, 120)
    ]
    assert min(changes) == 1
    assert np.mean(changes[:40]) < 2.2


def test_regularised_evolution_changes_one_choice_of_a_living_trial():
    schemes, rewards = evolved(RegularisedEvolution, 60)
    ranks = []
    for n in range(10, 60):
        near = [
            m
            for m in range(n - 10, n)
            if sum(a != b for a, b in zip(schemes[n], schemes[m], strict=True)) == 1
        ]
        assert near
        ranks.append(max((rewards[n - 10 : n] <= rewards[m]).sum() for m in near))
    assert min(ranks) >= 3  # the best of three different ones
    assert np.mean(ranks) > 6.5


def test_one_choice_and_an_exhausted_space_stop_nobody(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("scheme,value\n00,1\n01,2\n")
    for rival in QUICK:
        assert play(task(f"table:{file}", rival, evaluations=12)).value == 2


def test_the_curve_by_hand():
    got = run(path=((1, 1.0), (3, 2.0), (5, 4.0)), evaluations=6)
    assert got.curve().tolist() == [1, 1, 2, 2, 4, 4]


def keys(path):
    return [Run(**json.loads(line)).key for line in path.read_text().splitlines()]


def counted(monkeypatch):
    made: list[Task] = []

    def counting(of):
        made.append(of)
        return play(of)

    monkeypatch.setattr(bench, "play", counting)
    return made


def test_a_rerun_makes_only_what_is_missing(tmp_path, table, monkeypatch):
    log = tmp_path / "folder" / "runs.jsonl"
    asked: dict[str, Any] = {"problems": [table], "evaluations": 5}
    notes: list[str] = []
    made = counted(monkeypatch)
    bench_sampler(log, rivals=["random"], seeds=2, workers=0, **asked)
    assert len(made) == 2
    again: dict[str, Any] = {"seeds": 3, "workers": 0, **asked}
    runs = bench_sampler(log, rivals=["random", "qmc"], on_run=notes.append, **again)
    assert len(made) == 6
    assert notes.count("done before") == 2
    assert len(runs) == len(notes) == len(set(keys(log))) == 6
    bench_sampler(log, rivals=["qmc"], problems=[table], evaluations=6, seeds=1, workers=0)
    assert [run.evaluations for run in bench_sampler(log, rivals=["qmc"], **again)] == [5] * 6


def test_a_kill_within_a_line_costs_that_run_alone(tmp_path, table, monkeypatch):
    log = tmp_path / "runs.jsonl"
    asked: dict[str, Any] = {"problems": [table], "rivals": ["default", "tpe"], "evaluations": 12}
    whole = bench_sampler(log, seeds=2, workers=0, **asked)
    content = log.read_bytes()
    log.write_bytes(content[:-40])
    made = counted(monkeypatch)
    mended = bench_sampler(log, seeds=2, workers=0, **asked)
    assert [(of.rival, of.seed) for of in made] == [("tpe", 1)]
    assert [replace(r, **UNTIMED) for r in mended] == [replace(r, **UNTIMED) for r in whole]
    assert log.read_bytes()[: len(content) // 2] == content[: len(content) // 2]


def test_worker_processes_come_to_the_same(tmp_path, table):
    asked: dict[str, Any] = {
        "problems": [table],
        "rivals": ["random", "default"],
        "evaluations": 8,
        "seeds": 2,
    }
    here = bench_sampler(tmp_path / "here.jsonl", workers=0, **asked)
    there = bench_sampler(tmp_path / "there.jsonl", workers=1, **asked)
    order = sorted((replace(r, **UNTIMED) for r in there), key=lambda r: r.key)
    assert order == sorted((replace(r, **UNTIMED) for r in here), key=lambda r: r.key)


def test_an_error_in_a_worker_surfaces_and_keeps_what_is_done(tmp_path, table):
    log = tmp_path / "runs.jsonl"
    made: list[str] = []

    def stop(note):
        made.append(note)
        raise KeyboardInterrupt

    asked: dict[str, Any] = {
        "problems": [table],
        "rivals": ["random"],
        "evaluations": 8,
        "seeds": 50,
    }
    with pytest.raises(KeyboardInterrupt):
        bench_sampler(log, workers=1, on_run=stop, **asked)
    assert len(keys(log)) == len(made) == 1


def test_a_line_that_is_no_run_is_named(tmp_path):
    log = tmp_path / "runs.jsonl"
    RunLog(log).append(run())
    log.write_text(log.read_text() + '{"a": 1}\n')
    with pytest.raises(BenchError, match="line 2 is no run of this benchmark; remove the line"):
        RunLog(log)


def test_runs_of_another_version_are_not_mixed(tmp_path, table):
    log = tmp_path / "runs.jsonl"
    asked: dict[str, Any] = {
        "problems": [table],
        "rivals": ["default"],
        "evaluations": 4,
        "seeds": 1,
    }
    bench_sampler(log, workers=0, **asked)
    log.write_text(log.read_text().replace("policy-gradient/default", "policy-gradient/old"))
    with pytest.raises(BenchError, match="holds runs of 'default' made by 'policy-gradient/old"):
        bench_sampler(log, workers=0, **asked)


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"cannot write .*; choose another --out"):
        RunLog(tmp_path / "file" / "runs.jsonl")
    log = RunLog(tmp_path / "runs.jsonl")
    log.path.unlink()
    log.path.mkdir()
    with pytest.raises(WriteError, match="cannot write"):
        log.append(run())


def test_the_bootstrap_is_its_label_and_near_theory():
    values = np.random.default_rng(0).normal(3, 2, 40)
    got = bootstrap(values, label="a")
    assert got == bootstrap(list(values), label="a")
    assert got != bootstrap(values, label="b")
    half = 1.96 * values.std() / np.sqrt(40)
    assert got.value == pytest.approx(values.mean())
    assert (got.low, got.high) == pytest.approx((got.value - half, got.value + half), abs=0.05)


def test_the_paired_p_is_scipys():
    differences = [0.3, 0.1, -0.2, 0.5, 0.7, 0.9]
    assert paired_p(differences) == stats.wilcoxon(differences).pvalue == 0.09375
    assert paired_p([0.0, 0.0]) == 1
    assert paired_p([1.0] * 6) == pytest.approx(2 / 64)  # all on one side
    assert paired_p([0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 32)  # zeros are out


def test_the_regret_by_hand():
    assert normalised(np.array([1.0, 3.0, 2.0]), (1.0, 3.0)).tolist() == [1, 0, 0.5]
    assert normalised(2.0, (2.0, 2.0)) == 0
    runs = [run("ising24", value=-1.0), run("ising24", "tpe", value=-0.5, path=((1, -2.0),))]
    level, best = scales(runs)["ising24", 0]
    assert best == -0.5
    assert level == make_problem("ising24", 0).scale()[0]
    runs = [run("ticket54-noisy", value=6.0), run("ticket54", "tpe", value=7.0)]
    assert scales(runs)["ticket54-noisy", 0][1] == 7.0


def test_standings_by_hand(table):
    runs = [run(table, "default", seed, value) for seed, value in ((1, 3.5), (0, 1.75))]
    (row,) = standings([*runs, runs[0]])
    assert (row.seeds, row.done, row.distinct, row.ms) == (2, 4, 1, 1)
    assert row.value.value == pytest.approx(2.625)
    assert row.regret.value == pytest.approx(0.5)  # 0 and 1: the level is 1.75, the optimum 3.5
    assert row.area is not None
    assert row.area.value == pytest.approx(((1 + 1 + 0 + 0) / 4 + (1.5 + 1.5 + 1 + 1) / 4) / 2)


def test_tests_are_corrected_within_a_family():
    def of(problem, rival, shift):
        return [run(problem, rival, seed, 5 + shift * (seed + 1)) for seed in range(6)]

    runs = [
        *of("ticket54", "default", 0),
        *of("ticket54", "tpe", -1),
        *of("ticket54", "random", 1),
        *of("ticket16", "default", 0),
        *of("ticket16", "tpe", 0),
        *of("nk16", "default", 0),
        *of("nk16", "tpe", -1),
        *of("nk16", "default:pairs=false", -1)[:5],
        *of("nk16", "paper:rnd=false", -1),
    ]
    got = {(row.problem, row.rival): row for row in compared(runs)}
    assert len(got) == 5  # the variant of paper has no base
    best = 2 / 64
    assert got["ticket54", "tpe"].p == got["nk16", "tpe"].p == best
    assert got["ticket54", "tpe"].p_holm == pytest.approx(3 * best)
    assert got["ticket54", "random"].p_holm == pytest.approx(3 * best)
    assert got["ticket16", "tpe"].p_holm == 1
    assert got["nk16", "tpe"].p_holm == best
    variant = got["nk16", "default:pairs=false"]
    assert (variant.seeds, variant.p_holm) == (5, 2 / 32)
    assert variant.family == "nk, variants of default"
    row = got["ticket54", "random"]
    assert (row.wins, row.losses, row.difference.value) == (0, 6, -3.5)


def test_recommendations_stand_beside_what_looks_best_where_rewards_are_noisy():
    runs = [
        run(problem, rival, seed, value, recommended=recommended)
        for problem in ("ticket54", "ticket54-noisy")
        for seed in range(3)
        for rival, value, recommended in (("default", 5.0, 6.0), ("tpe", 4.0, None))
    ]
    rows = {(row.problem, row.rival): row for row in standings(runs)}
    assert rows["ticket54-noisy", "default" + RECOMMENDED].value.value == 6
    assert rows["ticket54-noisy", "default" + RECOMMENDED].area is None
    assert ("ticket54", "default" + RECOMMENDED) not in rows
    got = {(row.problem, row.ours): row.difference.value for row in compared(runs)}
    assert got == {
        ("ticket54", "default"): 1,
        ("ticket54-noisy", "default"): 1,
        ("ticket54-noisy", "default" + RECOMMENDED): 2,
    }


def test_tables_and_picture(tmp_path, table):
    names = ["default", "tpe", "default:batch=2", "gp"]
    runs = [
        run(name, rival, seed, 1.0 + seed, recommended=1.5, done=3 if rival == "gp" else 4)
        for name in (table, "ticket54-noisy")
        for rival in names
        for seed in range(4)
    ]
    text = sampler_markdown(runs, standings(runs), compared(runs))
    assert "gp: 1; time-capped; 8 of 8 runs ended early by the cap" in text
    assert "27 schemes; optimum 3.500 with problem seed 0." in text
    assert "optimum unknown" in text
    assert "| default - rival | wins/losses | p | p Holm | default (recommended) - rival |" in text
    assert "| base - rival |" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    widths = [line.count("|") for line in lines]
    heads = [n for n, line in enumerate(lines) if line.startswith("| rival")]
    for start, end in itertools.pairwise([*heads, len(lines)]):
        assert len(set(widths[start:end])) == 1
    picture = draw_curves(tmp_path / "a.png", runs)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.read_bytes() == draw_curves(tmp_path / "b.png", runs).read_bytes()
