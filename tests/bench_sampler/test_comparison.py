"""Intervals, tests and regrets by hand."""

import numpy as np
import pytest
from scipy import stats

from comparison import OURS, RECOMMENDED, Results, bootstrap, compared, paired_p
from problems import make_problem
from tests.bench_sampler.made import run


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


def test_the_regret_by_hand(table, tmp_path):
    one = run(table)  # the level is 1.75, the optimum 3.5
    results = Results([one])
    assert results.regret(one, np.array([1.75, 3.5, 2.625])).tolist() == [1, 0, 0.5]

    np.savez(tmp_path / "flat.npz", schemes=np.array([[0], [1]]), values=np.array([2, 2]))
    flat = run(f"table:{tmp_path / 'flat.npz'}")
    assert Results([flat]).regret(flat, 2.0) == 0


def test_where_the_optimum_is_unknown_it_is_the_best_of_any_run():
    ours = run("ising24", value=-1.0)
    results = Results([ours, run("ising24", "tpe", value=-0.5, path=((1, -2.0),))])
    assert results.regret(ours, -0.5) == 0
    assert results.regret(ours, make_problem("ising24", 0).scale()[0]) == 1
    noisy = run("ticket54-noisy", value=6.0)  # its truth is that of the problem without noise
    assert Results([noisy, run("ticket54", "tpe", value=7.0)]).regret(noisy, 7.0) == 0


def test_of_equal_runs_the_last_counts():
    results = Results([run(value=0.25), run(seed=1), run(value=0.75)])
    assert [one.value for one in results.groups["nk16", OURS].values()] == [0.75, 0.5]


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
    got = {(row.problem, row.rival): row for row in compared(Results(runs))}
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
    results = Results(runs)
    recommended = results.groups["ticket54-noisy", RECOMMENDED].values()
    assert [(one.value, one.path) for one in recommended] == [(6.0, ())] * 3
    assert ("ticket54", RECOMMENDED) not in results.groups
    got = {(row.problem, row.ours): row.difference.value for row in compared(results)}
    assert got == {
        ("ticket54", "default"): 1,
        ("ticket54-noisy", "default"): 1,
        ("ticket54-noisy", RECOMMENDED): 2,
    }
