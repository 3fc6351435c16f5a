"""`sat-optuna check` looks at the data: what is wrong is told before anything is trained."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sat_optuna.data import imagefolder
from sat_optuna.errors import DataError
from sat_optuna.pipeline.folder import open_study
from tests.cli.test_commands import error, run
from tests.data.formats import write_images, write_masks, write_points
from tests.studies import make_study

STUDY = """
[data]
name = "imagefolder"
root = "{root}"
[network]
width = 4
blocks = [1, 1, 1]
[train]
batch = 4
[pretrain]
epochs = 1
"""


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """A study and its folder of images."""
    monkeypatch.chdir(tmp_path)
    root: Path = tmp_path / "my photos"
    write_images(root, counts={"a cat": 12, "dog": 8}, pixels=(16, 16))
    write_images(root, counts={"a cat": 2, "dog": 3}, pixels=(16, 16), part="test")
    make_study(tmp_path, text=STUDY.format(root=root))
    return root


def test_it_says_what_the_data_hold(photos):
    printed = run("check", "tiny").stdout
    assert "train: 16 images, a cat 10, dog 6; always saying a cat would score 62.5%" in printed
    assert "valid: 4 images, a cat 2, dog 2; always saying a cat would score 50.0%" in printed
    assert "test: 5 images, a cat 2, dog 3; always saying dog would score 60.0%" in printed
    assert "images: 16 x 16 pixels, 3 channels" in printed
    assert "has no fault: 3 blocks in stages (1, 1, 1), 8 schemes" in printed


def no_root(root):
    shutil.rmtree(root)


def empty_class(root):
    (root / "train" / "emu").mkdir()
    (root / "test" / "emu").mkdir()


def no_test(root):
    shutil.rmtree(root / "test")


def empty_test_class(root):
    (root / "test" / "dog" / "000.png").rename(root / "elsewhere.png")
    for path in (root / "test" / "dog").iterdir():
        path.unlink()


def other_test_classes(root):
    (root / "test" / "dog").rename(root / "test" / "dogs")


def other_valid_classes(root):
    write_images(root, counts={"a cat": 2, "emu": 1}, pixels=(16, 16), part="val")


def broken(root):
    (root / "train" / "dog" / "003.png").write_bytes(b"")


def broken_pixels(root):
    path = root / "train" / "dog" / "003.png"
    path.write_bytes(path.read_bytes()[:100])


def broken_test(root):
    (root / "test" / "dog" / "001.png").write_text("<html>404</html>")


def mixed(root):
    Image.new("RGB", (16, 30)).save(root / "train" / "dog" / "big.png")


def mixed_test(root):
    Image.new("RGB", (16, 30)).save(root / "test" / "dog" / "big.png")


def one_class(root):
    for part in ("train", "test"):
        shutil.rmtree(root / part / "dog")


def rare_class(root):
    for number in range(1, 8):
        (root / "train" / "dog" / f"00{number}.png").unlink()


def pipe(root):
    os.mkfifo(root / "test" / "dog" / "a.png")


def constant(root):
    for path in root.glob("train/*/*.png"):
        Image.new("RGB", (16, 16), "grey").save(path)


def deep_and_not(root):
    Image.fromarray(np.full((16, 16), 999, np.uint16)).save(root / "train" / "dog" / "x.png")


def deep(root, save, *, part="test", odd):
    """Make all images through `save(numbers from 0 to 1, path)`, one of a part through `odd`."""
    rng = np.random.default_rng(0)
    for path in (*root.glob("train/*/*.png"), *root.glob("test/*/*.png")):
        path.unlink()
        save(rng.random((16, 16)), path)
    path = root / part / "dog" / "001.png"
    path.parent.mkdir(exist_ok=True, parents=True)
    odd(np.linspace(0, 1, 256).reshape(16, 16), path)


def sixteen(scale):
    return lambda x, path: Image.fromarray((x * scale).astype(np.uint16)).save(path)


def floats(scale):
    return lambda x, path: tiff(x * scale, path)


def tiff(x, path):
    Image.fromarray(x.astype(np.float32)).save(path.with_suffix(".tif"))


def arrays(scale):
    return lambda x, path: np.save(path.with_suffix(".npy"), np.int32(x * scale))


def in_test_above_12_bits(root):
    deep(root, sixteen(4095), odd=sixteen(9000))


def in_test_above_float_1(root):
    deep(root, floats(1), odd=floats(200))


def in_test_above_array(root):
    deep(root, arrays(1023), odd=arrays(3000))


def in_test_negative(root):
    deep(root, arrays(1023), odd=arrays(-9))


def in_test_nan(root):
    deep(root, floats(1), odd=floats(np.nan))


def in_test_broken_deep(root):
    deep(root, sixteen(4095), odd=sixteen(4095))
    path = root / "test" / "dog" / "001.png"
    path.write_bytes(path.read_bytes()[:100])


def valid_negative(root):
    deep(root, floats(1), odd=floats(1))
    for name in ("a cat", "dog"):
        (root / "val" / name).mkdir(parents=True)
        tiff(np.full((16, 16), 0.5 if name == "dog" else -0.5), root / "val" / name / "a.png")


def large(root):
    header = b"BM" + (0).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    header += (40).to_bytes(4, "little") + (13_000).to_bytes(4, "little") * 2
    header += (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
    (root / "train" / "dog" / "x.bmp").write_bytes(header)


FAULTS = {
    no_root: "image folder {root} is missing; an image folder holds train/<class>/*.png and",
    empty_class: "class folder {root}/train/emu has no images (.bmp, ",
    no_test: "image folder {root}/test is missing; an image folder holds train/<class>/*.png",
    empty_test_class: "class folder {root}/test/dog has no images (.bmp, ",
    other_test_classes: "{root}/test and {root}/train should hold the same classes, but dog, dogs",
    other_valid_classes: "{root}/val and {root}/train should hold the same classes, but dog, emu",
    broken: "image {root}/train/dog/003.png is broken (",
    broken_pixels: "image {root}/train/dog/003.png is broken (",
    broken_test: "image {root}/test/dog/001.png is broken (cannot identify image",
    mixed: "image {root}/train/dog/big.png has 30 x 16 pixels, others have 16 x 16; set size to",
    mixed_test: "image {root}/test/dog/big.png has 30 x 16 pixels, others have 16 x 16; set size",
    one_class: "{root}/train holds one class, 'a cat'; give two at least",
    rare_class: "class 'dog' has 1: each class needs an image to train on and one to validate on",
    pipe: "image {root}/test/dog/a.png is no file of bytes; replace it or delete it",
    constant: "all pixels of the images in {root}/train are equal, so nothing can be learnt",
    deep_and_not: "image {root}/train/dog/x.png has whole numbers, others have 8-bit numbers;",
    large: "image {root}/train/dog/x.bmp is too large (",
    in_test_above_12_bits: "image {root}/test/dog/001.png has the number 9000, and those to trai",
    in_test_above_float_1: "image {root}/test/dog/001.tif has the number 200.0, and those to tr",
    in_test_above_array: "image {root}/test/dog/001.npy has the number 3000, and those to train o",
    in_test_negative: "image {root}/test/dog/001.npy has the negative number -9",
    in_test_nan: "image {root}/test/dog/001.tif has a number that is not finite (nan); replace it",
    in_test_broken_deep: "image {root}/test/dog/001.png is broken (",
    valid_negative: "image {root}/val/a cat/a.tif has the negative number -0.5; bring all images",
}


@pytest.mark.parametrize("damage", FAULTS, ids=lambda damage: damage.__name__)
def test_a_faulty_folder_is_told_and_never_trained_on(photos, damage):
    damage(photos)
    said = FAULTS[damage].format(root=photos)
    assert said in error("check", "tiny")
    study = open_study("tiny")
    with pytest.raises(DataError):  # the same, where the data are opened to be trained on
        study.pretrain()
    assert not study.supernet_path.exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[network]", "limit = 999999\n[network]", "limit = 999999 cannot be taken from the im"),
        ("[network]", "limit = 3\n[network]", "limit = 3 cannot be taken from the image folder"),
        ("[network]", "size = 200000\n[network]", "data.size is 200000; write at most 4096"),
        ("[network]", "valid = 0.02\n[network]", "are too few for valid = 0.02, class 'dog' has"),
        ("batch = 4", "batch = 17", "train.batch = 17 is more than the 16 images to train on; w"),
        ("batch = 4", "batch = 999999", "train.batch = 999999 is more than the 16 images to tr"),
    ],
)
def test_a_key_that_does_not_fit_the_data_is_told(photos, old, new, said):
    path = photos.parent / "studies" / "tiny" / "study.toml"
    path.write_text(path.read_text().replace(old, new))
    assert said in error("check", "tiny")


def test_all_faults_are_told_at_once(photos):
    for damage in (no_test, broken, mixed, empty_class):
        if damage is not empty_class:
            damage(photos)
    (photos / "train" / "emu").mkdir()
    path = photos.parent / "studies" / "tiny" / "study.toml"
    path.write_text(path.read_text() + '[attention]\nkinds = ["spa"]\nspa = { reductio = 4 }\n')
    message = error("check", "tiny")
    assert "5 faults" in message
    for damage in (no_test, broken, mixed, empty_class):
        assert FAULTS[damage].format(root=photos) in message
    assert "spa has no setting 'reductio'" in message


def test_many_broken_images_are_counted_and_not_all_listed(photos):
    for path in photos.glob("train/*/*.png"):
        path.write_bytes(b"")
    message = error("check", "tiny")
    assert message.count("is broken (") == 10
    assert "and 10 more broken images" in message


def test_of_many_deep_images_a_sample_is_looked_at_and_said(photos, monkeypatch):
    deep(photos, sixteen(4095), odd=sixteen(4095))
    assert "a sample" not in run("check", "tiny").stdout
    monkeypatch.setattr(imagefolder, "SCANNED", 2 * 3 * 16 * 16)
    printed = run("check", "tiny").stdout
    for said in ("2 of the 20 images to train on", "2 of the 5 images to test on"):
        assert f"{said} were read now, a sample; all of them are before anything" in printed
    sixteen(9000)(np.ones((16, 16)), photos / "test" / "dog" / "001.png")  # not in the sample
    run("check", "tiny")
    with pytest.raises(DataError, match=r"test/dog/001\.png has the number 9000, and those to tr"):
        open_study("tiny").pretrain()


def test_of_bytes_to_test_on_no_pixel_is_read(photos):
    broken_pixels(photos)  # what is told of in the training part
    (photos / "train" / "dog" / "003.png").rename(photos / "test" / "dog" / "001.png")
    run("check", "tiny")


@pytest.mark.parametrize("part", ["val", "flat"])
def test_the_layouts_people_have_are_taken_and_said(photos, part):
    if part == "val":
        write_images(photos, counts={"a cat": 3, "dog": 2}, pixels=(16, 16), part="val")
        said = [f"data: {photos}/val is validated on; valid = 0.2 is not used", "valid: 5 images"]
    else:
        shutil.rmtree(photos / "test")
        for folder in (photos / "train").iterdir():
            folder.rename(photos / folder.name)
        (photos / "train").rmdir()
        said = [
            f"data: {photos} has no folder train: 20% of each class, drawn by seed 0, is the test",
            "train: 13 images, a cat 8, dog 5",
            "test: 4 images, a cat 2, dog 2",
        ]
    printed = run("check", "tiny").stdout
    assert all(line in printed for line in said), printed
    assert said[0] in run("pretrain", "tiny").stdout


MAPS = """
[data]
name = "{name}"
root = "{root}"
[task]
name = "{task}"
[network]
width = 4
blocks = [1, 1, 1]
head = "{head}"
[train]
batch = 4
[pretrain]
epochs = 1
[search]
metric = "{metric}"
"""


@pytest.fixture(params=["maskfolder", "pointfolder"])
def maps(request, tmp_path, monkeypatch):
    """A study and its folder of images with masks or points."""
    monkeypatch.chdir(tmp_path)
    name = request.param
    write = write_masks if name == "maskfolder" else write_points
    for seed, (part, count) in enumerate((("train", 10), ("test", 3))):
        write(tmp_path / "my maps" / part, count, sizes=((12, 16), (16, 8)), seed=seed)
    words = {
        "maskfolder": ("segmentation", "fcn", "miou"),
        "pointfolder": ("counting", "density", "mae"),
    }
    task, head, metric = words[name]
    text = MAPS.format(name=name, root=tmp_path / "my maps", task=task, head=head, metric=metric)
    make_study(tmp_path, text=text)
    return tmp_path / "my maps"


def test_it_says_what_maps_hold_and_how_images_are_fitted(maps):
    printed = run("check", "tiny").stdout
    if "maskfolder" in (maps.parent / "studies" / "tiny" / "study.toml").read_text():
        shares = r"pixels of 0 3\d\.\d%, 1 3\d\.\d%, 2 3\d\.\d%"
        always = r"always saying \d would be right on 3\d\.\d%"
        assert re.search(rf"^train: 8 images, {shares}; {always}$", printed, re.MULTILINE)
        none = "class"
    else:
        said = re.findall(r"^\w+: \d images, (\d+) dots, \d to \d an image; always", printed, re.M)
        assert sum(map(int, said)) == 45
        assert "data: each dot is a Gaussian whose sigma is 0.3 of the mean distance" in printed
        none = "dots"
    assert "valid: 2 images, " in printed
    assert "test: 3 images\n" in printed
    assert "images: 16 x 16 pixels, 3 channels" in printed
    assert (
        "data: the images, of 16 x 8 to 12 x 16 pixels, are filled up on the right and below to "
        f"16 x 16, with black and no {none}"
    ) in printed
    assert "has no fault: 3 blocks in stages (1, 1, 1), 8 schemes" in printed


def test_faults_of_maps_are_told_at_once_and_never_trained_on(maps):
    (maps / "train" / "images" / "03.png").write_bytes(b"")
    (maps / "test" / "images" / "01.png").write_bytes(b"")
    said = [
        f"image {maps}/train/images/03.png is broken (",
        f"image {maps}/test/images/01.png is broken (",
    ]
    if (maps / "train" / "masks").exists():
        Image.new("L", (9, 9)).save(maps / "train" / "masks" / "04.png")
        Image.new("RGB", (8, 16)).save(maps / "test" / "masks" / "02.png")
        said += [
            f"mask {maps}/train/masks/04.png has 9 x 9 pixels and its image 04.png 12 x 16",
            f"mask {maps}/test/masks/02.png has colours (RGB) and should have the number of each",
        ]
    else:
        for part, line in (("train", "04.png,17,3"), ("test", "x.png,1,2")):
            with (maps / part / "points.csv").open("a") as stream:
                stream.write(f"{line}\n")
        said += [
            f"{maps}/train/points.csv, line 47: the dot at x = 17, y = 3 lies outside image 04",
            f"{maps}/test/points.csv, line 5: {maps}/test/images has no image 'x.png'; write a ",
        ]
    message = error("check", "tiny")
    assert "4 faults" in message
    assert all(sentence in message for sentence in said), message
    study = open_study("tiny")
    with pytest.raises(DataError):
        study.pretrain()
    assert not study.supernet_path.exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "batch = 4",
            "batch = 9",
            "train.batch = 9 is more than the 8 images to train on; write at",
        ),
        ("[task]", "limit = 11\n[task]", "limit = 11 cannot be taken from "),
        ("[task]", "limit = 1\n[task]", "it has 10 training images; choose a number from 2 to 10"),
        ("[task]", "size = 9000\n[task]", "data.size is 9000; write at most 4096"),
        ("[task]", "sigma = -1\n[task]", "data.sigma is -1; write at least 0.0"),
    ],
)
def test_a_key_that_does_not_fit_maps_is_told(maps, old, new, said):
    path = maps.parent / "studies" / "tiny" / "study.toml"
    path.write_text(path.read_text().replace(old, new))
    assert said in error("check", "tiny")


def test_maps_and_the_task_must_fit(maps, monkeypatch):
    path = maps.parent / "studies" / "tiny" / "study.toml"
    text = path.read_text()
    ours = "maskfolder" if "maskfolder" in text else "pointfolder"
    other = {"maskfolder": "pointfolder", "pointfolder": "maskfolder"}[ours]
    for name in (other, "imagefolder"):
        path.write_text(text.replace(ours, name))
        assert f"data '{name}' come with " in error("check", "tiny")
    path.write_text(re.sub(r"(?m)^(name = \"(segm|count)|metric).*$", "", text))
    assert f"data '{ours}' come with " in error("check", "tiny")
    # What is not there is not said to be of another kind.
    monkeypatch.setenv("SAT_OPTUNA_DATA", str(maps / "none"))
    for name in (ours, "coast-seg" if ours == "maskfolder" else "trees"):
        path.write_text(re.sub("root = .*", "", text.replace(ours, name)))
        assert "come with" not in error("check", "tiny")


def test_named_data_that_are_not_there_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAT_OPTUNA_DATA", str(tmp_path / "none"))
    make_study(tmp_path, text='[data]\nname = "cifar10"\n')
    assert "run `sat-optuna data get cifar10`" in error("check", "tiny")
