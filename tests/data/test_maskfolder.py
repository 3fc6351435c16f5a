"""A user's own images with masks, against arrays made by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from sat_optuna.data import get_dataset
from sat_optuna.data.masks import read_mask
from sat_optuna.data.pixels import read_pixels
from sat_optuna.errors import DataError
from tests.data.formats import write_images, write_masks
from tests.data.reading import load_dataset

SIZES = ((12, 16), (16, 8), (10, 10))


def loaded(root, **settings):
    return load_dataset("maskfolder", root=root, **settings)


def by_hand(folder, number, size, frame):
    """An image and its mask, scaled by Pillow and filled up."""
    image: Image.Image = Image.open(folder / "images" / f"{number:02}.png")
    mask: Image.Image = Image.open(folder / "masks" / f"{number:02}.png")
    if size:
        longer = max(image.size)
        to = tuple(round(side * size / longer) for side in image.size)
        image, mask = image.resize(to, Image.Resampling.BILINEAR), mask.resize(to, 0)
    pixels, classes = np.zeros((3, *frame), np.uint8), np.full(frame, 255, np.uint8)
    pixels[:, : image.height, : image.width] = np.array(image).transpose(2, 0, 1)
    classes[: mask.height, : mask.width] = np.array(mask)
    return pixels, classes


@pytest.mark.parametrize(
    ("sizes", "size", "frame"),
    [
        (SIZES[:1], None, (12, 16)),
        (SIZES, None, (16, 16)),
        (SIZES, 8, (8, 8)),
        (SIZES[:1], 8, (6, 8)),
        (SIZES[1:], 24, (24, 24)),
    ],
)
def test_images_are_scaled_by_their_longer_side_and_filled_up(tmp_path, sizes, size, frame):
    write_masks(tmp_path / "train", 6, sizes=sizes)
    write_masks(tmp_path / "test", 3, sizes=sizes, seed=1)
    data = loaded(tmp_path, size=size)
    assert (data.shape, data.class_names, data.targets) == ((3, *frame), ("0", "1", "2"), "masks")
    assert (len(data.train), len(data.valid), len(data.test)) == (5, 1, 3)
    for part, folder, count in ((data.train_and_valid, "train", 6), (data.test, "test", 3)):
        found = {x.numpy().tobytes(): y for x, y in zip(part.images, part.labels, strict=True)}
        for number in range(count):
            image, mask = by_hand(tmp_path / folder, number, size, frame)
            assert np.array_equal(found[image.tobytes()].numpy(), mask)
    both = torch.cat([data.train.images, data.valid.images])
    assert torch.equal(both, data.train_and_valid.images)
    assert data.train.images.data_ptr() == data.train_and_valid.images.data_ptr()  # held once


def test_mean_and_deviation_are_of_train_without_what_is_filled_up(tmp_path):
    write_masks(tmp_path / "train", 5, sizes=SIZES)
    write_masks(tmp_path / "test", 1)
    data = loaded(tmp_path)
    shown = [x[:, x.sum(0) > 0] for x in data.train.images]  # no pixel of an image is black
    values = torch.cat(shown, dim=1).double() / 255
    assert torch.allclose(torch.tensor(data.train.mean).double(), values.mean(1))
    assert torch.allclose(torch.tensor(data.train.std).double(), values.std(1, correction=0))
    assert data.test.mean == data.valid.mean == data.train.mean


@pytest.mark.parametrize("part", ["val", "flat"])
def test_the_parts_are_those_of_an_image_folder(tmp_path, part):
    if part == "val":
        write_masks(tmp_path / "train", 6)
        write_masks(tmp_path / "val", 2, seed=1)
        write_masks(tmp_path / "test", 3, seed=2)
        data = loaded(tmp_path, limit=4)
        counts = (4, 2, 3)
        said = f"{tmp_path}/val is validated on; valid = 0.2 is not used"
    else:
        write_masks(tmp_path, 20)
        data = loaded(tmp_path, valid=0.25)
        counts = (12, 4, 4)
        said = f"{tmp_path} has no folder train: 20% of its images, drawn by seed 0, are the test"
        held = [x.numpy().tobytes() for p in (data.train, data.valid, data.test) for x in p.images]
        assert len(set(held)) == 20
        again, other = loaded(tmp_path, valid=0.25), loaded(tmp_path, valid=0.25, seed=1)
        assert torch.equal(again.test.images, data.test.images)
        assert not torch.equal(other.test.images, data.test.images)
    assert (len(data.train), len(data.valid), len(data.test)) == counts
    assert data.remarks[0].startswith(said)
    assert get_dataset("maskfolder", tmp_path) == tmp_path


def test_the_fingerprint_sees_pixels_masks_names_and_settings(tmp_path):
    write_masks(tmp_path / "train", 5)
    write_masks(tmp_path / "test", 2)
    seen = [loaded(tmp_path, seed=seed).fingerprint for seed in (0, 0, 1)]
    assert seen[0] == seen[1]
    for inside in ("images", "masks"):
        path = tmp_path / "train" / inside / "00.png"
        pixels = np.array(Image.open(path))
        pixels[3, 3] = (pixels[3, 3] + 1) % 3
        Image.fromarray(pixels).save(path)
        seen.append(loaded(tmp_path).fingerprint)
    (tmp_path / "classes.txt").write_text("sky\ntree\nroad\n")
    data = loaded(tmp_path)
    assert data.class_names == ("sky", "tree", "road")
    assert len({*seen, data.fingerprint}) == 5
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert loaded(moved).fingerprint == data.fingerprint


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("palette", [False, True])
def test_a_masks_numbers_are_those_of_its_file(tmp_path, bits, palette):
    """Pillow multiplies the numbers of grey PNGs of 2 and 4 bits."""
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4) % min(2**bits, 7)
    if palette:
        image = Image.fromarray(numbers)
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
        image.save(tmp_path / "a.png", bits=min(bits, 8))
    else:
        write_grey(tmp_path / "a.png", numbers, bits)
    assert np.array_equal(read_mask(tmp_path / "a.png"), numbers)
    assert read_mask(tmp_path / "a.png").dtype == np.uint8


def write_grey(path, numbers, bits):
    """A grey PNG of so many bits, chunk by chunk."""
    import struct
    import zlib

    rows = b""
    for row in numbers:
        text = "".join(f"{number:0{bits}b}" for number in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))

    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = numbers.shape
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def mode(mode):
    def damage(part):
        path = part / "masks" / "01.png"
        Image.open(path).convert(mode).save(path)

    return damage


def number(value, *, name="01"):
    def damage(part):
        path = part / "masks" / f"{name}.png"
        mask = np.array(Image.open(path)).astype(np.uint16 if value > 255 else np.uint8)
        mask[2, 2] = value
        Image.fromarray(mask).save(path)

    return damage


def other_size(part):
    Image.new("L", (16, 13)).save(part / "masks" / "01.png")


def turned_size(part):
    path = part / "masks" / "01.png"
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)


def turned_image(part):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = part / "images" / "01.png"
    Image.open(path).save(path, exif=exif)


def no_mask(part):
    (part / "masks" / "01.png").unlink()


def no_image(part):
    (part / "images" / "01.png").unlink()


def no_masks(part):
    (part / "masks").rename(part / "labels")


def no_images(part):
    for path in (part / "images").iterdir():
        path.unlink()


def twins(part):
    (part / "images" / "01.jpg").write_bytes((part / "images" / "01.png").read_bytes())


def jpeg(part):
    path = part / "masks" / "01.png"
    Image.open(path).save(path.with_suffix(".jpg"))
    path.unlink()


def jpeg_called_png(part):
    path = part / "masks" / "01.png"
    with path.open("r+b") as stream:
        mask = Image.open(path)
        mask.load()
        stream.truncate(0)
        mask.save(stream, "JPEG")


def cut_off(part):
    path = part / "masks" / "01.png"
    path.write_bytes(path.read_bytes()[:60])


def broken_image(part):
    (part / "images" / "01.png").write_bytes(b"no image")


def deep_image(part):
    Image.fromarray(np.full((12, 16), 999, np.uint16)).save(part / "images" / "01.png")


def deep_images(part):
    for path in (part / "images").iterdir():
        Image.fromarray(np.full((12, 16), 999, np.uint16)).save(path)


FAULTS = [
    (
        mode("RGB"),
        "mask {part}/masks/01.png has colours (RGB) and should have the number of each ",
    ),
    (
        mode("RGBA"),
        "mask {part}/masks/01.png has colours (RGBA) and should have the number of eac",
    ),
    (mode("LA"), "mask {part}/masks/01.png has colours (LA) and should have the number of each p"),
    (number(300), "mask {part}/masks/01.png has pixels of class 300; number the classes from 0 "),
    (other_size, "mask {part}/masks/01.png has 13 x 16 pixels and its image 01.png 12 x 16; brin"),
    (turned_size, "mask {part}/masks/01.png has 16 x 12 pixels and its image 01.png 12 x 16; br"),
    (turned_image, "mask {part}/masks/01.png has 12 x 16 pixels and its image 01.png, turned as "),
    (no_mask, "image {part}/images/01.png has no mask, {part}/masks/01.png; add it or delete the"),
    (
        no_image,
        "mask {part}/masks/01.png has no image in {part}/images; add it or delete the mask",
    ),
    (no_masks, "folder {part}/masks is missing; a folder of masks holds images/*.jpg and masks/*"),
    (no_images, "image folder {part}/images has no images; a folder of masks holds images/*.jpg "),
    (twins, "{part}/images/01.png and 01.jpg have one name; rename or delete one"),
    (jpeg, "mask {part}/masks/01.jpg is no PNG, and other files may change its numbers; save it"),
    (jpeg_called_png, "mask {part}/masks/01.png is a JPEG and no PNG, whose numbers may have cha"),
    (cut_off, "image {part}/masks/01.png is broken ("),
    (broken_image, "image {part}/images/01.png is broken ("),
    (deep_image, "image {part}/images/01.png has whole numbers, others have 8-bit numbers; bring"),
]


@pytest.mark.parametrize("where", ["train", "val", "test"])
@pytest.mark.parametrize(("damage", "said"), FAULTS)
def test_faulty_files_are_one_sentence_in_each_part(tmp_path, where, damage, said):
    for seed, part in enumerate(("train", "val", "test")):
        write_masks(tmp_path / part, 3, seed=seed)
    damage(tmp_path / where)
    with pytest.raises(DataError) as caught:
        loaded(tmp_path).check_test()
    assert str(caught.value).startswith(said.format(part=tmp_path / where))
    assert "\n" not in str(caught.value)
    if where == "test":
        with pytest.raises(DataError):
            _ = loaded(tmp_path).test


@pytest.mark.parametrize(
    ("where", "damage", "names", "said"),
    [
        (
            "train",
            number(3),
            "a\nb\nc",
            "mask {part}/masks/01.png has pixels of class 3 and the cl",
        ),
        (
            "val",
            number(200),
            "a\nb\nc",
            "mask {part}/masks/01.png has pixels of class 200 and the ",
        ),
        (
            "test",
            number(3),
            "",
            "mask {part}/masks/01.png has pixels of class 3 and the classes ar",
        ),
        (
            "test",
            number(254),
            "a\nb\nc",
            "mask {part}/masks/01.png has pixels of class 254 and the",
        ),
        (
            "train",
            number(4),
            "",
            "mask {part}/masks/01.png has pixels of class 4 and no mask has t",
        ),
        (
            "val",
            number(128),
            "",
            "mask {part}/masks/01.png has pixels of class 128 and no mask has",
        ),
        (
            "train",
            number(1),
            "a\n\nb",
            "{root}/classes.txt holds 3 lines; write 2 to 255 different",
        ),
        (
            "train",
            number(1),
            "a\na",
            "{root}/classes.txt holds 2 lines; write 2 to 255 different n",
        ),
        (
            "train",
            number(1),
            "one",
            "{root}/classes.txt holds 1 lines; write 2 to 255 different n",
        ),
    ],
)
def test_a_class_that_is_none_is_named(tmp_path, where, damage, names, said):
    for seed, part in enumerate(("train", "val", "test")):
        write_masks(tmp_path / part, 3, seed=seed)
    if names:
        (tmp_path / "classes.txt").write_text(names)
    damage(tmp_path / where)
    with pytest.raises(DataError) as caught:
        loaded(tmp_path).check_test()
    assert str(caught.value).startswith(said.format(part=tmp_path / where, root=tmp_path))


@pytest.mark.parametrize(
    ("value", "names", "said"),
    [
        (
            (0, 255),
            "",
            r"the masks of .* hold 0 and 255 alone, and 255 is a pixel without a class; ",
        ),
        (
            (255,),
            "",
            r"the masks of .* hold 255 alone, and 255 is a pixel without a class; number ",
        ),
        (
            (0,),
            "",
            r"the masks of .* hold 0 alone, and 255 is a pixel without a class; number the",
        ),
        (
            (0, 255),
            "a\nb",
            r"all pixels of the 3 images to train on in .* are of class 0 \(255 is",
        ),
        (
            (255,),
            "a\nb",
            r"all pixels of the 3 images to train on in .* are of no class \(255 is ",
        ),
    ],
)
def test_masks_of_one_class_are_told(tmp_path, value, names, said):
    write_masks(tmp_path, 5)
    if names:
        (tmp_path / "classes.txt").write_text(names)
    for path in (tmp_path / "masks").iterdir():
        Image.fromarray(np.resize(np.uint8(value), (12, 16))).save(path)
    with pytest.raises(DataError, match=f"^{said}"):
        loaded(tmp_path)


def test_images_of_more_than_8_bits_are_told(tmp_path):
    deep_images(write_masks(tmp_path, 5))
    with pytest.raises(
        DataError, match=r"^image .*00.png holds whole numbers, and images with mask"
    ):
        loaded(tmp_path)


def test_constant_images_and_too_few_are_told(tmp_path):
    write_masks(tmp_path, 5)
    for path in (tmp_path / "images").iterdir():
        Image.new("RGB", (16, 12), "grey").save(path)
    with pytest.raises(DataError, match=r"^all pixels of the images in .* are equal, so nothing"):
        loaded(tmp_path)
    with pytest.raises(
        DataError, match=r"^limit = 9 cannot be taken from maskfolder: it has 4 tr"
    ):
        loaded(tmp_path, limit=9)
    for number in range(1, 5):
        (tmp_path / "masks" / f"{number:02}.png").unlink()
        (tmp_path / "images" / f"{number:02}.png").unlink()
    with pytest.raises(DataError, match=r"^1 image cannot make two parts; give two at least"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ((), "image folder {root} is missing; a folder of masks holds images"),
        (
            ("Images",),
            "image folder {root}/train is missing, and {root}/images too; a folder of m",
        ),
        (("Train/images",), "image folder {root}/train is missing, beside Train; call the folder"),
        (("images", "test"), "image folder {root}/train is missing, beside test; call the folder"),
    ],
)
def test_a_folder_of_another_layout_is_told(tmp_path, folders, said):
    root = tmp_path / "mine"
    for folder in folders:
        (root / folder).mkdir(parents=True)
    for ask in (loaded, lambda root: get_dataset("maskfolder", root)):
        with pytest.raises(DataError) as caught:
            ask(root)
        assert str(caught.value).startswith(said.format(root=root))


def test_an_image_folder_and_one_of_masks_are_not_taken_for_each_other(tmp_path):
    write_masks(tmp_path / "flat", 3)
    write_masks(tmp_path / "parts" / "train", 3)
    for root, folder in (("flat", "flat"), ("parts", "parts/train")):
        with pytest.raises(DataError) as caught:
            load_dataset("imagefolder", root=tmp_path / root)
        assert str(caught.value) == (
            f"image folder {tmp_path / folder} holds images and masks, which are no classes; "
            "write name = 'maskfolder' under [data] in study.toml"
        )
    write_images(tmp_path / "classes", counts={"cat": 2, "dog": 2})
    with pytest.raises(
        DataError, match=r"^image folder .*/train/images is missing; a folder of m"
    ):
        loaded(tmp_path / "classes")


def test_an_image_that_came_later_and_does_not_fit_is_told(tmp_path):
    write_masks(tmp_path / "train", 3)
    data = loaded(write_masks(tmp_path / "test", 2).parent)
    (tmp_path / "test").rename(tmp_path / "old")
    write_masks(tmp_path / "test", 2, sizes=((12, 16), (13, 16)))
    with pytest.raises(DataError, match=r"01.png is larger than the data set's were before; open"):
        _ = data.test


def test_what_would_not_fit_into_memory_is_told_before_it_is_read(tmp_path, monkeypatch):
    write_masks(tmp_path, 6)
    monkeypatch.setattr("os.sysconf", lambda name: 30)  # a machine of 900 bytes
    with pytest.raises(DataError) as caught:
        loaded(tmp_path)
    assert str(caught.value).startswith("5 images of 3x12x16 with their masks take 0 GB and this")
    monkeypatch.undo()
    monkeypatch.setattr("sat_optuna.data.maps.LARGE", 3000)
    assert loaded(tmp_path).remarks[-1] == "5 images and their masks take 0.0 GB of memory"
    assert len(loaded(tmp_path, size=8).remarks) == 2  # a fifth is tested on; scaled


def test_images_turned_by_exif_and_bands_are_read_whole(tmp_path):
    write_masks(tmp_path, 4, sizes=((12, 16),))
    path = tmp_path / "images" / "00.png"
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(path).save(path, exif=exif)
    assert (
        "1 images are turned as EXIF says; their maps must be so already"
        in loaded(tmp_path).remarks
    )
    for path in (tmp_path / "images").iterdir():
        pixels = np.concatenate([read_pixels(path)] * 2, axis=2)[:, :, :5]
        np.save(path.with_suffix(".npy"), pixels)
        path.unlink()
    data = loaded(tmp_path, size=8)
    assert data.shape == (5, 6, 8)
    assert "the images have 5 bands, all used" in data.remarks
