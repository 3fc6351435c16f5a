"""Datasets and DataLoaders as images: order, repeatability, and the sentence for what is none."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from sat_optuna.data.images import TensorImages
from sat_optuna.data.loaders import read_once, scored_images, training_images
from sat_optuna.data.split import Split
from sat_optuna.errors import DataError
from sat_optuna.seeds import generator_for, seeded

X = torch.randn(20, 3, 6, 6, generator=generator_for("loader test"))
Y = torch.arange(20) % 4
ITEMS = TensorDataset(X, Y)


class Items(Dataset[Any]):
    """What a function makes of each index."""

    def __init__(self, make, count=20):
        self.make, self.count = make, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.make(index)


class Streamed(IterableDataset[Any]):
    def __iter__(self):
        return iter(ITEMS)


class Endless(Dataset[Any]):
    def __getitem__(self, index):
        return ITEMS[0]


def noisy(index):
    """An item whose transform draws from torch, as those of torchvision do."""
    return X[index] + torch.rand(()), int(Y[index])


def everything(batches):
    x, labels = zip(*batches, strict=True)
    return torch.cat(x), torch.cat(labels)


def same(raw):
    return raw


class TestReadAnew:
    @pytest.mark.parametrize("given", [ITEMS, DataLoader(ITEMS, 3), DataLoader(ITEMS, 3, True)])
    def test_rows_come_in_the_order_asked_for(self, given):
        images = training_images(given, device="cpu")
        rows = torch.tensor([7, 0, 0, 19])
        x, labels = everything(images.batches(rows, 3))
        assert torch.equal(x, X[rows])
        assert torch.equal(labels, Y[rows])
        assert (len(images), images.shape, images.to("cpu").shape) == (20, (3, 6, 6), (3, 6, 6))
        assert torch.equal(everything(images.batches(None, 7))[0], X)
        assert images.highest_label == 3

    @pytest.mark.parametrize("workers", [0, 1])
    def test_an_image_is_the_same_whenever_it_is_read(self, workers):
        images = training_images(DataLoader(Items(noisy), 4, num_workers=workers), device="cpu")
        before = torch.get_rng_state()
        whole, _ = everything(images.batches(None, 7))
        some, _ = everything(images.batches(torch.tensor([11, 2]), 1))
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(some, whole[[11, 2]])
        assert not torch.equal(whole, X)

    def test_an_epoch_of_a_dataset_is_drawn_by_seed_and_number(self):
        images = training_images(Items(noisy), device="cpu")

        def epoch(number, seed=0):
            with seeded("forward", seed, number):
                return everything(images.epoch(number, seed=seed, batch=6, augment=same))[0]

        assert (images.steps(6), len(epoch(0)), images.repeatable) == (3, 18, True)
        assert torch.equal(epoch(1), epoch(1))
        for other in (epoch(0), epoch(1, seed=1)):
            assert not torch.equal(epoch(1), other)
        exact = training_images(ITEMS, device="cpu")
        held = TensorImages(X, Y)
        for found, wanted in zip(
            exact.epoch(2, seed=5, batch=6, augment=same),
            held.epoch(2, seed=5, batch=6, augment=same),
            strict=True,
        ):
            assert torch.equal(found[0], wanted[0])
            assert torch.equal(found[1], wanted[1])

    def test_a_dataloader_keeps_its_order_and_its_batches(self):
        loader = DataLoader(ITEMS, batch_sampler=[[3, 1], [2], [5, 4, 0]])
        images = training_images(loader, device="cpu")
        found = list(images.epoch(0, seed=0, batch=64, augment=lambda raw: raw + 1))
        assert [labels.tolist() for _, labels in found] == [[3, 1], [2], [1, 0, 0]]
        assert torch.equal(found[0][0], X[[3, 1]] + 1)
        assert (images.steps(64), images.repeatable) == (3, False)

    def test_its_own_collate_function_is_used(self):
        def collate(items):
            return torch.stack([2 * x for x, _ in items]), [int(label) for _, label in items]

        loader = DataLoader(ITEMS, 4, collate_fn=collate)
        x, labels = everything(training_images(loader, device="cpu").batches(None, 9))
        assert torch.equal(x, 2 * X)
        assert torch.equal(labels, Y)


class TestReadOnce:
    @pytest.mark.parametrize("given", [ITEMS, DataLoader(ITEMS, 3), DataLoader(ITEMS, 64)])
    def test_all_images_are_read_in_order_and_kept(self, given):
        read = []
        images = scored_images(given, device="cpu")

        def noted(index):
            read.append(index)
            return ITEMS[index]

        again = scored_images(Items(noted), device="cpu")
        assert read[1:] == list(range(20))  # the first image says which shape they have
        for _ in range(2):
            assert torch.equal(everything(images.batches(None, 7))[0], X)
            assert torch.equal(everything(again.batches(None, 7))[1], Y)
        assert len(read) == 21

    def test_known_images_are_handed_on(self):
        images = TensorImages(X, Y)
        assert scored_images(images, device="cpu") is images
        assert training_images(images, device="cpu") is images

    @pytest.mark.parametrize(
        ("loader", "named"),
        [
            (DataLoader(ITEMS, 4, shuffle=True), "RandomSampler"),
            (DataLoader(ITEMS, 4, sampler=SubsetRandomSampler([1, 2])), "SubsetRandomSampler"),
            (DataLoader(ITEMS, batch_sampler=[[1, 2]]), "list"),
        ],
    )
    def test_a_loader_that_does_not_read_in_order_is_refused(self, loader, named):
        with pytest.raises(DataError) as caught:
            read_once(loader, device="cpu")
        assert str(caught.value) == (
            f"a DataLoader that reads with {named} was given to score on; give one that reads in "
            "order, without shuffle, sampler and batch_sampler"
        )


READ = "give one of (image, label), each image a float tensor (C, H, W)"
WANTED = (
    "was given where labelled images are wanted; give a part of a Split such as data.train "
    "(sat.Split.from_arrays(x, y) makes one), or a Dataset or DataLoader of (image, label)"
)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (X, f"a Tensor {WANTED}"),
        ((X, Y), f"a tuple {WANTED}"),
        (Split.from_arrays(X, Y), f"a Split {WANTED}"),
        (
            Streamed(),
            "Streamed is an IterableDataset, which has neither length nor order; give a map-style "
            "Dataset, one with __len__ and __getitem__",
        ),
        (
            DataLoader(Streamed()),
            "Streamed is an IterableDataset, which has neither length nor order; give a map-style "
            "Dataset, one with __len__ and __getitem__",
        ),
        (
            Endless(),
            "Endless has no length (TypeError: object of type 'Endless' has no len()); give a "
            "Dataset with a __len__",
        ),
        (Items(noisy, 0), "Items has no image; give at least one"),
        (
            DataLoader(ITEMS, 64, drop_last=True),
            "the DataLoader has no batch for its 20 images; lower its batch_size, or set "
            "drop_last=False",
        ),
        (
            DataLoader(ITEMS, None),
            "a DataLoader with batch_size=None was given; give one that makes batches",
        ),
        (
            Items(lambda index: {"image": X[index], "label": 0}),
            "a batch of the Dataset is a dict with the keys image, label; give (image, label)",
        ),
        (
            DataLoader(TensorDataset(X, Y, Y)),
            "a batch of the DataLoader is a list of 3; give (image, label)",
        ),
        (
            Items(lambda index: X[index]),
            "a batch of the Dataset is a Tensor; give (image, label)",
        ),
        (
            Items(lambda index: 1 / (index - index)),
            f"the Dataset cannot be read (ZeroDivisionError: division by zero); {READ}",
        ),
        (
            DataLoader(TensorDataset(X.permute(0, 2, 3, 1), Y)),
            "x of a batch of the DataLoader has shape (1, 6, 6, 3), which looks like channels "
            "last; give (N, C, H, W): x.transpose(0, 3, 1, 2) in NumPy, x.permute(0, 3, 1, 2) in "
            "torch",
        ),
        (
            Items(lambda index: (np.zeros((6, 6, 3), np.uint8), 0)),
            "x of a batch of the Dataset has shape (1, 6, 6, 3), which looks like channels last; "
            "give (N, C, H, W): x.transpose(0, 3, 1, 2) in NumPy, x.permute(0, 3, 1, 2) in torch",
        ),
        (
            TensorDataset((255 * X).byte(), Y),
            "x of a batch of the Dataset is uint8; give floats, for example through torchvision's "
            "ToTensor, or give the arrays to sat.Split.from_arrays, which normalises them",
        ),
        (
            TensorDataset(X, Y.float()),
            "y of a batch of the Dataset is float32; give whole numbers, the classes numbered "
            "from 0, for example numpy.unique(y, return_inverse=True)[1], or targets='numbers' to "
            "learn the number itself",
        ),
        (
            TensorDataset(X, torch.eye(4)[Y]),
            "y of a batch of the Dataset has shape (1, 4), which looks like one-hot rows; give "
            "the number of each image's class, y.argmax(1), or targets='multi-hot' where an image "
            "may have several",
        ),
        (
            TensorDataset(X.log(), Y),
            "x of a batch of the Dataset has a value that is not finite in image 0; correct it, "
            "or leave the image out",
        ),
    ],
)
def test_what_cannot_be_read_is_one_sentence(given, said):
    with pytest.raises(DataError) as caught:
        training_images(given, device="cpu")
    assert str(caught.value) == said


def test_images_of_two_sizes_are_refused_when_they_come():
    images = training_images(Items(lambda index: (X[0, :, index // 10 :], 0)), device="cpu")
    with pytest.raises(DataError, match=r"has images of shape \(3, 6, 6\) and of shape \(3, 5, 6"):
        list(images.batches(None, 10))
    with pytest.raises(DataError, match=r"^the Dataset cannot be read \(RuntimeError: stack"):
        list(images.batches(None, 20))


class TestFromLoaders:
    def test_the_training_part_is_read_anew_and_the_others_once(self):
        read = []

        def noted(index):
            read.append(index)
            return ITEMS[index]

        data = Split.from_loaders(
            DataLoader(Items(noisy), 4, shuffle=True),
            DataLoader(ITEMS, 3),
            test=Items(noted),
            name="mine",
        )
        assert (data.name, data.shape, data.class_names) == ("mine", (3, 6, 6), tuple("0123"))
        assert (len(data.train), len(data.valid), len(data.train_and_valid)) == (20, 20, 40)
        assert torch.equal(everything(data.valid.batches(None, 9))[0], X)
        assert read == []
        assert torch.equal(everything(data.test.batches(None, 9))[1], Y)
        assert len(data.test) == len(set(read)) == 20

    @pytest.mark.parametrize(
        ("train", "steps"), [(ITEMS, 2), (DataLoader(ITEMS, 8, shuffle=True), 4)]
    )
    def test_retraining_has_both_datasets_as_the_first_is_read(self, train, steps):
        data = Split.from_loaders(train, TensorDataset(X + 9, Y))
        whole = data.train_and_valid
        x, labels = everything(whole.batches(None, 9))
        assert torch.equal(x, torch.cat([X, X + 9]))
        assert torch.equal(labels, torch.cat([Y, Y]))
        assert (whole.steps(20), whole.repeatable) == (2 if steps == 2 else 5, steps == 2)

        def epoch(seed):
            with seeded("forward", seed):
                return everything(whole.epoch(0, seed=seed, batch=20, augment=same))[0]

        assert torch.equal(epoch(0), epoch(0))
        assert not torch.equal(epoch(0), epoch(1))
        assert torch.equal(epoch(0).sum((1, 2, 3)).sort()[0], x.sum((1, 2, 3)).sort()[0])

    def test_the_fingerprint_changes_with_what_is_known_of_them(self):
        seen = [
            Split.from_loaders(ITEMS, ITEMS),
            Split.from_loaders(TensorDataset(X[:9], Y[:9]), ITEMS),
            Split.from_loaders(ITEMS, TensorDataset(X + 1, Y)),
            Split.from_loaders(ITEMS, TensorDataset(X, 3 - Y)),
            Split.from_loaders(ITEMS, ITEMS, name="other"),
        ]
        assert len({data.fingerprint for data in seen}) == len(seen)
        assert Split.from_loaders(DataLoader(ITEMS, 4), ITEMS).fingerprint == seen[0].fingerprint

    @pytest.mark.parametrize(
        ("train", "valid", "said"),
        [
            (
                ITEMS,
                DataLoader(ITEMS, shuffle=True),
                "reads with RandomSampler was given to score",
            ),
            (
                DataLoader(ITEMS, sampler=WeightedRandomSampler([1.0] * 20, 20)),
                ITEMS,
                "reads with WeightedRandomSampler was given, which knows nothing of",
            ),
            ((X, Y), (X, Y), "^a tuple was given where labelled images are wanted; give a part"),
            (ITEMS, TensorDataset(X[:, :1], Y), r"shape \(3, 6, 6\) are trained on and images of"),
            (ITEMS, TensorDataset(X, 0 * Y), "'loaders' have 1 class, too few to tell apart"),
            (ITEMS, TensorDataset(X, Y + 1), "no image has the label 0 and one has 4; number the"),
        ],
    )
    def test_bad_parts_are_one_sentence(self, train, valid, said):
        with pytest.raises(DataError, match=said):
            Split.from_loaders(train, valid)
