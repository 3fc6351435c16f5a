"""One step of a training: forward, loss, backward, update; nothing in it waits for the device."""

import contextlib
import math
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sat_optuna.config.config import TrainConfig
from sat_optuna.errors import ConfigError, SatOptunaError
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.supernet.weights import names_of_body
from sat_optuna.tasks import Task
from sat_optuna.tasks.classification import CLASSIFICATION
from sat_optuna.training.blocks import BlockSteps
from sat_optuna.training.precision import Arithmetic
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
# width 32 with SE, the largest of four that were measured, 2.01 to 3.01 times as fast so.
SUPERNETS: Mapping[str, int] = {"cpu": 0, "cuda": 1_083_130}
# How many networks of one scheme a process trains at a time, by the kind of device, and the most
# parameters that each may have. On both cards 5 ResNet-20 of width 16 were trained 2.0 times as
# fast as one after the other, and 20 only 2.2 and 2.3 times.
TOGETHER: Mapping[str, tuple[int, int]] = {"cpu": (1, 0), "cuda": (5, 1_083_130)}

_ADAM = ("exp_avg", "exp_avg_sq", "step")  # what AdamW keeps of a parameter
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


def check_compiler(device: torch.device) -> None:
    """Compile something small, to see whether that works on a device; takes some seconds.

    Raises:
        CompileError: it does not.
    """
    with _compiling():
        torch.compile(torch.sin)(torch.ones(2, device=device))


def learning_rate(config: TrainConfig, *, step: int, steps: int, warmup: int = 0) -> float:
    """Return the learning rate of a step, a function of the step's number alone.

    >>> config = TrainConfig(lr=0.1, schedule="cosine")
    >>> [round(learning_rate(config, step=step, steps=5), 3) for step in range(5)]
    [0.1, 0.085, 0.05, 0.015, 0.0]

    Args:
        config: schedule and peak.
        step: from 0.
        steps: of the whole training.
        warmup: steps in which the rate climbs in a line from a 25th of its peak; 0: none, but of
            one-cycle 3 tenths of all.
    """
    if step < warmup:
        return config.lr * (_START + (1 - _START) * step / warmup)
    if config.schedule == "step":
        return config.lr * 0.1 ** ((step >= steps / 2) + (step >= steps * 3 / 4))
    share = (step - warmup) / max(1, steps - 1 - warmup)
    if config.schedule == "cosine" or warmup:
        return config.lr * (1 + math.cos(math.pi * share)) / 2
    if share < _WARM_UP:
        return config.lr * (_START + (1 - _START) * share / _WARM_UP)
    return config.lr * (1 + math.cos(math.pi * (share - _WARM_UP) / (1 - _WARM_UP))) / 2


def strategy_for(
    config: TrainConfig, net: nn.Module, device: torch.device, *, precision: str, drawn: bool
) -> str:
    """Return how the steps of a training are made: "eager", "graph" or "blocks".

    A graph holds one forward pass. So a supernet under random schemes has a graph for each choice
    of each block, which is "blocks"; of these none knows the norm of all gradients, so with `clip`
    it is trained without. So is what is trained in float16, whose scaler stands between backward
    and update, what AdamW trains, and a supernet whose class has a forward of its own. What a
    network decides in Python anew at each step, by a counter or `random`, a graph repeats as it
    was when it was recorded: such a network needs `strategy = "eager"`.

    Args:
        config: its `strategy`; `auto` is looked up in `STRATEGIES` or `SUPERNETS`, and is "eager"
            with `compile`, for a graph of a compiled network was never measured.
        net: what is trained.
        device: where.
        precision: "float32", "bfloat16" or "float16".
        drawn: whether each step has a scheme of its own.

    Raises:
        ConfigError: a graph is asked for, and the optimiser is none that it can hold.
    """
    if precision == "float16" or (drawn and type(net).forward is not Supernet.forward):
        return "eager"
    graph = "blocks" if drawn else "graph"
    unheld = f"optimizer = {config.optimizer!r}" if config.optimizer != "sgd" else ""
    if drawn and config.clip:
        unheld = unheld or f"clip = {config.clip} of a supernet"
    if unheld:
        if config.strategy == "graph":
            raise ConfigError(
                "TrainConfig",
                [
                    f"strategy is 'graph' with {unheld}, whose steps are not made as graphs; "
                    "choose strategy 'auto' or 'eager'"
                ],
            )
        return "eager"
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
    graphs = graphs and config.optimizer == "sgd"
    together, most = TOGETHER.get(device.type, (1, 0))
    return together if graphs and params <= most else 1


class TrainingStep:
    """A network with its optimiser, called once a batch.

    Parameters that were loaded, `body`, take `config.lr_body` where the others take `config.lr`,
    and follow the same schedule.

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
        body: Collection[str] = (),
    ) -> None:
        """Make the optimiser, and the network's place and precision.

        Args:
            net: what is trained.
            config: optimiser, schedule, smoothing.
            arithmetic: its precision and memory format.
            strategy: "eager", "graph" or "blocks".
            task: whose loss it is.
            weights: of the classes in the loss, one each; empty where all weigh the same.
            body: names of parameters that were loaded, as of `fit`.
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
        groups = _groups(net, config, body)
        self._shares = [share for share, _ in groups]
        parameters = [{"params": parameters} for _, parameters in groups]
        common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
        common["fused"] = True  # one pass over each tensor
        self._optimizer: torch.optim.Optimizer
        if config.optimizer == "adamw":
            self._optimizer = torch.optim.AdamW(parameters, **common)
        else:
            self._optimizer = torch.optim.SGD(
                parameters, momentum=config.momentum, nesterov=config.nesterov, **common
            )
        if config.momentum and config.optimizer == "sgd":
            # SGD's first step is a step from zero momentum. The fused form wants the momentum of
            # all parameters or of none, and the modules of a supernet get their first gradients
            # at different steps.
            for parameter in net.parameters():
                # As the parameter lies in memory, which decides the speed of a step.
                zeros = torch.zeros_like(parameter).detach()
                self._optimizer.state[parameter]["momentum_buffer"] = zeros
        scaled = arithmetic.precision == "float16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)

        self._clip = config.clip
        # BatchNorm's statistics are averaged like the weights, as buffers of the network.
        self._average = (
            AveragedModel(net, multi_avg_fn=_average_of(config.ema), use_buffers=True)
            if config.ema
            else None
        )
        # Fused SGD reads it in float32 on a GPU, and as a number of Python's on a CPU.
        exact = torch.float64 if self.device.type == "cpu" else torch.float32
        if strategy != "eager":
            for group in self._optimizer.param_groups:
                group["lr"] = torch.zeros((), dtype=exact, device=self.device)
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
            labels: (N,) int64, or the targets of another task; (N, classes) shares of the classes
                where images are mixed.
            rate: learning rate; of the body its share.
            scheme: of a supernet; other networks have none.

        Returns:
            The loss and the number of images classified right, 0 in a task without labels, on the
            device.

        Raises:
            CompileError: torch.compile cannot compile the network here.
        """
        self.taken, self.rate = self.taken + 1, rate
        x = x.contiguous(memory_format=self.arithmetic.layout)
        for group, share in zip(self._optimizer.param_groups, self._shares, strict=True):
            if self.strategy == "eager":
                group["lr"] = rate * share
            else:
                group["lr"].fill_(rate * share)  # where the graphs read it
        made = self._made(x, labels, scheme)
        if self._average:
            self._average.update_parameters(self.net)
        return made

    def _made(self, x: Tensor, labels: Tensor, scheme: Scheme | None) -> tuple[Tensor, Tensor]:
        """Make the step as the strategy says."""
        if self._static:
            return self._static(x, labels)
        if self._blocks and scheme is not None and self._blocks.takes(x, labels):
            return self._blocks(scheme)
        return self._step(x, labels, scheme)

    def _step(self, x: Tensor, labels: Tensor, scheme: Scheme | None) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, self.arithmetic.dtype, enabled=self._mixed):
            logits = self._forward(x) if scheme is None else self.net(x, scheme)
            loss = self.loss(logits, labels)
        # None, not zero: a module that a scheme leaves out gets no decay and no momentum step. In
        # a static step a module has a gradient at every step or at none.
        self._optimizer.zero_grad(set_to_none=self._static is None)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self._clip:
            self.scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.net.parameters(), self._clip)
        self.scaler.step(self._optimizer)
        self.scaler.update()
        return loss.detach(), self.hits(logits, labels)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch, with the smoothing and the weights of the classes."""
        return self._task.loss(logits, labels, reduction="mean", **self._options)

    def hits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the number of images classified right, 0 in a task without labels.

        Of a mixed image the class with the largest share is right.
        """
        if self._task.targets != "labels":
            return torch.zeros((), dtype=torch.int64, device=self.device)
        right = labels if labels.ndim == 1 else labels.argmax(1)
        return (logits.detach().argmax(1) == right).sum()

    def _forward(self, x: Tensor) -> Tensor:
        """Return the logits of a network that takes no scheme, compiled where that is asked."""
        with _compiling() if self._alone is not self.net else contextlib.nullcontext():
            logits: Tensor = self._alone(x)
        return logits

    def momentum(self) -> dict[str, Tensor]:
        """Return the momentum of each parameter, by its name; empty where it is not SGD's."""
        state = self._optimizer.state
        held = {name: state[p].get("momentum_buffer") for name, p in self.net.named_parameters()}
        return {name: value for name, value in held.items() if value is not None}

    def state(self) -> dict[str, Tensor]:
        """Return what the optimiser and the average hold, by what it is and of which parameter."""
        state = {f"momentum.{name}": value for name, value in self.momentum().items()}
        for name, parameter in self.net.named_parameters():
            held = self._optimizer.state.get(parameter, {})
            state |= {f"{key}.{name}": held[key] for key in _ADAM if key in held}
        if self._average:
            averaged = self._average.module.state_dict()
            state |= {f"ema.{name}": value for name, value in averaged.items()}
            state["ema_steps"] = self._average.n_averaged
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set what `state` has returned; what it does not name is left as it is."""
        for name, held in self.momentum().items():
            if f"momentum.{name}" in state:
                held.copy_(state[f"momentum.{name}"])  # in place: a graph holds its address
        for name, parameter in self.net.named_parameters():
            # A parameter without a gradient so far has no state.
            if f"{_ADAM[0]}.{name}" in state:
                self._optimizer.state[parameter] = {
                    key: torch.empty_like(parameter).detach().copy_(state[f"{key}.{name}"])
                    if key != "step"
                    else state[f"step.{name}"].to(parameter.device)
                    for key in _ADAM
                }
        if self._average and "ema_steps" in state:
            average = {name[4:]: value for name, value in state.items() if name[:4] == "ema."}
            _copy(average, self._average.module)
            self._average.n_averaged.copy_(state["ema_steps"])

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the network its averaged weights inside the block, where an average is kept."""
        if self._average is None:
            yield
            return
        before = {name: value.clone() for name, value in self.net.state_dict().items()}
        _copy(self._average.module.state_dict(), self.net)
        yield
        _copy(before, self.net)

    def settle(self) -> None:
        """Let the network be its average, where one is kept; no step comes after."""
        if self._average is not None:
            _copy(self._average.module.state_dict(), self.net)
            self._average = None


def _average_of(decay: float) -> Any:
    return get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]


def _copy(weights: Mapping[str, Tensor], net: nn.Module) -> None:
    """Copy a state_dict in place, for a graph holds the addresses."""
    with torch.no_grad():
        for name, value in net.state_dict().items():
            value.copy_(weights[name])


def _groups(
    net: nn.Module, config: TrainConfig, body: Collection[str]
) -> list[tuple[float, list[nn.Parameter]]]:
    """Return parameters by the share of the learning rate that they take."""
    share = config.lr_body / config.lr if body else 1.0
    if share == 1.0:
        return [(1.0, [*net.parameters()])]
    groups: list[tuple[float, list[nn.Parameter]]] = [(1.0, []), (share, [])]
    loaded = names_of_body(net, body)
    for name, parameter in net.named_parameters():
        groups[name in loaded][1].append(parameter)
    return [group for group in groups if group[1]]
