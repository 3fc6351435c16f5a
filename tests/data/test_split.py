import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sat_optuna.data.images import TensorImages, channel_statistics, pixel_counts
from sat_optuna.data.split import stratified_split, stratified_subset
from sat_optuna.errors import DataError
from sat_optuna.seeds import generator_for

classes = st.lists(st.integers(2, 30), min_size=1, max_size=6)


def shuffled_labels(counts: list[int], seed: int) -> torch.Tensor:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=generator_for("test", seed))]


def some_images(count: int = 10) -> TensorImages:
    pixels = torch.randint(
        0, 256, (count, 3, 4, 5), dtype=torch.uint8, generator=generator_for("some")
    )
    return TensorImages(pixels, torch.arange(count) % 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


@given(classes, st.floats(0, 1), st.integers(0, 99))
def test_a_subset_gives_each_class_its_share_within_one_image(counts, share, seed):
    labels = shuffled_labels(counts, seed)
    keep = round(share * len(labels))
    rows = stratified_subset(labels, keep, "any", seed)
    assert len(rows) == keep
    assert rows.tolist() == sorted(set(rows.tolist()))
    kept = torch.bincount(labels[rows], minlength=len(counts))
    exact = torch.tensor(counts) * keep / len(labels)
    assert ((kept - exact).abs() < 1).all()


@given(st.integers(2, 40), st.data())
def test_a_smaller_subset_of_equal_classes_lies_inside_a_larger_one(count, data):
    labels = shuffled_labels([count] * 3, 0)
    large = data.draw(st.integers(0, 3 * count))
    small = data.draw(st.integers(0, large))
    inner, outer = (set(stratified_subset(labels, n, "any").tolist()) for n in (small, large))
    assert inner <= outer


@given(classes, st.floats(0.05, 0.45), st.integers(0, 99))
def test_train_and_valid_share_out_the_rows(counts, share, seed):
    labels = shuffled_labels(counts, seed)
    if round(share * len(labels)) == 0:
        return
    train, valid = stratified_split(labels, share, seed)
    assert sorted([*train.tolist(), *valid.tolist()]) == list(range(len(labels)))
    assert len(valid) == round(share * len(labels))


def test_the_seed_alone_decides_the_split():
    labels = shuffled_labels([50, 50], 0)
    first, again, other = (stratified_split(labels, 0.2, seed)[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_draw_touches_the_global_generator():
    before = torch.random.get_rng_state()
    stratified_split(shuffled_labels([50, 50], 0), 0.2, 0)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(DataError, match=f"between 0 and 1, got {share}; 0.2 is usual"):
        stratified_split(torch.zeros(10, dtype=torch.int64), share, 0)


@pytest.mark.parametrize(("counts", "share"), [([2, 1], 0.1), ([2, 2], 0.9)])
def test_a_split_that_leaves_a_part_empty_is_refused(counts, share):
    with pytest.raises(DataError, match=rf"training images are too few for valid = {share}"):
        stratified_split(shuffled_labels(counts, 0), share, 0)


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
