"""How good one network is on images; the calibration set."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sat_optuna.data.images import labels_of
from sat_optuna.data.loaders import UserImages, scored_images
from sat_optuna.device import memory_for
from sat_optuna.errors import DataError
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for
from sat_optuna.supernet.batchnorm import evaluating, recalibrated
from sat_optuna.tasks import Metric, Task, as_metric, as_task
from sat_optuna.tasks.classification import CLASSIFICATION

if TYPE_CHECKING:
    from sat_optuna.data.images import Images

_NONE: Mapping[str, float] = MappingProxyType({})
_MAPS_AT_ONCE = 64  # images

__all__ = [
    "Evaluation",
    "accuracy",
    "bytes_of",
    "calibration_batches",
    "check_metric",
    "evaluate_network",
    "judge",
    "score_scheme",
    "weights_digest",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How good a network was.

    Attributes:
        accuracy: top-1, per cent, 0..100; NaN in a task without labels.
        loss: mean of the task's loss: cross-entropy, nats, of a classification.
        n: number of images.
        class_hits: of each class, the images classified right; empty in a SchemeResult's, which
            knows no labels.
        class_counts: of each class, its images.
        scores: by name, the metrics that were asked for.
    """

    accuracy: float
    loss: float
    n: int
    class_hits: tuple[int, ...] = field(default=(), compare=False)
    class_counts: tuple[int, ...] = field(default=(), compare=False)
    scores: Mapping[str, float] = field(default_factory=dict, hash=False)

    @classmethod
    def of(
        cls,
        right: NDArray[np.bool_] | None,
        labels: NDArray[Any],
        *,
        loss: float,
        classes: int,
        scores: Mapping[str, float] = _NONE,
    ) -> "Evaluation":
        """Return what comes of each image.

        Args:
            right: (N,), whether it is classified right; None in a task without labels.
            labels: (N, ...), its targets.
            loss: sum of the losses.
            classes: number of classes.
            scores: of metrics.
        """
        n = len(labels)
        if right is None:
            return cls(accuracy=math.nan, loss=loss / n, n=n, scores=scores)
        return cls(
            accuracy=100 * int(right.sum()) / n,
            loss=loss / n,
            n=n,
            class_hits=tuple(np.bincount(labels[right], minlength=classes).tolist()),
            class_counts=tuple(np.bincount(labels, minlength=classes).tolist()),
            scores=scores,
        )

    def score(self, metric: str) -> float:
        """Return the value of a metric that was asked for; the accuracy always is."""
        return self.accuracy if metric == "accuracy" else self.scores[metric]

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
    net: nn.Module,
    images: UserImages,
    *,
    scheme: Scheme | None = None,
    batch: int = 500,
    task: Task | str = CLASSIFICATION,
    metrics: Sequence[Metric | str] = (),
) -> Evaluation:
    """Evaluate a network in eval mode; its modes are left as they were.

    >>> from torch.utils.data import TensorDataset
    >>> x, y = torch.tensor([2.0, 3.0]).reshape(2, 1, 1, 1), torch.tensor([2.5, 3.5])
    >>> found = evaluate_network(
    ...     nn.Flatten(), TensorDataset(x, y), task="regression", metrics=["mae", "rmse"]
    ... )
    >>> found.scores
    {'mae': 0.5, 'rmse': 0.5}

    Args:
        net: a supernet, or any other network where `scheme` is None.
        images: what it is evaluated on, all of it: a part of a Split; or a map-style Dataset or a
            DataLoader of (image, target), which is read once and must not shuffle.
        scheme: the supernet's scheme.
        batch: images a pass; another one changes the last bits of the loss.
        task: what the network does, or its name.
        metrics: of the task, or their names.

    Raises:
        DataError: there are no images, or they cannot be read, or their targets are another
            task's.
        DeviceMemoryError: the device has too little memory for such batches.
        MetricError: a metric has no value on these images.
        UnknownName: no such task, or no such metric of it.
    """
    task = as_task(task)
    asked = [as_metric(metric, task) for metric in metrics]
    device = next((value.device for value in net.parameters()), torch.device("cpu"))
    images = scored_images(images, device=device, targets=task.targets)
    if not len(images):
        raise DataError("no image given to evaluate on; give at least one")
    task.check_targets(images.targets)
    keeps = any(metric.keeps == "state" for metric in asked)
    seen: list[tuple[Tensor, ...]] = []
    losses: list[Tensor] = []
    classes = 0
    room = memory_for(f"scoring in batches of {batch} images", "give a smaller batch")
    with room, evaluating(net), torch.inference_mode():
        for x, targets in images.batches(None, batch):
            outputs = net(x) if scheme is None else net(x, scheme)
            # Kept on the device: fetching each number would make a GPU wait for each batch.
            right, loss = judge(outputs, targets, task=task)
            classes = outputs.shape[1]
            kept = [right] if task.targets == "labels" else []
            kept += [task.state(outputs.float(), targets)] if keeps else []
            seen.append((targets, *kept))
            losses.append(loss)
    every, *rows = (torch.cat(parts).cpu().numpy() for parts in zip(*seen, strict=True))
    rights = rows[0] if task.targets == "labels" else None
    return Evaluation.of(
        rights,
        every,
        loss=sum(loss.item() for loss in losses),
        classes=classes,
        scores={
            metric.name: metric.value(rows[0 if metric.keeps == "right" else -1], every)
            for metric in asked
        },
    )


def judge(
    outputs: Tensor, targets: Tensor, *, task: Task = CLASSIFICATION
) -> tuple[Tensor, Tensor]:
    """Return which images are classified right, (N,) bool, and the sum of their losses.

    Args:
        outputs: (N, outputs), of a classification its logits; (N, outputs, H, W) of maps.
        targets: (N, ...); in a task without labels no image is right.
        task: whose loss it is.
    """
    outputs = outputs.float()
    loss = task.loss(outputs, targets, reduction="sum")
    if task.targets != "labels":
        return torch.zeros(len(outputs), dtype=torch.bool, device=outputs.device), loss
    return outputs.argmax(1) == targets, loss


def check_metric(metric: Metric, task: Task, images: "Images", *, outputs: int) -> None:
    """Make sure that a metric has a value on images, before a network is trained for it.

    Args:
        metric: of the task; of drawn outputs it must have one.
        task: of the images.
        images: what shall be scored.
        outputs: number of them, of the network.

    Raises:
        MetricError: it has none.
        DataError: the task's loss or state is not what it must be.
    """
    if task.loss is CLASSIFICATION.loss and metric.name == "accuracy":
        return
    targets = labels_of(images)
    generator, shape = generator_for("metric", len(targets)), images.shape
    # Maps in pieces: all of them at once may not fit the memory.
    pieces = images.batches(None, _MAPS_AT_ONCE) if task.maps else [(None, targets)]
    kept: list[Tensor] = []
    for _, piece in pieces:
        drawn = torch.randn(len(piece), *task.outputs_shape(outputs, shape), generator=generator)
        drawn = drawn.to(piece.device)
        task.check_loss(drawn, piece)
        right, _ = judge(drawn, piece, task=task)
        kept.append(right if metric.keeps == "right" else task.state(drawn, piece))
    metric.value(torch.cat(kept).cpu().numpy(), targets.cpu().numpy())


def score_scheme(
    net: nn.Module,
    scheme: Scheme | None,
    *,
    calibration: Sequence[Tensor],
    images: "Images",
    batch: int = 500,
    task: Task | str = CLASSIFICATION,
    metrics: Sequence[Metric | str] = (),
) -> Evaluation:
    """Evaluate a scheme with the BatchNorm statistics that it has on a calibration set.

    The calibration batches are part of the score. The network is left as it was.

    Args:
        net: a supernet, or any other network where `scheme` is None.
        scheme: the supernet's scheme.
        calibration: (n, C, H, W) each, for example of `calibration_batches`.
        images: what it is evaluated on.
        batch: images a pass; another one changes the last bits of the loss.
        task: as of `evaluate_network`.
        metrics: as of `evaluate_network`.

    Raises:
        DataError: no calibration batch or no image was given.
    """
    with recalibrated(net, scheme, calibration):
        return evaluate_network(
            net, images, scheme=scheme, batch=batch, task=task, metrics=metrics
        )


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
