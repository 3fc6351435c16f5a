import hashlib
import sys
import tarfile

import numpy as np
import pytest
import torch

from sat_optuna.data import get_dataset
from sat_optuna.data.fashion_mnist import FashionMnist
from sat_optuna.errors import DataError
from tests.data.formats import FASHION, balanced, fashion_files, write_fashion, write_fashion_gz
from tests.data.reading import load_dataset, pixels

DOWNLOAD = """\
import pathlib, shutil
shutil.copy({package!r}, pathlib.Path.cwd() / "set.deb")
"""
UNPACK = """\
import pathlib, sys, tarfile
tarfile.open(sys.argv[2]).extractall(pathlib.Path.cwd() / sys.argv[3], filter="data")
"""


def program(folder, name: str, code: str) -> None:
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{code}")
    path.chmod(0o755)


def test_the_files_are_read_as_they_were_written(tmp_path):
    write_fashion(tmp_path)
    split = load_dataset("fashion-mnist", root=tmp_path)
    written, labels = balanced(50, (28, 28), classes=10, seed=1)
    np.testing.assert_array_equal(pixels(split.train_and_valid)[:, 0], written)
    np.testing.assert_array_equal(split.train_and_valid.labels, labels)
    written, labels = balanced(20, (28, 28), classes=10, seed=2)
    np.testing.assert_array_equal(pixels(split.test)[:, 0], written)
    np.testing.assert_array_equal(split.test.labels, labels)
    assert split.class_names[9] == "Ankle boot"


def test_train_and_valid_lie_in_the_order_of_the_file(tmp_path):
    write_fashion(tmp_path)
    split = load_dataset("fashion-mnist", root=tmp_path)
    whole = [image.numpy().tobytes() for image in pixels(split.train_and_valid)]
    for part in (split.train, split.valid):
        places = [whole.index(image.numpy().tobytes()) for image in pixels(part)]
        assert places == sorted(places)


def test_the_test_file_is_not_opened_before_it_is_asked_for(tmp_path):
    folder = write_fashion(tmp_path)
    kept = (folder / FASHION[2]).read_bytes()
    (folder / FASHION[2]).write_bytes(b"broken")
    split = load_dataset("fashion-mnist", root=tmp_path)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte is no IDX file of 3 axes"):
        _ = split.test
    (folder / FASHION[2]).write_bytes(kept)
    assert split.test is split.test


def test_the_fingerprint_sees_pixels_and_labels(tmp_path):
    folder = write_fashion(tmp_path)
    seen = [load_dataset("fashion-mnist", root=tmp_path).fingerprint]
    for file in FASHION[:2]:
        content = bytearray((folder / file).read_bytes())
        content[-1] ^= 1
        (folder / file).write_bytes(content)
        seen.append(load_dataset("fashion-mnist", root=tmp_path).fingerprint)
    assert len(set(seen)) == 3
    assert all(len(fingerprint) == 64 for fingerprint in seen)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (0, None, r"is missing; run `sat-optuna data get fashion-mnist`, or .* into "),
        (0, b"", r"train-images-idx3-ubyte is no IDX file of 3 axes; delete it and run"),
        (0, b"\0\0\x08\x03\0\0", r"is no IDX file of 3 axes"),
        (1, fashion_files()[FASHION[0]], r"train-labels-idx1-ubyte is no IDX file of 1 axes"),
        (0, fashion_files()[FASHION[0]][:-1], r"should have 39216 bytes .* got 39215; delete"),
        (0, fashion_files()[FASHION[0]] + b"x", r"should have 39216 bytes .* got 39217"),
        (0, fashion_files(train=40)[FASHION[0]], r"got 40 images \(1, 28, 28\) and 50 labels"),
        (1, fashion_files()[FASHION[1]][:-1] + b"\x0a", r"labels 0 to 9, got 0 to 10; replace"),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path, file, content, message):
    folder = write_fashion(tmp_path)
    if content is None:
        (folder / FASHION[file]).unlink()
    else:
        (folder / FASHION[file]).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset("fashion-mnist", root=tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_there_is_not_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    folder = write_fashion(tmp_path)
    assert get_dataset("fashion-mnist", tmp_path) == folder


def test_it_comes_from_the_debian_package(tmp_path, monkeypatch):
    package = tmp_path / "package"
    write_fashion_gz(package / "usr" / "share" / "datasets" / "fashion-mnist")
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(package / "usr", arcname="usr")
    programs = tmp_path / "bin"
    programs.mkdir()
    program(programs, "apt-get", DOWNLOAD.format(package=str(tmp_path / "set.tar")))
    program(programs, "dpkg-deb", UNPACK)
    monkeypatch.setenv("PATH", str(programs))
    folder = get_dataset("fashion-mnist", tmp_path / "data")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == fashion_files()
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == ["FashionMNIST"]


@pytest.mark.parametrize("broken", ["apt-get", "dpkg-deb"])
def test_without_the_package_it_comes_from_the_mirror(tmp_path, monkeypatch, served, broken):
    write_fashion_gz(served.folder)
    programs = tmp_path / "bin"
    programs.mkdir()
    program(programs, "apt-get", "open('set.deb', 'w')")
    program(programs, "dpkg-deb", "")
    program(programs, broken, "raise SystemExit(100)")
    monkeypatch.setenv("PATH", str(programs))

    class Near(FashionMnist):
        mirror = served.url
        md5 = {  # noqa: RUF012
            name: hashlib.md5((served.folder / f"{name}.gz").read_bytes()).hexdigest()
            for name in FASHION
        }

    folder = Near().get(tmp_path / "data")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == fashion_files()
    split = load_dataset("fashion-mnist", root=tmp_path / "data")
    assert torch.bincount(split.train.labels).tolist() == [4] * 10


def test_with_no_network_it_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")

    class Nowhere(FashionMnist):
        mirror = "http://127.0.0.1:9"

    with pytest.raises(
        DataError, match=r"cannot fetch fashion-mnist \(.*refused\); on Debian .* else put train-"
    ):
        Nowhere().get(tmp_path)
    assert not list(tmp_path.iterdir())
