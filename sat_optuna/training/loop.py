"""Training loops: a plain network, or a supernet under a random scheme each step.

Everything random is a function of (seed, epoch) or (seed, step), never of what ran before; so a
training continued from its checkpoint ends with the weights of one that never stopped (same
machine, versions and thread count; on a GPU the fastest kernels are looked for anew, and the last
bits may differ).
"""

import contextlib
import math
import time
import warnings
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sat_optuna.config.config import PretrainConfig, RetrainConfig, TrainConfig
from sat_optuna.config.limits import checked
from sat_optuna.data.augment import augment, augmented, check_crop, mixing, patches
from sat_optuna.data.images import check_labels, count_classes
from sat_optuna.data.loaders import UserImages, training_images
from sat_optuna.data.split import Split
from sat_optuna.device import memory_for
from sat_optuna.errors import (
    CheckpointError,
    DataError,
    SatOptunaError,
    SatOptunaWarning,
    TrainingError,
    one_line,
)
from sat_optuna.events import Event, OnEvent, ignore
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import generator_for, seeded
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.supernet.random_schemes import draw_scheme
from sat_optuna.supernet.start import warn_of_blind_start
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.tasks import Task, as_task
from sat_optuna.tasks.classification import CLASSIFICATION
from sat_optuna.training.checkpoint import (
    EpochRecord,
    environment,
    load_tensors,
    read_record,
    save_checkpoint,
)
from sat_optuna.training.precision import Arithmetic, arithmetic_for, fastest_kernels
from sat_optuna.training.step import TrainingStep, learning_rate, strategy_for

__all__ = [
    "EVENT_SECONDS",
    "Checkpoint",
    "Training",
    "check_recipe",
    "fit",
    "fit_together",
    "pretrain",
]

EVENT_SECONDS = 0.5  # at least, between two events within an epoch


@dataclass(frozen=True, slots=True, init=False)
class Checkpoint:
    """Where a training keeps its state, and whose it is.

    >>> Checkpoint("work/net.safetensors", "seed 0, 10 epochs").record() is None
    True

    Attributes:
        path: a safetensors file, rewritten after each epoch.
        fingerprint: a text for everything that decides the weights; a file of another one is
            refused.
    """

    path: Path
    fingerprint: str

    def __init__(self, path: str | PathLike[str], fingerprint: str) -> None:
        object.__setattr__(self, "path", Path(path))
        object.__setattr__(self, "fingerprint", fingerprint)

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
    data: Split | UserImages,
    *,
    epochs: int,
    seed: int,
    connect: float = 0.5,
    draws: str = "iid",
    config: TrainConfig | None = None,
    body: Collection[str] = (),
    checkpoint: Checkpoint | None = None,
    on_event: OnEvent = ignore,
    task: Task | str = CLASSIFICATION,
) -> tuple[EpochRecord, ...]:
    """Train a supernet, a fresh random scheme each step (LTH4SA, stage 1).

    >>> import sat_optuna as sat
    >>> x, y = torch.rand(40, 3, 8, 8), torch.arange(40) % 4  # or NumPy's
    >>> data = sat.Split.from_arrays(x, y, valid=0.2)
    >>> net = sat.Supernet("resnet20", attention=["se"], in_channels=3, classes=4, seed=0, width=4)
    >>> [record.epoch for record in sat.pretrain(net, data, epochs=1, seed=0)]
    [0]

    Args:
        net: the supernet, trained in place.
        data: of a Split the training part is used, nothing else; or images as `fit` takes them.
        epochs: passes over them, at least 1.
        seed: of order, augmentation and schemes.
        connect: probability of a connection in a random scheme.
        draws: `iid`, `antithetic` or `balanced`; see `draw_scheme`.
        config: optimiser, schedule, augmentation, precision.
        body: as of `fit`.
        checkpoint: kept after each epoch and continued from.
        on_event: told as of `fit`; the step is "pretrain".
        task: as of `fit`.

    Returns:
        A record an epoch, those before the checkpoint too.

    Raises:
        ConfigError: `epochs`, `connect` or `draws` is none that may be.
        BackboneError, AttentionError: the images are too small for a module, or the network is
            not what the tables say of it.
        DataError, CheckpointError, TrainingError: as of `fit`.
    """
    asked = {"epochs": epochs, "connect": connect, "draws": draws}
    checked("pretrain", PretrainConfig, asked)
    draw = partial(
        draw_scheme, net.stages, len(net.specs), connect=connect, draws=draws, seed=seed
    )
    return fit(
        net,
        data.train if isinstance(data, Split) else data,
        epochs=epochs,
        seed=seed,
        config=config,
        draw=lambda step: draw(step=step),
        body=body,
        checkpoint=checkpoint,
        on_event=lambda event: on_event(replace(event, step="pretrain")),
        task=task,
    )


def fit(
    net: nn.Module,
    images: UserImages,
    *,
    epochs: int,
    seed: int,
    config: TrainConfig | None = None,
    draw: Callable[[int], Scheme] | None = None,
    body: Collection[str] = (),
    checkpoint: Checkpoint | None = None,
    on_event: OnEvent = ignore,
    task: Task | str = CLASSIFICATION,
) -> tuple[EpochRecord, ...]:
    """Train a network in place on cross-entropy or the loss of another task, with SGD or AdamW.

    >>> import sat_optuna as sat
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> items = TensorDataset(torch.rand(40, 3, 8, 8), torch.arange(40) % 4)
    >>> net = sat.build_backbone("resnet20", in_channels=3, classes=4, width=4)
    >>> loader = DataLoader(items, batch_size=8, shuffle=True)
    >>> [record.epoch for record in sat.fit(net, loader, epochs=2, seed=0)]
    [0, 1]

    With `config.ema` the network ends as the moving average of its steps, of weights and of
    BatchNorm's statistics alike, and whoever is told of an epoch finds the average in it.

    A Dataset or DataLoader is read anew in each epoch. The augmentation of `config` comes on top
    of its own. A DataLoader also keeps its order and its batches; what it draws is not stored in a
    checkpoint, so a training that is continued may end with other bits than one that never
    stopped, which is warned of.

    Args:
        net: called as `net(x)`, or as `net(x, scheme)` where `draw` is given; x is (N, C, H, W).
        images: what it is trained on: a part of a Split, or a map-style Dataset or a DataLoader of
            (image, label), each image a float tensor (C, H, W), each label a whole number from 0.
        epochs: passes over them. A last batch that is not full is left out; a DataLoader says by
            `drop_last` what becomes of it.
        seed: of order and augmentation.
        config: optimiser, schedule, augmentation, precision; the defaults of TrainConfig if None.
        draw: gives the scheme of a step, a pure function of its number; for supernets.
        body: names of parameters that were loaded, `LoadedWeights.body` of `load_weights`: they
            take `config.lr_body`, the others `config.lr_head`. Empty: all take `config.lr`.
        checkpoint: kept after each epoch and continued from.
        on_event: told at the beginning, now and then within an epoch, after each epoch, once its
            checkpoint is written (`made` is its EpochRecord), and at the end (`made` is what is
            returned). What it raises ends the training, which can be continued.
        task: what the network learns, or its name; of `build_task` with the weights of classes.

    Returns:
        A record an epoch, those before the checkpoint too.

    Raises:
        CheckpointError: the checkpoint is broken or of another configuration.
        CompileError: `config.compile`, and the network cannot be compiled here.
        ConfigError: `epochs` is no whole number, or below 0.
        DataError: the images cannot be read, or do not fit the network or the task.
        DeviceMemoryError: the device has too little memory for such batches.
        TrainingError: the loss is no longer finite.
        UnknownName: no such task.
    """
    training = Training(
        net,
        images,
        epochs=epochs,
        seed=seed,
        config=config or TrainConfig(),
        draw=draw,
        body=body,
        checkpoint=checkpoint,
        on_event=on_event,
        task=as_task(task),
    )
    (history,) = fit_together([training])
    return history


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What `fit` is given, which says there what each of it is."""

    net: nn.Module = field(kw_only=False)
    images: UserImages = field(kw_only=False)
    epochs: int
    seed: int
    config: TrainConfig
    draw: Callable[[int], Scheme] | None = None
    body: Collection[str] = ()
    checkpoint: Checkpoint | None = None
    on_event: OnEvent = ignore
    task: Task = CLASSIFICATION


def fit_together(trainings: Iterable[Training]) -> tuple[tuple[EpochRecord, ...], ...]:
    """Train several networks in one process, a step of each in turn.

    Each ends with the bits that `fit` gives it alone. On a GPU each has a stream of its own, so
    that what one leaves of the GPU another takes; on a CPU nothing is gained.

    Args:
        trainings: networks that share nothing, on one device.

    Returns:
        The records of each, as of `fit`.

    Raises:
        CheckpointError, CompileError, ConfigError, DataError, DeviceMemoryError, TrainingError: as
            of `fit`; the others end with it, and go on from their checkpoints.
    """
    given = [*trainings]
    batch = max((training.config.batch for training in given), default=0)
    many = f" {len(given)} networks at a time" if len(given) > 1 else ""
    with memory_for(f"training{many} in batches of {batch} images", "lower train.batch"):
        loops = [_Loop(training) for training in given]
        if len(loops) == 1:
            for _ in loops[0].turns():
                pass
        elif loops:
            _take_turns(loops)
    return tuple(tuple(loop.history) for loop in loops)


def check_recipe(config: TrainConfig, task: Task) -> None:
    """Make sure that a task has what a configuration changes in training.

    Raises:
        DataError: it has not.
    """
    if config.label_smoothing and task.targets != "labels":
        raise DataError(
            f"label_smoothing is {config.label_smoothing} and the task {task.name} has no "
            "labels to smooth; set train.label_smoothing to 0"
        )
    if config.augment != "none" and task.maps:
        raise DataError(
            f"augment is {config.augment!r} and the task is {task.name}, whose maps it would "
            "not move with the images; set train.augment to 'none'"
        )
    if (config.mixup or config.cutmix) and task.loss is not CLASSIFICATION.loss:
        raise DataError(
            f"{'mixup' if config.mixup else 'cutmix'} is {config.mixup or config.cutmix} and "
            f"the task is {task.name}, whose loss takes no shares of classes; set train.mixup "
            "and train.cutmix to 0"
        )


@contextlib.contextmanager
def _refusing_single(images: int) -> Iterator[None]:
    """Raise what torch says of a batch of one image as an error of ours.

    BatchNorm of a single value a channel has no variance.

    Raises:
        DataError: the batch has one image, and the network cannot be trained on it.
    """
    try:
        yield
    except ValueError as error:
        if images > 1 or isinstance(error, SatOptunaError):
            raise
        raise DataError(
            f"the network cannot be trained on a batch of one image ({one_line(error)}); choose "
            "train.batch = 2 at least, or drop_last=True of a DataLoader"
        ) from error


class _Loop:
    """One training: network, step and what they need."""

    def __init__(self, training: Training) -> None:
        self.net, self.seed, self.config = training.net, training.seed, training.config
        self.draw, self.checkpoint = training.draw, training.checkpoint
        self.on_event, epochs = training.on_event, training.epochs
        if training.body:
            lr, head, body = self.config.lr, self.config.lr_head, self.config.lr_body
            self.config = replace(self.config, lr=head or lr, lr_body=body or lr)
        net, draw, checkpoint, config = self.net, self.draw, self.checkpoint, self.config
        # No epoch at all is a training that is over.
        epochs = checked("fit", RetrainConfig, {"epochs": epochs})["epochs"] if epochs else 0
        task, device = training.task, next(net.parameters()).device
        images = training_images(training.images, device=device, targets=task.targets)
        task.check_targets(images.targets)
        check_recipe(config, task)
        shape = check_crop(config.crop, maps=task.maps, task=task.name, shape=images.shape)
        self.task, self.images, self.epochs = task, images, epochs
        self.per_epoch = images.steps(config.batch)
        self.steps = epochs * self.per_epoch
        if config.compile and draw is None:
            # Networks of other schemes share their code with this one, and torch compiles only so
            # many of a code before it gives up without an error.
            torch.compiler.reset()
        record = checkpoint.record() if checkpoint else None
        with evaluating(net):
            self.classes = count_classes(lambda x: net(x, draw(0)) if draw else net(x), images)
        if task.loss is not CLASSIFICATION.loss:
            _, targets = next(images.batches(torch.zeros(1, dtype=torch.int64), 1))
            outputs = task.outputs_shape(self.classes, images.shape)
            task.check_loss(torch.zeros(1, *outputs, device=targets.device), targets)
        if isinstance(net, Supernet):
            for size in dict.fromkeys((images.shape, shape)):
                net.check_input(size)
            if draw:
                warn_of_blind_start(net, shape)
        counts = images.pixel_counts() if task.maps else images.class_counts()
        weights = task.weights(counts, self.classes)
        self.step = TrainingStep(
            net,
            config,
            *self._way(record),
            task=task,
            weights=weights,
            body=training.body,
        )
        self.device = self.step.device
        self.mix = mixing(config.mixup, config.cutmix, classes=self.classes)
        self.history = self._restored(checkpoint, record) if checkpoint and record else []

    def turns(self) -> Generator[None, None, None]:
        """Train the epochs that are not done yet; stop after each step."""
        self._tell(min(len(self.history), self.epochs))
        for epoch in range(len(self.history), self.epochs):
            yield from self._epoch(epoch)
            record = self.history[-1]
            said = f"loss {record.loss:.3f}"
            if record.accuracy is not None:
                said += f", train accuracy {record.accuracy:.1f} %"
            # Whoever scores the network now scores its average, where one is kept.
            with self.step.averaged():
                self._tell(epoch + 1, message=said, made=record)
        self._tell(self.epochs, made=tuple(self.history), finished=True)

    def _tell(self, done: int, **more: Any) -> None:
        self.on_event(Event(step="fit", done=done, total=self.epochs, **more))

    def _tell_step(self, epoch: int, taken: int) -> None:
        """Tell how many steps of an epoch were taken; of a GPU, how many were handed to it."""
        said = f"epoch {epoch + 1}: step {taken} of {self.per_epoch}"
        gpus = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus):  # what is drawn there changes nothing here
            self._tell(epoch, share=taken / (self.per_epoch + 1), message=said)

    def _epoch(self, epoch: int) -> Generator[None, None, None]:
        """Train one epoch, note its record and save; stop after each step."""
        self.net.train()
        generator = generator_for("augment", self.seed, epoch, device=self.device)
        amounts = {key: getattr(self.config, key) for key in ("shift", "flip", "cutout")}
        # Places of their own: all else is drawn as of whole images.
        places, side = generator_for("crop", self.seed, epoch), self.config.crop

        def jitter(images: Tensor, maps: Tensor | None = None) -> Any:
            if side and maps is not None:
                images, maps = patches(images, maps, places, side=side)
            return augment(images, generator, maps, **amounts)

        if self.config.augment != "none":
            change = augmented(self.config.augment, jitter, key=("policy", self.seed, epoch))
        else:
            change = jitter
        batches = self.images.epoch(epoch, seed=self.seed, batch=self.config.batch, augment=change)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        taken, seen, told = 0, 0, time.monotonic()
        # Dropout and the like draw from the global generator.
        drawn = seeded("forward", self.seed, epoch, device=self.device)
        with fastest_kernels(self.device), drawn:
            for x, labels in batches:
                check_labels(self.images, self.classes)
                step = epoch * self.per_epoch + taken
                rate = learning_rate(
                    self.config,
                    step=step,
                    steps=self.steps,
                    warmup=self.config.warmup * self.per_epoch,
                )
                scheme = self.draw(step) if self.draw else None
                if self.mix:
                    with seeded("mix", self.seed, step):
                        x, labels = self.mix(x, labels)
                with _refusing_single(len(x)):
                    loss, hits = self.step(x, labels, rate=rate, scheme=scheme)
                loss_sum += loss
                right += hits
                taken += 1
                seen += len(labels)
                if (now := time.monotonic()) >= told + EVENT_SECONDS:
                    told = now
                    self._tell_step(epoch, taken)
                yield
        loss_mean = float(loss_sum) / taken  # the first number that is fetched
        if not math.isfinite(loss_mean):
            raise TrainingError(
                f"the loss is {loss_mean} in epoch {epoch} with lr {self.config.lr}; "
                "lower train.lr or lengthen the training"
            )
        accuracy = 100 * float(right) / seen if self.task.targets == "labels" else None
        self.history.append(EpochRecord(epoch, loss_mean, accuracy, self.step.rate))
        if len(self.history) == self.epochs:
            self.step.settle()
        if self.checkpoint:
            self._save(self.checkpoint)

    def _way(self, record: Mapping[str, Any] | None) -> tuple[Arithmetic, str]:
        """Return how the network is trained: as its checkpoint was, where there is one.

        Raises:
            CheckpointError: the configuration asks for something else.
        """
        device = next(self.net.parameters()).device
        arithmetic = arithmetic_for(self.config, self.net, device)
        strategy = strategy_for(
            self.config,
            self.net,
            device,
            precision=arithmetic.precision,
            drawn=self.draw is not None,
        )
        if not self.checkpoint or record is None:
            return arithmetic, strategy
        here = {**asdict(arithmetic), "strategy": strategy}
        last = record["memory_format"] == str(torch.channels_last)
        # Versions of the package that stored no precision trained in float32 where it was auto,
        # and those that stored no strategy step by step.
        older = "float32" if self.config.precision == "auto" else arithmetic.precision
        begun = {
            "precision": record.get("precision", older),
            "memory_format": "channels_last" if last else "contiguous",
            "strategy": record.get("strategy", "eager"),
        }
        # They trained supernets so whatever was asked for.
        eagerly = self.draw is not None and begun["strategy"] == "eager"
        for key, stored in begun.items():
            asked = getattr(self.config, key)
            if asked != "auto" and stored != here[key] and not (key == "strategy" and eagerly):
                raise CheckpointError(
                    f"checkpoint {self.checkpoint.path} was trained with {key} = {stored!r}, and "
                    f"train.{key} is {asked!r}; move the checkpoint away, or set the key back"
                )
        if begun != here and len(record["history"]) * self.per_epoch < self.steps:
            warnings.warn(
                f"{self.checkpoint.path} was begun in {_listed(begun)}, and goes on so; here a "
                f"new training is {_listed(here)}, which may be faster",
                SatOptunaWarning,
                stacklevel=4,
            )
        return Arithmetic(begun["precision"], begun["memory_format"]), begun["strategy"]

    def _save(self, checkpoint: Checkpoint) -> None:
        """Write weights, state of the optimiser and history, whole or not at all."""
        tensors = {f"model.{name}": value for name, value in self.net.state_dict().items()}
        tensors |= self.step.state()
        record = {
            "fingerprint": checkpoint.fingerprint,
            "environment": environment(self.device.type, torch.get_num_threads()),
            "precision": self.step.arithmetic.precision,
            "memory_format": str(self.step.arithmetic.layout),
            "strategy": self.step.strategy,
            "scaler": self.step.scaler.state_dict(),
            "steps": self.step.taken,
            "history": [asdict(entry) for entry in self.history],
        }
        save_checkpoint(checkpoint.path, tensors, record)

    def _restored(self, checkpoint: Checkpoint, record: Mapping[str, Any]) -> list[EpochRecord]:
        """Load weights and state of the optimiser, and return the history."""
        here = environment(self.device.type, torch.get_num_threads())
        if len(record["history"]) < self.epochs:
            if record["environment"] != here:
                warnings.warn(
                    f"{checkpoint.path} was made with {record['environment']}, this is {here}; "
                    "the training goes on, but its last bits may differ from an unbroken one",
                    SatOptunaWarning,
                    stacklevel=4,
                )
            if not self.images.repeatable:
                warnings.warn(
                    f"{checkpoint.path} does not store what a DataLoader draws; the training goes "
                    "on, but may end with other weights than an unbroken one",
                    SatOptunaWarning,
                    stacklevel=4,
                )
        tensors = load_tensors(checkpoint.path)
        held = _under("model.", tensors)
        if differing := sorted(held.keys() ^ self.net.state_dict().keys()):
            raise CheckpointError(
                f"checkpoint {checkpoint.path} and the network differ in {differing[0]}: an "
                "earlier version of this program wrote it, perhaps; finish the training with "
                "that, or move the checkpoint away"
            )
        self.net.load_state_dict(held)
        self.step.load_state(tensors)
        self.step.scaler.load_state_dict(record["scaler"])
        self.step.taken = record["steps"]
        return [EpochRecord(**entry) for entry in record["history"]]


class _Turns:
    """The steps of a training among others: its global generators, and on a GPU its stream."""

    def __init__(self, loop: _Loop) -> None:
        self.steps = loop.turns()
        self._gpu = loop.device if loop.device.type == "cuda" else None
        self._generators = self._state()
        self.stream = torch.cuda.Stream(self._gpu) if self._gpu else None  # type: ignore[no-untyped-call]
        self._draws = True  # on the GPU, as far as is known

    def take(self, drawn: torch.cuda.Event | None) -> bool:
        """Make a step, and return whether there was one to make.

        Args:
            drawn: a GPU's mark after the last step in which something was drawn. All graphs read
                the state of the global generator at one place, so those that draw wait for each
                other.
        """
        with torch.cuda.stream(self.stream):
            if self.stream and drawn and self._draws:
                self.stream.wait_event(drawn)
            self._put(self._generators)
            try:
                return next(self.steps, self) is None
            finally:
                before, self._generators = self._generators, self._state()
                self._draws = not torch.equal(before[-1], self._generators[-1])
                if self.stream and drawn and self._draws:
                    drawn.record(self.stream)

    def _state(self) -> list[Tensor]:
        gpu = [torch.cuda.get_rng_state(self._gpu)] if self._gpu else []
        return [torch.get_rng_state(), *gpu]

    def _put(self, state: list[Tensor]) -> None:
        torch.set_rng_state(state[0])
        if self._gpu:
            torch.cuda.set_rng_state(state[1], self._gpu)


def _take_turns(loops: Sequence[_Loop]) -> None:
    """Make the steps of all trainings, one of each in turn, until there are no more."""
    device = loops[0].device
    gpus = [device] if device.type == "cuda" else []
    drawn = torch.cuda.Event() if gpus else None  # type: ignore[no-untyped-call]
    with (
        torch.random.fork_rng(devices=gpus),
        fastest_kernels(device),  # once for all: they end in another order than they began in
        contextlib.ExitStack() as ends,
    ):
        begun = [_Turns(loop) for loop in loops]
        for turns in begun:
            ends.enter_context(contextlib.closing(turns.steps))
            if turns.stream:
                now = torch.cuda.current_stream(device)
                turns.stream.wait_stream(now)
                ends.callback(now.wait_stream, turns.stream)
        while begun:
            begun = [turns for turns in begun if turns.take(drawn)]


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _listed(way: Mapping[str, str]) -> str:
    """Return "float32, contiguous and eager" of such values."""
    *first, last = way.values()
    return f"{', '.join(first)} and {last}"
