"""Training loops: a plain network, or a supernet under a random scheme each step.

Everything random is a function of (seed, epoch) or (seed, step), never of what ran before; so a
training continued from its checkpoint ends with the weights of one that never stopped (same
machine, versions and thread count).
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.checkpoint import (
    EpochRecord,
    environment,
    load_tensors,
    read_record,
    save_checkpoint,
)
from sat_optuna.config import TrainConfig
from sat_optuna.data.augment import augment
from sat_optuna.devices import autocast_dtype, to_memory_format
from sat_optuna.draws import draw_scheme
from sat_optuna.errors import CheckpointError, SatOptunaWarning, TrainingError
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for
from sat_optuna.supernet import Supernet

if TYPE_CHECKING:
    from sat_optuna.data.split import Images, Split

__all__ = [
    "Checkpoint",
    "fit",
    "learning_rate",
    "pretrain",
]

_WARM_UP = 0.3  # share of the steps in which one-cycle climbs to its peak
_START = 1 / 25  # one-cycle starts at this share of its peak


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a training keeps its state, and whose it is.

    Attributes:
        path: a safetensors file, rewritten after each epoch.
        fingerprint: of everything that decides the weights; another one is refused.
    """

    path: Path
    fingerprint: str

    def record(self) -> dict[str, Any] | None:
        """Return the stored record, or None where there is no file.

        Raises:
            CheckpointError: the file is broken or of another configuration.
        """
        if not self.path.exists():
            return None
        record = read_record(self.path)
        if record.get("fingerprint") != self.fingerprint:
            raise CheckpointError(
                f"checkpoint {self.path} belongs to another configuration "
                f"({record.get('fingerprint', 'none')}, not {self.fingerprint}); "
                "move it away, or restore the study.toml it was made with"
            )
        return record


def learning_rate(config: TrainConfig, *, step: int, steps: int) -> float:
    """Return the learning rate of a step, a pure function of its place.

    Args:
        config: schedule and peak.
        step: from 0.
        steps: of the whole training.
    """
    share = step / max(1, steps - 1)
    if config.schedule == "step":
        return config.lr * 0.1 ** ((step >= steps / 2) + (step >= steps * 3 / 4))
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * share)) / 2
    if share < _WARM_UP:
        return config.lr * (_START + (1 - _START) * share / _WARM_UP)
    return config.lr * (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP))) / 2


def pretrain(
    net: Supernet,
    data: "Split",
    *,
    epochs: int,
    seed: int,
    connect: float = 0.5,
    draws: str = "iid",
    config: TrainConfig | None = None,
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> tuple[EpochRecord, ...]:
    """Train a supernet, a fresh random scheme each step (LTH4SA, stage 1).

    Args:
        net: the supernet, trained in place.
        data: its training part is used, nothing else.
        epochs: passes over it.
        seed: of order, augmentation and schemes.
        connect: probability of a connection in a random scheme.
        draws: `iid`, `antithetic` or `balanced`; see `draw_scheme`.
        config: optimiser, schedule, augmentation, precision.
        checkpoint: kept after each epoch and continued from.
        on_epoch: called after each epoch.

    Returns:
        A record an epoch, those before the checkpoint too.
    """
    draw = partial(
        draw_scheme, net.stages, len(net.specs), connect=connect, draws=draws, seed=seed
    )
    return fit(
        net,
        data.train,
        epochs=epochs,
        seed=seed,
        config=config,
        draw=lambda step: draw(step=step),
        checkpoint=checkpoint,
        on_epoch=on_epoch,
    )


def fit(
    net: nn.Module,
    images: "Images",
    *,
    epochs: int,
    seed: int,
    config: TrainConfig | None = None,
    draw: Callable[[int], Scheme] | None = None,
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> tuple[EpochRecord, ...]:
    """Train a network in place on cross-entropy with SGD.

    Args:
        net: called as `net(x)`, or as `net(x, scheme)` where `draw` is given; x is (N, C, H, W).
        images: what it is trained on.
        epochs: passes over them; a last batch that is not full is left out.
        seed: of order and augmentation.
        config: optimiser, schedule, augmentation, precision; the defaults of TrainConfig if None.
        draw: gives the scheme of a step, for supernets.
        checkpoint: kept after each epoch and continued from.
        on_epoch: called after each epoch trained now.

    Returns:
        A record an epoch, those before the checkpoint too.

    Raises:
        CheckpointError: the checkpoint is broken or of another configuration.
        TrainingError: the loss is no longer finite.
    """
    loop = _Loop(net, images, epochs=epochs, seed=seed, config=config or TrainConfig(), draw=draw)
    history = loop.restore(checkpoint) if checkpoint else []
    for epoch in range(len(history), epochs):
        record = loop.epoch(epoch)
        history.append(record)
        if checkpoint:
            loop.save(checkpoint, history)
        if on_epoch:
            on_epoch(record)
    return tuple(history)


class _Loop:
    """One training: network, optimiser and what they need, so that `fit` reads as the loop."""

    def __init__(
        self,
        net: nn.Module,
        images: "Images",
        *,
        epochs: int,
        seed: int,
        config: TrainConfig,
        draw: Callable[[int], Scheme] | None,
    ) -> None:
        self.net, self.images, self.seed, self.config, self.draw = net, images, seed, config, draw
        self.device = next(net.parameters()).device
        self.memory = to_memory_format(net, config, self.device)
        self.dtype = autocast_dtype(config, self.device)
        self.batch = min(config.batch, len(images))
        self.per_epoch = len(images) // self.batch
        self.steps = epochs * self.per_epoch
        self.taken = 0  # optimiser steps so far, those before a checkpoint too
        self.optimizer = torch.optim.SGD(
            net.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)

    def epoch(self, epoch: int) -> EpochRecord:
        """Train one epoch and return its record."""
        self.net.train()
        order = torch.randperm(
            len(self.images), generator=generator_for("order", self.seed, epoch)
        )[: self.per_epoch * self.batch]
        draws = generator_for("augment", self.seed, epoch, device=self.device)
        jitter = partial(
            augment,
            generator=draws,
            shift=self.config.shift,
            flip=self.config.flip,
            cutout=self.config.cutout,
        )
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        batches = self.images.batches(order, self.batch, augment=jitter)
        for step, (x, labels) in enumerate(batches, start=epoch * self.per_epoch):
            loss, hits = self._step(step, x, labels)
            loss_sum += loss
            right += hits
        loss_mean = float(loss_sum) / self.per_epoch
        if not math.isfinite(loss_mean):
            raise TrainingError(
                f"the loss is {loss_mean} in epoch {epoch} with lr {self.config.lr}; "
                "lower train.lr or lengthen the training"
            )
        accuracy = 100 * float(right) / (self.per_epoch * self.batch)
        return EpochRecord(epoch, loss_mean, accuracy, self.optimizer.param_groups[0]["lr"])

    def _step(self, step: int, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        rate = learning_rate(self.config, step=step, steps=self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        x = x.contiguous(memory_format=self.memory)
        mixed = self.dtype is not torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=mixed):
            logits = self.net(x, self.draw(step)) if self.draw else self.net(x)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        # None, not zero: a module that a scheme leaves out gets no decay and no momentum step.
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.taken += 1
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def _names(self) -> dict[str, nn.Parameter]:
        return dict(self.net.named_parameters())

    def save(self, checkpoint: Checkpoint, history: list[EpochRecord]) -> None:
        """Write weights, momentum and history, whole or not at all."""
        tensors = {f"model.{name}": value for name, value in self.net.state_dict().items()}
        for name, parameter in self._names().items():
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        record = {
            "fingerprint": checkpoint.fingerprint,
            "environment": environment(self.device.type, torch.get_num_threads()),
            "memory_format": str(self.memory),
            "scaler": self.scaler.state_dict(),
            "steps": self.taken,
            "history": [asdict(entry) for entry in history],
        }
        save_checkpoint(checkpoint.path, tensors, record)

    def restore(self, checkpoint: Checkpoint) -> list[EpochRecord]:
        """Load weights and momentum where there are some, and return the history."""
        record = checkpoint.record()
        if record is None:
            return []
        here = environment(self.device.type, torch.get_num_threads())
        if record["environment"] != here and len(record["history"]) < self.steps / self.per_epoch:
            warnings.warn(
                f"{checkpoint.path} was made with {record['environment']}, this is {here}; "
                "the training goes on, but its last bits may differ from an unbroken one",
                SatOptunaWarning,
                stacklevel=4,
            )
        tensors = load_tensors(checkpoint.path)
        strip = len("model.")
        model = {k[strip:]: v for k, v in tensors.items() if k.startswith("model.")}
        self.net.load_state_dict(model)
        for name, parameter in self._names().items():
            if f"momentum.{name}" in tensors:
                buffer = torch.empty_like(parameter).copy_(tensors[f"momentum.{name}"])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer.detach()
        self.scaler.load_state_dict(record["scaler"])
        self.taken = record["steps"]
        return [EpochRecord(**entry) for entry in record["history"]]
