"""Accuracy and loss of networks and schemes; the calibration set."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sat_optuna.data.images import TensorImages
from sat_optuna.errors import DataError
from sat_optuna.evaluate import (
    Evaluation,
    accuracy,
    calibration_batches,
    evaluate_network,
    score_scheme,
)
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from tests.networks import BLOCKS, tiny_supernet

ON = Scheme.uniform(BLOCKS, 1)
OFF = Scheme.uniform(BLOCKS, 0)


def some_images(count: int = 23) -> TensorImages:
    chance = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 2, 12, 12), dtype=torch.uint8, generator=chance)
    labels = torch.randint(0, 5, (count,), generator=chance)
    return TensorImages(pixels, labels, (0.5, 0.5), (0.25, 0.3))


class FirstPixels(nn.Module):
    """Logits are the first five pixels, in train mode turned round."""

    def forward(self, x):
        logits = x.flatten(1)[:, :5]
        return -logits if self.training else logits


@pytest.mark.parametrize("batch", [1, 10, 23, 500])
def test_accuracy_and_loss_by_hand(batch):
    images = some_images()
    (x, labels), *_ = images.batches(None, 23)
    logits = x[:, 0, 0, :5]
    hits = sum(int(logits[n].argmax() == labels[n]) for n in range(23))
    loss = -torch.log_softmax(logits, 1)[torch.arange(23), labels].mean().item()
    net = FirstPixels()
    got = evaluate_network(net, images, batch=batch)
    assert (got.accuracy, got.loss) == pytest.approx((100 * hits / 23, loss))
    counts = [labels.tolist().count(label) for label in range(5)]
    by_class = [
        sum(int(logits[n].argmax() == label) for n in range(23) if labels[n] == label)
        for label in range(5)
    ]
    assert got == Evaluation(accuracy=got.accuracy, loss=got.loss, n=23)
    assert (got.class_hits, got.class_counts) == (tuple(by_class), tuple(counts))
    shares = [100 * hits / count for hits, count in zip(by_class, counts, strict=True)]
    assert got.class_accuracies == pytest.approx(shares)
    assert got.balanced_accuracy == pytest.approx(sum(shares) / 5)
    assert accuracy(net, images) == got.accuracy
    assert net.training


@pytest.mark.parametrize("counts", [(190, 10, 2), (40, 0, 1), (5, 5, 5)])
def test_a_network_that_names_one_class_has_the_balanced_accuracy_of_chance(counts):
    class First(nn.Module):
        def forward(self, x):
            return torch.eye(3)[:1].expand(len(x), 3)

    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    pixels = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    got = evaluate_network(First(), TensorImages(pixels, labels, (0.5,), (0.5,)), batch=7)
    assert got.accuracy == 100 * counts[0] / sum(counts)
    assert got.class_hits == (counts[0], 0, 0)
    assert got.class_counts == counts
    assert got.balanced_accuracy == pytest.approx(100 / sum(map(bool, counts)))
    assert [math.isnan(value) for value in got.class_accuracies] == [not n for n in counts]


def test_a_scheme_is_evaluated_as_its_materialised_network():
    net, images = tiny_supernet(["se"]), some_images()
    for scheme in (ON, OFF, Scheme.parse("01-100-1")):
        got = evaluate_network(net, images, scheme=scheme)
        assert got == evaluate_network(materialise(net, scheme), images)
        assert got.accuracy == accuracy(net, images, scheme=scheme)


def test_the_score_is_of_recalibrated_statistics_and_leaves_no_trace():
    net, images = tiny_supernet(["se"]), some_images()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    calibration = calibration_batches(some_images(40), chunk=20, seed=0)
    score = score_scheme(net, ON, calibration=calibration, images=images)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert score == score_scheme(net, ON, calibration=calibration, images=images)
    assert score.loss != evaluate_network(net, images, scheme=ON).loss
    # By hand: the materialised network, trained for a pass with an averaging momentum.
    ticket = materialise(net, ON).train()
    for module in ticket.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    for x in calibration:
        ticket(x)
    by_hand = F.cross_entropy(ticket.eval()(next(images.batches(None, 23))[0]), images.labels)
    assert score.loss == pytest.approx(by_hand.item(), rel=1e-5)
    assert score_scheme(ticket, None, calibration=calibration, images=images) == score


def test_the_evaluation_batch_has_no_part_in_the_score():
    net, images = tiny_supernet(["se"]), some_images()
    calibration = calibration_batches(images, chunk=8, seed=0)
    one, other = (
        score_scheme(net, ON, calibration=calibration, images=images, batch=b) for b in (4, 500)
    )
    assert one.accuracy == other.accuracy
    assert one.loss == pytest.approx(other.loss, rel=1e-5)


def test_calibration_images_are_drawn_once_each_by_the_seed():
    images = some_images(50)
    batches = calibration_batches(images, count=24, chunk=10, seed=1)
    assert [len(batch) for batch in batches] == [10, 10, 4]
    (every, _), *_ = images.batches(None, 50)
    rows = [
        next(n for n in range(50) if torch.equal(every[n], x)) for batch in batches for x in batch
    ]
    assert len(set(rows)) == 24
    again = calibration_batches(images, count=24, chunk=10, seed=1)
    other = calibration_batches(images, count=24, chunk=10, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))
    assert not torch.equal(batches[0], other[0])


def test_fewer_images_than_asked_for_are_all_taken():
    (batch,) = calibration_batches(some_images(7), count=512, seed=0)
    assert len(batch) == 7


def test_one_calibration_image_is_refused():
    for count, chunk, have in ((1, 128, 9), (8, 1, 9), (8, 8, 1)):
        with pytest.raises(
            DataError,
            match=rf"{count} calibration images in chunks of {chunk} asked for, of {have}",
        ):
            calibration_batches(some_images(have), count=count, chunk=chunk, seed=0)


def test_no_image_is_refused():
    with pytest.raises(DataError, match="no image given to evaluate on"):
        accuracy(FirstPixels(), some_images().subset(torch.empty(0, dtype=torch.int64)))
