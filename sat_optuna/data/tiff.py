"""TIFF files that Pillow cannot read whole: several bands, 16 bits a colour, 64-bit numbers.

Pillow cuts 16-bit colours to 8 bits, leaves out bands after the third and refuses the rest. But
the libtiff in it unpacks strips and tiles of any compression: so it is given the file as one grey
image of W * C words of at most 16 bits, and the words are put together again here.
"""

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

__all__ = ["TiffHeader", "tiff_header", "tiff_pixels"]

_LIBTIFF_PREDICTS = {5, 8, 32946, 34925, 50000}  # LZW, Deflate, LZMA, Zstandard
_KEPT = (256, 257, 259, 266, 278, 322, 323)  # tags that stay as they are, if they are there


@dataclass(frozen=True, slots=True)
class TiffHeader:
    """What the first page of a TIFF file says of its samples.

    Attributes:
        tags: the page's tags.
        little: whether its numbers have the lowest byte first.
        stacked: whether a second page of the same size follows.
    """

    tags: Any
    little: bool
    stacked: bool

    def first(self, tag: int, default: int) -> int:
        """Return the (first) number of a tag."""
        found = self.tags.get(tag, default)
        return int(found[0] if isinstance(found, tuple) else found)

    @property
    def samples(self) -> int:
        """Numbers a pixel."""
        return self.first(277, 1)

    @property
    def bits(self) -> tuple[int, ...]:
        """Bits of each number of a pixel."""
        found = self.tags.get(258, (1,))
        found = found if isinstance(found, tuple) else (found,)
        return found if len(found) == self.samples else (found[0],) * self.samples

    @property
    def extras(self) -> tuple[int, ...]:
        """What the samples after those of the colour are: 0 unknown, 1 and 2 transparency."""
        found = self.tags.get(338, ())
        return found if isinstance(found, tuple) else (found,)

    @property
    def transparency(self) -> int:
        """How many samples at the end of a pixel are transparency."""
        return len(self.extras) if set(self.extras) <= {1, 2} else 0

    @property
    def bands(self) -> int:
        """Samples a pixel without transparency."""
        return self.samples - self.transparency

    @property
    def kind(self) -> str:
        """`u`, `i` or `f`, as NumPy calls types."""
        return {2: "i", 3: "f"}.get(self.first(339, 1), "u")

    @property
    def pillow_reads_whole(self) -> bool:
        """Whether Pillow gives all bits and bands."""
        width, photometric = set(self.bits), self.first(262, 1)
        if self.samples == 1:
            known = {"u": {1, 2, 4, 8, 12, 16, 32}, "i": {16, 32}, "f": {32}}
            # Pillow takes what libtiff has brought to this machine's order for the file's.
            turned = width == {32} and not self.little and self.first(259, 1) != 1
            return width <= known[self.kind] and not turned
        colours = {0: 1, 1: 1, 2: 3, 5: 4, 6: 3, 8: 3}.get(photometric)
        return width == {8} and self.kind == "u" and self.bands == colours


def tiff_header(file: BinaryIO) -> TiffHeader | None:
    """Return the header of a TIFF file, None if it is another file.

    Raises:
        Exception: whatever Pillow's parser raises for a broken one.
    """
    file.seek(0)
    start = file.read(8)
    if start[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    if 43 in start[2:4]:  # BigTIFF
        start += file.read(8)
    page = TiffImagePlugin.ImageFileDirectory_v2(start)
    file.seek(page.next)
    page.load(file)
    stacked = False
    if page.next:
        more = TiffImagePlugin.ImageFileDirectory_v2(start)
        file.seek(page.next)
        more.load(file)
        same = all(more.get(tag) == page.get(tag) for tag in (256, 257))
        stacked = same and not int(more.get(254, 0)) & 1  # 1: a smaller copy
    return TiffHeader(page, start[:2] == b"II", stacked)


def tiff_pixels(content: bytes, header: TiffHeader) -> NDArray[Any]:
    """Return all bits of all bands, (H, W, C) of the file's own type, without transparency.

    Args:
        content: the whole file.
        header: of that file.

    Raises:
        ValueError: it is packed in a way that is not read here.
        Exception: whatever Pillow and libtiff raise for a broken one.
    """
    bits, compression, predictor = header.bits[0], header.first(259, 1), header.first(317, 1)
    predictor = predictor if compression in _LIBTIFF_PREDICTS else 1
    if set(header.bits) != {bits} or bits not in (8, 16, 32, 64):
        raise ValueError(f"its samples have {header.bits} bits")
    if header.first(262, 1) not in (1, 2):
        raise ValueError(f"its PhotometricInterpretation is {header.first(262, 1)}")
    if compression in (6, 7) or predictor not in (1, 2):
        raise ValueError(f"its Compression is {compression} with Predictor {predictor}")
    height, width = header.first(257, 0), header.first(256, 0)
    planes = header.samples if header.first(284, 1) == 2 else 1
    inside = header.samples // planes  # samples that lie beside each other
    parts = []
    for plane in range(planes):
        words = _words(content, header, plane, planes, bits, inside * max(1, bits // 16))
        if bits > 16 and not header.little:  # libtiff has turned each word, not their order
            order = words.reshape(height, width, inside, bits // 16)[..., ::-1]
            words = np.ascontiguousarray(order)
        samples = words.reshape(-1).view(f"u{bits // 8}").reshape(height, width, inside)
        if predictor == 2:
            tile = header.first(322, width)
            for left in range(0, width, tile):
                part = samples[:, left : left + tile]
                np.cumsum(part, axis=1, dtype=part.dtype, out=part)
        parts.append(samples.view(f"{header.kind}{bits // 8}"))
    return np.concatenate(parts, axis=2)[:, :, : header.bands]


def _words(
    content: bytes, header: TiffHeader, plane: int, planes: int, bits: int, repeat: int
) -> NDArray[Any]:
    """Let libtiff unpack a plane as a grey image that is `repeat` times as wide."""
    word = min(bits, 16)
    tags = {tag: _numbers(header.tags[tag]) for tag in _KEPT if tag in header.tags}
    tags[256] = [tags[256][0] * repeat]
    if 322 in tags:
        tags[322] = [tags[322][0] * repeat]
    for tag in (273, 279, 324, 325):
        if tag in header.tags:
            found = _numbers(header.tags[tag])
            each = len(found) // planes
            tags[tag] = found[plane * each : (plane + 1) * each]
    tags |= {258: [word], 262: [1], 277: [1], 339: [1]}
    order = "<" if header.little else ">"
    start = struct.pack(order + "2sHI", b"II" if header.little else b"MM", 42, len(content))
    with Image.open(
        io.BytesIO(start + content[8:] + _directory(tags, order, len(content))), formats=["TIFF"]
    ) as image:
        return np.array(image).astype(f"u{word // 8}")


def _directory(tags: Mapping[int, Sequence[int]], order: str, place: int) -> bytes:
    """Return a directory of numbers for the place in the file where it is put."""
    entries, more = [], b""
    end = place + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            packed, more = struct.pack(order + "I", end + len(more)), more + packed
        entries.append(struct.pack(order + "HHI", tag, 4, len(values)) + packed)
    return struct.pack(order + "H", len(tags)) + b"".join(entries) + bytes(4) + more


def _numbers(value: Any) -> list[int]:
    return [int(item) for item in value] if isinstance(value, tuple) else [int(value)]
