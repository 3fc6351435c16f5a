import numpy as np
import pytest
from PIL import Image

from sat_optuna.errors import DataError
from tests.data.formats import balanced, write_stl10
from tests.data.reading import load_dataset, pixels


def test_it_is_read_as_it_was_written(tmp_path):
    write_stl10(tmp_path)
    split = load_dataset("stl10", valid=0.5, root=tmp_path)
    for part, seed in ((split.train_and_valid, 1), (split.test, 2)):
        written, labels = balanced(30, (3, 96, 96), classes=10, seed=seed)
        np.testing.assert_array_equal(pixels(part), written)
        np.testing.assert_array_equal(part.labels, labels)
    assert split.class_names[7] == "monkey"


def test_a_size_scales_all_parts(tmp_path):
    write_stl10(tmp_path)
    split = load_dataset("stl10", valid=0.5, root=tmp_path, size=32)
    assert split.shape == split.test.shape == (3, 32, 32)
    written, _ = balanced(30, (3, 96, 96), classes=10, seed=1)
    picture = Image.fromarray(written[4].transpose(1, 2, 0))
    expected = np.array(picture.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    off = np.abs(pixels(split.train_and_valid)[4].numpy().astype(int) - expected)
    assert off.max() <= 1
    assert split.fingerprint != load_dataset("stl10", valid=0.5, root=tmp_path).fingerprint


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train_X.bin", lambda b: b[:-5], r"train_X.bin should have 829440 bytes .* got 829435"),
        ("train_y.bin", lambda b: b[:-1], r"train_X.bin should have 801792 bytes for the 29 labe"),
        ("train_y.bin", lambda b: b"\0" + b[1:], r"stl10 should have labels 0 to 9, got -1 to 9"),
        (
            "train_y.bin",
            lambda b: b"\x0b" + b[1:],
            r"stl10 should have labels 0 to 9, got 0 to 10",
        ),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path, file, change, message):
    path = write_stl10(tmp_path) / file
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        load_dataset("stl10", valid=0.5, root=tmp_path)


def test_the_test_file_is_not_opened_before_it_is_asked_for(tmp_path):
    (write_stl10(tmp_path) / "test_X.bin").unlink()
    split = load_dataset("stl10", valid=0.5, root=tmp_path)
    with pytest.raises(DataError, match=r"stl10 is not complete, .*test_X.bin is missing; run"):
        _ = split.test


def test_two_empty_files_are_one_sentence(tmp_path):
    folder = write_stl10(tmp_path)
    for file in ("train_X.bin", "train_y.bin"):
        (folder / file).write_bytes(b"")
    with pytest.raises(DataError, match=r"got 0 images \(3, 96, 96\) and 0 labels; replace"):
        load_dataset("stl10", valid=0.5, root=tmp_path)
