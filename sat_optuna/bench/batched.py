"""Networks of one scheme and several seeds trained in one batched step, by torch.func.

It does the work of a step once for all of them: their weights are stacked, and convolutions become
grouped ones. The sums are the same and their order is not, so the last bits differ from those of
networks trained alone. It is measured against networks that take turns.
"""

import copy
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.config.config import TrainConfig

__all__ = ["BatchedStep"]

_Tensors: TypeAlias = dict[str, Tensor]


class BatchedStep:
    """One step of SGD for K networks that differ in their weights alone.

    Args:
        nets: K networks of one architecture, in train mode; `store` writes into them.
        config: momentum, weight decay and label smoothing.

    Attributes:
        weights: by name, the parameters of all networks stacked, (K, ...).
        statistics: likewise the buffers.
        momentum: likewise the momentum of the parameters.
        rate: the learning rate, (), which the caller fills.
    """

    def __init__(self, nets: Sequence[nn.Module], config: TrainConfig) -> None:
        self.nets, self.config = tuple(nets), config
        weights, statistics = torch.func.stack_module_state([*nets])
        self.weights: _Tensors = {name: value.detach() for name, value in weights.items()}
        self.statistics: _Tensors = statistics
        self.momentum = {name: torch.zeros_like(value) for name, value in self.weights.items()}
        like = next(iter(self.weights.values()))
        self.rate = torch.zeros((), dtype=like.dtype, device=like.device)
        self._shape = copy.deepcopy(nets[0]).to("meta")  # the forward, without weights
        gradients = torch.func.grad_and_value(self._loss, has_aux=True)
        self._gradients = torch.func.vmap(gradients, randomness="different")

    def __call__(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Make one step of all networks.

        Args:
            x: (K, N, C, H, W), a batch for each network.
            labels: (K, N) int64.

        Returns:
            The losses (K,), and how many images each network classified right, (K,).
        """
        gradients, (losses, (hits, statistics)) = self._gradients(
            self.weights, self.statistics, x, labels
        )
        with torch.no_grad():
            for name, value in statistics.items():
                self.statistics[name].copy_(value)
            self._update([*self.weights.values()], [gradients[name] for name in self.weights])
        return losses, hits

    def state(self) -> list[Tensor]:
        """Return all that a step changes."""
        parts = (self.weights, self.statistics, self.momentum)
        return [value for part in parts for value in part.values()]

    def store(self) -> None:
        """Write weights and statistics into the networks."""
        for name, value in (self.weights | self.statistics).items():
            for net, one in zip(self.nets, value, strict=True):
                net.state_dict()[name].copy_(one)

    def _loss(
        self, weights: _Tensors, statistics: _Tensors, x: Tensor, labels: Tensor
    ) -> tuple[Tensor, tuple[Tensor, _Tensors]]:
        logits = torch.func.functional_call(self._shape, (weights, statistics), (x,))
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        return loss, ((logits.detach().argmax(1) == labels).sum(), statistics)

    def _update(self, weights: list[Tensor], gradients: list[Tensor]) -> None:
        """SGD as torch.optim writes it."""
        config, momentum = self.config, [*self.momentum.values()]
        gradients = list(torch._foreach_add(gradients, weights, alpha=config.weight_decay))
        torch._foreach_mul_(momentum, config.momentum)
        torch._foreach_add_(momentum, gradients)
        if config.nesterov:
            torch._foreach_add_(gradients, momentum, alpha=config.momentum)
        else:
            gradients = momentum
        torch._foreach_sub_(weights, torch._foreach_mul(gradients, self.rate))
