"""What one trained network is worth: every number is scikit-learn's, on the same outputs."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn
from torch.utils.data import TensorDataset

from sat_optuna.data.loaders import scored_images
from sat_optuna.errors import DataError
from sat_optuna.evidence.performance import largest_confusions, performance
from sat_optuna.evidence.statistics import wilson

N, NAMES = 120, ("cat", "dog", "owl")


def images(outputs, targets, kind="labels"):
    """Images that nn.Flatten turns into these outputs."""
    x = torch.as_tensor(outputs, dtype=torch.float32)[:, :, None, None]
    data = TensorDataset(x, torch.as_tensor(targets))
    return scored_images(data, device=torch.device("cpu"), targets=kind)


@pytest.fixture
def drawn():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, N)
    logits = rng.normal(size=(N, 3)).astype(np.float32)
    logits[np.arange(N), labels] += 1
    return logits, labels


def test_every_metric_of_a_classification_is_scikit_learns(drawn):
    logits, labels = drawn
    found = performance(nn.Flatten(), images(logits, labels), class_names=NAMES, batch=50)
    answers = logits.argmax(1)
    shares = torch.from_numpy(logits).double().softmax(1).numpy()
    wanted = {
        "accuracy": 100 * metrics.accuracy_score(labels, answers),
        "balanced_accuracy": 100 * metrics.balanced_accuracy_score(labels, answers),
        "macro_f1": 100 * metrics.f1_score(labels, answers, average="macro"),
        "auroc": 100 * metrics.roc_auc_score(labels, shares, multi_class="ovr"),
        "log_loss": metrics.log_loss(labels, shares),
    }
    assert next(iter(found.metrics)).name == "accuracy"
    assert {m.name: m.value for m in found.metrics} == pytest.approx(wanted)
    assert all(m.low <= m.value <= m.high for m in found.metrics)
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(labels, answers))
    recalls = 100 * metrics.recall_score(labels, answers, average=None)
    assert [m.value for m in found.classes] == pytest.approx(list(recalls))
    for measured in (found.metrics[0], *found.classes):
        assert (measured.low, measured.high) == wilson(measured.value, measured.n)


def test_an_interval_is_that_of_a_bootstrap_over_the_images(drawn):
    logits, labels = drawn
    first, second = (
        performance(nn.Flatten(), images(logits, labels), class_names=NAMES) for _ in range(2)
    )
    assert first.metrics == second.metrics
    loss = next(m for m in first.metrics if m.name == "log_loss")
    shares = torch.from_numpy(logits).double().softmax(1).numpy()
    each = -np.log(shares[np.arange(N), labels])
    half = 1.96 * each.std() / math.sqrt(N)  # of a mean, which the log loss is
    assert (loss.low, loss.high) == pytest.approx((loss.value - half, loss.value + half), rel=0.03)


def test_a_metric_without_a_value_is_said_and_the_others_stay(drawn):
    logits, labels = drawn
    kept = labels < 2  # no owl
    found = performance(nn.Flatten(), images(logits[kept], labels[kept]), class_names=NAMES)
    assert "auroc" not in {m.name for m in found.metrics}
    (said,) = found.remarks
    assert said.startswith("auroc needs images of each class")
    assert [m.name for m in found.classes] == ["cat", "dog"]


def test_a_task_without_classes_has_no_confusion():
    rng = np.random.default_rng(1)
    outputs, numbers = rng.normal(size=(40, 1)), rng.normal(size=40).astype(np.float32)
    found = performance(
        nn.Flatten(), images(outputs, numbers, "numbers"), class_names=("age",), task="regression"
    )
    assert found.confusion is None
    mae = metrics.mean_absolute_error(numbers, outputs[:, 0])
    assert found.metrics[0].name == "mae"
    assert found.metrics[0].value == pytest.approx(mae)


def test_the_most_frequent_mistakes_come_first():
    confusion = np.array([[5, 2, 0], [7, 1, 0], [0, 0, 9]])
    assert largest_confusions(confusion, NAMES) == [("dog", "cat", 7), ("cat", "dog", 2)]


def test_no_image_is_refused(drawn):
    logits, labels = drawn
    none = images(logits, labels).subset(torch.arange(0))
    with pytest.raises(DataError, match="no image given"):
        performance(nn.Flatten(), none, class_names=NAMES)


def test_a_segmentation_has_the_iou_of_each_class_over_all_pixels():
    rng = np.random.default_rng(2)
    masks = torch.from_numpy(rng.integers(0, 3, (N, 4, 5)))
    x = torch.from_numpy(rng.normal(size=(N, 4, 4, 5)).astype(np.float32))
    x[:, :3] += 2 * nn.functional.one_hot(masks, 3).permute(0, 3, 1, 2)
    x[:, 3] = -9  # the fourth class is in no mask, and is never named
    masks[:, 0] = 255
    data = TensorDataset(x, masks)
    seen = scored_images(data, device=torch.device("cpu"), targets="masks")
    names = (*NAMES, "emu")
    found = performance(nn.Identity(), seen, class_names=names, task="segmentation", batch=50)
    known = masks != 255
    answers, true = x.argmax(1)[known], masks[known]
    wanted = 100 * metrics.jaccard_score(true, answers, average=None)
    assert [m.name for m in found.classes] == list(NAMES)
    assert [m.value for m in found.classes] == pytest.approx(list(wanted))
    by_name = {m.name: m for m in found.metrics}
    assert set(by_name) == {"miou", "pixel_accuracy"}
    assert by_name["miou"].value == pytest.approx(wanted.mean())
    assert by_name["pixel_accuracy"].value == pytest.approx(100 * (answers == true).numpy().mean())
    for measured in (*found.metrics, *found.classes):
        assert measured.low < measured.value < measured.high
        assert measured.high - measured.low < 10
    assert found.confusion is None


def test_a_counting_has_the_metrics_of_its_counts():
    rng = np.random.default_rng(2)
    x = torch.from_numpy(rng.random((N, 1, 4, 5)).astype(np.float32))
    truth = torch.from_numpy(rng.random((N, 4, 5)).astype(np.float32))
    seen = scored_images(TensorDataset(x, truth), device=torch.device("cpu"), targets="density")
    found = performance(nn.Identity(), seen, class_names=("density",), task="counting")
    counts, estimates = truth.sum((1, 2)), x.sum((1, 2, 3))
    assert {m.name: m.value for m in found.metrics} == pytest.approx(
        {
            "mae": metrics.mean_absolute_error(counts, estimates),
            "rmse": metrics.root_mean_squared_error(counts, estimates),
            "r2": metrics.r2_score(counts, estimates),
        },
        rel=1e-4,
    )
    assert (found.classes, found.confusion) == ((), None)
