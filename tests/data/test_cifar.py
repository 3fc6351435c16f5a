import contextlib
import os
import pickle

import numpy as np
import pytest

from sat_optuna.data.cifar import Cifar100
from sat_optuna.errors import DataError
from tests.data.formats import balanced, python2_pickle, write_cifar10, write_cifar100
from tests.data.reading import load_dataset, pixels


def test_cifar10_is_read_as_it_was_written(tmp_path):
    write_cifar10(tmp_path)
    split = load_dataset("cifar10", root=tmp_path)
    parts = [balanced(20, (3072,), classes=10, seed=seed) for seed in range(1, 6)]
    written = np.concatenate([x for x, _ in parts]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(pixels(split.train_and_valid), written)
    np.testing.assert_array_equal(
        split.train_and_valid.labels, np.concatenate([y for _, y in parts])
    )
    test = balanced(20, (3072,), classes=10, seed=9)
    np.testing.assert_array_equal(pixels(split.test), test[0].reshape(-1, 3, 32, 32))
    assert (split.class_names[3], split.shape) == ("class 3", (3, 32, 32))
    assert len(split.train.mean) == len(split.train.std) == 3


def test_cifar100_has_its_fine_labels(tmp_path):
    write_cifar100(tmp_path)
    split = load_dataset("cifar100", root=tmp_path, valid=0.34)
    assert (split.classes, len(split.train_and_valid), len(split.test)) == (100, 300, 100)
    assert split.class_names[42] == "fine 42"


def test_a_file_that_todays_python_wrote_is_read_too(tmp_path):
    folder = write_cifar100(tmp_path)
    written, labels = balanced(200, (3072,), classes=100, seed=5)
    table = {"data": written, "fine_labels": labels.tolist()}
    (folder / "train").write_bytes(pickle.dumps(table))
    split = load_dataset("cifar100", root=tmp_path, valid=0.5)
    np.testing.assert_array_equal(pixels(split.train_and_valid).flatten(1), written)


def test_the_test_file_is_not_opened_before_it_is_asked_for(tmp_path):
    folder = write_cifar10(tmp_path)
    (folder / "test_batch").unlink()
    split = load_dataset("cifar10", root=tmp_path)
    with pytest.raises(DataError, match=r"cifar10 is not complete, .*test_batch is missing; run"):
        _ = split.test


@pytest.mark.parametrize("file", ["data_batch_3", "batches.meta"])
@pytest.mark.parametrize("keep", [0, 1, 30, -1])
def test_a_file_cut_off_anywhere_is_one_sentence(tmp_path, file, keep):
    path = write_cifar10(tmp_path) / file
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"{file} is broken \(.*\); put data_batch_1, .* into "):
        load_dataset("cifar10", root=tmp_path)


def test_noise_never_ends_in_a_traceback(tmp_path):
    path = write_cifar10(tmp_path) / "batches.meta"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        noisy = bytearray(whole)
        noisy[rng.integers(len(noisy))] = rng.integers(256)
        path.write_bytes(noisy)
        with contextlib.suppress(DataError):
            load_dataset("cifar10", root=tmp_path, limit=10, valid=0.5)


@pytest.mark.parametrize(
    "table",
    [
        [1, 2],
        {"labels": [0]},
        {"data": np.zeros((1, 3071), np.uint8), "labels": [0]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": 0},
    ],
)
def test_another_content_is_one_sentence(tmp_path, table):
    path = write_cifar10(tmp_path) / "data_batch_2"
    path.write_bytes(python2_pickle(table))
    with pytest.raises(DataError, match=r"data_batch_2 should hold rows of 3072 bytes"):
        load_dataset("cifar10", root=tmp_path)


def test_missing_names_are_one_sentence(tmp_path):
    path = write_cifar10(tmp_path) / "batches.meta"
    path.write_bytes(python2_pickle({"names": ["a"]}))
    with pytest.raises(DataError, match=r"batches.meta has no label_names; put "):
        load_dataset("cifar10", root=tmp_path)


def test_a_pickle_that_calls_something_is_refused(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    path = write_cifar10(tmp_path) / "data_batch_1"
    path.write_bytes(pickle.dumps({"data": Harm()}))
    with pytest.raises(DataError, match=r"is broken \(it asks for posix.mkdir\)"):
        load_dataset("cifar10", root=tmp_path)
    assert not (tmp_path / "harm").exists()


def test_with_no_network_it_says_what_to_put_where(tmp_path):
    class Nowhere(Cifar100):
        url = "https://127.0.0.1:9/cifar"

    with pytest.raises(
        DataError, match=r"cannot fetch cifar100 \(.*refused\); put train, test, meta of https:"
    ):
        Nowhere().get(tmp_path)
    assert not list(tmp_path.iterdir())
