"""Training loops: a plain network, or a supernet under a random scheme each step.

Everything random is a function of (seed, epoch) or (seed, step), never of what ran before; so a
training continued from its checkpoint ends with the weights of one that never stopped (same
machine, versions and thread count; on a GPU the fastest kernels are looked for anew, and the last
bits may differ).
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sat_optuna.config.config import TrainConfig
from sat_optuna.data.augment import augment
from sat_optuna.errors import CheckpointError, SatOptunaWarning, TrainingError
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for, seeded
from sat_optuna.supernet.random_schemes import draw_scheme
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.training.checkpoint import (
    EpochRecord,
    environment,
    load_tensors,
    read_record,
    save_checkpoint,
)
from sat_optuna.training.precision import Arithmetic, arithmetic_for, fastest_kernels
from sat_optuna.training.step import TrainingStep, learning_rate

if TYPE_CHECKING:
    from sat_optuna.data.images import Images
    from sat_optuna.data.split import Split

__all__ = ["Checkpoint", "fit", "pretrain"]


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
        CompileError: `config.compile`, and the network cannot be compiled here.
        TrainingError: the loss is no longer finite.
    """
    loop = _Loop(
        net,
        images,
        epochs=epochs,
        seed=seed,
        config=config or TrainConfig(),
        draw=draw,
        checkpoint=checkpoint,
    )
    for epoch in range(len(loop.history), epochs):
        record = loop.epoch(epoch)
        if on_epoch:
            on_epoch(record)
    return tuple(loop.history)


class _Loop:
    """One training: network, step and what they need, so that `fit` reads as the loop."""

    def __init__(
        self,
        net: nn.Module,
        images: "Images",
        *,
        epochs: int,
        seed: int,
        config: TrainConfig,
        draw: Callable[[int], Scheme] | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.net, self.images, self.seed, self.config, self.draw = net, images, seed, config, draw
        self.checkpoint = checkpoint
        self.batch = min(config.batch, len(images))
        self.per_epoch = len(images) // self.batch
        self.steps = epochs * self.per_epoch
        if config.compile and draw is None:
            # Networks of other schemes share their code with this one, and torch compiles only so
            # many of a code before it gives up without an error.
            torch.compiler.reset()
        record = checkpoint.record() if checkpoint else None
        self.step = TrainingStep(net, config, self._arithmetic(record))
        self.device = self.step.device
        self.history = self._restored(checkpoint, record) if checkpoint and record else []

    def epoch(self, epoch: int) -> EpochRecord:
        """Train one epoch, save, and return its record."""
        self.net.train()
        order = torch.randperm(
            len(self.images), generator=generator_for("order", self.seed, epoch)
        )[: self.per_epoch * self.batch]
        jitter = partial(
            augment,
            generator=generator_for("augment", self.seed, epoch, device=self.device),
            shift=self.config.shift,
            flip=self.config.flip,
            cutout=self.config.cutout,
        )
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        batches = self.images.batches(order, self.batch, augment=jitter)
        # Dropout and the like draw from the global generator.
        drawn = seeded("forward", self.seed, epoch, device=self.device)
        with fastest_kernels(self.device), drawn:
            for step, (x, labels) in enumerate(batches, start=epoch * self.per_epoch):
                rate = learning_rate(self.config, step=step, steps=self.steps)
                scheme = self.draw(step) if self.draw else None
                loss, hits = self.step(x, labels, rate=rate, scheme=scheme)
                loss_sum += loss
                right += hits
        loss_mean = float(loss_sum) / self.per_epoch  # the first number that is fetched
        if not math.isfinite(loss_mean):
            raise TrainingError(
                f"the loss is {loss_mean} in epoch {epoch} with lr {self.config.lr}; "
                "lower train.lr or lengthen the training"
            )
        accuracy = 100 * float(right) / (self.per_epoch * self.batch)
        self.history.append(EpochRecord(epoch, loss_mean, accuracy, self.step.rate))
        if self.checkpoint:
            self._save(self.checkpoint)
        return self.history[-1]

    def _arithmetic(self, record: Mapping[str, Any] | None) -> Arithmetic:
        """Return how the network is trained: as its checkpoint was, where there is one.

        Raises:
            CheckpointError: the configuration asks for something else.
        """
        here = arithmetic_for(self.config, self.net, next(self.net.parameters()).device)
        if not self.checkpoint or record is None:
            return here
        last = record["memory_format"] == str(torch.channels_last)
        begun = Arithmetic(
            # A version that did not store it meant float32 by auto.
            record.get(
                "precision", "float32" if self.config.precision == "auto" else here.precision
            ),
            "channels_last" if last else "contiguous",
        )
        for key in ("precision", "memory_format"):
            asked, stored = getattr(self.config, key), getattr(begun, key)
            if asked != "auto" and stored != getattr(here, key):
                raise CheckpointError(
                    f"checkpoint {self.checkpoint.path} was trained with {key} = {stored!r}, and "
                    f"train.{key} is {asked!r}; move the checkpoint away, or set the key back"
                )
        if begun != here and len(record["history"]) * self.per_epoch < self.steps:
            warnings.warn(
                f"{self.checkpoint.path} was begun in {begun.precision} and "
                f"{begun.memory_format}, and goes on so; here auto is {here.precision} and "
                f"{here.memory_format}, which may be faster",
                SatOptunaWarning,
                stacklevel=4,
            )
        return begun

    def _save(self, checkpoint: Checkpoint) -> None:
        """Write weights, momentum and history, whole or not at all."""
        tensors = {f"model.{name}": value for name, value in self.net.state_dict().items()}
        tensors |= {f"momentum.{name}": value for name, value in self.step.momentum().items()}
        record = {
            "fingerprint": checkpoint.fingerprint,
            "environment": environment(self.device.type, torch.get_num_threads()),
            "precision": self.step.arithmetic.precision,
            "memory_format": str(self.step.arithmetic.layout),
            "scaler": self.step.scaler.state_dict(),
            "steps": self.step.taken,
            "history": [asdict(entry) for entry in self.history],
        }
        save_checkpoint(checkpoint.path, tensors, record)

    def _restored(self, checkpoint: Checkpoint, record: Mapping[str, Any]) -> list[EpochRecord]:
        """Load weights and momentum, and return the history."""
        here = environment(self.device.type, torch.get_num_threads())
        if record["environment"] != here and len(record["history"]) * self.per_epoch < self.steps:
            warnings.warn(
                f"{checkpoint.path} was made with {record['environment']}, this is {here}; "
                "the training goes on, but its last bits may differ from an unbroken one",
                SatOptunaWarning,
                stacklevel=4,
            )
        tensors = load_tensors(checkpoint.path)
        self.net.load_state_dict(_under("model.", tensors))
        self.step.load_momentum(_under("momentum.", tensors))
        self.step.scaler.load_state_dict(record["scaler"])
        self.step.taken = record["steps"]
        return [EpochRecord(**entry) for entry in record["history"]]


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
