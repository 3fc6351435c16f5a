import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sat_optuna.data import get_dataset
from sat_optuna.data.imagefolder import labelled_images
from sat_optuna.errors import DataError
from sat_optuna.ticket import Inputs
from tests.data.formats import write_images, write_tiff
from tests.data.reading import load_dataset, paths


@pytest.fixture
def root(tmp_path):
    write_images(tmp_path, counts={"cat": 10, "dog": 5})
    return write_images(tmp_path, counts={"cat": 2, "dog": 3}, part="test")


def decoded(files) -> np.ndarray:
    return np.stack([np.array(Image.open(path)).transpose(2, 0, 1) for path in files])


def test_folders_are_classes_and_are_split_stratified(root):
    split = load_dataset("imagefolder", root=root, valid=0.4)
    assert (split.class_names, split.shape) == (("cat", "dog"), (3, 8, 6))
    assert torch.bincount(split.train.labels).tolist() == [6, 3]
    assert torch.bincount(split.valid.labels).tolist() == [4, 2]
    assert split.train_and_valid.labels.tolist() == [0] * 10 + [1] * 5
    assert split.test.labels.tolist() == [0] * 2 + [1] * 3
    assert not set(paths(split.train)) & set(paths(split.valid))


@pytest.mark.parametrize("workers", [0, 1])
def test_streaming_equals_loading_all(root, workers):
    split = load_dataset("imagefolder", root=root, workers=workers)
    images = split.train_and_valid
    order = torch.tensor([3, 14, 0, 3, 9])
    got = list(images.batches(order, 2))
    assert [len(x) for x, _ in got] == [2, 2, 1]
    pixels = torch.from_numpy(decoded([paths(images)[row] for row in order.tolist()]))
    mean = torch.tensor(images.mean).view(-1, 1, 1)
    std = torch.tensor(images.std).view(-1, 1, 1)
    torch.testing.assert_close(torch.cat([x for x, _ in got]), (pixels / 255 - mean) / std)
    assert torch.cat([y for _, y in got]).tolist() == [0, 1, 0, 0, 0]


def test_statistics_are_those_of_train_alone(root):
    split = load_dataset("imagefolder", root=root)
    pixels = decoded(paths(split.train)).transpose(1, 0, 2, 3).reshape(3, -1) / 255
    np.testing.assert_allclose(split.train.mean, pixels.mean(axis=1))
    np.testing.assert_allclose(split.train.std, pixels.std(axis=1))
    for part in (split.valid, split.test, split.train_and_valid):
        assert (part.mean, part.std) == (split.train.mean, split.train.std)


def test_augmentation_sees_raw_bytes(root):
    images = load_dataset("imagefolder", root=root).train
    seen = []

    def look(raw: torch.Tensor) -> torch.Tensor:
        seen.append(raw)
        return raw

    list(images.batches(None, 5, augment=look))
    np.testing.assert_array_equal(torch.cat(seen).numpy(), decoded(paths(images)))


@pytest.mark.parametrize("workers", [0, 1])
def test_streaming_leaves_the_global_generator_alone(root, workers):
    images = load_dataset("imagefolder", root=root, workers=workers).train
    before = torch.random.get_rng_state()
    list(images.batches(None, 5))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_subset_on_a_device_streams_its_own_images(root):
    images = load_dataset("imagefolder", root=root).train_and_valid
    part = images.subset(torch.tensor([12, 2])).to("cpu")
    assert torch.equal(
        next(iter(part.batches(None, 2)))[0],
        next(iter(images.batches(torch.tensor([12, 2]), 2)))[0],
    )


def test_a_size_brings_all_images_to_one(root):
    odd = Image.fromarray(np.full((30, 17), 200, np.uint8))
    odd.save(root / "train" / "dog" / "odd.JPG")
    split = load_dataset("imagefolder", root=root, size=5)
    assert split.shape == split.test.shape == (3, 5, 5)
    images = split.train_and_valid
    last = next(iter(images.batches(torch.tensor([15]), 1)))[0][0]
    grey = (200 / 255 - torch.tensor(images.mean)) / torch.tensor(images.std)
    torch.testing.assert_close(last, grey.view(3, 1, 1).expand(3, 5, 5))


def test_the_fingerprint_sees_names_sizes_and_settings(root):
    seen = [load_dataset("imagefolder", root=root, valid=v).fingerprint for v in (0.2, 0.3, 0.2)]
    assert seen[0] == seen[2]
    first = root / "train" / "cat" / "000.png"
    first.rename(first.with_name("a.png"))
    seen.append(load_dataset("imagefolder", root=root).fingerprint)
    Image.new("RGB", (6, 8)).save(root / "train" / "cat" / "a.png")
    seen.append(load_dataset("imagefolder", root=root).fingerprint)
    assert len(set(seen)) == 4


def test_the_fingerprint_does_not_see_where_the_folder_lies(root):
    before = load_dataset("imagefolder", root=root).fingerprint
    moved = root.rename(root.with_name("elsewhere"))
    assert load_dataset("imagefolder", root=moved).fingerprint == before


@pytest.mark.parametrize(
    ("limit", "kept"), [(4, [2, 2]), (6, [3, 3]), (7, [4, 3]), (13, [8, 5]), (15, [10, 5])]
)
def test_a_limit_keeps_equally_of_each_class_as_far_as_it_goes(root, limit, kept):
    split = load_dataset("imagefolder", root=root, limit=limit, valid=0.5)
    assert torch.bincount(split.train_and_valid.labels).tolist() == kept
    assert all(min(counts.values()) for counts in split.class_counts.values())


def test_a_limit_of_more_than_there_is_is_refused(root):
    with pytest.raises(DataError, match=r"limit = 16 .* has 15 training images in 2 classes"):
        load_dataset("imagefolder", root=root, limit=16)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_when_its_batch_comes(root, workers):
    images = load_dataset("imagefolder", root=root, workers=workers).train_and_valid
    broken = paths(images)[4]
    broken.write_bytes(broken.read_bytes()[:60])
    batches = images.batches(None, 4)
    next(batches)
    with pytest.raises(DataError) as caught:
        next(batches)
    assert str(caught.value).startswith(f"image {broken} is broken (")
    assert str(caught.value).endswith("); replace it or delete it")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 8, 20, 50, 100])
def test_an_image_cut_off_anywhere_is_named(root, keep):
    broken = root / "train" / "dog" / "001.png"
    broken.write_bytes(broken.read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"image {broken} is broken \(.*\); replace it"):
        list(load_dataset("imagefolder", root=root).train_and_valid.batches(None, 15))


def test_an_image_of_another_size_is_named(root):
    Image.new("RGB", (9, 9)).save(root / "train" / "dog" / "big.png")
    with pytest.raises(DataError, match=r"big.png has 9 x 9 pixels, others have 8 x 6; set size"):
        list(load_dataset("imagefolder", root=root).train_and_valid.batches(None, 99))


def test_an_image_too_large_to_be_true_is_named(root, monkeypatch):
    images = load_dataset("imagefolder", root=root).train
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"image .*.png is too large \(.*exceeds limit"):
        list(images.batches(None, 4))


def test_a_missing_image_is_named(root):
    images = load_dataset("imagefolder", root=root).train
    paths(images)[0].unlink()
    with pytest.raises(DataError, match=rf"image {paths(images)[0]} is missing; replace it or"):
        list(images.batches(None, 4))


def test_a_dead_link_is_named(root):
    (root / "train" / "cat" / "z.png").symlink_to(root / "nowhere")
    with pytest.raises(DataError, match=r"image .*z.png is missing; "):
        load_dataset("imagefolder", root=root)


def test_a_missing_folder_is_named_with_the_layout(tmp_path):
    for ask in (load_dataset, get_dataset):
        with pytest.raises(DataError, match=rf"{tmp_path}/train is missing; .* train/<class>/\*"):
            ask("imagefolder", root=tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=rf"{tmp_path}/train has no folders in it"):
        load_dataset("imagefolder", root=tmp_path)


def test_a_class_without_images_is_named(root):
    (root / "train" / "emu").mkdir()
    (root / "train" / "emu" / "notes.txt").write_text("none yet")
    with pytest.raises(DataError, match=r"class folder .*/emu has no images \(.bmp, .*delete it"):
        load_dataset("imagefolder", root=root)


def test_without_a_test_folder_only_test_is_refused(tmp_path):
    write_images(tmp_path, counts={"cat": 10, "dog": 5})
    split = load_dataset("imagefolder", root=tmp_path)
    with pytest.raises(DataError, match=rf"{tmp_path}/test is missing"):
        _ = split.test


def test_a_test_folder_of_other_classes_is_refused(root):
    write_images(root, counts={"emu": 1}, part="test")
    split = load_dataset("imagefolder", root=root)
    with pytest.raises(DataError, match=r"should hold the same classes, but emu is in one alone"):
        _ = split.test


def test_getting_a_folder_that_is_there_says_where(root):
    assert get_dataset("imagefolder", root) == root


def folder(root, make, *, part="train", count=8, names=("dark", "bright")):
    """Write images of 0..0.4 and of 0.5..0.9 through `make(numbers, path without suffix)`."""
    rng = np.random.default_rng(len(part))
    for number, name in enumerate(names):
        (root / part / name).mkdir(parents=True)
        for image in range(count):
            numbers = rng.random((12, 10)) * 0.4 + 0.5 * number
            make(numbers, root / part / name / str(image))
    return root


def saved(suffix, scale, dtype):
    return lambda x, path: Image.fromarray((x * scale).astype(dtype)).save(f"{path}.{suffix}")


def array(scale, dtype, bands):
    def save(x, path):
        np.save(f"{path}.npy", np.stack([x * scale] * bands, axis=2).astype(dtype))

    return save


def bands(scale, dtype, **more):
    def save(x, path):
        pixels = np.stack([x * scale] * 5, axis=2).astype(dtype)
        write_tiff(path.with_suffix(".tif"), pixels, **more)

    return save


DEEP = {
    "8-bit": (saved("png", 255, np.uint8), 255, 3),
    "10-bit png": (saved("png", 1023, np.uint16), 1023, 3),
    "12-bit tif": (saved("tif", 4095, np.uint16), 4095, 3),
    "14-bit int32": (saved("tif", 16383, np.int32), 16383, 3),
    "16-bit png": (saved("png", 65535, np.uint16), 65535, 3),
    "8 bits in 16": (saved("png", 255, np.uint16), 255, 3),
    "floats to 1": (saved("tif", 1, np.float32), 1, 3),
    "floats to 255": (saved("tif", 255, np.float32), 255, 3),
    "16-bit bands": (bands(65535, np.uint16, compression="zlib", predictor=2), 65535, 5),
    "big-endian bands": (bands(4095, np.uint16, byteorder=">", planar=True), 4095, 5),
    "double bands": (bands(1, np.float64), 1, 5),
    "byte arrays": (array(255, np.uint8, 4), 255, 4),
    "12-bit arrays": (array(4095, np.int64, 6), 4095, 6),
    "float arrays": (array(1, np.float16, 2), 1, 2),
}


@pytest.mark.parametrize("size", [None, 6])
@pytest.mark.parametrize("kind", DEEP)
def test_all_numbers_are_read_on_one_scale(tmp_path, kind, size):
    make, white, channels = DEEP[kind]
    folder(folder(tmp_path, make), make, part="test", count=2)
    data = load_dataset("imagefolder", root=tmp_path, valid=0.25, size=size)
    assert data.shape == (channels, *((size, size) if size else (12, 10)))
    shown = {}
    for part in (data.train, data.valid, data.test):
        assert part.white == white
        for x, labels in part.batches(None, 99):
            mean, std = (torch.tensor(of).view(-1, 1, 1) for of in (part.mean, part.std))
            shown = {
                name: float((x * std + mean)[labels == label].mean())
                for label, name in enumerate(data.class_names)
            }
        assert shown["dark"] == pytest.approx(0.2, abs=0.03)
        assert shown["bright"] == pytest.approx(0.7, abs=0.03)
    (x, _), *_ = data.train.batches(None, 99)
    assert len(data.train) == 12
    assert float(x.mean()) == pytest.approx(0, abs=1e-3)
    assert float(x.std(correction=0)) == pytest.approx(1, abs=1e-3)
    said = [remark for remark in data.remarks if f"read as 0 to {white}" in remark]
    assert bool(said) == (kind not in ("8-bit", "byte arrays"))


def test_the_scale_is_in_the_fingerprint_and_the_orientation_too(tmp_path):
    seen = set()
    for scale in (1000, 4000, 60000):  # files of the same size: they are not compressed
        root = folder(tmp_path / str(scale), saved("tif", scale, np.uint16))
        seen.add(load_dataset("imagefolder", root=root).fingerprint)
    assert len(seen) == 3
    prints = []
    for orientation in (1, 3):
        exif = Image.Exif()
        exif[0x0112] = orientation

        def make(x, path, exif=exif):
            Image.fromarray((x * 255).astype(np.uint8)).save(f"{path}.jpg", exif=exif)

        root = folder(tmp_path / f"turned {orientation}", make)
        prints.append(load_dataset("imagefolder", root=root))
    assert prints[0].fingerprint != prints[1].fingerprint
    assert prints[0].remarks == ()
    assert prints[1].remarks == ("16 images are turned as EXIF says",)


def test_an_eight_bit_folder_keeps_the_fingerprint_of_0_2_0(root):
    digest = hashlib.sha256(b"imagefolder\n[0, 0.2, null, null]\n")
    for label, name in enumerate(("cat", "dog")):
        for path in sorted((root / "train" / name).iterdir()):
            line = f"train/{name}/{path.name}\0{path.stat().st_size}\0{label}\n"
            digest.update(line.encode())
    assert load_dataset("imagefolder", root=root).fingerprint == digest.hexdigest()


@pytest.mark.parametrize(
    ("part", "make", "said"),
    [
        (
            "train",
            saved("tif", 90000, np.int32),
            r"has the number \d{5}, and whole numbers are rea",
        ),
        ("train", saved("tif", -9, np.int32), "has the negative number -"),
        (
            "train",
            saved("tif", 300, np.float32),
            r"has the number 2\d\d.*, and floats are read fr",
        ),
        ("train", saved("tif", np.nan, np.float32), r"not finite \(nan\)"),
        ("test", saved("png", 65535, np.uint16), "those to train on are read from 0 to 4095"),
        ("test", saved("png", 255, np.uint8), "8-bit numbers, others have whole numbers; bring"),
        ("test", saved("tif", 1, np.float32), "floats, others have whole numbers; bring all to"),
        (
            "test",
            bands(4095, np.uint16),
            "has 5 channels, others have 3 channels; bring all to one number",
        ),
    ],
)
def test_numbers_that_do_not_fit_are_refused(tmp_path, part, make, said):
    for each in ("train", "test"):
        folder(tmp_path, make if each == part else saved("png", 4095, np.uint16), part=each)
    with pytest.raises(DataError, match=rf"^image .*/{part}/\w+/\d\.\w+ .*{said}"):
        list(load_dataset("imagefolder", root=tmp_path).test.batches(None, 4))


@pytest.mark.parametrize("kind", ["8-bit", "16-bit png", "floats to 1", "byte arrays"])
def test_constant_images_are_refused(tmp_path, kind):
    make, _, _ = DEEP[kind]
    folder(tmp_path, lambda x, path: make(np.full_like(x, 0.5), path))
    with pytest.raises(DataError, match=r"all pixels of the images in .* are equal, so nothing"):
        load_dataset("imagefolder", root=tmp_path)


def test_hidden_files_and_folders_are_no_images(root):
    plain = load_dataset("imagefolder", root=root)
    for name in (".ipynb_checkpoints/a.png", ".thumbnails/a.png", "@eaDir/a.png", "._000.png"):
        for place in (root / "train" / "cat", root / "train"):
            path = place / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"no image")
    (root / "test" / "__MACOSX").mkdir()
    data = load_dataset("imagefolder", root=root)
    assert (data.class_names, data.fingerprint) == (plain.class_names, plain.fingerprint)
    assert len(data.test) == 5
    (root / "train" / "cat" / "more").mkdir()  # a folder within a class still counts
    Image.new("RGB", (6, 8)).save(root / "train" / "cat" / "more" / "a.png")
    assert len(load_dataset("imagefolder", root=root).train_and_valid) == 16


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_folder_for_validation_is_validated_on(root, name):
    write_images(root, counts={"cat": 3, "dog": 4}, part=name)
    data = load_dataset("imagefolder", root=root, limit=8)
    assert (len(data.train), len(data.valid), len(data.train_and_valid)) == (8, 7, 15)
    assert all(path.parts[-3] == name for path in paths(data.valid))
    assert data.remarks == (f"{root / name} is validated on; valid = 0.2 is not used",)
    write_images(root, counts={"emu": 1}, part=name)
    with pytest.raises(DataError, match=rf"{name} and .*train should hold the same classes, but"):
        load_dataset("imagefolder", root=root)


def test_a_flat_folder_is_divided_by_the_seed(tmp_path):
    write_images(tmp_path, counts={"a cat": 20, "a dog": 10, "rare": 3}, part=".")
    parts = []
    for seed in (0, 0, 1):
        data = load_dataset("imagefolder", root=tmp_path, seed=seed)
        assert data.class_names == ("a cat", "a dog", "rare")
        assert data.test.class_counts() == (4, 2, 1)
        held = [set(paths(part)) for part in (data.train, data.valid, data.test)]
        assert len(set.union(*held)) == sum(map(len, held)) == 33
        assert "20% of each class, drawn by seed" in data.remarks[0]
        parts.append(held)
    assert parts[0] == parts[1]
    assert parts[0][2] != parts[2][2]


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "cat"), ("test",)])
def test_a_part_of_another_name_is_no_class(tmp_path, names):
    for name in names:
        write_images(tmp_path, counts={"cat": 3, "dog": 3}, part=name)
    with pytest.raises(DataError, match=r"train is missing, beside .*; call the folder to train"):
        load_dataset("imagefolder", root=tmp_path)


@pytest.mark.parametrize("place", ["train/cat/000.png", "train/dog/new.png", "test/dog/new.png"])
def test_a_pipe_among_the_images_is_named_and_not_waited_for(root, place):
    (root / place).unlink(missing_ok=True)
    os.mkfifo(root / place)
    with pytest.raises(DataError, match=rf"^image {root / place} is no file of bytes; replace"):
        _ = load_dataset("imagefolder", root=root).test


def test_a_rare_class_is_in_every_part_or_named(tmp_path):
    write_images(tmp_path, counts={"healthy": 60, "ill": 5, "rare": 2})
    data = load_dataset("imagefolder", root=tmp_path, limit=20)
    assert data.train_and_valid.class_counts() == (13, 5, 2)
    assert data.class_counts["valid"] == {"healthy": 2, "ill": 1, "rare": 1}
    (tmp_path / "train" / "rare" / "001.png").unlink()
    with pytest.raises(DataError, match=r"class 'rare' has 1: each class needs an image to train"):
        load_dataset("imagefolder", root=tmp_path)


def test_the_test_part_can_be_looked_at_without_reading_its_pixels(root):
    data = load_dataset("imagefolder", root=root)
    image = root / "test" / "cat" / "000.png"
    image.write_bytes(image.read_bytes()[:60])  # a whole header, half its pixels
    data.check_test()
    image.write_bytes(b"")
    with pytest.raises(DataError, match=rf"image {image} is broken"):
        data.check_test()


INPUTS = Inputs(
    class_names=("bird", "cat", "dog"), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), resize=False
)


@pytest.mark.parametrize("part", ["test", "."])
def test_a_folder_is_read_as_a_trained_network_takes_it(root, part):
    images = labelled_images(root / part, INPUTS, shape=(3, 8, 6))
    ((x, labels),) = images.batches(None, 100)
    pixels = torch.from_numpy(decoded(sorted((root / "test").rglob("*.png"))))
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (INPUTS.mean, INPUTS.std))
    torch.testing.assert_close(x, (pixels / 255 - mean) / std)
    assert labels.tolist() == [1, 1, 2, 2, 2]  # as the network counts, which knows birds too


def test_a_network_of_grey_images_takes_grey_files_and_no_coloured_ones(root, tmp_path):
    grey = Inputs(class_names=("cat", "dog"), mean=(0.5,), std=(0.25,))
    array = np.arange(48, dtype=np.uint8).reshape(8, 6)
    (tmp_path / "grey" / "cat").mkdir(parents=True)
    Image.fromarray(array).save(tmp_path / "grey" / "cat" / "a.png")
    ((x, _),) = labelled_images(tmp_path / "grey", grey, shape=(1, 8, 6)).batches(None, 9)
    torch.testing.assert_close(x[0, 0], (torch.from_numpy(array) / 255 - 0.5) / 0.25)
    with pytest.raises(DataError, match="has 3 channels, others have 1"):
        list(labelled_images(root, grey, shape=(1, 8, 6)).batches(None, 9))


def test_a_network_that_resizes_takes_other_sizes(root):
    images = labelled_images(root, replace(INPUTS, resize=True), shape=(3, 5, 5))
    ((x, _),) = images.batches(None, 9)
    assert x.shape == (5, 3, 5, 5)


@pytest.mark.parametrize(
    ("inputs", "shape", "said"),
    [
        (replace(INPUTS, class_names=("bird", "cat")), (3, 8, 6), "dog is of no class that the"),
        (INPUTS, (3, 9, 6), "has 8 x 6 pixels and the network was trained on 9 x 6; bring all"),
        (INPUTS, (4, 8, 6), "has 3 channels and the network was trained on 4; bring all"),
        (
            replace(INPUTS, numbers="whole", white=4095),
            (3, 8, 6),
            "has 8-bit numbers and the network was trained on whole numbers; bring all",
        ),
    ],
)
def test_what_the_network_was_not_trained_on_is_refused(root, inputs, shape, said):
    with pytest.raises(DataError, match=said):
        labelled_images(root, inputs, shape=shape)


@pytest.mark.parametrize("folder", ["nowhere", "train/cat"])
def test_a_folder_without_classes_is_refused(root, folder):
    with pytest.raises(DataError, match=r"image folder .*(is missing|has no folders in it)"):
        labelled_images(root / folder, INPUTS, shape=(3, 8, 6))
