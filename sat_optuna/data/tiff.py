"""TIFF files that Pillow does not read whole: several bands, 16 bits a colour, 64-bit numbers.

Pillow cuts 16-bit colours to 8 bits, leaves out bands after the third and refuses the rest; the
library tifffile reads them. What Pillow reads whole stays with Pillow.
"""

import logging
from importlib.util import find_spec
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from sat_optuna.errors import DataError

__all__ = ["deep_page", "page_pixels", "transparency"]

# What tifffile says of odd tags goes to the logs that a user set up, not to the terminal.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

# Without imagecodecs: none, Deflate (two numbers), PackBits, LZMA; as they are or differences.
_UNPACKED_ALONE = {1, 8, 32946, 32773, 34925}
_PREDICTED_ALONE = {1, 2}


def deep_page(file: BinaryIO) -> tifffile.TiffPage | None:
    """Return the page of a TIFF file that Pillow would not read whole, None of any other file.

    Raises:
        DataError: any TIFF of several pages; one that is not read here either.
        Exception: whatever tifffile raises for a broken one.
    """
    file.seek(0)
    if file.read(4) not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    file.seek(0)
    pages = tifffile.TiffFile(file).pages
    if not pages:
        raise ValueError("no page is in it")
    page = pages.first
    size = page.imagelength, page.imagewidth
    following = [other.aspage() for other in pages[1:2]]
    if page.imagedepth > 1 or any(
        size == (other.imagelength, other.imagewidth) and not other.is_reduced
        for other in following
    ):
        raise DataError(
            f"image {file.name} has several pages of one size, and one image is wanted; save the "
            "bands as one array (H, W, C) in a .npy file, or each page as a file"
        )
    if _pillow_reads_whole(page):
        return None
    _check(file, page)
    return page


def page_pixels(page: tifffile.TiffPage) -> NDArray[Any]:
    """Return all bits of all bands, (H, W, C) of the file's own type, without transparency.

    Args:
        page: of `deep_page`, its file still open.

    Raises:
        Exception: whatever tifffile raises for a broken one.
    """
    planes = page.asarray(squeeze=False, maxworkers=1)[:, 0]  # (S, H, W, C): S or C is 1
    pixels = np.moveaxis(planes, 0, 2).reshape(page.imagelength, page.imagewidth, -1)
    return pixels[:, :, : page.samplesperpixel - transparency(page)]


def transparency(page: tifffile.TiffPage) -> int:
    """Return how many samples at the end of a pixel are transparency."""
    return len(page.extrasamples) if set(page.extrasamples) <= {1, 2} else 0


def _pillow_reads_whole(page: tifffile.TiffPage) -> bool:
    bits, kind = page.bitspersample, page.sampleformat
    big_endian = page.parent.byteorder == ">"
    if big_endian and page.parent.is_bigtiff:  # Pillow knows none of these
        return False
    if page.photometric == 0 and bits > 8:  # it does not turn white into black again
        return False
    if page.samplesperpixel == 1:  # of whole numbers, of such with a sign, of floats
        known = {1: {1, 2, 4, 8, 12, 16, 32}, 2: {16, 32}, 3: {32}}
        # Few kinds of these it knows, and turns what libtiff has turned already.
        turned = big_endian and (bits == 32 or kind == 2)
        return bits in known.get(kind, ()) and not turned
    colours = {0: 1, 1: 1, 2: 3, 5: 4, 6: 3, 8: 3}.get(page.photometric)
    return bits == 8 and kind == 1 and page.samplesperpixel - transparency(page) == colours


def _check(file: BinaryIO, page: tifffile.TiffPage) -> None:
    if 0 in page.shape:
        raise ValueError("it has no pixels")
    kind, bits = page.dtype.kind if page.dtype else "?", page.bitspersample
    if bits not in (8, 16, 32, 64) or kind not in "uif" or page.photometric not in (1, 2):
        raise DataError(
            f"image {file.name} has {_name(page.photometric)} samples of {bits} bits "
            f"({page.dtype}), which are not read; save it as grey, RGB or bands of 8, 16, 32 or "
            "64 bits"
        )
    if find_spec("imagecodecs") is None and not (
        page.compression in _UNPACKED_ALONE and page.predictor in _PREDICTED_ALONE
    ):
        raise DataError(
            f"image {file.name} is packed with compression {_name(page.compression)} and "
            f"predictor {_name(page.predictor)}; pip install imagecodecs, or save it uncompressed"
        )


def _name(value: Any) -> str:
    return str(getattr(value, "name", value))
