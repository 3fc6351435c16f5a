"""One step of a training: forward, loss, backward, update; nothing in it waits for the device."""

import contextlib
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from sat_optuna.config.config import TrainConfig
from sat_optuna.errors import SatOptunaError
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.tasks import Task
from sat_optuna.tasks.classification import CLASSIFICATION
from sat_optuna.training.blocks import BlockSteps
from sat_optuna.training.precision import Arithmetic, pick_device
from sat_optuna.training.static import StaticStep

__all__ = [
    "STRATEGIES",
    "SUPERNETS",
    "TOGETHER",
    "CompileError",
    "TrainingStep",
    "check_compiler",
    "learning_rate",
    "strategy_for",
    "together_for",
]

# What `auto` means where a network has one scheme, by the kind of device: the most parameters
# that a network may have to be trained by a CUDA graph. The measurements are in studies/bench-gpu.
# On GPUs: those of a ResNet-56 of width 32 with SE in every block. Our graphs of smaller networks
# were 2.67 to 3.64 times as fast as eager steps, and had 0.95 to 0.98 of the speed of a graph
# written by hand. At this size the one by hand alone was measured, on the network without SE,
# where eager steps had 0.56 of its speed.
STRATEGIES: Mapping[str, int] = {"cpu": 0, "cuda": 3_429_274}
# Likewise of a supernet that is trained by graphs of its blocks. On GPUs: those of a ResNet-20 of
# width 32 with SE, the largest of four that were measured, 2.08 to 3.49 times as fast so.
SUPERNETS: Mapping[str, int] = {"cpu": 0, "cuda": 1_083_130}
# How many networks of one scheme a process trains at a time, by the kind of device, and the most
# parameters that each may have. On both cards 5 ResNet-20 of width 16 were trained 2.0 times as
# fast as one after the other, and 20 only 2.2 and 2.3 times.
TOGETHER: Mapping[str, tuple[int, int]] = {"cpu": (1, 0), "cuda": (5, 1_083_130)}

_WARM_UP = 0.3  # share of the steps in which one-cycle climbs to its peak
_START = 1 / 25  # one-cycle starts at this share of its peak


class CompileError(SatOptunaError, RuntimeError):
    """A network that torch.compile cannot compile here."""


@contextlib.contextmanager
def _compiling() -> Iterator[None]:
    """Turn what torch.compile cannot do into one sentence."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import

    try:
        yield
    except TorchDynamoException as error:
        raise CompileError(
            f"torch.compile does not work here ({str(error).splitlines()[0]}); it needs a C++ "
            "compiler, g++ or what CXX names, and on a GPU Triton: see to that, or set "
            "train.compile to false"
        ) from error


def check_compiler() -> None:
    """Compile something small, to see whether that works here; takes some seconds.

    Raises:
        CompileError: it does not.
    """
    device = pick_device()
    with _compiling():
        torch.compile(torch.sin)(torch.ones(2, device=device))


def learning_rate(config: TrainConfig, *, step: int, steps: int) -> float:
    """Return the learning rate of a step, a function of the step's number alone.

    >>> config = TrainConfig(lr=0.1, schedule="cosine")
    >>> [round(learning_rate(config, step=step, steps=5), 3) for step in range(5)]
    [0.1, 0.085, 0.05, 0.015, 0.0]

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


def strategy_for(
    config: TrainConfig, net: nn.Module, device: torch.device, *, precision: str, drawn: bool
) -> str:
    """Return how the steps of a training are made: "eager", "graph" or "blocks".

    A graph holds one forward pass. So a supernet under random schemes has a graph for each choice
    of each block, which is "blocks". What is trained in float16, whose scaler stands between
    backward and update, is trained without; so is a supernet whose class has a forward of its own.
    What a network decides in Python anew at each step, by a counter or `random`, a graph repeats
    as it was when it was recorded: such a network needs `strategy = "eager"`.

    Args:
        config: its `strategy`; `auto` is looked up in `STRATEGIES` or `SUPERNETS`, and is "eager"
            with `compile`, for a graph of a compiled network was never measured.
        net: what is trained.
        device: where.
        precision: "float32", "bfloat16" or "float16".
        drawn: whether each step has a scheme of its own.
    """
    if precision == "float16" or (drawn and type(net).forward is not Supernet.forward):
        return "eager"
    graph = "blocks" if drawn else "graph"
    if config.strategy != "auto":
        return graph if config.strategy == "graph" else "eager"
    params = sum(parameter.numel() for parameter in net.parameters())
    if drawn:
        small = params <= SUPERNETS.get(device.type, 0)
    else:
        small = params <= STRATEGIES.get(device.type, 0) and not config.compile
    return graph if small else "eager"


def together_for(config: TrainConfig, device: torch.device, *, params: int) -> int:
    """Return how many networks one process trains at a time, each with the bits it has alone.

    `TOGETHER` says how many small ones that are graphs; all others come one after the other. Of
    the others a large one fills a GPU alone, and several may not fit its memory; eager steps gain
    nothing together; and torch compiles only so many at a time.

    Args:
        config: its `strategy`, `precision` and `compile`.
        device: where.
        params: parameters of the largest of the networks.
    """
    graphs = config.strategy != "eager" and config.precision != "float16" and not config.compile
    together, most = TOGETHER.get(device.type, (1, 0))
    return together if graphs and params <= most else 1


class TrainingStep:
    """A network with its optimiser, called once a batch.

    With `config.compile` the first step without a scheme compiles the network. A supernet's
    forward is never compiled, for each scheme would be compiled anew.

    Attributes:
        net: the network; the caller puts it in train mode.
        arithmetic: its precision and memory format; the network is put into the latter.
        strategy: "eager", "graph" for a `StaticStep`, or "blocks" for `BlockSteps`; see
            `strategy_for`. On a GPU they differ in the last bits, for a graph reads its learning
            rate in float32.
        device: where it is.
        rate: learning rate of the last step.
        taken: steps so far.
    """

    def __init__(
        self,
        net: nn.Module,
        config: TrainConfig,
        arithmetic: Arithmetic,
        strategy: str = "eager",
        *,
        task: Task = CLASSIFICATION,
        weights: Sequence[float] = (),
    ) -> None:
        """Make the optimiser, and the network's place and precision.

        Args:
            net: what is trained.
            config: optimiser, schedule, smoothing.
            arithmetic: its precision and memory format.
            strategy: "eager", "graph" or "blocks".
            task: whose loss it is.
            weights: of the classes in the loss, one each; empty where all weigh the same.
        """
        self.net, self.arithmetic, self.strategy = net, arithmetic, strategy
        self.device = next(net.parameters()).device
        arithmetic.put(net, self.device)
        self.taken, self.rate = 0, config.lr
        # Compiled at its first call. The shapes of a training never change, but for the last batch
        # of a DataLoader.
        self._alone = torch.compile(net, dynamic=False) if config.compile else net
        self._task, self._options = task, dict[str, Any]()
        if config.label_smoothing:
            self._options["label_smoothing"] = config.label_smoothing
        if weights:
            self._options["weight"] = torch.tensor(weights, device=self.device)
        self._mixed = arithmetic.precision != "float32"
        self._optimizer = torch.optim.SGD(
            net.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            fused=True,  # one pass over each tensor
        )
        if config.momentum:
            # SGD's first step is a step from zero momentum. The fused form wants the momentum of
            # all parameters or of none, and the modules of a supernet get their first gradients
            # at different steps.
            for parameter in net.parameters():
                # As the parameter lies in memory, which decides the speed of a step.
                zeros = torch.zeros_like(parameter).detach()
                self._optimizer.state[parameter]["momentum_buffer"] = zeros
        scaled = arithmetic.precision == "float16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)

        # Fused SGD reads it in float32 on a GPU, and as a number of Python's on a CPU.
        exact = torch.float64 if self.device.type == "cpu" else torch.float32
        self._rate = torch.zeros((), dtype=exact, device=self.device)
        if strategy != "eager":
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate
        self._static = self._static_step() if strategy == "graph" else None
        self._blocks = self._block_steps() if strategy == "blocks" else None

    def _static_step(self) -> StaticStep:
        # Without a cycle: the memory of a graph is free as soon as nobody needs the step.
        this = cast("TrainingStep", weakref.proxy(self))

        def step(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return this._step(x, labels, None)

        def state() -> list[Tensor]:
            return [*this.net.parameters(), *this.net.buffers(), *this.momentum().values()]

        return StaticStep(step, state, [*self.net.parameters()])

    def _block_steps(self) -> BlockSteps:
        this = cast("TrainingStep", weakref.proxy(self))  # as above
        return BlockSteps(
            cast("Supernet", self.net),
            self._optimizer,
            lambda: this.momentum().values(),
            self.arithmetic,
            lambda logits, labels: (this.loss(logits, labels), this.hits(logits, labels)),
        )

    def __call__(
        self, x: Tensor, labels: Tensor, *, rate: float, scheme: Scheme | None = None
    ) -> tuple[Tensor, Tensor]:
        """Make one step.

        Args:
            x: (N, C, H, W), on the network's device.
            labels: (N,) int64, or the targets of another task.
            rate: learning rate.
            scheme: of a supernet; other networks have none.

        Returns:
            The loss and the number of images classified right, 0 in a task without labels, on the
            device.

        Raises:
            CompileError: torch.compile cannot compile the network here.
        """
        self.taken, self.rate = self.taken + 1, rate
        x = x.contiguous(memory_format=self.arithmetic.layout)
        if self.strategy != "eager":
            self._rate.fill_(rate)
            if self._static:
                return self._static(x, labels)
            if self._blocks and scheme is not None and self._blocks.takes(x, labels):
                return self._blocks(scheme)
        else:
            for group in self._optimizer.param_groups:
                group["lr"] = rate
        return self._step(x, labels, scheme)

    def _step(self, x: Tensor, labels: Tensor, scheme: Scheme | None) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, self.arithmetic.dtype, enabled=self._mixed):
            logits = self._forward(x) if scheme is None else self.net(x, scheme)
            loss = self.loss(logits, labels)
        # None, not zero: a module that a scheme leaves out gets no decay and no momentum step. In
        # a static step a module has a gradient at every step or at none.
        self._optimizer.zero_grad(set_to_none=self._static is None)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self._optimizer)
        self.scaler.update()
        return loss.detach(), self.hits(logits, labels)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch, with the smoothing and the weights of the classes."""
        return self._task.loss(logits, labels, reduction="mean", **self._options)

    def hits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the number of images classified right, 0 in a task without labels."""
        if self._task.targets != "labels":
            return torch.zeros((), dtype=torch.int64, device=self.device)
        return (logits.detach().argmax(1) == labels).sum()

    def _forward(self, x: Tensor) -> Tensor:
        """Return the logits of a network that takes no scheme, compiled where that is asked."""
        with _compiling() if self._alone is not self.net else contextlib.nullcontext():
            logits: Tensor = self._alone(x)
        return logits

    def momentum(self) -> dict[str, Tensor]:
        """Return the momentum of each parameter, by its name."""
        state = self._optimizer.state
        held = {name: state[p].get("momentum_buffer") for name, p in self.net.named_parameters()}
        return {name: value for name, value in held.items() if value is not None}

    def load_momentum(self, momentum: Mapping[str, Tensor]) -> None:
        """Set the momentum of parameters, by name; that of the others is left as it is."""
        for name, held in self.momentum().items():
            if name in momentum:
                held.copy_(momentum[name])  # in place: a graph holds its address
