"""BatchNorm with one weight, and statistics for each block that shares it."""

import pytest
import torch
from torch import nn

from sat_optuna.attention.norm import SharedBatchNorm
from tests.networks import images

KINDS = {nn.BatchNorm1d: (5,), nn.BatchNorm2d: (5, 3, 4)}

every_form = pytest.mark.parametrize(("kind", "shape"), KINDS.items(), ids=["1d", "2d"])


def pair(kind):
    """Ours, shared by two blocks, and torch's, with equal weights."""
    ours, theirs = SharedBatchNorm(5, blocks=["0", "1"], kind=kind), kind(5)
    with torch.no_grad():
        for value in (ours.weight, theirs.weight):
            value.copy_(torch.linspace(0.5, 2, 5))
        for value in (ours.bias, theirs.bias):
            value.copy_(torch.linspace(-1, 1, 5))
    return ours, theirs


@every_form
def test_for_each_block_it_is_a_batchnorm(kind, shape):
    ours, theirs = pair(kind)
    for seed in range(3):
        x = images(4, seed=seed, shape=shape) + 2
        torch.testing.assert_close(ours(x, "1"), theirs(x))
    there, here = ours.statistics["0"], ours.statistics["1"]
    torch.testing.assert_close(here.running_mean, theirs.running_mean, rtol=0, atol=0)
    torch.testing.assert_close(here.running_var, theirs.running_var, rtol=0, atol=0)
    assert int(there.num_batches_tracked) == 0
    x = images(4, seed=9, shape=shape)
    torch.testing.assert_close(ours.eval()(x, "1"), theirs.eval()(x))
    assert not torch.equal(ours(x, "0"), ours(x, "1"))


@every_form
def test_a_single_value_is_normalised_by_what_is_known(kind, shape):
    ours, _ = pair(kind)
    ours(images(8, shape=shape), "0")
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    x = images(1, seed=1, shape=(5, *(1 for _ in shape[1:])))
    y = ours(x, "0")
    torch.testing.assert_close(y, ours.eval()(x, "0"))
    for name, value in ours.state_dict().items():
        assert torch.equal(value, before[name])


def test_dropped_blocks_are_gone():
    ours, _ = pair(nn.BatchNorm2d)
    ours.keep(["1"])
    assert [name for name in ours.state_dict() if name.startswith("statistics")] == [
        "statistics.1.running_mean",
        "statistics.1.running_var",
        "statistics.1.num_batches_tracked",
    ]
    assert [name for name, _ in ours.named_parameters()] == ["weight", "bias"]
