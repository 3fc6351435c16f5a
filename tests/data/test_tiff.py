"""TIFF files that Pillow does not read whole are read here, number for number."""

import io
from itertools import product
from typing import Literal

import numpy as np
import pytest

from sat_optuna.data.pixels import read_header, read_pixels
from sat_optuna.data.tiff import tiff_header, tiff_pixels
from sat_optuna.errors import DataError
from tests.data.tiffs import tiff

TYPES = ("u1", "u2", "i2", "u4", "i4", "i8", "f2", "f4", "f8")


def numbers(kind: str, bands: int, shape: tuple[int, int] = (20, 21)) -> np.ndarray:
    rng = np.random.default_rng(bands)
    if kind[0] == "f":
        return rng.random((*shape, bands)).astype(kind)
    return rng.integers(0, 250, (*shape, bands)).astype(kind) * (1 if kind == "u1" else 100)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_every_way_of_packing_gives_the_numbers_back(kind, bands):
    wanted = numbers(kind, bands)
    orders: tuple[Literal["<", ">"], ...] = ("<", ">")
    for order, planar, predictor, tile in product(orders, (1, 2), (0, 1, 2), (0, 16)):
        packed = tiff(wanted, order=order, planar=planar, predictor=predictor, tile=tile)
        header = tiff_header(io.BytesIO(packed))
        assert header is not None
        found = tiff_pixels(packed, header)
        assert found.dtype == wanted.dtype, (order, planar, predictor, tile)
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("kind", "bands", "more", "channels"),
    [
        ("u2", 3, {"photometric": 2}, 3),
        ("u2", 4, {"photometric": 2, "extras": [2]}, 3),
        ("u1", 4, {"photometric": 2, "extras": [0]}, 4),
        ("u1", 5, {"photometric": 2, "extras": [0, 0]}, 5),
        ("u1", 5, {"extras": [0] * 4}, 5),
        ("u2", 13, {}, 13),
        ("u1", 2, {}, 2),
        ("u2", 2, {"extras": [2]}, 3),
        ("f8", 1, {}, 3),
        ("f4", 1, {"order": ">", "predictor": 1}, 3),
        ("i4", 1, {"order": ">", "predictor": 2}, 3),
        ("f4", 6, {}, 6),
    ],
)
def test_bands_and_bits_are_all_there_and_transparency_is_not(
    tmp_path, kind, bands, more, channels
):
    wanted = numbers(kind, bands)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(wanted, **more))
    header, found = read_header(path), read_pixels(path)
    assert (header.channels, header.height, header.width) == (channels, 20, 21)
    assert header.numbers == {"u1": "bytes"}.get(kind, "floats" if kind[0] == "f" else "whole")
    shown = wanted if channels == bands else wanted[:, :, : 3 if bands == 4 else 1]
    np.testing.assert_array_equal(found, np.broadcast_to(shown, found.shape))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"pages": 2}, r"has several pages of one size, and one image is wanted; save the bands"),
        ({"photometric": 5}, r"is broken \(its PhotometricInterpretation is 5\); replace it or"),
        ({"predictor": 3}, r"is broken \(its Compression is 8 with Predictor 3\); replace it or"),
    ],
)
def test_what_would_not_be_read_whole_is_refused(tmp_path, more, said):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(numbers("u2", 4), **more))
    with pytest.raises(DataError, match=rf"^image {path} {said}"):
        read_pixels(path)


@pytest.mark.parametrize("keep", [9, 200, 900, 1900])
def test_a_file_cut_off_anywhere_is_named(tmp_path, keep):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(numbers("u2", 3), photometric=2)[:keep])
    with pytest.raises(DataError, match=rf"^image {path} is broken \(.*\); replace it or delete"):
        read_pixels(path)
