"""A training loop written by hand for one network and one GPU: a step is one CUDA graph.

It does what a careful person does who needs no scheme, checkpoint, event or study: the images of
an epoch are shuffled, augmented and normalised at once, and each step copies a batch to where the
graph reads it. On a CPU the same step runs without a graph.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.config.config import TrainConfig
from sat_optuna.data.augment import augment
from sat_optuna.data.images import TensorImages
from sat_optuna.seeds import generator_for
from sat_optuna.training.precision import Arithmetic, fastest_kernels
from sat_optuna.training.step import learning_rate

__all__ = ["GraphedLoop"]

_WARM_UP = 3  # steps before the capture, in which kernels are chosen and libraries are loaded


class GraphedLoop:
    """Trains a network on images that lie on its device.

    Args:
        net: trained in place; called as `net(x)`.
        images: what it is trained on, at least a batch.
        config: optimiser, schedule and augmentation.
        arithmetic: in float32 or bfloat16.
    """

    def __init__(
        self, net: nn.Module, images: TensorImages, config: TrainConfig, arithmetic: Arithmetic
    ) -> None:
        self.net, self.images, self.config, self.arithmetic = net, images, config, arithmetic
        self.device = images.device
        arithmetic.put(net.train(), self.device)
        shape = (config.batch, *images.shape)
        self.x = torch.zeros(shape, device=self.device).contiguous(memory_format=arithmetic.layout)
        self.labels = torch.zeros(config.batch, dtype=torch.int64, device=self.device)
        self.rate = torch.zeros((), device=self.device)
        self.loss = torch.zeros((), device=self.device)
        self.optimizer = torch.optim.SGD(
            net.parameters(),
            lr=self.rate,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.graph = self._captured() if self.device.type == "cuda" else None

    def run(self, *, epochs: int, seed: int) -> list[float]:
        """Train so many epochs; return the mean loss of each."""
        steps = len(self.images) // self.config.batch
        means = []
        for epoch in range(epochs):
            x, labels = self._epoch(epoch, steps, seed)
            losses = torch.zeros((), device=self.device)
            for step in range(steps):
                self.x.copy_(x[step])
                self.labels.copy_(labels[step])
                self.rate.fill_(
                    learning_rate(self.config, step=epoch * steps + step, steps=epochs * steps)
                )
                if self.graph is None:
                    self._step()
                else:
                    self.graph.replay()
                losses += self.loss
            means.append(float(losses) / steps)
        return means

    def _epoch(self, number: int, steps: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return the batches of an epoch: (steps, N, C, H, W) and (steps, N)."""
        config, images = self.config, self.images
        drawn = generator_for("order", seed, number)
        rows = torch.randperm(len(images), generator=drawn)[: steps * config.batch]
        chance = generator_for("augment", seed, number, device=self.device)

        def jitter(pixels: Tensor) -> Tensor:
            return augment(
                pixels, chance, shift=config.shift, flip=config.flip, cutout=config.cutout
            )

        x, labels = next(images.batches(rows, len(rows), augment=jitter))
        return x.view(steps, -1, *x.shape[1:]), labels.view(steps, -1)

    def _step(self) -> None:
        mixed = self.arithmetic.precision != "float32"
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(
            self.device.type, self.arithmetic.dtype, enabled=mixed, cache_enabled=False
        ):
            loss = F.cross_entropy(
                self.net(self.x), self.labels, label_smoothing=self.config.label_smoothing
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.loss.copy_(loss.detach())

    def _captured(self) -> torch.cuda.CUDAGraph:
        """Capture a step, and put back what the steps of the warm-up changed."""
        before = copy.deepcopy(self.net.state_dict())
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with fastest_kernels(self.device):
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    self._step()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            self.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph):
                self._step()
        with torch.no_grad():
            for name, value in self.net.state_dict().items():
                value.copy_(before[name])
            for state in self.optimizer.state.values():
                state["momentum_buffer"].zero_()
        return graph
