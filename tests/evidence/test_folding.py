"""Which modules may go: the rule and the front against brute force, and the pages."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from sat_optuna.config.config import TrainConfig
from sat_optuna.cost.latency import LatencyModel
from sat_optuna.cost.timing import Estimate
from sat_optuna.data import load_dataset
from sat_optuna.errors import StudyError
from sat_optuna.evaluate import SchemeResult, evaluate_network
from sat_optuna.evidence.enumeration import Enumeration, enumerate_schemes
from sat_optuna.evidence.folding import (
    costs_of,
    fewest_within,
    fold_report,
    front_of,
    times_of,
)
from sat_optuna.evidence.statistics import paired_by_image
from sat_optuna.scheme import Scheme
from sat_optuna.search.objective import FoldedObjective
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.training.loop import fit, pretrain

STAGES, IMAGES = (2, 2), 200


def scores_of(hits, *, loss=None):
    """Scores of all schemes, of which so many images are right: the first ones."""
    every = list(itertools.product(range(2), repeat=sum(STAGES)))
    losses = loss or [1.0] * len(every)
    results = [
        SchemeResult(
            scheme=Scheme(choices, STAGES),
            right=np.packbits(np.arange(IMAGES) < count).tobytes(),
            loss=lost,
            n=IMAGES,
        )
        for choices, count, lost in zip(every, hits, losses, strict=True)
    ]
    return Enumeration(results, kinds=["se"], sparsity_weight=0.0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("points", [0.0, 0.5, 1.5, 100.0])
def test_the_fewest_modules_are_those_of_the_stated_rule(seed, points):
    rng = np.random.default_rng(seed)
    hits = rng.integers(180, 190, 16).tolist()
    loss = rng.random(16).tolist()
    scores = scores_of(hits, loss=loss)
    rows = [
        (sum(choices), -count, lost, choices)
        for choices, count, lost in zip(
            itertools.product(range(2), repeat=4), hits, loss, strict=True
        )
        if (hits[-1] - count) / IMAGES * 100 <= points
    ]
    assert fewest_within(scores, points).choices == min(rows)[3]


def test_a_loss_of_exactly_the_points_is_allowed():
    """0.1 + 0.2 is no 0.3: what is compared are images."""
    hits = [100] * 15 + [103]  # full is right on 3 images more, 1.5 points
    assert fewest_within(scores_of(hits), 1.5) == Scheme((0,) * 4, STAGES)
    assert fewest_within(scores_of(hits), 1.4999) == Scheme((1,) * 4, STAGES)


@pytest.mark.parametrize("seed", range(5))
def test_no_scheme_beats_one_of_the_front_and_each_other_is_beaten(seed):
    rng = np.random.default_rng(seed)
    scores = scores_of(rng.integers(180, 186, 16).tolist(), loss=rng.random(16).tolist())
    costs = rng.integers(1, 6, 16).tolist()
    front = front_of(scores, costs)
    better = [
        {
            other
            for other in range(16)
            if costs[other] <= costs[row]
            and scores.hits[other] >= scores.hits[row]
            and (costs[other], scores.hits[other]) != (costs[row], scores.hits[row])
        }
        for row in range(16)
    ]
    assert all(not better[row] for row in front)
    for row in set(range(16)) - set(front):
        same = {f for f in front if (costs[f], scores.hits[f]) == (costs[row], scores.hits[row])}
        assert better[row] or any(scores.loss[f] <= scores.loss[row] for f in same)
    assert [costs[row] for row in front] == sorted({costs[row] for row in front})


def test_noise_says_of_no_module_that_it_saves_time():
    one = (Estimate(-0.5, -1.0, 0.1),)
    model = LatencyModel(
        stages=STAGES,
        kinds=("se",),
        batch=8,
        rounds=9,
        runs=8,
        fresh=0,
        residual_percent=None,
        plain_ms=Estimate(5.0, 4.9, 5.2),
        increments_ms=(one, (Estimate(2.0, 1.0, 3.0),), one, (Estimate(0.25, 0.2, 0.3),)),
    )
    scores = scores_of([100] * 16)
    assert costs_of(scores, model) == tuple(
        5.0 + 2.0 * choices[1] + 0.25 * choices[3]
        for choices in itertools.product(range(2), repeat=4)
    )


def test_a_paired_interval_holds_what_a_bootstrap_of_the_images_holds():
    rng = np.random.default_rng(0)
    first, second = rng.random(4000) < 0.9, rng.random(4000) < 0.88
    got = paired_by_image(first, second)
    assert got.mean == pytest.approx(100 * (first.mean() - second.mean()))
    each = 100 * (first.astype(float) - second)
    means = rng.choice(each, (2000, 4000)).mean(1)
    assert (got.low, got.high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.1)


def test_where_no_image_differs_the_interval_is_that_of_none_in_all():
    right = np.arange(50) < 40
    got = paired_by_image(right, right)
    assert (got.mean, round(got.high, 2)) == (0.0, 7.13)  # Wilson's upper end of 0 in 50
    assert got.low == -got.high


@pytest.fixture(scope="module")
def trained():
    data = load_dataset("mnist5k", seed=0, limit=150)
    net = Supernet(
        "resnet20", attention=["se"], in_channels=1, classes=10, seed=0, width=4, stem_stride=4,
        blocks=(1, 2, 1),
    )  # fmt: skip
    pretrain(net, data, epochs=1, seed=0, connect=1.0, config=TrainConfig(batch=16))
    return FoldedObjective(net, data, calibration=32)


def test_a_trained_network_comes_to_a_page_a_figure_and_networks(trained, tmp_path):
    scores = enumerate_schemes(trained)
    found = fold_report(trained, scores, points=(100.0, 0.0))
    assert [kept.points for kept in found.kept] == [0.0, 100.0]
    assert found.kept[1].scheme.connections == 0
    assert found.kept[1].gone == 4
    data = trained.data
    full = Scheme.uniform(scores.stages, 1)
    for kept in found.kept:  # what is told is what the networks do, counted again
        folded = trained.folded(kept.scheme)
        ours, theirs = (
            evaluate_network(net, data.test, scheme=scheme).accuracy
            for net, scheme in ((folded, None), (trained.net, full))
        )
        assert kept.test_accuracy == ours
        assert kept.test_lost is not None
        assert kept.test_lost.mean == pytest.approx(theirs - ours)
        assert kept.lost.n == scores.n
    macs = [trained.costs.cost(Scheme.of(row, scores.stages)).macs for row in scores.schemes]
    assert list(found.costs) == macs
    times = times_of(trained.net, data.shape, [found.kept[1].scheme], batch=2, rounds=6)
    assert list(times) == [Scheme.uniform(scores.stages, 0)]
    page, text, figure = found.write(tmp_path, times=times)
    document = json.loads(page.read_text())
    assert document["kept"][1] | {"scheme": "0-00-0", "gone": 4} == document["kept"][1]
    assert document["uniform"]["full"]["scheme"] == "1-11-1"
    assert figure.read_bytes().startswith(b"\x89PNG")
    told = text.read_text()
    assert "| 100 | 4 of 4 | `0-00-0` |" in told
    assert "the 1,000 test images chose nothing" in told


def test_a_folded_network_is_a_plain_network_that_can_be_trained_on(trained):
    model = trained.folded(Scheme.parse("0-10-0"))
    before = {name: value.clone() for name, value in trained.net.state_dict().items()}
    history = fit(model, trained.data.train, epochs=2, seed=0, config=TrainConfig(batch=16))
    assert history[-1].loss < history[0].loss
    for name, value in trained.net.state_dict().items():
        assert bool((value == before[name]).all())


def test_a_sample_and_another_metric_are_refused(trained):
    scores = scores_of([100] * 16)
    sample = replace_rows(scores, 7)
    with pytest.raises(StudyError, match=r"^7 scores given, and the fewest modules are"):
        fold_report(trained, sample)
    scores.measure = replace(scores.measure, name="log_loss", unit="nats", better="lower")
    with pytest.raises(StudyError, match=r"^scores of the log.loss given, and points to lose are"):
        fold_report(trained, scores)


def replace_rows(scores, count):
    """The first scores alone."""
    rows = [
        SchemeResult(
            scheme=Scheme.of(scores.schemes[row], STAGES),
            right=scores.right[row].tobytes(),
            loss=1.0,
            n=IMAGES,
        )
        for row in range(count)
    ]
    return Enumeration(rows, kinds=["se"], sparsity_weight=0.0)
