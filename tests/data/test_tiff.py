"""TIFF files that Pillow does not read whole are read number for number, or refused."""

import sys
from itertools import product
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from sat_optuna.data.pixels import read_header, read_pixels
from sat_optuna.errors import DataError
from tests.data.formats import write_tiff

PACKED: tuple[dict[str, Any], ...] = (
    {},
    {"rowsperstrip": 3, "bigtiff": True},
    {"tile": (16, 16)},
    {"compression": "lzma", "rowsperstrip": 3},
    {"compression": "zlib", "predictor": 2, "rowsperstrip": 3},
    {"compression": "zlib", "predictor": 2, "tile": (16, 16)},
)


def numbers(kind: str, bands: int) -> np.ndarray:
    rng = np.random.default_rng(bands)
    if kind[0] == "f":
        return rng.random((20, 21, bands)).astype(kind)
    return rng.integers(0, 250, (20, 21, bands)).astype(kind) * (1 if kind == "u1" else 100)


def retag(path, **values):
    """Say something else of the pixels than what is true of them."""
    with tifffile.TiffFile(path, mode="r+") as file:
        for name, value in values.items():
            file.pages.first.tags[name].overwrite(value)


@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "u4", "i4", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_every_way_of_packing_gives_the_numbers_back(tmp_path, kind, bands):
    wanted, path = numbers(kind, bands), tmp_path / "a.tif"
    for order, planar, packed in product("<>", (False, True) if bands > 1 else (False,), PACKED):
        if kind[0] == "f":  # differences are for whole numbers
            packed = {key: value for key, value in packed.items() if key != "predictor"}
        write_tiff(path, wanted, planar=planar, byteorder=order, **packed)
        found = read_pixels(path)
        np.testing.assert_array_equal(found, np.broadcast_to(wanted, (20, 21, max(3, bands))))
    header = read_header(path)
    assert (header.channels, header.height, header.width) == (max(3, bands), 20, 21)
    assert header.numbers == {"u1": "bytes"}.get(kind, "floats" if kind[0] == "f" else "whole")
    assert not header.transparent


@pytest.mark.parametrize(
    ("kind", "bands", "more", "shown"),
    [
        ("u2", 4, {"photometric": "rgb", "extrasamples": ["unassalpha"]}, 3),
        ("u2", 2, {"extrasamples": ["assocalpha"]}, 1),
        ("f4", 6, {"extrasamples": ["unspecified"] * 4 + ["unassalpha"]}, 6),
        ("u1", 4, {"photometric": "rgb", "extrasamples": ["unspecified"]}, 4),
        ("u1", 5, {"photometric": "rgb", "extrasamples": ["unspecified"] * 2}, 5),
        ("u1", 2, {}, 2),
    ],
)
def test_bands_are_all_there_and_transparency_is_not(tmp_path, kind, bands, more, shown):
    wanted, path = numbers(kind, bands), tmp_path / "a.tif"
    write_tiff(path, wanted, **more)
    header, found = read_header(path), read_pixels(path)
    assert header.channels == found.shape[2] == (3 if shown == 1 else shown)
    assert header.transparent == (shown < bands)
    np.testing.assert_array_equal(found, np.broadcast_to(wanted[:, :, :shown], found.shape))


@pytest.mark.parametrize("kind", ["u1", "f8"])
@pytest.mark.parametrize("more", [{}, {"volumetric": True, "tile": (16, 16, 16)}])
def test_several_pages_are_refused(tmp_path, kind, more):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, numbers(kind, 1)[None, :, :, 0].repeat(2, 0), **more)
    for read in (read_header, read_pixels):
        with pytest.raises(
            DataError, match=rf"^image {path} has several pages of one size, and one image is wan"
        ):
            read(path)


@pytest.mark.parametrize("side", [20, 10])
def test_a_smaller_copy_behind_the_image_is_passed_over(tmp_path, side):
    wanted, path = numbers("u2", 5), tmp_path / "a.tif"
    write_tiff(path, wanted)
    write_tiff(path, wanted[:side], append=True, subfiletype=1 if side == 20 else 0)
    np.testing.assert_array_equal(read_pixels(path), wanted)


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("u2", {"photometric": "separated"}, r"SEPARATED samples of 16 bits \(uint16\)"),
        ("u2", {"photometric": "miniswhite"}, r"MINISWHITE samples of 16 bits \(uint16\)"),
        ("c8", {}, r"MINISBLACK samples of 64 bits \(complex64\)"),
    ],
)
def test_other_numbers_are_refused(tmp_path, kind, more, said):
    path = tmp_path / "a.tif"
    bands = 1 if more.get("photometric") == "miniswhite" else 4
    write_tiff(path, numbers("u2", bands).astype(kind), **more)
    with pytest.raises(
        DataError, match=rf"^image {path} has {said}, which are not read; save it as grey, RGB or"
    ):
        read_header(path)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"Compression": 5}, "compression LZW and predictor HORIZONTAL"),
        ({"Compression": 50000}, "compression ZSTD and predictor HORIZONTAL"),
        ({"Compression": 7}, "compression JPEG and predictor HORIZONTAL"),
        ({"Predictor": 3}, "compression ADOBE_DEFLATE and predictor FLOATINGPOINT"),
    ],
)
def test_what_needs_imagecodecs_says_so(tmp_path, monkeypatch, tags, said):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)  # as if it were not installed
    path = tmp_path / "a.tif"
    write_tiff(path, numbers("u2", 4), compression="zlib", predictor=2)
    retag(path, **tags)
    with pytest.raises(
        DataError,
        match=rf"^image {path} is packed with {said}; pip install imagecodecs, or save it unc",
    ):
        read_header(path)


def test_lzw_that_pillow_reads_whole_needs_no_imagecodecs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    path = tmp_path / "a.tif"
    for kind in ("u1", "u2", "f4"):
        wanted = numbers(kind, 1)
        Image.fromarray(wanted[:, :, 0]).save(path, compression="tiff_lzw")
        np.testing.assert_array_equal(read_pixels(path), np.broadcast_to(wanted, (20, 21, 3)))


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("keep", [0.002, 0.05, 0.5, 0.9])
def test_a_file_cut_off_anywhere_is_named(tmp_path, keep, packed):
    path = tmp_path / "a.tif"
    write_tiff(path, numbers("u2", 3), photometric="rgb", **packed)
    content = path.read_bytes()
    path.write_bytes(content[: max(8, int(keep * len(content)))])
    with pytest.raises(
        DataError, match=rf"^image {path} is broken \(\w.*\); replace it or delete"
    ):
        read_pixels(path)


def test_a_file_without_pixels_is_broken(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, numbers("u2", 5))
    retag(path, ImageLength=0)
    with pytest.raises(DataError, match=rf"^image {path} is broken \(it has no pixels\); replace"):
        read_header(path)
