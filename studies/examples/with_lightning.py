"""Lightning: a random scheme each step, by a callback; module and trainer are as they always are.

    pip install lightning
    python studies/examples/with_lightning.py

Lightning runs the backward after `training_step` has returned. So the scheme is set where a batch
begins and left where it ends, in `on_train_batch_start` and `on_train_batch_end`.
"""

import argparse
import contextlib
from collections.abc import Sequence
from typing import Any

import lightning
import optuna
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.resnet import BasicBlock, ResNet

import sat_optuna as sat


class RandomSchemes(lightning.Callback):
    """Train a model under a random scheme each step."""

    def __init__(self, slots: sat.Slots, *, seed: int) -> None:
        self.slots, self.seed = slots, seed
        self._step = contextlib.ExitStack()

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Set the scheme of a step; all processes of a group take the same."""
        scheme = self.slots.random_scheme(self.seed, trainer.global_step)
        self._step.enter_context(self.slots.using(scheme))

    def on_train_batch_end(self, *_: Any) -> None:
        """Leave it, after backward and update."""
        self._step.close()

    def on_exception(self, *_: Any) -> None:
        """Leave it where a step failed."""
        self._step.close()


class Model(lightning.LightningModule):
    """A usual module; yours has its own network, loss and optimiser."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        return F.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def corners(count: int, *, seed: int) -> TensorDataset:
    """Return (3, 24, 24) images, and in which of four corners of each a bright square is."""
    chance = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=chance)
    images = torch.rand(count, 3, 24, 24, generator=chance)
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = 12 * (label // 2), 12 * (label % 2)
        image[:, top : top + 12, left : left + 12] += 0.5
    return TensorDataset(images, labels)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train under random schemes, search, and print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--trials", type=int, default=8)
    given = parser.parse_args(arguments)

    lightning.seed_everything(0)
    net = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4)
    slots = sat.attach(net, attention=["se"], seed=0)
    trainer = lightning.Trainer(
        max_epochs=given.epochs,
        callbacks=[RandomSchemes(slots, seed=0)],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    train = corners(256, seed=1)
    trainer.fit(Model(net), DataLoader(train, batch_size=32, shuffle=True))

    calibration = train.tensors[0][:128].split(64)
    images, labels = corners(128, seed=2).tensors

    def objective(trial: optuna.Trial) -> float:
        scheme = slots.suggest(trial)
        with slots.recalibrated(scheme, calibration, forward=net), torch.no_grad():
            return float((net(images).argmax(1) == labels).float().mean())

    study = optuna.create_study(direction="maximize", sampler=sat.PolicyGradientSampler(seed=0))
    study.optimize(objective, n_trials=given.trials)
    ticket = slots.materialise(slots.suggest(study.best_trial))
    print(f"{type(ticket).__name__} {sat.scheme_of(ticket)}: accuracy {study.best_value:.3f}")


if __name__ == "__main__":
    main()
