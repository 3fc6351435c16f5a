"""One's own images and labels: what is taken, and the sentence for what is not."""

import numpy as np
import pytest
import torch

from sat_optuna.data.arrays import checked_images, checked_labels, checked_pair
from sat_optuna.errors import DataError

X = np.random.default_rng(0).random((20, 3, 8, 8))
Y = np.arange(20) % 4
LAST = (
    "which looks like channels last; give (N, C, H, W): x.transpose(0, 3, 1, 2) in NumPy, "
    "x.permute(0, 3, 1, 2) in torch"
)
ONE_LAST = "x.transpose(2, 0, 1)[None] in NumPy, x.permute(2, 0, 1)[None] in torch"
NUMBERS = (
    "give whole numbers, the classes numbered from 0, for example "
    "numpy.unique(y, return_inverse=True)[1]"
)


def broken(value):
    x = X.copy()
    x[7, 0, 0, 0] = value
    return x


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 28, 28), (2, 16, 4, 4), (2, 8, 1, 50)])
@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
def test_images_are_any_floats_or_bytes(make, shape):
    assert checked_images(make(shape), "x").dtype == torch.float32
    integers = np.uint8 if make is np.zeros else torch.uint8
    assert checked_images(make(shape, dtype=integers), "x").dtype == torch.uint8
    half = np.float16 if make is np.zeros else torch.bfloat16
    assert checked_images(make(shape, dtype=half), "x").dtype == torch.float32


@pytest.mark.parametrize("y", [[0, 1, 2], np.array([0, 1, 2], np.uint8), torch.tensor([0, 1, 2])])
def test_labels_are_any_whole_numbers(y):
    labels = checked_labels(y, "y")
    assert (labels.dtype, labels.tolist()) == (torch.int64, [0, 1, 2])


A_NUMBER = "or targets='numbers' to learn the number itself"


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (
            X.transpose(0, 2, 3, 1),
            f"x has shape (20, 8, 8, 3), {LAST}",
        ),
        (
            torch.zeros(5, 32, 32, 1),
            f"x has shape (5, 32, 32, 1), {LAST}",
        ),
        (
            X[0].transpose(1, 2, 0),
            "x has shape (8, 8, 3), which looks like one image with channels last; give "
            f"(N, C, H, W): {ONE_LAST}",
        ),
        (X[:, 0], "x has shape (20, 8, 8); give (N, C, H, W): x[:, None] for grey images"),
        (X.reshape(20, -1), "x has shape (20, 192); give (N, C, H, W)"),
        (X[:0], "x has shape (0, 3, 8, 8), which holds no image; give at least one"),
        ((255 * X).astype(int), "x is int64; give uint8 from 0 to 255, or floats"),
        (torch.zeros(2, 3, 8, 8).bool(), "x is bool; give uint8 from 0 to 255, or floats"),
        (X * 1j, "x is complex128; give uint8 from 0 to 255, or floats"),
        (
            broken(np.nan),
            "x has a value that is not finite in image 7; correct it, or leave the image out",
        ),
        (
            broken(np.inf),
            "x has a value that is not finite in image 7; correct it, or leave the image out",
        ),
        (None, "x has shape (); give (N, C, H, W)"),
    ],
)
def test_images_of_another_kind_are_one_sentence(x, said):
    with pytest.raises(DataError) as caught:
        checked_images(x, "x")
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (Y.astype(float), f"y is float64; {NUMBERS}, {A_NUMBER}"),
        (torch.zeros(3), f"y is float32; {NUMBERS}, {A_NUMBER}"),
        (Y > 0, f"y is bool; {NUMBERS}"),
        (["cat", "dog"], f"y is str96; {NUMBERS}"),
        (
            np.eye(4)[Y],
            "y has shape (20, 4), which looks like one-hot rows; give the number of each image's "
            "class, y.argmax(1), or targets='multi-hot' where an image may have several",
        ),
        (
            torch.zeros(3, 8, 8, dtype=torch.int64),
            "y has shape (3, 8, 8); give (N,), a label for each image, or targets='masks' for a "
            "class a pixel",
        ),
        (Y[:, None], "y has shape (20, 1); give (N,), a label for each image"),
        (3, "y has shape (); give (N,), a label for each image"),
        (Y - 1, "y has the label -1; number the classes from 0"),
    ],
)
def test_labels_of_another_kind_are_one_sentence(y, said):
    with pytest.raises(DataError) as caught:
        checked_labels(y, "y")
    assert str(caught.value) == said


def test_a_pair_of_different_lengths_is_refused():
    with pytest.raises(DataError) as caught:
        checked_pair(X, Y[:-1], of=" of valid")
    assert str(caught.value) == (
        "x of valid has 20 images and y of valid 19 labels; give a label for each"
    )


def test_what_is_no_array_at_all_is_refused():
    with pytest.raises(DataError, match=r"^x is a list that cannot be made an array \(ValueError"):
        checked_images([1, [2]], "x")
