"""Metrics of the whole path, tree, chunks and masks among it, beside scikit-learn's own."""

import re
from dataclasses import replace
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit, softmax
from sklearn import metrics as theirs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from sat_optuna.backbones.weights import head_of
from sat_optuna.data.images import TensorImages
from sat_optuna.errors import DataError, SatOptunaError, UnknownName
from sat_optuna.evaluate import Evaluation, Evaluator, SchemeResult, evaluate_network
from sat_optuna.evidence.enumeration import Enumeration
from sat_optuna.scheme import Scheme
from sat_optuna.search.objective import SupernetObjective
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.tasks import (
    METRICS,
    TASKS,
    Metric,
    MetricError,
    Task,
    as_metric,
    build_task,
    metrics_of,
)
from sat_optuna.ticket import ACCURACY

N, CLASSES = 43, 3


def torchmetrics_of(kind, of=None, **settings):
    """Return torchmetrics' value over all pixels, of one class where it is named."""

    def wanted(z, y):
        index = kind(CLASSES, ignore_index=255, **settings)
        value = index(torch.tensor(z).argmax(1), torch.tensor(y))
        return 100 * float(value if of is None else value[of])

    return wanted


# What scikit-learn, of masks torchmetrics, says of the outputs of a network, (N, outputs), and the
# targets.
WANTED = {
    "accuracy": lambda z, y: 100 * theirs.accuracy_score(y, z.argmax(1)),
    "balanced_accuracy": lambda z, y: 100 * theirs.balanced_accuracy_score(y, z.argmax(1)),
    "macro_f1": lambda z, y: 100 * theirs.f1_score(y, z.argmax(1), average="macro"),
    "auroc": lambda z, y: 100 * theirs.roc_auc_score(y, softmax(z, 1), multi_class="ovr"),
    "log_loss": lambda z, y: theirs.log_loss(y, softmax(z, 1)),
    "class_accuracy_1": lambda z, y: (
        100 * theirs.recall_score(y, z.argmax(1), labels=[1], average="macro")
    ),
    "map": lambda z, y: 100 * theirs.average_precision_score(y, expit(z)),
    "macro_auroc": lambda z, y: 100 * theirs.roc_auc_score(y, expit(z)),
    "mae": lambda z, y: theirs.mean_absolute_error(y, z[:, 0]),
    "rmse": lambda z, y: theirs.root_mean_squared_error(y, z[:, 0]),
    "r2": lambda z, y: theirs.r2_score(y, z[:, 0]),
    "miou": torchmetrics_of(MulticlassJaccardIndex, average="macro"),
    "iou_1": torchmetrics_of(MulticlassJaccardIndex, 1, average="none"),
    "pixel_accuracy": torchmetrics_of(MulticlassAccuracy, average="micro"),
}
# What torch says of the loss, summed over the images.
LOSSES = {
    "classification": lambda z, y: torch.nn.CrossEntropyLoss(reduction="sum")(z, y),
    "multi-label": lambda z, y: torch.nn.BCEWithLogitsLoss(reduction="sum")(z, y) / z.shape[1],
    "regression": lambda z, y: torch.nn.MSELoss(reduction="sum")(z[:, 0], y),
    "segmentation": lambda z, y: sum(
        torch.nn.CrossEntropyLoss(ignore_index=255)(*pair)
        for pair in zip(z.split(1), y.long().split(1), strict=True)
    ),
    "counting": lambda z, y: 100**2 * torch.nn.MSELoss(reduction="sum")(z[:, 0], y) / 64,
}


def images_of(targets: str, seed: int = 0) -> TensorImages:
    chance = torch.Generator().manual_seed(seed)
    x = torch.rand(N, 2, 8, 8, generator=chance)
    made = {
        "labels": torch.randint(0, CLASSES, (N,), generator=chance),
        "multi-hot": (torch.rand(N, CLASSES, generator=chance) > 0.6).float(),
        "numbers": torch.rand(N, generator=chance),
        "masks": torch.randint(0, CLASSES, (N, 8, 8), generator=chance, dtype=torch.uint8),
        "density": torch.rand(N, 8, 8, generator=chance) / 10,
    }
    made["masks"][torch.rand(N, 8, 8, generator=chance) > 0.9] = 255
    return TensorImages(x, made[targets])


HEADS = {"masks": "fcn", "density": "density"}


@cache
def net_of(task: Task) -> Supernet:
    """A network whose outputs differ from image to image, though it never was trained."""
    net = Supernet(
        "resnet20",
        attention=["se"],
        in_channels=2,
        classes=1 if task.targets in ("numbers", "density") else CLASSES,
        seed=0,
        blocks=(1, 1, 1),
        width=4,
        **({"head": HEADS[task.targets]} if task.maps else {}),
    )
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = None  # its statistics are those of the next batch
    x, full = images_of("labels").images, Scheme.parse("1-1-1")
    head = cast("nn.Linear", net.get_submodule(f"backbone.{head_of(net.backbone)}"))
    with torch.no_grad():
        net.train()(x, full)
        outputs = net.eval()(x, full).transpose(0, 1).flatten(1)
        head.bias.sub_(outputs.mean(1))  # so that each class is named for some
    return net


@pytest.mark.parametrize(
    ("name", "task"), [(name, task) for name in WANTED for task in METRICS.get(name).tasks]
)
def test_a_metric_is_scikit_learns_of_the_raw_outputs_of_the_same_network(name, task):
    task = TASKS.get(task)
    net, images = net_of(task), images_of(task.targets)
    evaluator = Evaluator(net, images, chunk=10, task=task, metric=name)
    found = evaluator.score_many(map(Scheme.parse, ("0-0-0", "0-1-1", "1-0-1", "1-1-1")))
    for scheme, score in found.items():
        alone = evaluate_network(net, images, scheme=scheme, batch=10, task=task, metrics=[name])
        with evaluating(net), torch.inference_mode():
            outputs = torch.cat([net(x, scheme) for x, _ in images.batches(None, 10)])
        z, y = outputs.double().numpy(), images.labels.numpy()
        if task.name == "counting":
            z, y = z.sum((2, 3)), y.sum((1, 2))
        wanted = WANTED[name](z, y)
        assert score.score(name) == pytest.approx(wanted, rel=1e-5)
        assert alone.score(name) == score.score(name)
        assert score.loss == alone.loss
        assert score.loss * N == pytest.approx(float(LOSSES[task.name](outputs, images.labels)))
    assert len({score.score(name) for score in found.values()}) > 1  # of different networks


def test_each_metric_of_a_registered_task_is_tested():
    named = {name for task in TASKS.names() for name in metrics_of(task)}
    assert named | {"class_accuracy_1", "iou_1"} == set(WANTED)


def test_two_classes_have_the_auroc_of_the_second():
    z, y = np.random.default_rng(0).normal(size=(N, 2)), np.arange(N) % 2
    wanted = 100 * theirs.roc_auc_score(y, z[:, 1] - z[:, 0])
    assert METRICS.get("auroc").value(z, y) == pytest.approx(wanted)


def test_what_a_unit_keeps_is_bounded_and_the_scores_are_the_same(monkeypatch):
    images, net = images_of("labels"), net_of(TASKS.get("classification"))
    whole = Evaluator(net, images, metric="auroc")
    monkeypatch.setattr("sat_optuna.evaluate.evaluator._KEPT", 3 * N * CLASSES * 4)
    cut = Evaluator(net, images, metric="auroc")
    assert (whole.unit, cut.unit) == (512 * 2, 2)
    assert cut.score_all() == whole.score_all()


# 190 images of one class, 10 and 2 of the others: how many of each are right.
PLANTED = {"00": (190, 0, 0), "01": (186, 4, 0), "10": (181, 8, 1), "11": (180, 10, 0)}
LABELS = np.repeat([0, 1, 2], [190, 10, 2])


def planted(metric: str = "balanced_accuracy") -> list[SchemeResult]:
    """Four schemes with the same number of images right, of other classes each."""
    results = []
    for text, hits in PLANTED.items():
        parts = [np.arange(n) < hit for n, hit in zip((190, 10, 2), hits, strict=True)]
        right = np.concatenate(parts)
        value = METRICS.get(metric).value(right, LABELS)
        results.append(
            SchemeResult(
                scheme=Scheme.parse(text),
                right=np.packbits(right).tobytes(),
                loss=0.0,
                n=202,
                metric=value,
            )
        )
    return results


def test_balanced_accuracy_ranks_schemes_that_accuracy_cannot_tell_apart():
    known: dict[str, Any] = {
        "kinds": ["se"],
        "sparsity_weight": 0.0,
        "labels": LABELS,
        "classes": 3,
    }
    unmeasured = [SchemeResult(scheme=r.scheme, right=r.right, loss=0.0, n=202) for r in planted()]
    by_accuracy = Enumeration(unmeasured, **known)
    assert by_accuracy.spread.tells_nothing
    assert {row.accuracy for row in by_accuracy.best(4)} == {100 * 190 / 202}
    balanced = METRICS.get("balanced_accuracy").measure
    by_balanced = Enumeration(planted(), measure=balanced, **known)
    # By hand: (181/190 + 8/10 + 1/2) / 3, (180/190 + 10/10) / 3, (186/190 + 4/10) / 3, 1 / 3.
    assert [row.scheme for row in by_balanced.best(4)] == ["10", "11", "01", "00"]
    scores = [row.score for row in by_balanced.best(4)]
    assert scores == pytest.approx([75.0877193, 64.9122807, 45.9649123, 33.3333333])
    # The mean over the classes is a sum over images, so these give its intervals.
    effects = {effect.block: effect for effect in by_balanced.effects()}
    assert effects["s1.b00"].points == pytest.approx(
        (75.0877193 + 64.9122807 - 45.9649123) / 2 - 50 / 3
    )
    assert effects["s1.b00"].low < effects["s1.b00"].points < effects["s1.b00"].high


@pytest.mark.parametrize("metric", ["balanced_accuracy", "class_accuracy_1"])
def test_an_effect_on_accuracies_of_classes_has_its_interval_over_the_images(metric):
    results = planted(metric)
    scores = Enumeration(
        results,
        kinds=["se"],
        sparsity_weight=0.0,
        labels=LABELS,
        classes=3,
        measure=METRICS.get(metric).measure,
    )
    counts = {
        "balanced_accuracy": np.array([190, 10, 2]),
        "class_accuracy_1": np.array([0, 10, 0]),
    }
    classes = counts[metric]
    weight = np.divide(202, classes, out=np.zeros(3), where=classes > 0) / (classes > 0).sum()
    bits = {str(r.scheme): r.mask() * weight[LABELS] for r in results}
    # What the kind adds at the first block of stage 1, image by image.
    each = 100 * (bits["10"] + bits["11"] - bits["00"] - bits["01"]) / 2
    half = stats.t.ppf(0.975, 201) * each.std(ddof=1) / np.sqrt(202)
    effect = next(effect for effect in scores.effects() if effect.block == "s1.b00")
    assert effect.points == pytest.approx(each.mean())
    high = min(each.mean() + half, 100.0)
    assert (effect.low, effect.high) == pytest.approx((each.mean() - half, high))


def test_the_reward_of_a_metric_that_is_better_lower_is_negative():
    data = split_of("labels")
    objective = SupernetObjective(
        net_of(TASKS.get("classification")), data, metric="log_loss", sparsity_weight=0.5
    )
    seen = Evaluation(accuracy=50.0, loss=0.3, n=9, scores={"log_loss": 0.7})
    assert objective.reward(Scheme.parse("0-1-1"), seen) == pytest.approx(-0.7 + 0.5 / 3)
    assert objective.metric.measure.is_better(-0.1)


def split_of(targets: str):
    import sat_optuna as sat

    images = images_of(targets)
    return sat.Split.from_arrays(images.images, images.labels, targets=targets, valid=0.5)


def test_a_weight_meant_for_per_cent_is_said_of_other_units():
    net, data = net_of(TASKS.get("regression")), split_of("numbers")
    with pytest.warns(UserWarning, match=r"sparsity_weight = 2\.0 is meant for metrics in per"):
        SupernetObjective(net, data, task="regression", metric="rmse", calibration=8)
    SupernetObjective(
        net, data, task="regression", metric="rmse", calibration=8, sparsity_weight=0.01
    )


def test_a_metric_without_a_value_is_refused_before_anything_is_scored():
    images = images_of("labels")
    images.labels[images.labels == 2] = 1
    net = net_of(TASKS.get("classification"))
    with pytest.raises(MetricError) as caught:
        Evaluator(net, images, metric="auroc")
    assert str(caught.value) == (
        "auroc needs images of each class, and of these 43 none is of class 2; give some (a "
        "larger share in data.valid for one), or search for another metric"
    )
    for name, of, said in (
        ("odd", lambda z, y: float("nan"), "odd is nan on these 43 images; give images on"),
        ("none", lambda z, y: z, r"none cannot be computed of 43 images \(TypeError: only"),
        ("raises", lambda z, y: 1 / 0, r"raises cannot be computed of 43 images \(ZeroDiv"),
    ):
        metric = Metric(name=name, unit="", better="lower", tasks=("classification",), of=of)
        with pytest.raises(MetricError, match=f"^{said}"):
            Evaluator(net, images_of("labels"), metric=metric)


def test_multi_label_metrics_want_images_with_and_without_each_class():
    targets = images_of("multi-hot").labels.numpy()
    logits = np.random.default_rng(0).normal(size=targets.shape)
    targets[:, 1] = 1
    with pytest.raises(MetricError, match=r"^macro_auroc .* all 43 have class 1; leave the class"):
        METRICS.get("macro_auroc").value(logits, targets)
    targets[:, 1] = 0
    for name in ("map", "macro_auroc"):
        with pytest.raises(MetricError, match=rf"^{name} needs .* none is of class 1; give some"):
            METRICS.get(name).value(logits, targets)


@pytest.mark.parametrize(
    ("found", "task", "said"),
    [
        ("numbers", "classification", "the images come with a number for each image, (N,) floats"),
        ("multi-hot", "classification", "the images come with a column for each class, (N, cl"),
        ("labels", "regression", "the images come with the number of each image's class, (N,)"),
        ("labels", "multi-label", "the images come with the number of each image's class, (N,)"),
        ("labels", "segmentation", "the images come with the number of each image's class, (N,)"),
        ("masks", "counting", "the images come with the class of each pixel, (N, H, W) whole "),
        ("density", "segmentation", "the images come with a density whose sum is an image's "),
        ("masks", "classification", "the images come with the class of each pixel, (N, H, W)"),
    ],
)
def test_targets_of_another_task_are_one_sentence(found, task, said):
    net = net_of(TASKS.get(task))
    for use in (
        lambda: Evaluator(net, images_of(found), task=task),
        lambda: evaluate_network(net, images_of(found), task=task),
    ):
        with pytest.raises(DataError, match=f"^{re.escape(said)}.* the task {task} learns from"):
            use()
    with pytest.raises(DataError, match=r"^data 'arrays' come with"):
        SupernetObjective(net, split_of(found), task=task)


def test_a_network_with_another_number_of_outputs_is_one_sentence():
    net = net_of(TASKS.get("regression"))
    with pytest.raises(DataError) as caught:
        Evaluator(net, images_of("multi-hot"), task="multi-label")
    assert str(caught.value) == (
        "the images come with 3 target values each and the network has 1 outputs; build it with "
        "classes=3"
    )


@pytest.mark.parametrize("task", ["regression", "segmentation", "counting"])
def test_datasets_and_loaders_come_with_targets_too(task):
    net = net_of(TASKS.get(task))
    images = images_of(TASKS.get(task).targets)
    items = TensorDataset(images.images, images.labels)
    wanted = Evaluator(net, images, task=task).score(Scheme.parse("1-0-0"))
    for given in (items, DataLoader(items, batch_size=7)):
        found = Evaluator(net, given, task=task).score(Scheme.parse("1-0-0"))
        assert found.scores == wanted.scores


@pytest.mark.parametrize("ignored", [False, True])
def test_the_mean_iou_leaves_out_classes_that_are_in_no_mask_and_no_answer(ignored):
    chance = torch.Generator().manual_seed(1)
    answers = torch.randint(0, 5, (6, 9, 7), generator=chance)
    masks = torch.randint(1, 6, (6, 9, 7), generator=chance)  # 6 and 7 are nowhere
    if ignored:
        masks[torch.rand(masks.shape, generator=chance) > 0.5] = 255
    outputs = torch.nn.functional.one_hot(answers, 8).permute(0, 3, 1, 2).float()
    kept = TASKS.get("segmentation").state(outputs, masks)
    assert kept.shape == (6, 8, 8)
    assert kept.sum((1, 2)).tolist() == (masks != 255).sum((1, 2)).tolist()
    index = MulticlassJaccardIndex(8, average="macro", ignore_index=255)
    wanted = pytest.approx(100 * float(index(answers, masks)), rel=1e-6)
    assert METRICS.get("miou").value(kept.numpy(), masks.numpy()) == wanted
    # Each image's counts add up, in whatever parts they are kept.
    parts = torch.stack([kept[:2].sum(0), kept[2:].sum(0)])
    assert METRICS.get("miou").value(parts.numpy(), masks.numpy()[:2]) == wanted


def test_masks_without_a_class_have_no_score_and_no_loss():
    masks, task = torch.full((2, 4, 4), 255), TASKS.get("segmentation")
    kept = task.state(torch.rand(2, 3, 4, 4), masks).numpy()
    for name, said in (
        ("miou", "miou needs pixels with a class, and the masks of these 2 images have none but"),
        ("pixel_accuracy", "pixel_accuracy needs pixels with a class, and the masks of these 2 "),
        ("iou_1", "iou_1 needs pixels of class 1, and these 2 images have none, nor has the netw"),
    ):
        with pytest.raises(MetricError, match=f"^{said}"):
            METRICS.get(name).value(kept, masks.numpy())
    outputs = torch.rand(2, 3, 4, 4, requires_grad=True)
    for reduction in ("mean", "sum"):
        loss = task.loss(outputs, masks, reduction=reduction, weight=torch.ones(3))
        (slope,) = torch.autograd.grad(loss, outputs)
        assert loss == 0 == slope.abs().sum()


def _worst(kept, _targets):
    return kept.min()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: as_metric("mae", TASKS.get("classification")), "'mae' is no metric of the task "),
        (lambda: METRICS.get("acuracy"), "no metric 'acuracy'; did you mean 'accuracy'?"),
        (lambda: METRICS.get("class_accuracy_x"), "no metric 'class_accuracy_x'; write the class"),
        (lambda: METRICS.get("iou_road"), "no metric 'iou_road'; write the class by its number"),
        (lambda: TASKS.get("clasification"), "no task 'clasification'; did you mean 'classifi"),
        (
            lambda: build_task("regression", class_weights="balanced"),
            "class_weights is 'balanced'",
        ),
        (
            lambda: Metric(name="loss", unit="", better="lower", tasks=(), of=_worst),
            "metric 'loss' would be a trial's attribute of that name; take another one",
        ),
        (
            lambda: Metric(name="best", unit="", better=cast("Any", "high"), tasks=(), of=_worst),
            "metric 'best' has better = 'high'; write higher or lower",
        ),
    ],
)
def test_wrong_names_and_values_are_one_sentence(made, said):
    with pytest.raises(SatOptunaError, match=f"^{re.escape(said)}"):
        made()


def test_names_are_found_where_the_task_has_others():
    with pytest.raises(UnknownName, match=r"its metrics: accuracy, auroc, balanced_accuracy, log"):
        as_metric("map", TASKS.get("classification"))
    assert as_metric("", TASKS.get("multi-label")).name == "map"
    assert METRICS.get("accuracy").measure == ACCURACY


def test_a_task_with_a_loss_of_its_own_has_the_metrics_of_one_that_keeps_the_same():
    regression = TASKS.get("regression")
    task = replace(regression, name="huber", loss=_huber)
    assert metrics_of(task) == ("mae", "r2", "rmse")
    net, images = net_of(regression), images_of("numbers")
    found = evaluate_network(
        net, images, scheme=Scheme.parse("1-0-0"), task=task, metrics=["mae"], batch=10
    )
    same = Evaluator(net, images, task=task, chunk=10).score(Scheme.parse("1-0-0"))
    assert found.scores == same.scores
    with evaluating(net), torch.inference_mode():
        (batch,) = images.batches(None, N)
        outputs = net(batch[0], Scheme.parse("1-0-0"))[:, 0]
    wanted = nn.HuberLoss()(outputs, images.labels)
    assert found.loss == pytest.approx(float(wanted), rel=1e-5)
    # Of other outputs the built-in ones are none.
    assert metrics_of(replace(task, state=lambda z, y: z)) == ()
    assert "accuracy" in metrics_of(replace(TASKS.get("classification"), name="own"))


def _huber(outputs, targets, *, reduction):
    return nn.functional.huber_loss(outputs[:, 0], targets, reduction=reduction)


def test_a_loss_of_ones_own_that_is_no_number_is_one_sentence():
    def each(outputs, targets, *, reduction):
        return (outputs[:, 0] - targets) ** 2

    task = Task(name="own", targets="numbers", metric="mae", loss=each)
    metric = Metric(name="err", unit="", better="lower", tasks=("own",), of=lambda z, y: z.sum())
    with pytest.raises(
        DataError, match=r"^the loss of the task own fails on outputs \(43, 1\) \("
    ):
        Evaluator(net_of(task), images_of("numbers"), task=task, metric=metric)


def test_a_state_of_any_shape_adds_up_over_chunks():
    """As segmentation will keep it: counts of an image, of which a metric takes the sum."""

    def counts(outputs, targets):
        hits = outputs.argmax(1)[:, None] == torch.arange(CLASSES)
        there = targets[:, None] == torch.arange(CLASSES)
        return torch.stack([hits & there, hits | there], 2)  # (N, classes, 2)

    def iou(kept, _targets):
        both, either = kept.sum(0).T
        return 100 * (both / either).mean()

    task = Task(
        name="cut",
        targets="labels",
        metric="iou",
        loss=TASKS.get("classification").loss,
        state=counts,
    )
    metric = Metric(name="iou", unit="%", better="higher", tasks=("cut",), of=iou)
    net, images = net_of(task), images_of("labels")
    found = Evaluator(net, images, chunk=10, task=task, metric=metric).score_all()
    for scheme, score in found.items():
        with evaluating(net), torch.inference_mode():
            (batch,) = images.batches(None, N)
            guessed = net(batch[0], scheme).argmax(1).numpy()
        wanted = theirs.jaccard_score(
            images.labels.numpy(), guessed, average="macro", labels=range(CLASSES)
        )
        assert score.score("iou") == pytest.approx(100 * wanted)
