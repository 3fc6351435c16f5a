"""Writes small data sets in the formats their publishers use."""

import gzip
import io
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

FASHION = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def balanced(count: int, shape: tuple[int, ...], *, classes: int, seed: int) -> Any:
    """Random pixels (count, *shape) uint8 and labels that go round the classes."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape), np.uint8), np.arange(count) % classes


def idx(array: Any) -> bytes:
    lengths = struct.pack(f">{array.ndim}I", *array.shape)
    content: bytes = array.astype(np.uint8).tobytes()
    return bytes([0, 0, 8, array.ndim]) + lengths + content


def fashion_files(*, train: int = 50, test: int = 20) -> dict[str, bytes]:
    train_x, train_y = balanced(train, (28, 28), classes=10, seed=1)
    test_x, test_y = balanced(test, (28, 28), classes=10, seed=2)
    return dict(zip(FASHION, map(idx, (train_x, train_y, test_x, test_y)), strict=True))


def write_fashion(root: Path, **counts: int) -> Path:
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, content in fashion_files(**counts).items():
        (folder / name).write_bytes(content)
    return folder


def write_fashion_gz(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in fashion_files().items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))


def python2_pickle(value: Any) -> bytes:
    """Protocol 2 as Python 2 and numpy 1 wrote CIFAR: byte strings, dtype('u1', 0, 1)."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return b"T" + struct.pack("<I", len(value)) + value
    if isinstance(value, str):
        return _opcodes(value.encode("latin1"))
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_opcodes, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_opcodes, value)) + b"t"
    if isinstance(value, dict):
        pairs = (_opcodes(key) + _opcodes(item) for key, item in value.items())
        return b"}(" + b"".join(pairs) + b"u"
    dtype = b"cnumpy\ndtype\n" + _opcodes(("u1", 0, 1)) + b"R"
    dtype += _opcodes((3, "|", None, None, None, -1, -1, 0)) + b"b"
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _opcodes((0,))
    made += _opcodes("b") + b"tR"
    state = b"(" + _opcodes(1) + _opcodes(value.shape) + dtype + b"\x89"
    return made + state + _opcodes(value.tobytes()) + b"tb"


def cifar_batch(count: int, *, key: str, classes: int, seed: int) -> bytes:
    pixels, labels = balanced(count, (3072,), classes=classes, seed=seed)
    return python2_pickle({"batch_label": "a batch", "data": pixels, key: labels.tolist()})


def write_cifar10(root: Path) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number in range(1, 6):
        batch = cifar_batch(20, key="labels", classes=10, seed=number)
        (folder / f"data_batch_{number}").write_bytes(batch)
    (folder / "test_batch").write_bytes(cifar_batch(20, key="labels", classes=10, seed=9))
    names = [f"class {number}" for number in range(10)]
    (folder / "batches.meta").write_bytes(python2_pickle({"label_names": names}))
    return folder


def write_cifar100(root: Path) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    batch = cifar_batch(300, key="fine_labels", classes=100, seed=1)
    (folder / "train").write_bytes(batch)
    (folder / "test").write_bytes(cifar_batch(100, key="fine_labels", classes=100, seed=2))
    names = [f"fine {number}" for number in range(100)]
    (folder / "meta").write_bytes(python2_pickle({"fine_label_names": names}))
    return folder


def write_stl10(root: Path) -> Path:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for part, seed in (("train", 1), ("test", 2)):
        pixels, labels = balanced(30, (3, 96, 96), classes=10, seed=seed)
        # The file goes down the columns first, and its labels start at 1.
        (folder / f"{part}_X.bin").write_bytes(pixels.transpose(0, 1, 3, 2).tobytes())
        (folder / f"{part}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
    return folder


def write_images(
    root: Path,
    *,
    counts: dict[str, int],
    part: str = "train",
    pixels: tuple[int, int] = (8, 6),
) -> Path:
    rng = np.random.default_rng(len(part))
    for name, count in counts.items():
        folder = root / part / name
        folder.mkdir(parents=True)
        for number in range(count):
            picture = rng.integers(0, 256, (*pixels, 3), np.uint8)
            Image.fromarray(picture).save(folder / f"{number:03}.png")
    return root


def write_tiff(path: Path, pixels: Any, *, planar: bool = False, **more: Any) -> None:
    """Pixels (H, W, C), as bands unless `more` says otherwise."""
    layout = {"photometric": "minisblack"}
    if pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    else:
        layout["planarconfig"] = "separate" if planar else "contig"
        pixels = np.moveaxis(pixels, 2, 0) if planar else pixels
    tifffile.imwrite(path, pixels, **{**layout, **more})


def tar_of(folder: Path) -> bytes:
    """A tar.gz with the folder and, as in the true archives, more than is wanted."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, arcname=folder.name)
        more = tarfile.TarInfo(f"{folder.name}/readme.html")
        archive.addfile(more, io.BytesIO())
    return packed.getvalue()


def write_masks(
    folder: Path,
    count: int,
    *,
    sizes: tuple[tuple[int, int], ...] = ((12, 16),),
    classes: int = 3,
    seed: int = 0,
) -> Path:
    """Random images and masks, whose sizes go round, in folder/images and folder/masks."""
    rng = np.random.default_rng(seed)
    for inside in ("images", "masks"):
        (folder / inside).mkdir(parents=True)
    for number in range(count):
        size = sizes[number % len(sizes)]
        image = rng.integers(1, 256, (*size, 3), np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{number:02}.png")
        mask = rng.integers(0, classes, size, np.uint8)
        mask[0, 0] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{number:02}.png")
    return folder


def write_points(
    folder: Path,
    count: int,
    *,
    sizes: tuple[tuple[int, int], ...] = ((12, 16),),
    seed: int = 0,
) -> Path:
    """Random images in folder/images, and points.csv with as many dots as an image's number."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    lines = ["image,x,y"]
    for number in range(count):
        height, width = sizes[number % len(sizes)]
        image = rng.integers(1, 256, (height, width, 3), np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{number:02}.png")
        dots = rng.random((number, 2)) * [width, height]
        lines += [f"{number:02}.png,{x:.3f},{y:.3f}" for x, y in dots]
    (folder / "points.csv").write_text("\n".join(lines) + "\n")
    return folder
