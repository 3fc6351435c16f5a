"""One image file: every mode, orientation and array, with all its numbers."""

import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from sat_optuna.data import pixels as module
from sat_optuna.data.pixels import Header, read_header, read_pixels
from sat_optuna.errors import DataError
from tests.data.formats import write_tiff

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (9, 7, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (9, 7, 4), np.uint16)


def png16(pixels: np.ndarray, *, late_exif: bytes = b"") -> bytes:
    """A PNG of 16 bits a sample, which Pillow cannot write."""
    height, width, samples = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[samples]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    if late_exif:
        chunks.insert(2, (b"eXIf", late_exif))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *((mode, "png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        *((mode, "tif") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")),
        ("P", "gif"),
        ("RGBA", "webp"),
        ("RGB", "bmp"),
        ("RGB", "ppm"),
        ("L", "jpg"),
        ("CMYK", "jpg"),
    ],
)
def test_eight_bits_are_what_pillow_makes_colours_of(tmp_path, mode, suffix):
    path = tmp_path / f"a.{suffix}"
    image = Image.fromarray(COLOUR).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(COLOUR[:, :, 1]))
    image.save(path)
    with Image.open(path) as image:
        wanted = np.array(image.convert("RGB"))
    np.testing.assert_array_equal(read_pixels(path), wanted)
    header = read_header(path)
    assert (header.channels, header.height, header.width, header.numbers) == (3, 9, 7, "bytes")
    assert header.transparent == (mode in ("LA", "RGBA"))


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_a_png_of_16_bits_is_read_whole_without_its_transparency(tmp_path, samples):
    path = tmp_path / "a.png"
    path.write_bytes(png16(DEEP[:, :, :samples]))
    assert read_header(path) == Header(3, 9, 7, "whole", transparent=samples in (2, 4))
    shown = DEEP[:, :, : 1 if samples < 3 else 3]
    np.testing.assert_array_equal(read_pixels(path), np.broadcast_to(shown, (9, 7, 3)))


@pytest.mark.parametrize(
    ("array", "suffix", "numbers"),
    [
        (DEEP[:, :, 0], "png", "whole"),  # mode I;16
        (DEEP[:, :, 0], "tif", "whole"),
        (DEEP[:, :, 0].astype(np.int32), "tif", "whole"),  # mode I
        (RNG.random((9, 7)).astype(np.float32), "tif", "floats"),  # mode F
    ],
)
def test_grey_of_more_than_eight_bits_keeps_its_numbers(tmp_path, array, suffix, numbers):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(array).save(path)
    assert read_header(path).numbers == numbers
    np.testing.assert_array_equal(read_pixels(path)[:, :, 1], array)


def test_big_endian_16_bits_keep_their_numbers(tmp_path):
    path = tmp_path / "a.tif"  # mode I;16B
    write_tiff(path, DEEP[:, :, :1], byteorder=">")
    with Image.open(path) as image:
        assert image.mode == "I;16B"
    np.testing.assert_array_equal(read_pixels(path)[:, :, 2], DEEP[:, :, 0])
    (tmp_path / "a.pgm").write_bytes(b"P5 7 9 65535\n" + DEEP[:, :, 0].astype(">u2").tobytes())
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.pgm")[:, :, 0], DEEP[:, :, 0])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "late png", "deep png", "deep tif"])
def test_the_orientation_of_exif_is_applied(tmp_path, kind, orientation):
    path = tmp_path / f"a.{kind.rsplit(maxsplit=1)[-1]}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "deep tif":
        turn = [(0x0112, "H", 1, orientation, True)]
        write_tiff(path, DEEP[:, :, :3], photometric="rgb", extratags=turn)
        wanted = DEEP[:, :, :3]
    elif kind == "deep png":
        path.write_bytes(png16(DEEP[:, :, :3], late_exif=exif.tobytes()[6:]))
        wanted = DEEP[:, :, :3]
    else:
        Image.fromarray(COLOUR).save(path, exif=exif)
        if kind == "late png":  # the chunk moved behind the pixels
            packed = path.read_bytes()
            at = packed.find(b"eXIf") - 4
            length = 12 + int.from_bytes(packed[at : at + 4], "big") if at > 0 else 0
            chunk, rest = packed[at : at + length], packed[:at] + packed[at + length :]
            path.write_bytes(rest[:-12] + chunk + rest[-12:] if length else packed)
        with Image.open(path) as image:
            image.load()
            wanted = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    if kind.startswith("deep"):
        band = Image.fromarray(wanted[:, :, 0].astype(np.int32))
        band.getexif()[0x0112] = orientation
        wanted = np.array(ImageOps.exif_transpose(band))
        np.testing.assert_array_equal(read_pixels(path)[:, :, 0], wanted)
    else:
        np.testing.assert_array_equal(read_pixels(path), wanted)
    header = read_header(path)
    assert (header.height, header.width) == wanted.shape[:2]
    if not kind.endswith("tif"):  # that of a TIFF Pillow has always applied
        assert header.orientation == orientation


def test_a_broken_exif_leaves_the_image_as_it_is(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(COLOUR).save(path, exif=b"Exif\0\0MM\0*\0\0\xff\xff\xff\xff\xff")
    assert read_header(path).orientation == 1
    plain = tmp_path / "b.jpg"
    Image.fromarray(COLOUR).save(plain)
    np.testing.assert_array_equal(read_pixels(path), read_pixels(plain))


@pytest.mark.parametrize(
    ("array", "numbers", "shape"),
    [
        (COLOUR, "bytes", (9, 7, 3)),
        (COLOUR[:, :, 0], "bytes", (9, 7, 3)),
        (COLOUR[:, :, :1], "bytes", (9, 7, 3)),
        (DEEP, "whole", (9, 7, 4)),
        (DEEP.astype(">u2"), "whole", (9, 7, 4)),
        (DEEP.astype(np.int64), "whole", (9, 7, 4)),
        (RNG.random((9, 7, 5)), "floats", (9, 7, 5)),
        (RNG.random((9, 7, 5)).astype(np.float16), "floats", (9, 7, 5)),
        (COLOUR > 100, "bytes", (9, 7, 3)),
    ],
)
def test_an_array_keeps_its_bands_and_numbers(tmp_path, array, numbers, shape):
    path = tmp_path / "a.npy"
    np.save(path, array)
    header, found = read_header(path), read_pixels(path)
    assert (header.channels, header.numbers, found.shape) == (shape[2], numbers, shape)
    wanted = array.astype(np.uint8) * 255 if array.dtype == bool else array
    wanted = wanted[:, :, None] if wanted.ndim == 2 else wanted
    np.testing.assert_array_equal(found, np.broadcast_to(wanted, shape))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 9, 9)), r"shape \(3, 9, 9\), which looks like channels first; give \(H, W"),
        (np.zeros((13, 64, 48)), r"looks like channels first; give \(H, W, C\): x.transpose"),
        (np.zeros(9), r"has shape \(9,\); give \(H, W\) or \(H, W, C\)"),
        (np.zeros((0, 4, 3)), r"has shape \(0, 4, 3\); give"),
        (np.zeros((4, 4), complex), "is an array of complex128; give whole numbers or floats"),
        (np.array([[None]]), r"is broken \(.*Python objects"),
        (np.full((4, 4), np.nan), r"has a number that is not finite \(nan\); replace it or del"),
        (np.full((4, 4), np.inf), r"has a number that is not finite \(inf\); replace it or del"),
        (np.full((4, 4), -3, np.int16), "has the negative number -3; bring all images to numb"),
    ],
)
def test_an_array_that_is_no_image_is_refused(tmp_path, array, said):
    path = tmp_path / "a.npy"
    np.save(path, array)
    with pytest.raises(DataError, match=rf"^image {path} .*{said}"):
        read_pixels(path)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("-inf")])
def test_a_float_tiff_that_is_no_image_is_refused(tmp_path, value):
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[0.5, value]], np.float32)).save(path)
    with pytest.raises(DataError, match=rf"^image {path} has .*(negative|not finite).*; "):
        read_pixels(path)


def test_colours_of_more_than_eight_bits_in_a_ppm_are_refused(tmp_path):
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6 1 1 1023\n" + bytes(6))
    with pytest.raises(DataError, match=r"has colours up to 1023, which would be cut to 8 bits;"):
        read_header(path)


def test_postscript_is_not_run_whatever_it_is_called(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    with Image.open(path) as image:
        assert image.format == "EPS"  # Pillow would hand it on
    for read in (read_header, read_pixels):
        with pytest.raises(DataError, match=rf"^image {path} is broken \(cannot identify image"):
            read(path)


@pytest.mark.parametrize("side", [9_460, 13_000, 20_000])
def test_too_many_pixels_are_refused_before_they_are_unpacked(tmp_path, side):
    path = tmp_path / "a.png"
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header
        + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + struct.pack(">I", 0) + b"IDAT"
    )  # fmt: skip
    with pytest.raises(DataError, match=r"a.png is too large \(.*exceeds limit of .* pixels"):
        read_header(path)


def test_too_large_arrays_and_bands_are_refused_by_their_headers(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_PIXELS", 100)
    np.save(tmp_path / "a.npy", DEEP)
    write_tiff(tmp_path / "a.tif", DEEP)
    for name in ("a.npy", "a.tif"):
        with pytest.raises(DataError, match=rf"image .*{name} is too large \(.* at most 100 num"):
            read_header(tmp_path / name)


@pytest.mark.parametrize("suffix", ["png", "npy", "tif"])
def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    os.mkfifo(path)
    code = (
        "from pathlib import Path; from sat_optuna.data.pixels import read_pixels\n"
        f"read_pixels(Path({str(path)!r}))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert f"image {path} is no file of bytes; replace it or delete it" in ended.stderr
