"""Images on a device, and how a training part is divided into train and valid."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from sat_optuna.errors import DataError
from sat_optuna.seeds import generator_for

__all__ = [
    "Images",
    "Split",
    "TensorImages",
    "channel_statistics",
    "pixel_counts",
    "stratified_split",
    "stratified_subset",
]

Augment = Callable[[Tensor], Tensor]


class Images(ABC):
    """Labelled images of one shape that come in normalised batches.

    Attributes:
        labels: (N,) int64.
        shape: (C, H, W).
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        device: where batches arrive.
    """

    def __init__(
        self,
        labels: Tensor,
        *,
        shape: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
    ) -> None:
        self.labels = labels.to(device)
        self.shape = shape
        self.mean = mean
        self.std = std
        self.device = device
        # (pixel / 255 - mean) / std as one multiplication and one addition.
        centre = torch.tensor(mean, dtype=torch.float64, device=device).view(-1, 1, 1)
        spread = torch.tensor(std, dtype=torch.float64, device=device).view(-1, 1, 1)
        self._scale = (1 / (255 * spread)).float()
        self._offset = (-centre / spread).float()

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, order: Tensor | None, batch_size: int, *, augment: Augment | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the images once.

        Args:
            order: (n,) int64 rows in the order wanted, repeats allowed; as they lie if None.
            batch_size: images a batch; the last one may be smaller.
            augment: changes a raw uint8 batch (n, C, H, W) before it is normalised.

        Yields:
            Normalised float32 (n, C, H, W) and labels (n,) int64, both on `device`.

        Raises:
            DataError: an image file is missing or broken.
        """
        rows = torch.arange(len(self)) if order is None else order
        rows = rows.to(self.device, non_blocking=True)  # once, not batch by batch
        chunks = torch.split(rows, batch_size) if len(rows) else ()
        for chunk, raw in zip(chunks, self._raw(chunks), strict=True):
            pixels = raw if augment is None else augment(raw)
            yield pixels.float().mul_(self._scale).add_(self._offset), self.labels[chunk]

    @abstractmethod
    def subset(self, index: Tensor) -> Self:
        """Return the images of the rows `index` (n,) int64, in that order."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Return the same images with batches on `device`."""

    @abstractmethod
    def _raw(self, chunks: tuple[Tensor, ...]) -> Iterator[Tensor]:
        """Yield for each chunk of rows, on `device`, the uint8 (n, C, H, W) on `device`."""


class TensorImages(Images):
    """Images held as one uint8 tensor on the device.

    Args:
        images: (N, C, H, W) uint8; its device is the device of the batches.
        labels: (N,) int64.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
    """

    def __init__(
        self, images: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
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
        return TensorImages(self.images.to(device), self.labels, self.mean, self.std)

    @override
    def _raw(self, chunks: tuple[Tensor, ...]) -> Iterator[Tensor]:
        for chunk in chunks:
            yield self.images[chunk]


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """A data set in parts; `test` is opened when it is first asked for.

    Attributes:
        name: the data set.
        class_names: one a class, in label order.
        shape: (C, H, W).
        fingerprint: SHA-256 of the training part and of the settings of the split.
        train: training part without `valid`.
        valid: images held back from the training part, by seed, stratified.
        train_and_valid: the whole training part in its own order, for retraining; normalised as
            `train` is, so that one network sees one normalisation.
        load_test: opens the test part.
    """

    name: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    fingerprint: str
    train: Images
    valid: Images
    train_and_valid: Images
    load_test: Callable[[], Images]

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @cached_property
    def test(self) -> Images:
        """The test part; no seed changes it."""
        return self.load_test()


def stratified_subset(labels: Tensor, keep: int, *place: object) -> Tensor:
    """Draw `keep` rows so that each class has its share, give or take less than one image.

    Args:
        labels: (N,) int64.
        keep: how many rows, 0..N.
        place: what the draw is for, as in `seeds.generator_for`.

    Returns:
        (keep,) int64 rows, ascending. For the same place a smaller `keep` takes, class by class,
        the first of the images a larger one takes.
    """
    counts = torch.bincount(labels)
    drawn = []
    for label, quota in enumerate(_quotas(counts.tolist(), keep)):
        rows = (labels == label).nonzero().flatten()
        shuffled = rows[torch.randperm(len(rows), generator=generator_for(*place, label))]
        drawn.append(shuffled[:quota])
    return torch.cat(drawn).sort().values


def stratified_split(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Divide rows into train and valid, class by class.

    Args:
        labels: (N,) int64.
        share: part of the rows that becomes valid, 0 < share < 1.
        seed: draws the rows.

    Returns:
        The rows of train and of valid, (n,) int64 each, ascending.

    Raises:
        DataError: `share` is out of range or leaves a part, or a class of train, empty.
    """
    if not 0 < share < 1:
        raise DataError(f"valid is a share between 0 and 1, got {share}; 0.2 is usual")
    valid = stratified_subset(labels, round(share * len(labels)), "split", seed)
    held_back = torch.zeros(len(labels), dtype=torch.bool)
    held_back[valid] = True
    train = (~held_back).nonzero().flatten()
    counts = torch.bincount(labels)
    trained_on = torch.bincount(labels[train], minlength=len(counts))
    if not len(valid) or ((counts > 0) & (trained_on == 0)).any():
        raise DataError(
            f"{len(labels)} training images are too few for valid = {share}: each class needs an "
            "image to train on and valid at least one in all; add images or change valid"
        )
    return train, valid


def pixel_counts(images: Tensor) -> Tensor:
    """Count pixel values: uint8 (N, C, H, W) to int64 (C, 256), exact and without a float copy."""
    channels = images.transpose(0, 1).flatten(1)
    return torch.stack([torch.bincount(channel, minlength=256) for channel in channels])


def channel_statistics(counts: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, of pixels in [0, 1], from `pixel_counts`.

    The deviation is that of the population and at least 1/255, so that a constant channel can be
    divided by it.
    """
    weights = counts.double() / counts.sum(dim=1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64, device=counts.device) / 255
    mean = weights @ values
    variance = (weights * (values - mean[:, None]) ** 2).sum(dim=1)
    std = variance.sqrt().clamp_min(1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())


def _quotas(counts: list[int], total: int) -> list[int]:
    # Largest remainders: the sum is exact and no class is off its share by one image or more.
    everything = sum(counts)
    quotas = [total * count // everything for count in counts]
    remainders = [total * count % everything for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda label: -remainders[label])
    for label in by_remainder[: total - sum(quotas)]:
        quotas[label] += 1
    return quotas
