"""Modules that start as the identity: to the bit, and able to learn."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sat_optuna.attention import build_attention
from sat_optuna.attention.contract import Attention, AttentionError
from sat_optuna.seeds import seeded
from tests.attention.test_contract import UNREACHED
from tests.networks import OURS, images

CHANNELS = 16

every_kind = pytest.mark.parametrize("kind", OURS)


def built(kind: str, **settings: Any) -> Attention:
    with seeded("identity", kind):
        return build_attention(kind, CHANNELS, **settings)


def features(size: int = 5, seed: int = 0) -> Tensor:
    return images(6, seed=seed, shape=(CHANNELS, size, size))


@every_kind
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_equals_input_to_the_bit_over_two_chained_calls(kind, mode, autocast, dtype):
    module = built(kind, identity=True).train(mode)
    if not autocast:
        module.to(dtype)
    for x in (features().to(dtype), features(1).to(dtype), 1e3 * features(4, seed=1).to(dtype)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y, state = module(x)
            z, _ = module(y, state)
        assert y.dtype == z.dtype == dtype
        assert torch.equal(y, x)
        assert torch.equal(z, x)


@every_kind
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_one_step_of_sgd_moves_it_away(kind, mode):
    module = built(kind, identity=True).train(mode)
    x = features()
    loss = (module(x)[0] * images(6, seed=5, shape=x.shape[1:])).sum()
    loss.backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert all(bool(p.isfinite().all()) for p in module.parameters())
    assert not torch.equal(module.eval()(x)[0], x)


@every_kind
def test_all_its_parameters_learn_within_a_few_steps(kind):
    module = built(kind, identity=True)
    start = {name: value.detach().clone() for name, value in module.named_parameters()}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for seed in range(3):
        optimizer.zero_grad()
        y, state = module(features(seed=seed))
        y, _ = module(y, state)
        (y * images(6, seed=5, shape=y.shape[1:])).mean().backward()
        optimizer.step()
    still = [name for name, value in module.named_parameters() if torch.equal(value, start[name])]
    assert {*still} <= {*UNREACHED.get(kind, {})}


@every_kind
def test_it_adds_one_parameter_where_it_blends_and_else_none(kind):
    plain, ours = (
        sum(p.numel() for p in built(kind, **settings).parameters())
        for settings in ({}, {"identity": True})
    )
    assert ours - plain == (kind in ("bam", "simam"))


@every_kind
def test_off_is_the_default(kind):
    x = features()
    default, off = built(kind).eval(), built(kind, identity=False).eval()
    assert torch.equal(default(x)[0], off(x)[0])
    assert not torch.equal(default(x)[0], x)
    for one, other in zip(default.parameters(), off.parameters(), strict=True):
        assert torch.equal(one, other)


@every_kind
@pytest.mark.parametrize("value", [1, 0, "true", math.nan])
def test_it_is_true_or_false(kind, value):
    with pytest.raises(AttentionError, match=rf"^{kind} has identity = .*; write true or false$"):
        build_attention(kind, CHANNELS, identity=value)
