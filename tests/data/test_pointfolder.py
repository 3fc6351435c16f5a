"""A user's own images with dots: maps that sum to the counts, whatever the images' sizes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sat_optuna as sat
from sat_optuna.config.config import DataConfig
from sat_optuna.data import get_dataset, load_configured
from sat_optuna.data.dots import Dots
from sat_optuna.data.pixels import Header
from sat_optuna.data.pointfolder import PointFolder
from sat_optuna.data.shanghaitech import ShanghaiTechA, ShanghaiTechB
from sat_optuna.data.source import Options
from sat_optuna.errors import DataError
from tests.data.formats import write_points
from tests.data.reading import load_dataset

SIZES = ((12, 16), (16, 8), (10, 10))


def loaded(root, **settings):
    return load_dataset("pointfolder", root=root, **settings)


def options(**more):
    given = {"seed": 0, "valid": 0.2, "limit": None, "size": None, "device": "cpu", "workers": 0}
    return Options(root=Path(), **(given | more))


@pytest.mark.parametrize("sigma", [None, 2.0])
@pytest.mark.parametrize(
    ("sizes", "size", "frame"),
    [
        (SIZES[:1], None, (12, 16)),
        (SIZES, None, (16, 16)),
        (SIZES, 8, (8, 8)),
        (SIZES, 30, (30, 30)),
    ],
)
def test_each_map_sums_to_its_images_dots(tmp_path, sizes, size, frame, sigma):
    write_points(tmp_path / "train", 9, sizes=sizes)
    write_points(tmp_path / "test", 7, sizes=sizes, seed=1)
    data = loaded(tmp_path, size=size, sigma=sigma)
    assert (data.shape, data.class_names, data.targets) == ((3, *frame), ("density",), "density")
    for part, count in ((data.train_and_valid, 9), (data.test, 7)):
        sums = part.labels.double().sum((1, 2)).sort().values
        assert np.allclose(sums, np.arange(count), atol=1e-3)  # as many as the image's number
        black = (part.images == 0).all(dim=1)
        assert (part.labels[black] == 0).all()  # what is filled up has none


@pytest.mark.golden
@pytest.mark.parametrize(("size", "scale"), [(None, 1.0), (8, 0.5), (32, 2.0)])
def test_a_dot_is_where_it_lies_in_its_image(tmp_path, size, scale):
    """x = 11, y = 2 from the corner; sigma is of the file's pixels and is scaled too."""
    (tmp_path / "images").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(1, 256, (12, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    text = "".join(f"{number}.png,11,2\n" for number in range(4))
    (tmp_path / "points.csv").write_text(f"image,x,y\n{text}")
    data = loaded(tmp_path, size=size, sigma=1.5)
    wanted = sat.density_map(
        [(2 * scale - 0.5, 11 * scale - 0.5)], data.shape[1:], sigma=1.5 * scale
    )
    for made in data.train_and_valid.labels:
        assert np.allclose(made, wanted, atol=1e-6)


@settings(max_examples=40)
@given(
    count=st.integers(0, 60),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    fitted=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    source=st.sampled_from([PointFolder, ShanghaiTechA, ShanghaiTechB]),
    sigma=st.sampled_from([None, 0.3, 4.0]),
    seed=st.integers(0, 99),
)
def test_dots_at_borders_and_corners_count_whole(count, size, fitted, source, sigma, seed):
    height, width = size
    rng = np.random.default_rng(seed)
    low, high = source.corner - source.border, source.corner + source.border
    places = rng.uniform(low, [width + high, height + high], (count, 2))
    corners = [(x, y) for x in (low, width + high) for y in (low, height + high)]
    places = np.concatenate([places, corners])
    dots = Dots(Path("dots"), places, np.arange(len(places)))
    assert source().target_faults(Path("image"), dots, Header(3, height, width, "bytes")) == []
    made = source().map_of(dots, size, fitted, 1, options(sigma=sigma))
    assert made.shape == fitted
    assert abs(made.sum(dtype=np.float64) - len(places)) < 1e-3
    assert (made >= 0).all()


def test_folders_within_and_whole_names_are_taken(tmp_path):
    write_points(tmp_path, 5)
    (tmp_path / "images" / "more").mkdir()
    Image.new("RGB", (16, 12), "red").save(tmp_path / "images" / "more" / "a.b.jpg")
    Image.new("RGB", (16, 12), "red").save(tmp_path / "images" / "04.jpg")
    text = (tmp_path / "points.csv").read_text().replace("image,x,y", "y, x ,image,who")
    rows = [line.split(",") for line in text.splitlines()[1:]]
    lines = ["y, x ,image,who", *(f"{y},{x}, {name} ,me" for name, x, y in rows)]
    lines += ['1,2,"more/a.b.jpg",', "", "12,16,04.jpg,me"]
    (tmp_path / "points.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    data = loaded(tmp_path, valid=0.4)
    every = [*data.train.labels, *data.valid.labels, *data.test.labels]
    counts = sorted(round(float(density.sum()), 3) for density in every)
    assert counts == [0, 1, 1, 1, 2, 3, 4]


@pytest.mark.parametrize("part", ["val", "flat"])
def test_the_parts_are_those_of_an_image_folder(tmp_path, part):
    if part == "val":
        for seed, name in enumerate(("train", "val", "test")):
            write_points(tmp_path / name, 5 - seed, seed=seed)
        data, counts = loaded(tmp_path), (5, 4, 3)
    else:
        data, counts = loaded(write_points(tmp_path, 15)), (10, 2, 3)
        assert "20% of its images, drawn by seed 0, are the test part" in data.remarks[0]
    assert (len(data.train), len(data.valid), len(data.test)) == counts
    assert get_dataset("pointfolder", tmp_path) == tmp_path


def test_a_study_says_how_wide_dots_are_and_the_fingerprint_sees_it(tmp_path):
    write_points(tmp_path, 15)
    prints = set()
    for sigma, said in (
        (0.0, "each dot is a Gaussian whose sigma is 0.3 of the mean distance to the three neare"),
        (4.0, "each dot is a Gaussian whose sigma is 4 pixels of its file"),
        (4.5, "each dot is a Gaussian whose sigma is 4.5 pixels of its file"),
    ):
        config = DataConfig(name="pointfolder", root=str(tmp_path), sigma=sigma)
        data = load_configured(config, seed=0)
        assert data.remarks[1].startswith(said)
        prints.add(data.fingerprint)
    assert len(prints) == 3
    for name in ("mnist5k", "shanghaitech-b"):
        with pytest.raises(
            DataError, match=rf"^sigma = 4.0 is for the dots of pointfolder, and {name}"
        ):
            load_dataset(name, sigma=4.0)
    with pytest.raises(
        DataError, match=r"^sigma is a number of pixels above 0, got -1; 4 is usual"
    ):
        loaded(tmp_path, sigma=-1)


def line(text):
    def damage(part):
        with (part / "points.csv").open("a") as stream:
            stream.write(f"{text}\n")

    return damage


def table(content):
    def damage(part):
        (part / "points.csv").write_bytes(content)

    return damage


def no_table(part):
    (part / "points.csv").unlink()


def no_images(part):
    for path in (part / "images").iterdir():
        path.unlink()


def smaller_image(part):
    Image.new("RGB", (3, 3)).save(part / "images" / "03.png")


def turned_image(part):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = part / "images" / "03.png"
    Image.open(path).save(path, exif=exif)  # 16 x 12 pixels then
    line("03.png,15,3")(part)


FAULTS = [
    (line("01.png,16.5,3"), "{part}/points.csv, line 8: the dot at x = 16.5, y = 3 lies outside "),
    (
        line("01.png,4,12.1"),
        "{part}/points.csv, line 8: the dot at x = 4, y = 12.1 lies outside im",
    ),
    (
        line("01.png,-0.1,3"),
        "{part}/points.csv, line 8: the dot at x = -0.1, y = 3 lies outside i",
    ),
    (
        line("7.png,1,3"),
        "{part}/points.csv, line 8: {part}/images has no image '7.png'; write a f",
    ),
    (
        line("01,1,3"),
        "{part}/points.csv, line 8: {part}/images has no image '01'; write a file's ",
    ),
    (line("01.png,nan,3"), "{part}/points.csv, line 8: '01.png,nan,3' is no image with two finit"),
    (line("01.png,3,inf"), "{part}/points.csv, line 8: '01.png,3,inf' is no image with two finit"),
    (line("01.png,3"), "{part}/points.csv, line 8: '01.png,3' is no image with two finite number"),
    (line("01.png,3,4,5"), "{part}/points.csv, line 8: '01.png,3,4,5' is no image with two finit"),
    (line("01.png,a,4"), "{part}/points.csv, line 8: '01.png,a,4' is no image with two finite nu"),
    (line(",3,4"), "{part}/points.csv, line 8: ',3,4' is no image with two finite numbers; write"),
    (line('01.png,"3,4'), "{part}/points.csv cannot be read ("),
    (
        table(b""),
        "{part}/points.csv begins with the line ''; write image,x,y there, the names of ",
    ),
    (
        table(b"image;x;y\n"),
        "{part}/points.csv begins with the line 'image;x;y'; write image,x,y ",
    ),
    (
        table(b"01.png,1,2\n"),
        "{part}/points.csv begins with the line '01.png,1,2'; write image,x,",
    ),
    (table(b"image,x,y\n\xff\n"), "{part}/points.csv cannot be read (UnicodeDecodeError"),
    (no_table, "{part}/points.csv is missing; a folder of points holds images/*.jpg and points.c"),
    (
        no_images,
        "image folder {part}/images has no images; a folder of points holds images/*.jpg ",
    ),
    (turned_image, "{part}/points.csv, line "),
    (smaller_image, "{part}/points.csv, line "),
]


@pytest.mark.parametrize("where", ["train", "val", "test"])
@pytest.mark.parametrize(("damage", "said"), FAULTS)
def test_faulty_files_are_one_sentence_in_each_part(tmp_path, where, damage, said):
    for seed, part in enumerate(("train", "val", "test")):
        write_points(tmp_path / part, 4, seed=seed)
    damage(tmp_path / where)
    with pytest.raises(DataError) as caught:
        loaded(tmp_path).check_test()
    assert str(caught.value).startswith(said.format(part=tmp_path / where))
    assert "\n" not in str(caught.value)


def test_where_nothing_is_to_be_counted_is_told(tmp_path):
    write_points(tmp_path, 6)
    (tmp_path / "points.csv").write_text("image,x,y\n")
    with pytest.raises(
        DataError, match=r"^the 4 images to train on in .*/images have no dot; look"
    ):
        loaded(tmp_path)


def test_an_image_folder_and_one_of_points_are_not_taken_for_each_other(tmp_path):
    write_points(tmp_path, 6)
    with pytest.raises(DataError) as caught:
        load_dataset("imagefolder", root=tmp_path)
    assert str(caught.value) == (
        f"image folder {tmp_path} holds images and points.csv, which are no classes; write "
        "name = 'pointfolder' under [data] in study.toml"
    )
