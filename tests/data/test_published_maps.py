"""VOC 2012, Cityscapes and ShanghaiTech: small files in exactly their layouts."""

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision.datasets import Cityscapes

import sat_optuna as sat
from sat_optuna.data import get_dataset
from sat_optuna.errors import DataError
from tests.data.reading import load_dataset


def picture(path, size, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(1, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_voc(root):
    """VOCdevkit/VOC2012, palette PNGs with a border of 255 around what is there."""
    folder = root / "VOCdevkit" / "VOC2012"
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (folder / "SegmentationClass").mkdir()
    seed = 0
    for part, count in (("train", 5), ("val", 3), ("trainval", 0)):
        names = [f"2007_{seed + number:06}" for number in range(count)]
        (lists / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            size = (12, 16) if seed % 2 else (16, 12)
            picture(folder / "JPEGImages" / f"{name}.jpg", size, seed)
            mask = np.zeros(size, np.uint8)
            mask[2:9, 2:9], mask[3:8, 3:8] = 255, 1 + seed
            image = Image.fromarray(mask)
            image.putpalette(np.random.default_rng(1).integers(0, 256, 768, np.uint8).tobytes())
            image.save(folder / "SegmentationClass" / f"{name}.png")
            seed += 1
    return folder


def test_voc_has_21_classes_its_borders_none_and_val_is_tested_on(tmp_path):
    folder = write_voc(tmp_path)
    data = load_dataset("voc2012", root=tmp_path, valid=0.4)
    assert (data.classes, data.class_names[0], data.class_names[15]) == (
        21,
        "background",
        "person",
    )
    assert data.shape == (3, 16, 16)
    assert (len(data.train), len(data.valid), len(data.test)) == (3, 2, 3)
    assert [int(mask[mask != 255].max()) for mask in data.test.labels] == [6, 7, 8]
    sizes = ((12, 16), (16, 12), (12, 16))
    for mask, (height, width) in zip(data.test.labels, sizes, strict=True):
        counts = np.bincount(mask[:height, :width].flatten(), minlength=256)
        assert (counts[255], counts[0]) == (49 - 25, height * width - 49)
        assert int((mask == 255).sum()) == 49 - 25 + 256 - height * width
    assert data.remarks[0] == "its val part is the test part; valid is drawn from its train part"
    assert get_dataset("voc2012", tmp_path) == folder


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "JPEGImages",
            None,
            "voc2012 is not complete, {folder}/JPEGImages is missing; unpack VOC'",
        ),
        (
            "ImageSets/Segmentation/val.txt",
            None,
            "voc2012 is not complete, {folder}/ImageSets/Segmentation/val.txt is missing; unpack ",
        ),
        (
            "JPEGImages/2007_000001.jpg",
            None,
            "image {folder}/JPEGImages/2007_000001.jpg is missin",
        ),
        (
            "SegmentationClass/2007_000006.png",
            None,
            "image {folder}/SegmentationClass/2007_000006",
        ),
        (
            "ImageSets/Segmentation/train.txt",
            b"",
            "{folder}/ImageSets/Segmentation/train.txt names no image; unpack VOC's archive again",
        ),
        (
            "ImageSets/Segmentation/train.txt",
            b"\xff",
            "{folder}/ImageSets/Segmentation/train.txt cannot be read (UnicodeDecodeError",
        ),
    ],
)
def test_a_copy_of_voc_that_is_not_whole_is_told(tmp_path, file, content, said):
    folder = write_voc(tmp_path)
    (folder / file).rename(tmp_path / "gone")
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_dataset("voc2012", root=tmp_path).check_test()
    assert str(caught.value).startswith(said.format(folder=folder))


def test_a_class_that_voc_does_not_know_is_told(tmp_path):
    folder = write_voc(tmp_path)
    mask = np.full((16, 12), 21, np.uint8)
    Image.fromarray(mask).save(folder / "SegmentationClass" / "2007_000006.png")
    with pytest.raises(
        DataError, match=r"06.png has pixels of class 21 and the classes are .* none; correct it$"
    ):
        load_dataset("voc2012", root=tmp_path).check_test()


def write_cityscapes(root):
    """leftImg8bit and gtFine; a mask's rows are the labels 0 to 33, and 255, a licence plate."""
    labels = np.array([*range(34), 255, 255], np.uint8).repeat(2).reshape(36, 2).repeat(8, 1)
    seed = 0
    for part, cities in (("train", ("zurich", "aachen")), ("val", ("ulm",))):
        for city in cities:
            for number in range(3):
                name = f"{city}_{number:06}_000019"
                picture(
                    root / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png", (36, 16), seed
                )
                folder = root / "gtFine" / part / city
                folder.mkdir(parents=True, exist_ok=True)
                mask = np.roll(labels, seed, axis=0)
                Image.fromarray(mask).save(folder / f"{name}_gtFine_labelIds.png")
                (folder / f"{name}_gtFine_polygons.json").write_text("{}")
                seed += 1
    (root / "leftImg8bit" / "train" / "aachen" / "._x_leftImg8bit.png").write_bytes(b"")
    return root


@pytest.mark.golden
def test_cityscapes_labels_become_the_19_that_are_evaluated(tmp_path):
    write_cityscapes(tmp_path)
    data = load_dataset("cityscapes", root=tmp_path)
    assert data.class_names == (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
        "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
        "motorcycle", "bicycle",
    )  # fmt: skip
    assert (len(data.train), len(data.valid), len(data.test)) == (5, 1, 3)
    wanted = dict(
        zip(
            (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
            range(19),
            strict=True,
        )
    )
    rows = [wanted.get(label, 255) for label in [*range(34), 255, 255]]
    for number, mask in enumerate(data.test.labels):
        assert (
            mask.tolist()
            == np.roll(
                np.array(rows, np.uint8)[:, None].repeat(16, 1), 6 + number, axis=0
            ).tolist()
        )
    assert wanted == {x.id: x.train_id for x in Cityscapes.classes if 0 <= x.train_id < 255}
    # Listed as the disk has them, the cities would come in any order.
    assert load_dataset("cityscapes", root=tmp_path).fingerprint == data.fingerprint
    assert get_dataset("cityscapes", tmp_path) == tmp_path


def test_a_copy_of_cityscapes_that_is_not_whole_is_told(tmp_path):
    root = write_cityscapes(tmp_path)
    mask = root / "gtFine" / "val" / "ulm" / "ulm_000001_000019_gtFine_labelIds.png"
    mask.unlink()
    with pytest.raises(
        DataError, match=rf"^image {mask} is missing; replace it or delete its link"
    ):
        load_dataset("cityscapes", root=root).check_test()
    (root / "leftImg8bit" / "train" / "notes").write_text("")
    with pytest.raises(DataError, match=r"leftImg8bit/train cannot be read \(NotADirectoryError"):
        load_dataset("cityscapes", root=root)
    (root / "gtFine" / "train").rename(root / "old")
    for ask in (load_dataset, get_dataset):
        with pytest.raises(
            DataError, match=rf"^cityscapes is not complete, {root}/gtFine/train is"
        ):
            ask("cityscapes", root=root)


def write_mat(path, dots):
    """image_info{1}: a cell with a struct of location and number, as MATLAB has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cell = np.empty((1, 1), object)
    cell[0, 0] = {"location": np.asarray(dots, float), "number": float(len(dots))}
    scipy.io.savemat(path, {"image_info": cell})


def write_shanghaitech(root, part, *, truths="ground-truth", sizes=((12, 16), (16, 12))):
    """As many dots as the image's number; x and y from 1, as MATLAB counts."""
    for where, count in (("train_data", 6), ("test_data", 4)):
        rng = np.random.default_rng(count)
        for number in range(1, count + 1):
            height, width = sizes[number % len(sizes)]
            folder = root / part / where
            picture(folder / "images" / f"IMG_{number}.jpg", (height, width), number)
            dots = rng.uniform(0.5, [width + 0.5, height + 0.5], (number, 2))
            write_mat(folder / truths / f"GT_IMG_{number}.mat", dots)
    return root / part


@pytest.mark.parametrize("folder", ["part_A", "part_B", "part_A_final"])
@pytest.mark.parametrize("truths", ["ground-truth", "ground_truth"])
def test_the_dots_of_shanghaitech_are_counted(tmp_path, folder, truths):
    where = write_shanghaitech(tmp_path, folder, truths=truths)
    name = f"shanghaitech-{folder[5].lower()}"
    for size, frame in ((None, (16, 16)), (8, (8, 8))):
        data = load_dataset(name, root=tmp_path, size=size)
        assert (data.shape, data.class_names) == ((3, *frame), ("density",))
        assert (len(data.train), len(data.valid), len(data.test)) == (5, 1, 4)
        sums = data.test.labels.double().sum((1, 2))
        assert np.allclose(sums, [1, 2, 3, 4], atol=1e-3)
        sums = data.train_and_valid.labels.double().sum((1, 2)).sort().values
        assert np.allclose(sums, np.arange(1, 7), atol=1e-3)
    assert get_dataset(name, tmp_path) == where


@pytest.mark.golden
def test_the_dots_of_trees_written_so_make_the_same_maps(tmp_path):
    """Part B's Gaussians have a sigma of 15 pixels at full size, part A's go by the neighbours."""
    dots = np.random.default_rng(0).uniform(0, [60, 80], (9, 2))  # row and column of each centre
    for part in ("part_A", "part_B"):
        for where in ("train_data", "test_data"):
            for number in range(3):
                picture(tmp_path / part / where / "images" / f"IMG_{number}.jpg", (61, 81), number)
                truth = tmp_path / part / where / "ground-truth" / f"GT_IMG_{number}.mat"
                write_mat(truth, dots[:, ::-1] + 1)
    for name, sigma in (("shanghaitech-a", None), ("shanghaitech-b", 15.0)):
        (density, *_) = load_dataset(name, root=tmp_path).test.labels
        assert np.allclose(density, sat.density_map(dots, (61, 81), sigma=sigma), atol=1e-6)
    half = load_dataset("shanghaitech-b", root=tmp_path, size=41).test.labels[0]
    scale = np.divide(half.shape, (61, 81))
    wanted = sat.density_map((dots + 0.5) * scale - 0.5, half.shape, sigma=15 * 41 / 81)
    assert np.allclose(half, wanted, atol=1e-6)


def outside(path):
    write_mat(path, [(3, 4), (17.2, 3)])


def not_finite(path):
    write_mat(path, [(3, 4), (2, np.nan)])


def of_another_kind(path):
    scipy.io.savemat(path, {"points": np.ones((3, 2))})


def broken(path):
    path.write_bytes(b"no MATLAB")


def gone(path):
    path.unlink()


def alone(path):
    (path.parents[1] / "images" / "IMG_3.jpg").unlink()


@pytest.mark.parametrize("where", ["train_data", "test_data"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            outside,
            "{path}, dot 2: the dot at x = 17.2, y = 3 lies outside image IMG_3.jpg, which i",
        ),
        (not_finite, "{path} holds no dots (ValueError: a number is not finite); unpack Shanghai"),
        (
            of_another_kind,
            "{path} holds no dots (KeyError: 'image_info'); unpack ShanghaiTech's a",
        ),
        (broken, "{path} holds no dots (MatReadError: Mat file appears to be trunca"),
        (gone, "image {folder}/images/IMG_3.jpg has no dots, {path}; add it or delete the image"),
        (alone, "{path} has no image in {folder}/images; add it or delete the file"),
    ],
)
def test_a_copy_of_shanghaitech_that_is_not_whole_is_told(tmp_path, where, damage, said):
    folder = write_shanghaitech(tmp_path, "part_B", sizes=((12, 16),)) / where
    path = folder / "ground-truth" / "GT_IMG_3.mat"
    damage(path)
    with pytest.raises(DataError) as caught:
        load_dataset("shanghaitech-b", root=tmp_path).check_test()
    assert str(caught.value).startswith(said.format(path=path, folder=folder))
    for ask in (load_dataset, get_dataset):
        with pytest.raises(
            DataError, match=r"^shanghaitech-a is not complete, .*/part_A/train_dat"
        ):
            ask("shanghaitech-a", root=tmp_path)
