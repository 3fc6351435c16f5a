"""How the tests of backbones walk a network, and what must come out of it."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sat_optuna.backbones.view import BlockView, NetworkView, view_of
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import seeded
from sat_optuna.supernet.supernet import walk

SEED = 5


def same(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0)


def slots(view: NetworkView) -> Iterator[BlockView]:
    for blocks in view.blocks:
        yield from blocks


def walked_plain(view: NetworkView, x: Tensor) -> Tensor:
    """The walk under the scheme of zeros; nobody may ask for a module."""
    return walk(view, [None] * len(view.blocks), Scheme.uniform(view.stage_sizes, 0), x)  # type: ignore[list-item]


class OwnEverywhere:
    """Gives each block of a stage the attention that it carries itself."""

    def __init__(self, blocks: tuple[BlockView, ...]) -> None:
        self.blocks = blocks

    def module_for(self, choice: int, block: int, /) -> Callable[..., Any]:
        slot = self.blocks[block]
        assert slot.own is not None
        module = slot.own.module_of(slot.module)
        assert module is not None
        return lambda features, state: (module(features), state)


def walked_with_own(view: NetworkView, x: Tensor) -> Tensor:
    sources = [OwnEverywhere(blocks) for blocks in view.blocks]
    return walk(view, sources, Scheme.uniform(view.stage_sizes, 1), x)


def assert_walk_is_forward(model: nn.Module, x: Tensor) -> None:
    """Bit for bit: logits in eval; logits, gradients and buffers in train mode, of equal seeds."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        logits = model.eval()(x)
        assert logits.isfinite().all()
        assert logits.std() > 0
        same(walked_plain(view_of(twin.eval()), x), logits)
    results = []
    for net, call in ((model, model), (twin, lambda x: walked_plain(view_of(twin), x))):
        net.train()
        with seeded("walk", SEED):
            logits = call(x)
        torch.autograd.backward(logits.square().mean())
        gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        results.append((logits, gradients, dict(net.named_buffers())))
    (logits, gradients, buffers), (other, other_gradients, other_buffers) = results
    same(other, logits)
    assert gradients
    assert other_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        same(other_gradients[name], gradient)
    for name, buffer in buffers.items():
        same(other_buffers[name], buffer)
