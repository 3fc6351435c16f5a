"""How images are divided into train and valid, and a Split of one's own arrays."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sat_optuna.data.split import (
    Split,
    as_split,
    even_subset,
    split_mark,
    stratified_split,
    stratified_subset,
)
from sat_optuna.errors import DataError
from sat_optuna.seeds import generator_for

classes = st.lists(st.integers(2, 30), min_size=1, max_size=6)


def shuffled_labels(counts: list[int], seed: int) -> torch.Tensor:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=generator_for("test", seed))]


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


@given(classes, st.integers(0, 99), st.data())
def test_train_and_valid_share_out_the_rows_and_each_class_is_in_both(counts, seed, data):
    labels = shuffled_labels(counts, seed)
    images = len(labels)
    held = data.draw(st.integers(len(counts), images - len(counts)))
    train, valid = stratified_split(labels, held / images, seed)
    assert sorted([*train.tolist(), *valid.tolist()]) == list(range(images))
    assert len(valid) == held
    of_class = torch.bincount(labels[valid], minlength=len(counts)).tolist()
    assert all(1 <= part < whole for part, whole in zip(of_class, counts, strict=True))
    # Where the shares alone give each class its image, they are kept: the split of version 0.2.0.
    plain = stratified_subset(labels, held, "split", seed)
    kept = torch.bincount(labels[plain], minlength=len(counts)).tolist()
    if all(1 <= part < whole for part, whole in zip(kept, counts, strict=True)):
        assert torch.equal(valid, plain)
        assert split_mark(labels, valid) == ""
    else:
        assert split_mark(labels, valid)


@pytest.mark.parametrize(
    ("counts", "share", "valid"),
    [
        ([190, 10, 2], 0.2, [37, 2, 1]),
        ([300, 2, 2], 0.1, [28, 1, 1]),
        ([4, 2, 2, 2], 0.5, [2, 1, 1, 1]),
        ([3, 3, 94], 0.95, [2, 2, 91]),
        ([1000, 0, 3], 0.01, [9, 0, 1]),
    ],
)
def test_a_rare_class_gets_its_image_from_the_largest(counts, share, valid):
    labels = shuffled_labels(counts, 0)
    train, held = stratified_split(labels, share, 0)
    assert torch.bincount(labels[held], minlength=len(counts)).tolist() == valid
    left = torch.bincount(labels[train], minlength=len(counts)).tolist()
    assert [a + b for a, b in zip(left, valid, strict=True)] == counts


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any), st.data())
def test_an_even_subset_is_as_even_as_the_counts_allow(counts, data):
    labels = shuffled_labels(counts, 0)
    keep = data.draw(st.integers(0, len(labels)))
    kept = torch.bincount(labels[even_subset(labels, keep, "any")], minlength=len(counts))
    assert int(kept.sum()) == keep
    cut = [int(part) for part, whole in zip(kept, counts, strict=True) if part < whole]
    # A class that could give more gives as much as the fullest one, give or take one image.
    assert not cut or min(cut) >= int(kept.max()) - 1


@given(st.integers(2, 30), st.integers(2, 6), st.data())
def test_an_even_subset_of_equal_classes_is_the_stratified_one(count, classes, data):
    labels = shuffled_labels([count] * classes, 1)
    keep = data.draw(st.integers(0, len(labels)))
    rows = even_subset(labels, keep, "limit")
    assert torch.equal(rows, stratified_subset(labels, keep, "limit"))


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


@pytest.mark.parametrize(
    ("counts", "share", "named", "advice"),
    [
        ([2, 1], 0.1, "class 'b' has 1", "add images of it or leave the class out"),
        ([200, 1, 9], 0.5, "class 'b' has 1", "add images of it or leave the class out"),
        ([2, 2], 0.9, "class 'a' has 2", "add images or choose valid = 0.5"),
        ([5, 5], 0.01, "class 'a' has 5", "add images or choose valid from 0.2 to 0.8"),
        ([50, 40, 60], 0.013, "class 'b' has 40", "choose valid from 0.02 to 0.98"),
    ],
)
def test_a_split_without_a_class_in_a_part_is_refused_and_names_it(counts, share, named, advice):
    with pytest.raises(DataError) as caught:
        stratified_split(shuffled_labels(counts, 0), share, 0, names="abc")
    assert f"training images of {len(counts)} classes are too few for" in str(caught.value)
    assert f"valid = {share}, {named}: each class needs an image to train" in str(caught.value)
    assert str(caught.value).endswith(advice)


def arrays(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 3, 6, 6), np.uint8), np.arange(count) % 4


def everything(images) -> tuple[torch.Tensor, torch.Tensor]:
    x, labels = zip(*images.batches(None, 7), strict=True)
    return torch.cat(x), torch.cat(labels)


class TestFromArrays:
    @pytest.mark.parametrize("kind", ["numpy", "torch"])
    def test_bytes_are_split_and_normalised_as_named_data_are(self, kind):
        x, y = arrays()
        given = (x, y) if kind == "numpy" else (torch.from_numpy(x), torch.from_numpy(y))
        data = Split.from_arrays(*given, valid=0.25, seed=3)
        train, valid = stratified_split(torch.from_numpy(y), 0.25, 3)
        assert (data.name, data.shape, data.class_names) == ("arrays", (3, 6, 6), tuple("0123"))
        pixels = x[train.numpy()].transpose(1, 0, 2, 3).reshape(3, -1) / 255
        mean, std = pixels.mean(axis=1), pixels.std(axis=1)
        for part, rows in ((data.train, train), (data.valid, valid)):
            found, labels = everything(part)
            expected = (x[rows.numpy()] / 255 - mean[:, None, None]) / std[:, None, None]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
            assert labels.tolist() == y[rows.numpy()].tolist()
        assert torch.equal(everything(data.train_and_valid)[0][train], everything(data.train)[0])

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
    def test_floats_are_taken_as_they_are_in_float32(self, dtype):
        x, y = arrays()
        x = (x / 64).astype(dtype)
        data = Split.from_arrays(x, y, seed=1)
        train, _ = stratified_split(torch.from_numpy(y), 0.2, 1)
        found, _ = everything(data.train)
        assert found.dtype == torch.float32
        np.testing.assert_array_equal(found, x[train.numpy()].astype(np.float32))

    def test_valid_and_test_may_be_given(self):
        x, y = arrays()
        data = Split.from_arrays(
            x[:20], list(y[:20]), valid=(x[20:30], y[20:30]), test=(x[30:], y[30:])
        )
        assert (len(data.train), len(data.valid), len(data.test)) == (20, 10, 10)
        assert torch.equal(
            everything(data.train_and_valid)[0],
            torch.cat([everything(data.train)[0], everything(data.valid)[0]]),
        )
        whole = Split.from_arrays(x[:20], y[:20], valid=(x[30:], y[30:]))  # the same statistics
        assert torch.equal(everything(data.test)[0], everything(whole.valid)[0])

    def test_a_validation_part_without_a_class_is_refused_unless_all_are_named(self):
        x, y = arrays()
        more = x[:3], y[:3]  # no image of class 3
        with pytest.raises(DataError, match=r"^y of valid has no image of class 3, which is tra"):
            Split.from_arrays(x, y, valid=more)
        data = Split.from_arrays(x, y, valid=more, classes=list("abcd"))
        assert data.class_counts["valid"] == {"a": 1, "b": 1, "c": 1, "d": 0}

    def test_without_a_test_part_it_says_so_when_one_is_wanted(self):
        data = Split.from_arrays(*arrays(), name="mine")
        with pytest.raises(DataError) as caught:
            _ = data.test
        assert str(caught.value) == (
            "data 'mine' have no test part; give test=... where the Split is made"
        )

    def test_the_arrays_are_copied_and_may_be_read_only_or_reversed(self):
        x, y = arrays()
        x.flags.writeable = y.flags.writeable = False
        data = Split.from_arrays(x[:, :, ::-1], y[::-1])
        before = everything(data.train_and_valid)
        given = torch.from_numpy(x.copy()), torch.from_numpy(y.copy())
        other = Split.from_arrays(*given, test=given)
        for tensor in given:
            tensor.zero_()
        assert int(everything(other.train_and_valid)[1].max()) == 3
        assert int(everything(other.test)[1].max()) == 3
        assert before[1].tolist() == y[::-1].tolist()

    def test_the_fingerprint_changes_with_all_that_is_trained_and_validated_on(self):
        x, y = arrays()
        other = x.copy()
        other[3, 0, 0, 0] += 1
        seen = [
            Split.from_arrays(x, y).fingerprint,
            Split.from_arrays(other, y).fingerprint,
            Split.from_arrays(x, (y + 1) % 4).fingerprint,
            Split.from_arrays(x, y, seed=1).fingerprint,
            Split.from_arrays(x, y, valid=0.3).fingerprint,
            Split.from_arrays(x, y, valid=(x, y)).fingerprint,
            Split.from_arrays(x, y, name="other").fingerprint,
            Split.from_arrays(x / 255, y).fingerprint,
        ]
        assert len(set(seen)) == len(seen)
        assert Split.from_arrays(x, y, test=(x, y)).fingerprint == seen[0]

    def test_classes_have_the_names_they_are_given(self):
        x, y = arrays()
        data = Split.from_arrays(x, y, classes=["cat", "dog", "eel", "fox", "gnu"])
        assert (data.classes, data.class_names[4]) == (5, "gnu")  # of which there is no image

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"valid": 0}, "valid is a share between 0 and 1, got 0.0; 0.2 is usual"),
            (
                {"valid": None},
                "valid is a NoneType; give a share such as 0.2, or images and labels (x, y)",
            ),
            ({"valid": (1, 2, 3)}, "valid is a tuple; give images and labels (x, y)"),
            (
                {"valid": (arrays()[0][:, :1], arrays()[1])},
                "the images of valid have shape (1, 6, 6) and those to train on (3, 6, 6); bring "
                "both to one",
            ),
            (
                {"test": (arrays()[0] / 255, arrays()[1])},
                "the images of test have type torch.float32 and those to train on torch.uint8; "
                "bring both to one",
            ),
            (
                {"test": (arrays()[0], arrays()[1][:-1])},
                "x of test has 40 images and y of test 39 labels; give a label for each",
            ),
            ({"test": arrays()[0]}, "test is a ndarray; give images and labels (x, y)"),
            (
                {"valid": (arrays()[0], arrays()[1] + 1)},
                "y of valid has the label 4 and there are 4 classes; number them 0 to 3, or name "
                "all in classes",
            ),
            (
                {"classes": ["cat", "dog"]},
                "an image has the label 3 and classes names 2; number them 0 to 1, or name all in "
                "classes",
            ),
            ({"classes": "abcd"}, "classes is 'abcd'; give a list with a name for each class"),
            ({"classes": 4}, "classes is 4; give a list with a name for each class"),
        ],
    )
    def test_bad_settings_are_one_sentence(self, settings, said):
        with pytest.raises(DataError) as caught:
            Split.from_arrays(*arrays(), **settings)
        assert str(caught.value) == said

    def test_a_class_without_an_image_is_refused_unless_all_are_named(self):
        x, y = arrays()
        with pytest.raises(DataError, match="no image has the label 0 and one has 4; number the"):
            Split.from_arrays(x, y + 1)

    def test_a_single_class_is_refused(self):
        x, y = arrays()
        with pytest.raises(DataError, match="'arrays' have 1 class, too few to tell apart; give"):
            Split.from_arrays(x, 0 * y)


def test_what_is_no_split_is_told_how_to_make_one():
    with pytest.raises(DataError) as caught:
        as_split(arrays())
    assert str(caught.value) == (
        "a tuple was given where a Split is wanted; make one with sat.Split.from_arrays(x, y) or "
        "sat.Split.from_loaders(train, valid)"
    )
