"""Labelled images that come in batches, ready for a network."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, ClassVar, Self, TypeAlias

import torch
from torch import Tensor
from typing_extensions import override

from sat_optuna.config.config import IGNORED
from sat_optuna.data.arrays import MAPS
from sat_optuna.device import memory_for
from sat_optuna.errors import DataError, errors_as
from sat_optuna.seeds import generator_for

__all__ = [
    "Augment",
    "Images",
    "IndexedImages",
    "TensorImages",
    "augmented_pair",
    "channel_statistics",
    "check_labels",
    "check_outputs",
    "count_classes",
    "highest_class",
    "labels_of",
    "pixel_counts",
]

Augment: TypeAlias = Callable[..., Any]
"""From a batch (n, C, H, W) to the same; of images with maps called as `augment(images, maps)`,
(n, H, W) of them, it returns both, moved alike."""


class Images(ABC):
    """Labelled images of one shape.

    Attributes:
        shape: (C, H, W).
        device: where batches arrive.
        repeatable: whether an epoch of training is a function of its number and the seed alone.
        targets: what each image comes with, one of `arrays.TARGETS`: its label, or what another
            task learns; `batches` yields that in the place of labels then.
    """

    repeatable: ClassVar[bool] = True
    targets: str = "labels"

    def __init__(self, *, shape: tuple[int, int, int], device: torch.device) -> None:
        self.shape = shape
        self.device = device

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def highest_label(self) -> int:
        """The highest label known so far, -1 where none is known."""

    def class_counts(self) -> tuple[int, ...]:
        """Return how many images each class has, in label order, up to `highest_label`.

        Empty where the labels are not known without reading the images, as of a Dataset.
        """
        return ()

    def pixel_counts(self) -> tuple[int, ...]:
        """Return how many pixels each class has in masks, in label order; empty without masks.

        Empty too where the masks are not known without reading the images.
        """
        return ()

    def majority_share(self) -> float | None:
        """Return the share of the largest class, 0..1: what a constant answer would score.

        None where the labels are not known without reading the images.
        """
        counts = self.class_counts()
        return max(counts) / sum(counts) if counts else None

    @abstractmethod
    def batches(
        self, order: Tensor | None, batch_size: int, *, augment: Augment | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the images once.

        Args:
            order: (n,) int64 rows in the order wanted, repeats allowed; as they lie if None.
            batch_size: images a batch; the last one may be smaller.
            augment: changes a batch (n, C, H, W) before it is normalised.

        Yields:
            Float32 (n, C, H, W), normalised, and labels (n,) int64, both on `device`; in the place
            of labels what `targets` says: masks (n, H, W) int64, all others float32.

        Raises:
            DataError: an image or a label is missing or broken.
        """

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Return the same images with batches on `device`."""

    def steps(self, batch: int) -> int:
        """Return the number of batches in an epoch of training.

        Args:
            batch: images a batch that the configuration asks for.
        """
        return len(self) // min(batch, len(self))

    def order(self, number: int, *, seed: int, batch: int) -> Tensor:
        """Return the rows of an epoch of training in their order, (n,) int64.

        Args:
            number: of the epoch, from 0.
            seed: draws the order.
            batch: images a batch; a last one that is not full is left out.
        """
        drawn = torch.randperm(len(self), generator=generator_for("order", seed, number))
        return drawn[: self.steps(batch) * min(batch, len(self))]

    def epoch(
        self, number: int, *, seed: int, batch: int, augment: Augment
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the images once for training, in an order drawn anew for each epoch.

        Args:
            number: of the epoch, from 0.
            seed: draws the order.
            batch: images a batch.
            augment: as in `batches`.

        Yields:
            As `batches`, `steps(batch)` of them.
        """
        rows = self.order(number, seed=seed, batch=batch)
        return self.batches(rows, min(batch, len(self)), augment=augment)


class IndexedImages(Images):
    """Images whose labels are known and which are read row by row.

    Attributes:
        labels: (N,) int64; of other tasks (N, classes) or (N,) float32; masks (N, H, W) uint8, or
            densities (N, H, W) float32.
        mean: per channel, of pixels in [0, 1]; empty for floats, which are taken as they are.
        std: per channel, of pixels in [0, 1]; empty for floats.
        white: the number that becomes 1 before mean and deviation are taken, 255 of bytes.
    """

    def __init__(
        self,
        labels: Tensor,
        *,
        shape: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        white: int = 255,
    ) -> None:
        super().__init__(shape=shape, device=device)
        self.labels = labels.to(device)
        if labels.is_floating_point():
            self.targets = ("numbers", "multi-hot", "density")[labels.ndim - 1]
        elif labels.ndim == 3:
            self.targets = "masks"
        self.mean = mean
        self.std = std
        self.white = white
        # (pixel / white - mean) / std as one multiplication and one addition.
        centre = torch.tensor(mean, dtype=torch.float64, device=device).view(-1, 1, 1)
        spread = torch.tensor(std, dtype=torch.float64, device=device).view(-1, 1, 1)
        self._scale = (1 / (white * spread)).float()
        self._offset = (-centre / spread).float()

    @override
    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def highest_label(self) -> int:
        """The highest label, -1 where there is no image, or none has a label."""
        if not len(self) or self.targets not in ("labels", "masks"):
            return -1
        return highest_class(self.labels)

    @override
    def class_counts(self) -> tuple[int, ...]:
        if self.targets != "labels":
            return ()
        return tuple(torch.bincount(self.labels).tolist())

    @override
    def pixel_counts(self) -> tuple[int, ...]:
        if self.targets != "masks":
            return ()
        counts = torch.bincount(self.labels.flatten(), minlength=IGNORED + 1)
        return tuple(counts[: self.highest_label + 1].tolist())

    def inputs(self) -> dict[str, Any]:
        """Return how pixels become what a network takes, as fields of `Inputs`."""
        return {"mean": self.mean, "std": self.std, "white": self.white}

    @override
    def batches(
        self, order: Tensor | None, batch_size: int, *, augment: Augment | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        rows = torch.arange(len(self)) if order is None else order
        rows = rows.to(self.device, non_blocking=True)  # once, not batch by batch
        chunks = torch.split(rows, batch_size) if len(rows) else ()
        for chunk, raw in zip(chunks, self._raw(chunks), strict=True):
            x, labels = augmented_pair(augment, raw, self.labels[chunk], self.targets)
            if self.mean:
                x = x.float().mul_(self._scale).add_(self._offset)
            yield x, labels.long() if self.targets == "masks" else labels

    @abstractmethod
    def subset(self, index: Tensor) -> Self:
        """Return the images of the rows `index` (n,) int64, in that order."""

    @abstractmethod
    def _raw(self, chunks: tuple[Tensor, ...]) -> Iterator[Tensor]:
        """Yield (n, C, H, W) on `device` for each chunk of rows on `device`."""


class TensorImages(IndexedImages):
    """Images held as one tensor on the device.

    >>> black = torch.zeros(10, 1, 8, 8, dtype=torch.uint8)
    >>> images = TensorImages(black, torch.arange(10), mean=(0.5,), std=(0.25,))
    >>> x, labels = next(images.batches(None, 4))
    >>> x.shape, labels.tolist(), float(x[0, 0, 0, 0])
    (torch.Size([4, 1, 8, 8]), [0, 1, 2, 3], -2.0)

    Args:
        images: (N, C, H, W), uint8, or float32 without `mean` and `std`; its device is the device
            of the batches.
        labels: as of `IndexedImages`.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: tuple[float, ...] = (),
        std: tuple[float, ...] = (),
    ) -> None:
        channels, height, width = images.shape[1:]
        super().__init__(
            labels, shape=(channels, height, width), mean=mean, std=std, device=images.device
        )
        self.images = images

    @override
    def subset(self, index: Tensor) -> "TensorImages":
        rows = index.to(self.device)
        return TensorImages(self.images[rows], self.labels[rows], self.mean, self.std)

    @override
    def to(self, device: torch.device | str) -> "TensorImages":
        with memory_for(f"{len(self)} images", "take fewer"):
            return TensorImages(self.images.to(device), self.labels, self.mean, self.std)

    @override
    def _raw(self, chunks: tuple[Tensor, ...]) -> Iterator[Tensor]:
        for chunk in chunks:
            yield self.images[chunk]


def count_classes(forward: Callable[[Tensor], Tensor], images: Images) -> int:
    """Return the number of a network's outputs, of classes, once a blank image went through it.

    Args:
        forward: from (N, C, H, W) to logits (N, classes); called once, without gradients.
        images: what it shall be trained or scored on.

    Raises:
        DataError: images of this shape do not go through, a label is too high for the network, or
            what it returns are no logits.
    """
    blank = torch.zeros(1, *images.shape, device=images.device)
    what = f"images of shape {images.shape} do not go through the network"
    remedy = "give images of the size and channels that it was built for"
    room = memory_for("one image in the network", "take a narrower network")
    with errors_as(DataError, what, remedy), room, torch.no_grad():
        logits = forward(blank)
    check_outputs(logits, images.targets, images.shape)
    classes = logits.shape[1]
    check_labels(images, classes)
    if images.targets not in ("labels", "masks"):
        _, targets = next(images.batches(torch.zeros(1, dtype=torch.int64), 1))
        wanted = targets.shape[1] if targets.ndim == 2 else 1
        if classes != wanted:
            raise DataError(
                f"the images come with {wanted} target value{'s' * (wanted > 1)} each and the "
                f"network has {classes} outputs; build it with classes={wanted}"
            )
    return classes


def check_outputs(outputs: Tensor, targets: str, shape: tuple[int, int, int]) -> None:
    """Make sure that what a network returns for one image is of the form that targets need.

    Args:
        outputs: for one image.
        targets: what images come with, one of `arrays.TARGETS`.
        shape: (C, H, W) of the image.

    Raises:
        DataError: it is not.
    """
    found = tuple(outputs.shape)
    if targets not in MAPS:
        if len(found) != 2:
            raise DataError(
                f"the network returns shape {found} for one image; give a classifier, which "
                "returns (N, classes)"
            )
        return
    if len(found) != 4:
        head = "fcn" if targets == "masks" else "density"
        raise DataError(
            f"the network returns shape {found} for one image, and the images come with "
            f"{targets}; give one that returns (N, outputs, H, W), as a ResNet with "
            f"network.head = {head!r} does"
        )
    if found[2:] != shape[1:]:
        raise DataError(
            f"the network returns maps of {found[2]} x {found[3]} for images of {shape[1]} x "
            f"{shape[2]}; let it enlarge them to the images' size"
        )


def augmented_pair(
    augment: Augment | None, images: Tensor, labels: Tensor, targets: str
) -> tuple[Tensor, Tensor]:
    """Return a batch augmented, and its labels; maps are moved as their images are."""
    if augment is None:
        return images, labels
    if targets not in MAPS:
        return augment(images), labels
    moved: tuple[Tensor, Tensor] = augment(images, labels)
    return moved


def highest_class(labels: Tensor) -> int:
    """Return the highest class in labels, or in masks (N, H, W); -1 where no pixel has one."""
    if labels.ndim == 1:
        return int(labels.max())
    known = labels[labels != IGNORED]
    return int(known.max()) if len(known) else -1


def check_labels(images: Images, classes: int) -> None:
    """Make sure that a network has an output for each label known so far.

    Raises:
        DataError: it has not.
    """
    if images.highest_label >= classes:
        raise DataError(
            f"the images have the label {images.highest_label} and the network {classes} classes; "
            f"number the classes 0 to {classes - 1}, or build the network with more"
        )


def labels_of(images: Images) -> Tensor:
    """Return the labels, or other targets, of all images in their order; masks are uint8.

    Raises:
        DataError: they must be read for it, and cannot be.
    """
    if isinstance(images, IndexedImages):
        return images.labels
    read = torch.cat([labels for _, labels in images.batches(None, 500)])
    return read.to(torch.uint8) if images.targets == "masks" else read


def pixel_counts(images: Tensor) -> Tensor:
    """Count pixel values: uint8 (N, C, H, W) to int64 (C, 256), exact and without a float copy."""
    channels = images.transpose(0, 1).flatten(1)
    return torch.stack([torch.bincount(channel, minlength=256) for channel in channels])


def channel_statistics(counts: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, of pixels in [0, 1], from `pixel_counts`.

    >>> white_and_black = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
    >>> channel_statistics(pixel_counts(white_and_black))
    ((0.5,), (0.5,))

    The deviation is that of the population. It is at least 1/255, so that a constant channel can
    be divided by it.
    """
    weights = counts.double() / counts.sum(dim=1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64, device=counts.device) / 255
    mean = weights @ values
    variance = (weights * (values - mean[:, None]) ** 2).sum(dim=1)
    std = variance.sqrt().clamp_min(1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())
