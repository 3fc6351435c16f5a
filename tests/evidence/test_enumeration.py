"""The summary of all scores against the plain formulas, and the files it leaves."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from problems import make_problem
from sat_optuna.data import load_dataset
from sat_optuna.evaluate import SchemeResult
from sat_optuna.events import Event
from sat_optuna.evidence.enumeration import Enumeration, enumerate_schemes
from sat_optuna.scheme import Scheme
from sat_optuna.search.objective import SupernetObjective
from sat_optuna.supernet.supernet import Supernet

STAGES, KINDS, IMAGES = (2, 1), ("se", "dia"), 21


def results(kinds=2, stages=STAGES, seed=0):
    rng = np.random.default_rng(seed)
    return [
        SchemeResult(
            scheme=Scheme(choices, stages),
            right=np.packbits(rng.random(IMAGES) < 0.6 + 0.1 * (choices[0] == 1)).tobytes(),
            loss=float(rng.random()),
            n=IMAGES,
        )
        for choices in itertools.product(range(kinds + 1), repeat=sum(stages))
    ]


@pytest.fixture
def given():
    return results()


@pytest.fixture
def scores(given):
    return Enumeration(given[::-1], kinds=KINDS, sparsity_weight=2.0)


def reward(result):
    return result.evaluation.accuracy + 2.0 * result.scheme.sparsity


def test_main_effects_by_hand(given, scores):
    by_name = {(e.block, e.kind): e for e in scores.effects()}
    assert len(by_name) == 6
    masks = {r.scheme.choices: r.mask() for r in given}
    own = np.mean([masks[1, b, c] for b in range(3) for c in range(3)], axis=0)
    none = np.mean([masks[0, b, c] for b in range(3) for c in range(3)], axis=0)
    each = 100 * (own - none)
    effect = by_name["s1.b00", "se"]
    half = stats.t.ppf(0.975, IMAGES - 1) * each.std(ddof=1) / np.sqrt(IMAGES)
    assert effect.points == pytest.approx(each.mean())
    assert (effect.low, effect.high) == pytest.approx((each.mean() - half, each.mean() + half))
    contexts = [
        100 * (masks[b, c, 2].mean() - masks[b, c, 0].mean()) for b in range(3) for c in range(3)
    ]
    other = by_name["s2.b00", "dia"]
    assert other.points == pytest.approx(np.mean(contexts))
    assert effect.p == pytest.approx(stats.ttest_1samp(each, 0.0).pvalue)
    (row,) = (
        row
        for row in scores.summary(top=1)["effects"]
        if (row["block"], row["kind"]) == ("s2.b00", "dia")
    )
    assert (row["least"], row["most"]) == pytest.approx(np.quantile(contexts, (0.025, 0.975)))


def test_the_best_and_where_the_controls_stand(given, scores):
    ranked = sorted(given, key=lambda r: (-reward(r), r.loss))
    best = scores.best(5)
    assert [row.scheme for row in best] == [str(r.scheme) for r in ranked[:5]]
    assert best[0].reward == pytest.approx(reward(ranked[0]))
    full = next(r for r in given if str(r.scheme) == "22-2")
    standing = scores.summary(top=3)["controls"]["full dia"]
    rewards = np.array([reward(r) for r in given])
    below = (
        np.isclose(rewards, reward(full)).mean() / 2
        + ((rewards < reward(full)) & ~np.isclose(rewards, reward(full))).mean()
    )
    assert standing["reward_percentile"] == pytest.approx(100 * below)
    hits = np.array([r.hits for r in given])
    wanted = (hits < full.hits).mean() + (hits == full.hits).mean() / 2
    assert standing["percentile"] == pytest.approx(100 * wanted)
    assert list(standing)[2:6] == ["accuracy", "percentile", "reward", "reward_percentile"]
    assert list(scores.summary(top=3)["controls"]) == ["plain", "full se", "full dia"]


@pytest.mark.parametrize(("kinds", "stages"), [(1, (2, 1)), (2, (2, 1)), (1, (1,))])
def test_schemes_that_do_not_differ_tell_nothing(kinds, stages, tmp_path):
    labels = np.arange(IMAGES) % 3 // 2  # 14 of 0, 7 of 1
    same = [replace(r, right=np.packbits(labels == 0).tobytes()) for r in results(kinds, stages)]
    scores = Enumeration(same, kinds=KINDS[:kinds], sparsity_weight=2.0, labels=labels, classes=2)
    assert scores.spread.tells_nothing
    assert scores.spread.at_majority
    assert str(scores.spread) == (
        f"no scheme differed, so nothing can be told: {len(same)} schemes have 1 distinct "
        "accuracy, 66.67 %; naming the largest class each time gets 66.67 % right, chance "
        "50.00 %; the accuracy equals the largest class's share"
    )
    plain = scores.standing(Scheme.uniform(stages, 0))
    assert (plain.percentile, plain.balanced_accuracy) == (50.0, 50.0)
    assert plain.reward_percentile > 50  # its bonus for sparsity alone
    widest = 100 * stats.binomtest(0, IMAGES).proportion_ci(method="wilson").high
    for effect in scores.effects():
        assert effect.points == pytest.approx(0)
        assert effect.p == 1.0
        assert (effect.low, effect.high) == pytest.approx((-widest, widest))
    table, _, page = scores.write(tmp_path, top=1)
    assert str(scores.spread) in page.read_text()
    again = Enumeration.read(table, kinds=KINDS[:kinds], sparsity_weight=2.0)
    assert again.summary(top=2) == scores.summary(top=2)


def test_the_best_of_each_density(given, scores):
    rows = scores.best_by_density()
    assert [row.connections for row in rows] == [0, 1, 2, 3]
    for row in rows:
        same = [r for r in given if r.scheme.connections == row.connections]
        best = min(same, key=lambda r: (-r.hits, r.loss))
        assert (row.scheme, row.accuracy) == (str(best.scheme), best.evaluation.accuracy)


def test_the_files_hold_all_of_it_and_the_table_is_a_problem(given, scores, tmp_path):
    table, summary, page = scores.write(tmp_path, top=4)
    with np.load(table, allow_pickle=False) as arrays:
        assert arrays["schemes"].dtype == np.uint8
        bits = np.unpackbits(arrays["right"], axis=1, count=int(arrays["images"]))
        assert bits.sum(axis=1).tolist() == arrays["hits"].tolist() == [r.hits for r in given]
        np.testing.assert_allclose(arrays["loss"], [r.evaluation.loss for r in given])
    problem = make_problem(f"table:{table}", 0)
    for result in given:
        assert problem.truth(np.array(result.scheme.choices)) == pytest.approx(reward(result))
    assert json.loads(summary.read_text()) == json.loads(json.dumps(scores.summary(top=4)))
    text = page.read_text()
    assert text.count("| best") == 0
    assert f"| `{scores.best(1)[0].scheme}` |" in text
    assert "95 % interval over the images" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "enumeration.html",
        "enumeration.json",
        "enumeration.md",
        "enumeration.npz",
    ]


def test_more_schemes_than_a_slice():
    few = results(kinds=1, stages=(11,))
    effects = Enumeration(few, kinds=("se",), sparsity_weight=0.0).effects()
    on = np.mean([r.hits for r in few if r.scheme.choices[3]])
    off = np.mean([r.hits for r in few if not r.scheme.choices[3]])
    assert effects[3].points == pytest.approx(100 * (on - off) / IMAGES)


# Nothing is trained here.
@pytest.mark.filterwarnings("ignore:each of the 8 schemes has the accuracy")
def test_every_scheme_is_scored_from_python_as_the_search_scores_it(tmp_path):
    data = load_dataset("mnist5k", seed=0, limit=100)
    net = Supernet(
        "resnet20",
        attention=("se",),
        in_channels=1,
        classes=10,
        seed=0,
        width=4,
        stem_stride=4,
        blocks=(1, 1, 1),
    )
    said: list[Event] = []
    objective = SupernetObjective(net, data, calibration=32, sparsity_weight=1.0)
    scores = enumerate_schemes(objective, on_event=said.append)
    assert "8 schemes on" in said[0].message
    assert said[0].done == 0
    assert said[1:] == [Event(step="enumerate", done=done, total=8) for done in range(1, 9)]
    for scheme, wanted in objective.evaluator.score_all().items():
        got = scores.standing(scheme)
        assert (got.accuracy, got.loss) == (wanted.accuracy, wanted.loss)
        assert got.reward == wanted.accuracy + scheme.sparsity
    journal = str(tmp_path / "scores.jsonl")
    for expected in (8, 0):  # the second time all of it is in the file
        said.clear()
        kept = enumerate_schemes(objective, journal=journal, on_event=said.append)
        assert len(said) == 1 + expected
        assert ("8 of them are there already" in said[0].message) == (expected == 0)
        assert kept.summary(top=8) == scores.summary(top=8)
