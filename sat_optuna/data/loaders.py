"""Datasets and DataLoaders of (image, label), as images that are trained and scored on.

    fit, pretrain, retrain ──► training_images ──► Images that are read anew in each epoch
    Evaluator, valid, test ──► scored_images   ──► Images that are read once, in order, and kept

What a transform draws from torch depends on a seed alone: on that of the epoch while a network is
trained, on the index of the image elsewhere. What it draws from `random` or NumPy does not.
"""

import copy
from collections.abc import Iterator
from typing import Any, ClassVar, Self, TypeAlias, cast

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)
from typing_extensions import override

from sat_optuna.data.arrays import checked_pair
from sat_optuna.data.images import (
    Augment,
    Images,
    TensorImages,
    augmented_pair,
    highest_class,
)
from sat_optuna.errors import DataError, errors_as
from sat_optuna.seeds import seeded

__all__ = [
    "DatasetImages",
    "LoaderImages",
    "UserData",
    "UserImages",
    "joined_images",
    "read_once",
    "scored_images",
    "training_images",
]

UserData: TypeAlias = Dataset[Any] | DataLoader[Any]
UserImages: TypeAlias = Images | UserData
"""What a user may give where labelled images are wanted."""

_READ = 256  # images a batch while a Dataset is read once


def training_images(
    given: UserImages, *, device: torch.device | str, targets: str = "labels"
) -> Images:
    """Return what a network on `device` is trained on.

    A Dataset is read in an order and in batches of ours; a DataLoader has its own. What its items
    have beside images is `targets`, one of `arrays.TARGETS`; Images know theirs.

    Raises:
        DataError: nothing of the kind was given, or nothing that can be read.
    """
    device = torch.device(device)
    if isinstance(given, Images):
        return given if _same(given.device, device) else given.to(device)
    if isinstance(given, DataLoader):
        return LoaderImages(given, device=device, targets=targets)
    return DatasetImages(given, device=device, targets=targets)


def scored_images(
    given: UserImages, *, device: torch.device | str, targets: str = "labels"
) -> Images:
    """Return what a network on `device` is scored on.

    Raises:
        DataError: as of `read_once`.
    """
    if isinstance(given, Images):
        return training_images(given, device=device)
    return read_once(given, device=device, targets=targets)


def read_once(
    given: UserData, *, device: torch.device | str, targets: str = "labels"
) -> TensorImages:
    """Return the images of a Dataset or DataLoader, read in order and kept in memory.

    Raises:
        DataError: as of `training_images`, or a DataLoader that does not read in order.
    """
    if isinstance(given, DataLoader) and not _reads_in_order(given):
        raise DataError(
            f"a DataLoader that reads with {type(_sampler(given)).__name__} was given to score "
            "on; give one that reads in order, without shuffle, sampler and batch_sampler"
        )
    images = training_images(given, device=device, targets=targets)
    x = torch.empty(len(images), *images.shape, device=images.device)
    labels = []
    parts = zip(torch.split(x, _READ), images.batches(None, _READ), strict=True)
    for x_part, (x_read, labels_read) in parts:
        x_part.copy_(x_read)
        labels.append(labels_read.to(torch.uint8) if targets == "masks" else labels_read)
    return TensorImages(x, torch.cat(labels))


def joined_images(
    train: UserData, more: UserData, *, device: torch.device | str, targets: str = "labels"
) -> Images:
    """Return the images of two Datasets or DataLoaders, trained on together as on the first.

    Raises:
        DataError: the first is a DataLoader whose sampler knows nothing of further images.
    """
    both: Dataset[Any] = ConcatDataset([_dataset(train), _dataset(more)])
    if not isinstance(train, DataLoader):
        return training_images(both, device=device, targets=targets)
    sampler = _sampler(train)
    shuffles = type(sampler) is RandomSampler and not sampler.replacement
    if not shuffles and not _reads_in_order(train):
        raise DataError(
            f"a DataLoader to train on that reads with {type(sampler).__name__} was given, which "
            "knows nothing of the validation images that retrain adds; give one with shuffle=True "
            "or a Dataset, and this one to sat.fit, sat.pretrain or sat.retrain itself"
        )
    settings: dict[str, Any] = {"batch_size": train.batch_size, "drop_last": train.drop_last}
    return training_images(
        DataLoader(both, shuffle=shuffles, **settings, **_reading(train)),
        device=device,
        targets=targets,
    )


class DatasetImages(Images):
    """The items of a map-style Dataset, read anew each time they are asked for.

    Args:
        dataset: its items are (image, label): a float tensor (C, H, W) and a whole number.
        device: where batches arrive.
        targets: what its items have beside images, one of `arrays.TARGETS`.
        **reading: further settings of the DataLoader that reads it.
    """

    _kind: ClassVar[str] = "Dataset"

    def __init__(
        self, dataset: UserData, *, device: torch.device, targets: str = "labels", **reading: Any
    ) -> None:
        self.targets = targets
        self._dataset, self._reading = _dataset(dataset), reading
        self._highest = -1
        first, *_ = self._items(self._loader(torch.zeros(1).long(), 1, repeatable=True))
        x, _ = self._pair(first)
        super().__init__(shape=(x.shape[1], x.shape[2], x.shape[3]), device=device)

    @override
    def __len__(self) -> int:
        return _length(self._dataset)

    @property
    @override
    def highest_label(self) -> int:
        return self._highest

    @override
    def batches(
        self, order: Tensor | None, batch_size: int, *, augment: Augment | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        rows = torch.arange(len(self)) if order is None else order
        return self._batches(self._loader(rows, batch_size, repeatable=True), augment)

    @override
    def epoch(
        self, number: int, *, seed: int, batch: int, augment: Augment
    ) -> Iterator[tuple[Tensor, Tensor]]:
        rows = self.order(number, seed=seed, batch=batch)
        # Read plainly: what a transform draws shall differ from epoch to epoch.
        return self._batches(self._loader(rows, min(batch, len(self)), repeatable=False), augment)

    @override
    def to(self, device: torch.device | str) -> Self:
        moved = copy.copy(self)
        moved.device = torch.device(device)
        return moved

    def _loader(self, rows: Tensor, batch: int, *, repeatable: bool) -> DataLoader[Any]:
        """Return what reads these rows; where `repeatable`, each one as it always is."""
        chunks = [chunk.tolist() for chunk in torch.split(rows, batch)] if len(rows) else []
        return DataLoader(
            _Repeatable(self._dataset) if repeatable else self._dataset,
            batch_sampler=chunks,
            generator=torch.Generator() if repeatable else None,  # else torch's own, seeded
            **self._reading,
        )

    def _batches(
        self, loader: DataLoader[Any], augment: Augment | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for item in self._items(loader):
            x, labels = self._pair(item)
            if tuple(x.shape[1:]) != self.shape:
                raise DataError(
                    f"the {self._kind} has images of shape {self.shape} and of shape "
                    f"{tuple(x.shape[1:])}; bring all to one size"
                )
            if self.targets in ("labels", "masks"):
                self._highest = max(self._highest, highest_class(labels))
            x = x.to(self.device, non_blocking=True)
            labels = labels.to(self.device, non_blocking=True)
            x, labels = augmented_pair(augment, x, labels, self.targets)
            yield x, labels.long() if self.targets == "masks" else labels

    def _items(self, loader: DataLoader[Any]) -> Iterator[Any]:
        with errors_as(
            DataError,
            f"the {self._kind} cannot be read",
            "give one of (image, label), each image a float tensor (C, H, W)",
        ):
            yield from loader

    def _pair(self, item: Any) -> tuple[Tensor, Tensor]:
        if not isinstance(item, tuple | list) or len(item) != 2:
            given = f"a {type(item).__name__}"
            if isinstance(item, dict):
                given += f" with the keys {', '.join(map(str, item))}"
            elif isinstance(item, tuple | list):
                given += f" of {len(item)}"
            raise DataError(f"a batch of the {self._kind} is {given}; give (image, label)")
        x, labels = checked_pair(
            *item, of=f" of a batch of the {self._kind}", targets=self.targets
        )
        if x.dtype == torch.uint8:
            raise DataError(
                f"x of a batch of the {self._kind} is uint8; give floats, for example through "
                "torchvision's ToTensor, or give the arrays to sat.Split.from_arrays, which "
                "normalises them"
            )
        return x, labels


class LoaderImages(DatasetImages):
    """The batches of a DataLoader in its own order, epoch after epoch.

    What a sampler or transform keeps from epoch to epoch is not known here, so a training that is
    continued may see other images than one that never stopped.

    Args:
        loader: its Dataset's items are those of `DatasetImages`; it collates them to batches.
        device: where batches arrive.
        targets: as of `DatasetImages`.
    """

    repeatable = False
    _kind = "DataLoader"

    def __init__(
        self, loader: DataLoader[Any], *, device: torch.device, targets: str = "labels"
    ) -> None:
        super().__init__(loader, device=device, targets=targets, **_reading(loader))
        self._own = loader
        if not _length(loader):
            raise DataError(
                f"the DataLoader has no batch for its {len(self)} images; lower its batch_size, "
                "or set drop_last=False"
            )

    @override
    def steps(self, batch: int) -> int:
        return _length(self._own)

    @override
    def epoch(
        self, number: int, *, seed: int, batch: int, augment: Augment
    ) -> Iterator[tuple[Tensor, Tensor]]:
        return self._batches(self._own, augment)


class _Repeatable(Dataset[Any]):
    """A Dataset whose transforms draw the same from torch each time an item is read."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    @override
    def __getitem__(self, index: int) -> Any:
        with seeded("image", index):
            return self._dataset[index]


def _dataset(given: object) -> Dataset[Any]:
    """Return the Dataset that was given, or that of a DataLoader.

    Raises:
        DataError: it is none, has no length, or is empty.
    """
    if not isinstance(given, Dataset | DataLoader):
        raise DataError(
            f"a {type(given).__name__} was given where labelled images are wanted; give a part of "
            "a Split such as data.train (sat.Split.from_arrays(x, y) makes one), or a Dataset or "
            "DataLoader of (image, label)"
        )
    dataset = given.dataset if isinstance(given, DataLoader) else given
    if isinstance(dataset, IterableDataset):
        raise DataError(
            f"{type(dataset).__name__} is an IterableDataset, which has neither length nor order; "
            "give a map-style Dataset, one with __len__ and __getitem__"
        )
    if not _length(dataset):
        raise DataError(f"{type(dataset).__name__} has no image; give at least one")
    return dataset


def _length(sized: object) -> int:
    with errors_as(
        DataError, f"{type(sized).__name__} has no length", "give a Dataset with a __len__"
    ):
        return len(cast("Any", sized))


def _sampler(loader: DataLoader[Any]) -> object:
    """Return what decides the order of a DataLoader: a sampler, or a user's batch_sampler."""
    batches = loader.batch_sampler
    if batches is None:
        raise DataError("a DataLoader with batch_size=None was given; give one that makes batches")
    return batches.sampler if type(batches) is BatchSampler else batches


def _reads_in_order(loader: DataLoader[Any]) -> bool:
    return type(_sampler(loader)) is SequentialSampler


def _reading(loader: DataLoader[Any]) -> dict[str, Any]:
    """Return the settings of a DataLoader that say how it reads, in whatever order."""
    _sampler(loader)  # refuses one without batches, whose collate_fn is of another kind
    names = ("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn")
    return {name: getattr(loader, name) for name in (*names, "multiprocessing_context")}


def _same(one: torch.device, other: torch.device) -> bool:
    return one.type == other.type and (one.index or 0) == (other.index or 0)
