"""What images come with beside labels: several classes, or a number."""

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


@pytest.mark.parametrize(
    ("y", "targets", "names"),
    [(HOT, "multi-hot", ("0", "1", "2")), (NUMBERS, "numbers", ("number",))],
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


def test_a_split_of_loaders_has_them_too():
    items = torch.utils.data.TensorDataset(X, torch.tensor(NUMBERS))
    data = sat.Split.from_loaders(items, items, targets="numbers")
    assert (data.targets, data.train.targets, data.classes) == ("numbers", "numbers", 1)
    assert labels_of(data.valid).dtype == torch.float32


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
        (NUMBERS, "number", "targets is 'number'; write one of 'labels', 'multi-hot', 'numbers'"),
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
