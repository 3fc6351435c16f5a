"""Density maps against Gaussians added one by one, and their sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sat_optuna as sat
from sat_optuna.errors import DataError


def slow(dots, size, widths):
    rows, columns = np.mgrid[: size[0], : size[1]]
    made = np.zeros(size)
    for (row, column), sigma in zip(dots, widths, strict=True):
        bell = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * sigma**2))
        made += bell / bell.sum()
    return made


@pytest.mark.golden
def test_a_fixed_kernel_is_a_gaussian_of_sum_one_also_at_the_border():
    dots = [(0, 0), (5.5, 11.2), (15.5, 19.5), (-0.5, 7)]
    found = sat.density_map(dots, (16, 20), sigma=2.0)
    assert found.dtype == np.float32
    assert np.allclose(found, slow(dots, (16, 20), [2.0] * 4), rtol=1e-5, atol=1e-9)


@pytest.mark.golden
def test_an_adaptive_kernel_is_as_wide_as_its_three_nearest_lie():
    dots = np.array([(10, 10), (10, 20), (20, 10), (30, 30), (33, 34.0)])
    away = np.linalg.norm(dots[:, None] - dots, axis=2)
    widths = (0.3 * np.sort(away, axis=1)[:, 1:4].mean(axis=1)).clip(1, 48 / 8)
    found = sat.density_map(dots, (40, 48))
    assert np.allclose(found, slow(dots, (40, 48), widths), rtol=1e-5, atol=1e-9)
    alone, pair = sat.density_map(dots[:1], (40, 48)), sat.density_map(dots[:2], (40, 48))
    assert np.allclose(alone, slow(dots[:1], (40, 48), [6.0]), rtol=1e-5, atol=1e-9)
    assert np.allclose(pair, slow(dots[:2], (40, 48), [3.0] * 2), rtol=1e-5, atol=1e-9)


@given(
    count=st.integers(0, 300),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    sigma=st.sampled_from([None, 0.01, 1.0, 4.0, 500.0]),
    seed=st.integers(0, 99),
)
def test_it_sums_to_the_count(count, height, width, sigma, seed):
    drawn = np.random.default_rng(seed).random((count, 2)) * [height, width] - 0.5
    found = sat.density_map(drawn, (height, width), sigma=sigma)
    assert found.shape == (height, width)
    assert abs(found.sum(dtype=np.float64) - count) < 1e-3
    assert (found >= 0).all()


@pytest.mark.parametrize(
    ("dots", "sigma", "said"),
    [
        ([(3, 8)], 1.0, "a dot lies at row 3, column 8 and the image has 6 x 8 pixels; give (row"),
        ([(1, 1), (-1, 2)], None, "a dot lies at row -1, column 2 and the image has 6 x 8 pixel"),
        ([(float("nan"), 2)], None, "a dot lies at row nan, column 2 and the image has 6 x 8 pi"),
        ([(1, 1)], 0.0, "sigma is 0.0; give a number of pixels above 0"),
        ([(1, 2, 3)], None, "dots have shape (1, 3); give (D, 2), row and column of each"),
    ],
)
def test_dots_that_cannot_be_are_one_sentence(dots, sigma, said):
    with pytest.raises(DataError) as caught:
        sat.density_map(dots, (6, 8), sigma=sigma)
    assert str(caught.value).startswith(said)
