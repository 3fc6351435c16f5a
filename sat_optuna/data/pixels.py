"""One image file: what its header says, and its pixels with all their bits.

Pillow reads pictures of 8 bits. Where it would cut or leave out something, it is made to read all
of it here, or tifffile reads it (tiff.py); arrays are NumPy's.

Transparency is left out, and colours under it are kept as they are in the file; of an animation
the first picture is taken; EXIF's orientation is applied.
"""

import stat
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from tifffile import TiffPage

from sat_optuna.data.tiff import deep_page, page_pixels, transparency
from sat_optuna.errors import DataError, one_line

__all__ = [
    "MOST_PIXELS",
    "SUFFIXES",
    "Header",
    "Numbers",
    "file_size",
    "from_file",
    "opened_picture",
    "read_header",
    "read_pixels",
]

Numbers: TypeAlias = Literal["bytes", "whole", "floats"]

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
MOST_PIXELS = 89_478_485
"""Of an image: Pillow's own limit of what is no decompression bomb, 268 MB of bytes."""

# Whatever the file is called, no others: Pillow would hand PostScript to another program.
_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_Read = TypeVar("_Read")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its image before the pixels are read.

    Attributes:
        channels: 3 for grey and colour, else the number of bands.
        height, width: in pixels, once its orientation is applied.
        numbers: `bytes` of 8 bits or less, `whole` numbers of more, or `floats`.
        orientation: of EXIF, 1 to 8; 1 where the pixels lie as they are shown.
        transparent: whether the file holds transparency, which is left out.
    """

    channels: int
    height: int
    width: int
    numbers: Numbers
    orientation: int = 1
    transparent: bool = False


def file_size(path: Path) -> int:
    """Return the bytes of an image file.

    Raises:
        DataError: it is missing, or a folder, a pipe or a device.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"image {path} is missing; replace it or delete its link") from error
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"image {path} is no file of bytes; replace it or delete it")
    return found.st_size


def read_header(path: Path) -> Header:
    """Read what an image file says of its image.

    Raises:
        DataError: it is missing, broken, too large, or would not be read whole.
    """
    return from_file(path, _header)


def read_pixels(path: Path) -> NDArray[Any]:
    """Read the pixels of an image file, as they are shown.

    Returns:
        (H, W, C): uint8 for `bytes`; the file's own whole numbers or floats else, each finite and
        none below 0.

    Raises:
        DataError: as of `read_header`, or a number is negative or not finite.
    """
    return from_file(path, _pixels)


def from_file(path: Path, what: Callable[[Path, BinaryIO], _Read]) -> _Read:
    """Read something from an image file.

    Raises:
        DataError: it is missing or broken.
    """
    file_size(path)
    try:
        with path.open("rb") as file:
            return what(path, file)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"image {path} is missing; replace it or delete it") from error
    except MemoryError:
        raise
    # Pillow and tifffile raise SyntaxError, zlib.error, struct.error and more for a broken file.
    except Exception as error:
        reason = " ".join(str(error).split()) or one_line(error)
        raise DataError(f"image {path} is broken ({reason}); replace it or delete it") from error


def _header(path: Path, file: BinaryIO) -> Header:
    if path.suffix.lower() == ".npy":
        array = _npy(path)
        channels = array.shape[2] if array.ndim == 3 else 1
        height, width = array.shape[:2]
        kind = array.dtype.kind
        numbers: Numbers = "floats" if kind == "f" else "whole"
        numbers = "bytes" if kind == "b" or array.dtype == np.uint8 else numbers
        found = Header(3 if channels == 1 else channels, height, width, numbers)
    elif page := deep_page(file):
        found = _tiff_header(path, page)
    else:
        found = _picture_header(path, file)
    return found


def _tiff_header(path: Path, page: TiffPage) -> Header:
    height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
    if height * width * samples * max(1, page.bitspersample // 16) > MOST_PIXELS:
        raise DataError(
            f"image {path} is too large ({height} x {width} pixels of {samples} bands, and at "
            f"most {MOST_PIXELS:,} numbers are read); scale it down or delete it"
        )
    if page.tags.valueof(274, 1) > 4:
        height, width = width, height
    bands = samples - transparency(page)
    numbers: Numbers = "floats" if page.sampleformat == 3 else "whole"
    numbers = "bytes" if page.dtype == np.uint8 else numbers
    # Its orientation needs no mark: Pillow has always applied that of a TIFF.
    return Header(3 if bands == 1 else bands, height, width, numbers, transparent=bands < samples)


def _picture_header(path: Path, file: BinaryIO) -> Header:
    file.seek(0)
    start = file.read(26)
    with opened_picture(file) as image:
        numbers = _numbers_of(image.mode)
        if start[:8] == _PNG and start[24] == 16 and start[25] in (2, 4, 6):
            numbers = "whole"
        elif image.format == "PPM" and image.mode == "RGB" and _largest(image) > 255:
            raise DataError(
                f"image {path} has colours up to {_largest(image)}, which would be cut to 8 bits; "
                "save it as PNG or TIFF"
            )
        late = start[:8] == _PNG and _has_late_exif(file)
        orientation = _orientation(image, late=late)
        width, height = image.size
        if orientation > 4:
            width, height = height, width
        transparent = bool(image.has_transparency_data)
        return Header(3, height, width, numbers, orientation, transparent)


def _pixels(path: Path, file: BinaryIO) -> NDArray[Any]:
    header = _header(path, file)
    file.seek(0)
    if path.suffix.lower() == ".npy":
        array = np.array(_npy(path))
        array = array.astype(np.uint8) * 255 if array.dtype.kind == "b" else array
        array = array[:, :, None] if array.ndim == 2 else array
    elif page := deep_page(file):
        array = _turned(page_pixels(page), page.tags.valueof(274, 1))
    elif header.numbers == "bytes":
        with opened_picture(file) as image:
            image.load()
            array = _turned(np.array(image.convert("RGB")), header.orientation)
    else:
        array = _turned(_deep_picture(file), header.orientation)
    if header.numbers != "bytes":
        _check_numbers(path, array)
    return np.broadcast_to(array, (*array.shape[:2], 3)) if array.shape[2] == 1 else array


def _deep_picture(file: BinaryIO) -> NDArray[Any]:
    """Read a grey image of more than 8 bits, or a PNG of 16-bit colours: (H, W, 1 or 3)."""
    file.seek(0)
    start = file.read(26)
    if start[:8] != _PNG or start[25] not in (2, 4, 6):
        with opened_picture(file) as image:
            image.load()
            return np.array(image)[:, :, None]
    if start[25] == 4:  # grey and transparency: four bytes, as if they were four colours
        high, low, *_ = np.moveaxis(_unpacked(file, "RGBA"), 2, 0)[..., None]
    else:  # Pillow takes the first byte of each colour, or the second if told that it is high
        mode = "RGB" if start[25] == 2 else "RGBA"
        high, low = (_unpacked(file, f"{mode};16{order}")[:, :, :3] for order in "BL")
    wide: NDArray[Any] = high.astype(np.uint16) << 8 | low
    return wide


def _unpacked(file: BinaryIO, raw_mode: str) -> NDArray[np.uint8]:
    """Let Pillow unpack a PNG as if its pixels were of another kind of the same length."""
    image: Any
    with opened_picture(file) as image:
        image.tile = [(*image.tile[0][:3], raw_mode)]
        image.load()
        return np.array(image)


def opened_picture(file: BinaryIO) -> Image.Image:
    """Let Pillow open a file whose pixels are not loaded yet.

    Raises:
        DataError: it is too large.
    """
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, that EXIF is corrupt
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(file, formats=_FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise DataError(
                f"image {file.name} is too large ({error}); scale it down or delete it"
            ) from error


def _npy(path: Path) -> NDArray[Any]:
    """Map an array (H, W) or (H, W, C) without reading its numbers."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype.kind not in "biuf":
        raise DataError(f"image {path} is an array of {array.dtype}; give whole numbers or floats")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise DataError(f"image {path} has shape {array.shape}; give (H, W) or (H, W, C)")
    if array.ndim == 3 and array.shape[0] < min(array.shape[1:]):
        raise DataError(
            f"image {path} has shape {array.shape}, which looks like channels first; give "
            "(H, W, C): x.transpose(1, 2, 0)"
        )
    if array.size > MOST_PIXELS:
        raise DataError(
            f"image {path} is too large (shape {array.shape}, and at most {MOST_PIXELS:,} numbers "
            "are read); scale it down or delete it"
        )
    return array


def _check_numbers(path: Path, array: NDArray[Any]) -> None:
    low, high = array.min(), array.max()
    if not np.isfinite(low) or not np.isfinite(high):
        raise DataError(
            f"image {path} has a number that is not finite ({low if low != low else high}); "
            "replace it or delete it"
        )
    if low < 0:
        raise DataError(
            f"image {path} has the negative number {low}; bring all images to numbers from 0"
        )


def _numbers_of(mode: str) -> Numbers:
    if mode == "F":
        return "floats"
    return "whole" if mode[0] == "I" else "bytes"


def _largest(image: Any) -> int:
    """Return the number that is white in a PPM file."""
    args = image.tile[0][3]
    return int(args[1]) if isinstance(args, tuple) else 255


def _orientation(image: Image.Image, *, late: bool) -> int:
    """Return EXIF's orientation that Pillow does not apply itself, 1 where there is none.

    Args:
        image: opened; its pixels need not be loaded.
        late: whether a PNG has more to tell behind its pixels.
    """
    told = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"} & set(image.info)
    if image.format == "TIFF" or not (told or late):
        return 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, that it is corrupt
        try:
            found = image.getexif().get(ExifTags.Base.Orientation, 1)
        # What cannot be read says nothing; the pixels are whole all the same.
        except Exception:
            return 1
    return found if found in range(1, 9) else 1


def _has_late_exif(file: BinaryIO) -> bool:
    """Tell whether a PNG has an EXIF chunk behind its pixels, where Pillow reads it last."""
    position, behind = 8, False
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return False
        length, name = struct.unpack(">I4s", head)
        behind = behind or name == b"IDAT"
        if behind and name in (b"eXIf", b"iTXt", b"zTXt"):
            return True
        position += 12 + length


def _turned(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return (H, W, C) as EXIF's orientation says that it is shown."""
    match orientation:
        case 2:
            return array[:, ::-1]
        case 3:
            return array[::-1, ::-1]
        case 4:
            return array[::-1]
        case 5:
            return array.swapaxes(0, 1)
        case 6:
            return np.rot90(array, -1)
        case 7:
            return array[::-1, ::-1].swapaxes(0, 1)
        case 8:
            return np.rot90(array, 1)
    return array
