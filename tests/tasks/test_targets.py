"""What images come with beside labels: several classes, or a number."""

import re

import numpy as np
import pytest
import torch

import sat_optuna as sat
from sat_optuna.data.arrays import checked_targets
from sat_optuna.data.images import labels_of
from sat_optuna.errors import DataError

X = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
HOT = (np.random.default_rng(0).random((20, 3)) > 0.5).astype(np.int64)
NUMBERS = np.linspace(-1, 1, 20)
MASKS = np.random.default_rng(0).integers(0, 3, (20, 8, 8))
MASKS[:, 0] = 255
DENSITIES = np.random.default_rng(0).random((20, 8, 8))


@pytest.mark.parametrize(
    ("y", "targets", "names"),
    [
        (HOT, "multi-hot", ("0", "1", "2")),
        (NUMBERS, "numbers", ("number",)),
        (MASKS, "masks", ("0", "1", "2")),
        (DENSITIES, "density", ("density",)),
    ],
)
def test_a_split_of_them_is_drawn_by_the_seed(y, targets, names):
    data = sat.Split.from_arrays(X, y, targets=targets, valid=0.3, test=(X[:4], y[:4]))
    same, other = (
        sat.Split.from_arrays(X, y, targets=targets, valid=0.3, seed=seed) for seed in (0, 1)
    )
    assert (data.targets, data.class_names, len(data.train), len(data.valid)) == (
        targets,
        names,
        14,
        6,
    )
    assert data.class_counts == {}
    x, labels = next(data.valid.batches(None, 6))
    assert torch.equal(x, next(same.valid.batches(None, 6))[0])
    assert not torch.equal(x, next(other.valid.batches(None, 6))[0])
    assert data.fingerprint == same.fingerprint != other.fingerprint
    # Each image keeps its own target, in both parts and in the test part.
    rows = [int((image == X).flatten(1).all(1).nonzero()) for image in x]
    assert np.allclose(labels, y[rows])
    assert np.allclose(labels_of(data.test), y[:4])


@pytest.mark.parametrize(
    ("y", "targets", "classes", "dtypes"),
    [
        (NUMBERS, "numbers", 1, (torch.float32, torch.float32)),
        (MASKS, "masks", 3, (torch.uint8, torch.int64)),
        (DENSITIES, "density", 1, (torch.float32, torch.float32)),
    ],
)
def test_a_split_of_loaders_has_them_too(y, targets, classes, dtypes):
    items = torch.utils.data.TensorDataset(X, torch.tensor(y))
    data = sat.Split.from_loaders(items, items, targets=targets)
    assert (data.targets, data.train.targets, data.classes) == (targets, targets, classes)
    assert labels_of(data.valid).dtype == labels_of(data.train).dtype == dtypes[0]
    for part in (data.train, data.valid):  # masks are kept as bytes, and learnt from as classes
        _, seen = next(part.batches(None, 20))
        assert seen.dtype == dtypes[1]
        assert np.allclose(seen, y)


def test_pixels_of_masks_are_counted_by_class_without_those_that_have_none():
    data = sat.Split.from_arrays(X, MASKS, targets="masks", valid=0.5)
    wanted = tuple(np.bincount(MASKS[MASKS < 255]).tolist())
    assert data.train_and_valid.pixel_counts() == wanted
    assert (data.train.class_counts(), data.train.majority_share()) == ((), None)


@pytest.mark.parametrize(
    ("y", "targets", "said"),
    [
        (
            HOT * 2,
            "multi-hot",
            "y has the value 2; give (N, classes), a column of 0 and 1 for each class, for "
            "targets = 'multi-hot'",
        ),
        (
            NUMBERS,
            "multi-hot",
            "y has shape (20,); give (N, classes), a column of 0 and 1 for each class, for "
            "targets = 'multi-hot'",
        ),
        (
            HOT,
            "numbers",
            "y has shape (20, 3); give (N,), a number for each image, for targets = 'numbers'",
        ),
        (
            np.where(NUMBERS > 0.9, np.nan, NUMBERS),
            "numbers",
            "y has a value that is not finite for image 19; correct it, or leave the image out",
        ),
        (
            ["old"] * 20,
            "numbers",
            "y is str96; give (N,), a number for each image, for targets = 'numbers'",
        ),
        (
            NUMBERS,
            "number",
            "targets is 'number'; write one of 'labels', 'multi-hot', 'numbers', 'masks', "
            "'density'",
        ),
        (
            np.zeros((20, 8, 8, 3), np.uint8),
            "masks",
            "y has shape (20, 8, 8, 3); give (N, H, W), the class of each pixel from 0, or 255 "
            "where it has none, for targets = 'masks'",
        ),
        (
            MASKS / 255,
            "masks",
            "y is float64; give whole numbers, the classes numbered from 0, for example "
            "y.astype('uint8')",
        ),
        (
            MASKS + 1,
            "masks",
            "y has a pixel of class 256; number the classes from 0 to 254, and write 255 where a "
            "pixel has none",
        ),
        (
            -DENSITIES,
            "density",
            f"y has the density {-DENSITIES.max():g}; give (N, H, W), densities of at least 0 "
            "whose sum is an image's count, for targets = 'density'",
        ),
    ],
)
def test_targets_of_another_form_are_one_sentence(y, targets, said):
    with pytest.raises(DataError) as caught:
        checked_targets(y, "y", targets)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"valid": (X, HOT[:, :2])}, "y of valid has 2 columns and that to train on 3; give both"),
        (
            {"classes": ["a", "b"]},
            "classes names 2 and the targets have 3 values an image",
        ),
        ({"valid": 1.5}, "valid is a share between 0 and 1, got 1.5; 0.2 is usual"),
    ],
)
def test_a_split_that_does_not_fit_is_one_sentence(more, said):
    with pytest.raises(DataError, match=f"^{said}"):
        sat.Split.from_arrays(X, HOT, targets="multi-hot", **more)


@pytest.mark.parametrize(
    ("y", "targets", "more", "said"),
    [
        (
            MASKS[:, 1:],
            "masks",
            {},
            "x has images of 8 x 8 pixels and y masks of 7 x 8; bring both to one size",
        ),
        (
            DENSITIES[:, :, 1:],
            "density",
            {},
            "x has images of 8 x 8 pixels and y density of 8 x 7; bring both to one size",
        ),
        (MASKS[1:], "masks", {}, "x has 20 images and y 19 labels; give a label for each"),
        (
            MASKS,
            "masks",
            {"classes": ["road", "sky"]},
            "a pixel has the label 2 and classes names 2; number them 0 to 1, or name all in",
        ),
        (
            np.where(MASKS == 1, 0, MASKS),
            "masks",
            {},
            "no pixel has the label 1 and one has 2; number the classes 0, 1, 2, ... without a",
        ),
        (MASKS * 0, "masks", {}, "data 'arrays' have 1 class, too few to tell apart; give images"),
        (
            MASKS,
            "masks",
            {"test": (X, np.where(MASKS == 1, 7, MASKS))},
            "y of test has the label 7 and there are 3 classes; number them 0 to 2, or name all",
        ),
    ],
)
def test_maps_that_do_not_fit_are_one_sentence(y, targets, more, said):
    with pytest.raises(DataError, match=f"^{re.escape(said)}"):
        sat.Split.from_arrays(X, y, targets=targets, **more)
