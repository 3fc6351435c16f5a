"""The training loop of most tutorials: DataLoader, NCHW, float32, the loss fetched each step.

It trains the same network on the same images with the same augmentation, optimiser and schedule as
`sat_optuna.training.loop.fit`, so that one can compare their speed and accuracy.
"""

from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms
from typing_extensions import override

from sat_optuna.config.config import TrainConfig
from sat_optuna.data.images import TensorImages
from sat_optuna.training.step import learning_rate

__all__ = ["augmented_loader", "bare_loader", "usual_fit"]

_Pairs: TypeAlias = Dataset[tuple[Tensor, ...]]
_Loader: TypeAlias = DataLoader[tuple[Tensor, ...]]


class _Augmented(_Pairs):
    """Images that are shifted, mirrored and normalised one at a time."""

    def __init__(self, images: TensorImages, config: TrainConfig) -> None:
        self.images = images.to("cpu")
        steps: list[nn.Module] = [transforms.ConvertImageDtype(torch.float32)]
        if config.shift:
            steps.insert(0, transforms.RandomCrop(images.shape[1:], padding=config.shift))
        if config.flip:
            steps.insert(0, transforms.RandomHorizontalFlip())
        steps.append(transforms.Normalize(images.mean, images.std))
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.images)

    @override
    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images.images[row]), self.images.labels[row]


def augmented_loader(images: TensorImages, config: TrainConfig) -> _Loader:
    """Return the usual loader: it augments one image at a time and drops the last part batch."""
    return _loader(_Augmented(images, config), config)


def bare_loader(images: TensorImages, config: TrainConfig) -> _Loader:
    """Return a loader that does not augment, over images that are normalised already."""
    everything = next(images.to("cpu").batches(None, len(images)))
    return _loader(TensorDataset(*everything), config)


def _loader(data: _Pairs, config: TrainConfig) -> _Loader:
    return DataLoader(data, batch_size=config.batch, shuffle=True, drop_last=True)


def usual_fit(net: nn.Module, loader: _Loader, *, epochs: int, config: TrainConfig) -> list[float]:
    """Train a network in place as tutorials do; return the mean loss of each epoch.

    Args:
        net: called as `net(x)`.
        loader: gives batches of images and labels.
        epochs: number of passes over the loader.
        config: gives optimiser and schedule. Precision and memory format are always float32 and
            contiguous.
    """
    optimizer = torch.optim.SGD(
        net.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )
    steps = epochs * len(loader)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(config, step=step, steps=steps) / config.lr
    )
    return list(_epochs(net, loader, optimizer, scheduler, epochs, config.label_smoothing))


def _epochs(
    net: nn.Module,
    loader: _Loader,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    epochs: int,
    smoothing: float,
) -> Iterator[float]:
    device = next(net.parameters()).device
    for _ in range(epochs):
        net.train()
        running, right = 0.0, 0
        for batch in loader:
            x, labels = (part.to(device) for part in batch)
            optimizer.zero_grad()
            logits = net(x)
            loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            running += loss.item()
            right += int((logits.argmax(1) == labels).sum().item())
        yield running / len(loader)
