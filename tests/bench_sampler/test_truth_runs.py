"""The committed duel on a truth table: its runs are of the committed table, its README is true."""

from pathlib import Path

import numpy as np
import pytest

from comparison import Results, bootstrap, compared, paired_p
from duel import play
from lookup import truth_values
from problems import make_problem
from report import table_markdown
from runs import read_runs
from tests.bench_sampler.made import untimed

FOLDER = Path(__file__).parents[2] / "studies" / "bench-sampler"
NAME = "truth:cued-digits-srm"
SEEDS = 30


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    copy = tmp_path_factory.mktemp("runs") / "runs.jsonl"  # reading one may cut its last line
    copy.write_bytes((FOLDER / "truth" / "runs.jsonl").read_bytes())
    return read_runs(copy)


@pytest.fixture(scope="module")
def said():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    return " ".join(text.split("## On a truth table")[1].split("\n## ")[0].split())


@pytest.fixture(autouse=True)
def in_the_clone(monkeypatch):
    monkeypatch.chdir(FOLDER)


@pytest.mark.parametrize("rival", ["random", "one-plus-one", "default"])
@pytest.mark.parametrize("name", [NAME, f"{NAME}-noisy"])
def test_the_same_seed_makes_the_committed_run(runs, name, rival):
    seed = 7
    (kept,) = [run for run in runs if (run.problem, run.rival, run.seed) == (name, rival, seed)]
    made = play(name, rival, seed)
    if rival == "default":  # on another CPU its OpenBLAS may add up in another order
        assert untimed(made) == untimed(play(name, rival, seed))
        assert made.path[0] == kept.path[0]
    else:
        assert made.path == kept.path


def test_the_table_is_of_the_runs(runs):
    results = Results(runs)
    assert len(runs) == 2 * 10 * SEEDS
    text = (FOLDER / "truth" / "table.md").read_text(encoding="utf-8")
    assert table_markdown(results, compared(results)) == text


def test_what_is_said_of_the_means_of_a_table(runs, said):
    results = Results(runs)
    found = {row.rival: row for row in compared(results) if row.problem == NAME}
    mine = [
        float(results.regret(run, run.value)) for run in results.groups[NAME, "default"].values()
    ]
    mean = bootstrap(mine, label=f"{NAME} default regret")
    assert f"with a regret of {mean.value:.3f} ({mean.low:.3f} to {mean.high:.3f})" in said
    better = ("random", "nsga2", "qmc", "cmaes", "paper")
    assert {rival for rival, row in found.items() if row.p_holm < 0.05} == {*better}
    assert all(row.difference.value > 0 for row in found.values())
    first = ", ".join(f"{found[rival].p_holm:.2g}" for rival in better[:-1])
    assert f"(p {first} and {found['paper'].p_holm:.2g})" in said
    for rival, word in (("gp", "GP"), ("one-plus-one", "strategy"), ("tpe", "TPE")):
        assert f"{word} ({found[rival].p_holm:.2g})" in said
    assert f"regularised evolution ({found['regularised-evolution'].p_holm:.2g})" in said
    area = {
        rival: np.mean([results.regret(run, run.curve()).mean() for run in of.values()])
        for (name, rival), of in results.groups.items()
        if name == NAME
    }
    ahead = sorted((a, rival) for rival, a in area.items() if a < area["default"])
    words = {"qmc": "QMC", "gp": "GP", "tpe": "TPE", "nsga2": "NSGA-II", "random": "random"}
    words["regularised-evolution"] = "regularised evolution"
    assert len(ahead) == 6
    assert f"six of the nine have a smaller area than its {area['default']:.3f}" in said
    assert all(f"{words[rival]} ({a:.3f})" in said for a, rival in ahead)


def test_what_is_said_of_noise(runs, said):
    valid, test = (values.reshape(256, 2) for values in truth_values("cued-digits-srm"))
    seen, unseen = valid.mean(axis=1), test.mean(axis=1)
    near = seen > seen.max() - 1 - 1e-9
    chosen = valid[valid[:, 0] >= 94.5 - 1e-9]
    apart = np.abs(np.diff(chosen)).ravel()
    assert f"{near.sum()} schemes lie within one point" in said
    assert f"of the {len(chosen)} schemes that have 94.5 % at least with seed 0" in said
    assert f"half are more than {np.median(apart):.1f} points apart from that" in said
    assert np.sort(apart)[-3] > 20
    assert f"random regret is {seen.max() - seen.mean():.1f} points" in said
    high = valid.max(axis=1) > 90
    low = (valid[high].min(axis=1) < 80).sum()
    assert f"of the {high.sum()} schemes with a seed above 90 %, {low} have one below 80 %" in said
    exact: dict[str, list[float]] = {}
    for run in runs:
        if run.problem == NAME:
            same = np.isclose(seen, run.value, rtol=0, atol=1e-9)
            exact.setdefault(run.rival, []).append(float(unseen[same].mean()))
    means = {rival: np.mean(values) for rival, values in exact.items()}
    assert f"reaches {min(means.values()):.2f} to {max(means.values()):.2f} %" in said
    assert f"{means['default'] - means['random']:.2f} points between random and ours" in said


def test_what_is_said_of_one_training_a_scheme(runs, said):
    name = f"{NAME}-noisy"
    regrets = []
    for seed in range(SEEDS):
        problem = make_problem(name, seed)
        schemes = np.array(list(np.ndindex(*(2,) * 8)))
        rewards = np.array([problem.evaluate(scheme, 0) for scheme in schemes])
        truths = np.array([problem.truth(scheme) for scheme in schemes])
        best = truths.max()
        found = truths[rewards == rewards.max()].mean()
        regrets.append((best - found) / (best - truths.mean()))
    middle = f"mean regret of {np.mean(regrets):.3f}, the median {np.median(regrets):.3f}"
    assert middle in said
    rows = [row for row in compared(Results(runs)) if row.problem == name]
    ps = [row.p for row in rows if row.ours == "default"]
    assert f"(p {min(ps):.1g} to {max(ps):.2g})" in said
    assert {f"{row.p_holm:.2g}" for row in rows} == {"0.89", "1"}
    mine = [run for run in runs if (run.problem, run.rival) == (name, "default")]
    p = paired_p([run.recommended - run.value for run in mine])
    assert f"not told from the best reward either (p {p:.2g})" in said
