"""Images in memory: their batches, their normalisation, what becomes of floats."""

import numpy as np
import pytest
import torch

from sat_optuna.data.images import (
    TensorImages,
    channel_statistics,
    count_classes,
    pixel_counts,
)
from sat_optuna.errors import DataError
from sat_optuna.seeds import generator_for


def some_images(count: int = 10) -> TensorImages:
    pixels = torch.randint(
        0, 256, (count, 3, 4, 5), dtype=torch.uint8, generator=generator_for("some")
    )
    return TensorImages(pixels, torch.arange(count) % 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def test_statistics_are_those_of_numpy():
    pixels = some_images().images
    mean, std = channel_statistics(pixel_counts(pixels))
    by_channel = pixels.numpy().transpose(1, 0, 2, 3).reshape(3, -1) / 255
    np.testing.assert_allclose(mean, by_channel.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(std, by_channel.std(axis=1), rtol=1e-12)


def test_a_constant_channel_can_be_normalised():
    _, std = channel_statistics(pixel_counts(torch.full((2, 1, 3, 3), 7, dtype=torch.uint8)))
    assert std == (1 / 255,)


@pytest.mark.parametrize("order", [None, [7, 0, 0, 3, 9]])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batches_are_normalised_and_in_order(order, batch_size):
    images = some_images()
    rows = torch.tensor(order) if order else torch.arange(10)
    got = list(images.batches(torch.tensor(order) if order else None, batch_size))
    assert [len(x) for x, _ in got][:-1] == [batch_size] * (len(got) - 1)
    mean = torch.tensor(images.mean).view(-1, 1, 1)
    std = torch.tensor(images.std).view(-1, 1, 1)
    expected = (images.images[rows].float() / 255 - mean) / std
    torch.testing.assert_close(torch.cat([x for x, _ in got]), expected)
    assert torch.equal(torch.cat([y for _, y in got]), images.labels[rows])


def test_the_classes_are_counted_and_the_largest_share_is_told():
    images = some_images(10)  # labels 0, 1, 2, 0, ...
    assert images.class_counts() == (4, 3, 3)
    assert images.majority_share() == 0.4
    rare = images.subset(torch.tensor([2, 0]))
    assert (rare.class_counts(), rare.majority_share()) == ((1, 0, 1), 0.5)
    empty = images.subset(torch.empty(0, dtype=torch.int64))
    assert (empty.class_counts(), empty.majority_share()) == ((), None)


def test_no_rows_are_no_batches():
    assert not list(some_images().batches(torch.empty(0, dtype=torch.int64), 4))


def test_augmentation_sees_raw_bytes_before_they_are_normalised():
    images = some_images()
    seen = []

    def darken(raw: torch.Tensor) -> torch.Tensor:
        seen.append(raw)
        return raw * 0

    batches = list(images.batches(None, 4, augment=darken))
    assert torch.equal(torch.cat(seen), images.images)
    assert all(raw.dtype == torch.uint8 for raw in seen)
    black = -torch.tensor(images.mean) / torch.tensor(images.std)
    torch.testing.assert_close(batches[0][0][0, :, 0, 0], black)


def test_batches_leave_the_images_as_they_are():
    images = some_images()
    before = images.images.clone()
    for batch, _ in images.batches(None, 10):
        batch.zero_()
    assert torch.equal(images.images, before)


def test_a_subset_keeps_order_and_normalisation():
    images = some_images()
    part = images.subset(torch.tensor([4, 1])).to("cpu")
    assert len(part) == 2
    assert part.mean == images.mean
    assert part.shape == (3, 4, 5)
    whole = next(iter(images.batches(torch.tensor([4, 1]), 2)))
    assert torch.equal(next(iter(part.batches(None, 2)))[0], whole[0])


def test_floats_are_taken_as_they_are_and_left_as_they_are():
    x = torch.randn(10, 3, 4, 5, generator=generator_for("floats"))
    images = TensorImages(x.clone(), torch.arange(10))
    rows = torch.tensor([7, 0, 0, 9])
    (batch, labels), *rest = images.batches(rows, 4)
    assert torch.equal(batch, x[rows])
    assert (labels.tolist(), rest) == ([7, 0, 0, 9], [])
    batch.zero_()
    assert torch.equal(images.subset(rows).to("cpu").images, x[rows])


def test_an_epoch_is_full_batches_in_an_order_of_seed_and_number():
    images = some_images(10)

    def epoch(number, seed, batch=4):
        found = images.epoch(number, seed=seed, batch=batch, augment=lambda raw: raw)
        return torch.cat([x for x, _ in found])

    assert images.steps(4) == 2
    assert len(epoch(0, 0)) == 8
    assert torch.equal(epoch(0, 0), epoch(0, 0))
    assert not torch.equal(epoch(0, 0), epoch(1, 0))
    assert not torch.equal(epoch(0, 0), epoch(0, 1))
    assert len(epoch(0, 0, batch=64)) == 10  # fewer images than a batch: one batch of all


def test_a_blank_image_shows_whether_images_and_labels_fit_a_network():
    images = some_images(10)  # labels 0, 1, 2

    def network(classes):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 5, classes))

    assert count_classes(network(3), images) == 3
    with pytest.raises(DataError, match=r"have the label 2 and the network 2 classes; number"):
        count_classes(network(2), images)
    with pytest.raises(DataError, match=r"^images of shape \(3, 4, 5\) do not go .* \(Runtime"):
        count_classes(torch.nn.Linear(7, 3), images)
    with pytest.raises(DataError, match=r"returns shape \(1, 3, 4, 5\) for one image; give a cl"):
        count_classes(torch.nn.Identity(), images)
