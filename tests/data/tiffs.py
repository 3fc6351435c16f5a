"""Writes TIFF files of any number of bands, for tests; after the TIFF 6.0 specification."""

import struct
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np


def tiff(
    pixels: Any,
    *,
    order: Literal["<", ">"] = "<",
    photometric: int = 1,
    extras: Sequence[int] = (),
    planar: int = 1,
    predictor: int = 0,
    tile: int = 0,
    orientation: int = 1,
    pages: int = 1,
) -> bytes:
    """Pixels (H, W, C) of any type as a file.

    Args:
        pixels: what it holds.
        order: `<` or `>`.
        photometric: 1 for grey and bands, 2 for red, green, blue.
        extras: what the samples after the colours are.
        planar: 2 to put the bands one after the other.
        predictor: 1 or 2 to deflate it, 2 to store differences; 0 stores it as it is.
        tile: side of its tiles; 0 for strips of 3 rows.
        orientation: as EXIF counts.
        pages: how often the page follows itself.
    """
    height, width, bands = pixels.shape
    stored = pixels.copy()
    if predictor == 2:
        whole = pixels.view(f"u{pixels.itemsize}")
        for left in range(0, width, tile or width):
            part = whole[:, left : left + (tile or width)]
            differences = stored.view(whole.dtype)[:, left : left + (tile or width)]
            differences[:, 1:] = part[:, 1:] - part[:, :-1]
    planes = [stored[:, :, [band]] for band in range(bands)] if planar == 2 else [stored]
    body, places, sizes = b"", [], []
    for plane in planes:
        for block in _tiles(plane, tile) if tile else np.split(plane, range(3, height, 3)):
            raw = np.ascontiguousarray(block).astype(block.dtype.newbyteorder(order)).tobytes()
            raw = zlib.compress(raw) if predictor else raw
            places.append(8 + len(body))
            sizes.append(len(raw))
            body += raw
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    tags = {
        256: [width],
        257: [height],
        258: [8 * pixels.itemsize] * bands,
        259: [8 if predictor else 1],
        262: [photometric],
        274: [orientation],
        277: [bands],
        284: [planar],
        317: [predictor or 1],
        339: [kind] * bands,
    }
    if tile:
        tags |= {322: [tile], 323: [tile], 324: places, 325: sizes}
    else:
        tags |= {273: places, 278: [3], 279: sizes}
    if extras:
        tags[338] = list(extras)
    start = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(body))
    for page in range(pages):
        body += _directory(tags, order, 8 + len(body), last=page == pages - 1)
    return start + body


def _tiles(plane: Any, side: int) -> list[Any]:
    high, wide = (-length % side for length in plane.shape[:2])
    padded = np.pad(plane, ((0, high), (0, wide), (0, 0)))
    return [
        padded[top : top + side, left : left + side]
        for top in range(0, padded.shape[0], side)
        for left in range(0, padded.shape[1], side)
    ]


def _directory(tags: dict[int, list[int]], order: str, place: int, *, last: bool) -> bytes:
    entries, more = b"", b""
    end = place + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            packed, more = struct.pack(order + "I", end + len(more)), more + packed
        entries += struct.pack(order + "HHI", tag, 4, len(values)) + packed
    following = struct.pack(order + "I", 0 if last else end + len(more))
    return struct.pack(order + "H", len(tags)) + entries + following + more
