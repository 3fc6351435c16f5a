"""How good one network is on images; the calibration set."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.data.loaders import UserImages, scored_images
from sat_optuna.device import memory_for
from sat_optuna.errors import DataError
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for
from sat_optuna.supernet.batchnorm import evaluating, recalibrated

if TYPE_CHECKING:
    from sat_optuna.data.images import Images

__all__ = [
    "Evaluation",
    "accuracy",
    "bytes_of",
    "calibration_batches",
    "evaluate_network",
    "judge",
    "score_scheme",
    "weights_digest",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How good a network was.

    Attributes:
        accuracy: top-1, per cent, 0..100.
        loss: mean cross-entropy, nats.
        n: number of images.
        class_hits: of each class, the images classified right; empty in a SchemeResult's, which
            knows no labels.
        class_counts: of each class, its images.
    """

    accuracy: float
    loss: float
    n: int
    class_hits: tuple[int, ...] = field(default=(), compare=False)
    class_counts: tuple[int, ...] = field(default=(), compare=False)

    @classmethod
    def of(
        cls, right: NDArray[np.bool_], labels: NDArray[np.int64], *, loss: float, classes: int
    ) -> "Evaluation":
        """Return what comes of each image.

        Args:
            right: (N,), whether it is classified right.
            labels: (N,).
            loss: sum of the cross-entropies, nats.
            classes: number of classes.
        """
        n = len(right)
        return cls(
            accuracy=100 * int(right.sum()) / n,
            loss=loss / n,
            n=n,
            class_hits=tuple(np.bincount(labels[right], minlength=classes).tolist()),
            class_counts=tuple(np.bincount(labels, minlength=classes).tolist()),
        )

    @property
    def class_accuracies(self) -> tuple[float, ...]:
        """Accuracy on each class, per cent; NaN for a class without an image."""
        both = zip(self.class_hits, self.class_counts, strict=True)
        return tuple(100 * hits / count if count else math.nan for hits, count in both)

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the accuracies on the classes that have images, per cent.

        >>> seen = Evaluation(
        ...     accuracy=95.0, loss=0.3, n=40, class_hits=(38, 0), class_counts=(38, 2)
        ... )
        >>> seen.balanced_accuracy
        50.0
        """
        known = [value for value in self.class_accuracies if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan


def accuracy(net: nn.Module, images: UserImages, *, scheme: Scheme | None = None) -> float:
    """Return the top-1 accuracy of a network in eval mode, per cent; see `evaluate_network`.

    >>> from torch.utils.data import TensorDataset
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 2, 1, 1)
    >>> accuracy(nn.Flatten(), TensorDataset(x, torch.tensor([0, 1])))  # logits: the two channels
    100.0
    """
    return evaluate_network(net, images, scheme=scheme).accuracy


def evaluate_network(
    net: nn.Module, images: UserImages, *, scheme: Scheme | None = None, batch: int = 500
) -> Evaluation:
    """Evaluate a network in eval mode; its modes are left as they were.

    Args:
        net: a supernet, or any other network where `scheme` is None.
        images: what it is evaluated on, all of it: a part of a Split; or a map-style Dataset or a
            DataLoader of (image, label), which is read once and must not shuffle.
        scheme: the supernet's scheme.
        batch: images a pass; another one changes the last bits of the loss.

    Raises:
        DataError: there are no images, or they cannot be read.
        DeviceMemoryError: the device has too little memory for such batches.
    """
    device = next((value.device for value in net.parameters()), torch.device("cpu"))
    images = scored_images(images, device=device)
    if not len(images):
        raise DataError("no image given to evaluate on; give at least one")
    seen: list[tuple[Tensor, Tensor]] = []
    losses: list[Tensor] = []
    classes = 0
    room = memory_for(f"scoring in batches of {batch} images", "give a smaller batch")
    with room, evaluating(net), torch.inference_mode():
        for x, labels in images.batches(None, batch):
            logits = net(x) if scheme is None else net(x, scheme)
            # Kept on the device: fetching each number would make a GPU wait for each batch.
            right, loss = judge(logits, labels)
            classes = logits.shape[1]
            seen.append((right, labels))
            losses.append(loss)
    rights, labels = (torch.cat(parts).cpu() for parts in zip(*seen, strict=True))
    loss_sum = sum(loss.item() for loss in losses)
    return Evaluation.of(rights.numpy(), labels.numpy(), loss=loss_sum, classes=classes)


def judge(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return which images are classified right, (N,) bool, and the sum of their cross-entropies.

    Args:
        logits: (N, classes).
        labels: (N,) int64.
    """
    logits = logits.float()
    return logits.argmax(1) == labels, F.cross_entropy(logits, labels, reduction="sum")


def score_scheme(
    net: nn.Module,
    scheme: Scheme | None,
    *,
    calibration: Sequence[Tensor],
    images: "Images",
    batch: int = 500,
) -> Evaluation:
    """Evaluate a scheme with the BatchNorm statistics that it has on a calibration set.

    The calibration batches are part of the score. The network is left as it was.

    Args:
        net: a supernet, or any other network where `scheme` is None.
        scheme: the supernet's scheme.
        calibration: (n, C, H, W) each, for example of `calibration_batches`.
        images: what it is evaluated on.
        batch: images a pass; another one changes the last bits of the loss.

    Raises:
        DataError: no calibration batch or no image was given.
    """
    with recalibrated(net, scheme, calibration):
        return evaluate_network(net, images, scheme=scheme, batch=batch)


def calibration_batches(
    images: "Images", *, count: int = 512, chunk: int = 128, seed: int
) -> list[Tensor]:
    """Draw the images that BatchNorm statistics are re-estimated on, without augmentation.

    Args:
        images: usually the training part.
        count: how many; all of them, in a drawn order, where there are fewer.
        chunk: images a batch.
        seed: draws them.

    Returns:
        Batches of (chunk, C, H, W), the last one smaller where `chunk` does not divide their
        number, also where it is the only one; a last single image is part of the batch before.

    Raises:
        DataError: there are fewer than two images, or fewer than two are asked for.
    """
    if min(count, len(images), chunk) < 2:
        raise DataError(
            f"{count} calibration images in chunks of {chunk} asked for, of {len(images)} there "
            "are; BatchNorm's statistics need two at least of each"
        )
    order = torch.randperm(len(images), generator=generator_for("calibration", seed))[:count]
    batches = [x for x, _ in images.batches(order, chunk)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        # One value a channel has no variance: a norm over 1x1 maps could not use it.
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def bytes_of(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor's values, of any dtype, in the order of its indices."""
    return tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def weights_digest(net: nn.Module) -> str:
    """Return hex digits that change with any parameter or buffer of a network.

    Torch's own count of changes, `_version`, misses some: a fused optimiser's steps for one.
    """
    digest = hashlib.sha256()
    for name, value in (net.state_dict() | dict(net.named_buffers())).items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(bytes_of(value))
    return digest.hexdigest()
