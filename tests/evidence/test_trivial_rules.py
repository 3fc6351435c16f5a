"""Trivial rules reach what others' classifiers and metrics say that they reach."""

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import mean_absolute_error, root_mean_squared_error
from sklearn.neighbors import NearestCentroid
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

import sat_optuna as sat
from sat_optuna.evidence.maps import trivial_rules
from sat_optuna.evidence.trivial_rules import count_rules, mask_rules
from sat_optuna.tasks import METRICS, TASKS, Metric, Task
from sat_optuna.tasks.segmentation import SEGMENTATION

METRICS_OF_MASKS = [METRICS.get("miou"), METRICS.get("pixel_accuracy")]
BINS = {1: 32, 3: 32, 4: 13}


def drawn(channels, classes, images=12, side=8, seed=0):
    """Images whose colours lean to their pixels' class, and masks with pixels of no class."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, (images, side, side)).astype(np.uint8)
    y[rng.random(y.shape) < 0.3] = 0  # the most frequent one
    tints = np.random.default_rng(99).integers(0, 256, (classes, channels))
    x = tints[y].transpose(0, 3, 1, 2) + rng.normal(0, 60, (images, channels, side, side))
    y[rng.random(y.shape) < 0.1] = 255
    return x.clip(0, 255).astype(np.uint8), y


def pixels(x, y):
    known = y != 255
    return x.transpose(0, 2, 3, 1)[known], y[known]


def of_bins(train, test, bins):
    """The most frequent class of each bin, by counting in a dictionary."""
    counts: dict[tuple[int, ...], Counter[int]] = {}
    for colour, label in zip(train[0].astype(int) * bins // 256, train[1].tolist(), strict=True):
        counts.setdefault(tuple(colour.tolist()), Counter())[label] += 1
    most = Counter(train[1].tolist()).most_common(1)[0][0]

    def answer(colour):
        counted = counts.get(tuple(colour.tolist()), Counter([most]))
        return min(counted, key=lambda label: (-counted[label], label))

    return np.array([answer(colour) for colour in test[0].astype(int) * bins // 256])


def scores_of(answers, truth, classes):
    """mIoU and pixel accuracy in per cent, by torchmetrics."""
    found, wanted = torch.from_numpy(answers.astype(np.int64)), torch.from_numpy(truth).long()
    miou = MulticlassJaccardIndex(classes, average="macro")(found, wanted)
    right = MulticlassAccuracy(classes, average="micro")(found, wanted)
    return {"miou": 100 * float(miou), "pixel_accuracy": 100 * float(right)}


def rules_of(train, test, classes):
    rules = mask_rules(
        lambda: [(x[None], y[None]) for x, y in zip(*train, strict=True)],
        lambda: [test],
        class_names=[f"class {number}" for number in range(classes)],
        metrics=METRICS_OF_MASKS,
    )
    return {rule.name: {key.name: value for key, value in rule.scores.items()} for rule in rules}


@pytest.mark.golden
@pytest.mark.parametrize(("channels", "classes"), [(1, 4), (3, 6), (4, 11)])
def test_rules_of_masks_are_those_of_scikit_learn_scored_by_torchmetrics(channels, classes):
    train, test = drawn(channels, classes), drawn(channels, classes, seed=1)
    seen, asked = pixels(*train), pixels(*test)
    expected = {
        "most frequent class everywhere, class 0": DummyClassifier().fit(*seen).predict(asked[0]),
        "class of the nearest mean colour": NearestCentroid()
        .fit(seen[0].astype(float), seen[1])
        .predict(asked[0].astype(float)),
        f"most frequent class of the colour's bin, {BINS[channels]} bins a channel": of_bins(
            seen, asked, BINS[channels]
        ),
    }
    found = rules_of(train, test, classes)
    assert list(found) == list(expected)
    for name, answers in expected.items():
        assert found[name] == pytest.approx(scores_of(answers, asked[1], classes), abs=1e-4), name


@pytest.mark.parametrize(
    ("channels", "classes", "said"),
    [
        (3, 2, "class 1 where blue minus red is at most 19 of 255, class 0 elsewhere"),
        (3, 3, "class 1 where blue minus red is at most 19 of 255, class 0 elsewhere"),
        (1, 2, "class 0 where channel 1 is at most 99 of 255, class 1 elsewhere"),
        (4, 3, "class 0 where channel 3 is at most 99 of 255, class 1 elsewhere"),
        (3, 4, ""),
    ],
)
def test_of_few_classes_there_is_the_best_threshold_too(channels, classes, said):
    x, _ = drawn(channels, 2)
    x[0, :, 0, 0] = 99
    y = (x[:, {1: 0, 4: 2}.get(channels, 0)] >= 100).astype(np.uint8)
    if channels == 3:
        y = (x[:, 2] < x[:, 0].astype(int) + 20).astype(np.uint8)
    found = rules_of((x, y), (x, y), classes)
    assert len(found) == 4 if said else 3
    if said:
        assert list(found)[-1] == said
        assert found[said]["pixel_accuracy"] == 100
        assert found[said]["miou"] == 100


@pytest.mark.parametrize(("channels", "bins"), [(2, 32), (5, 8), (7, 4), (16, 1)])
def test_bins_of_more_channels_are_fewer_so_that_their_number_is_bounded(channels, bins):
    train = drawn(channels, 4)
    name = list(rules_of(train, train, 4))[2]
    assert name == f"most frequent class of the colour's bin, {bins} bins a channel"
    assert bins**channels <= 32**3 < (bins + 1) ** channels or bins == 32


@pytest.mark.golden
@pytest.mark.parametrize("skewed", [False, True])
def test_rules_of_counts_are_those_of_scikit_learn(skewed):
    rng = np.random.default_rng(0)
    train, test = (rng.gamma(0.5 if skewed else 5, 2, n) for n in (40, 25))
    metrics = [METRICS.get("mae"), METRICS.get("rmse")]
    rules = count_rules(train, test, metrics)
    for rule, strategy in zip(rules, ("mean", "median"), strict=True):
        answers = DummyRegressor(strategy=strategy).fit(train[:, None], train).predict(test)
        assert rule.name == f"{strategy} count of the training images, {answers[0]:.2f}"
        assert [rule.scores[metric.measure] for metric in metrics] == pytest.approx(
            [mean_absolute_error(test, answers), root_mean_squared_error(test, answers)]
        )


def split(x, y, targets):
    half = len(x) // 2
    return sat.Split.from_arrays(x[:half], y[:half], test=(x[half:], y[half:]), targets=targets)


@pytest.mark.parametrize("floats", [False, True])
def test_rules_of_a_split_see_its_images_as_they_were(floats):
    x, y = drawn(3, 5)
    x[0, :, 0, 0], x[0, :, 0, 1] = 0, 255  # floats go from the lowest to the highest
    given = split(x / 255.0 * 7 - 2 if floats else x, y, "masks")
    found = trivial_rules(given, SEGMENTATION, METRICS.get("pixel_accuracy"))
    expected = rules_of((x[:6], y[:6]), (x[6:], y[6:]), 5)
    names = {rule.name.replace(", 0", ", class 0"): rule for rule in found}
    assert list(names) == list(expected)
    for name, rule in names.items():
        assert {key.name: value for key, value in rule.scores.items()} == expected[name]
        assert next(iter(rule.scores)).name == "pixel_accuracy"


def test_rules_of_counts_take_the_sums_of_densities():
    y = np.zeros((8, 6, 6), np.float32)
    y[:4, 2, 3], y[4:, 0, 0], y[0, 1, 1] = 1.0, 3.0, 4.0  # 5, 1, 1, 1 and three times 3
    rules = trivial_rules(
        split(np.zeros((8, 1, 6, 6), np.uint8), y, "density"),
        TASKS.get("counting"),
        METRICS.get("rmse"),
    )
    assert [rule.name for rule in rules] == [
        "mean count of the training images, 2.00",
        "median count of the training images, 1.00",
    ]
    scores = [{key.name: value for key, value in rule.scores.items()} for rule in rules]
    assert [row["mae"] for row in scores] == [1, 2]
    assert [row["rmse"] for row in scores] == [1, 2]
    assert next(iter(scores[0])) == "rmse"


def test_a_metric_without_a_value_is_left_out_and_a_task_of_ones_own_has_no_rules():
    x, y = drawn(3, 3)
    y[6:][y[6:] == 2] = 1  # on the test part there is no pixel of class 2
    given = split(x, y, "masks")
    found = trivial_rules(given, SEGMENTATION, METRICS.get("iou_2"))
    without = next(rule for rule in found if rule.name.startswith("most frequent class every"))
    assert [key.name for key in without.scores] == ["miou", "pixel_accuracy"]
    own = Task(
        name="own",
        targets="masks",
        metric="edges",
        loss=SEGMENTATION.loss,
        state=lambda outputs, targets: outputs.mean((1, 2, 3)),
    )
    edges = Metric(
        name="edges", unit="", better="higher", tasks=("own",), of=lambda kept, _: float(kept[0])
    )
    assert trivial_rules(given, own, edges) == []
