"""A start at which no scheme can differ is warned of, and no other start."""

import warnings
from functools import partial

import pytest
import timm
import torch
import torchvision

import sat_optuna as sat
from sat_optuna.errors import SatOptunaWarning
from sat_optuna.supernet.start import blind_blocks, warn_of_blind_start
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec

SHAPE = (3, 32, 32)
NAMED = {
    "timm:resnet10t": partial(timm.create_model, "resnet10t", num_classes=4),
    "timm:convnext_atto": partial(timm.create_model, "convnext_atto", num_classes=4),
    "timm without": partial(timm.create_model, "resnet10t", num_classes=4, zero_init_last=False),
    "torchvision": partial(torchvision.models.resnet18, num_classes=4, zero_init_residual=True),
    "torchvision without": partial(torchvision.models.resnet18, num_classes=4),
}


def supernet(network, *kinds):
    specs = [AttentionSpec(kind=kind, settings=settings) for kind, settings in kinds]
    return Supernet(NAMED[network](), attention=specs, seed=0)


IDENTITY = {"identity": True}


@pytest.mark.parametrize(
    ("network", "kind", "blocks"),
    [
        ("timm:resnet10t", "eca", 4),
        ("timm:resnet10t", "sge", 4),
        ("timm:convnext_atto", "gc", 12),
        ("torchvision", "se", 8),
        ("torchvision", "simam", 8),
    ],
)
def test_identity_on_branches_of_nothing_is_warned_of(network, kind, blocks):
    net = supernet(network, (kind, IDENTITY), ("srm", {}))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    assert blind_blocks(net, SHAPE) == {kind: blocks, "srm": 0}
    said = f"^{blocks} of {blocks} blocks of .* adds nothing .* and {kind} begins as the identity"
    with pytest.warns(SatOptunaWarning, match=said):
        warn_of_blind_start(net, SHAPE)
    assert net.training
    assert torch.equal(state, torch.get_rng_state())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("network", "kind"),
    [
        ("timm:resnet10t", ("eca", {})),
        ("timm without", ("eca", IDENTITY)),
        ("torchvision without", ("se", IDENTITY)),
    ],
)
def test_one_of_the_two_alone_is_not(network, kind):
    net = supernet(network, kind)
    assert blind_blocks(net, SHAPE) == {kind[0]: 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_blind_start(net, SHAPE)


def test_whoever_trains_such_a_network_is_warned():
    data = sat.Split.from_arrays(torch.rand(20, 3, 32, 32), torch.arange(20) % 4)
    net = supernet("timm:resnet10t", ("eca", IDENTITY))
    with pytest.warns(SatOptunaWarning, match="cannot tell schemes apart"):
        sat.TrainObjective(net, data, epochs=1)
    with pytest.warns(SatOptunaWarning, match="cannot tell schemes apart"):
        sat.pretrain(net, data, epochs=1, seed=0)
    with pytest.warns(SatOptunaWarning, match="cannot tell schemes apart"):
        sat.pretrain(supernet("torchvision", ("se", IDENTITY)), data.train, epochs=1, seed=0)
