"""Costs: counted by hand, against another counter, and added up without building anything."""

from itertools import cycle, islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sat_optuna.attention import OWN, build_attention
from sat_optuna.backbones import build_backbone
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.cost.operations import Cost, CostModel, measure
from sat_optuna.errors import SchemeError
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec
from tests.networks import BLOCKS, KINDS, SHAPE, images, name_of, schemes, tiny_supernet

# Beside KINDS, several kinds that each share in their own way.
MIXED = (
    AttentionSpec(kind="cbam", sharing="stage"),
    AttentionSpec(kind="srm"),
    AttentionSpec(kind="bam", sharing="stage"),
    AttentionSpec(kind="simam"),
)
_built: dict[str, tuple[Supernet, CostModel]] = {}


@pytest.mark.parametrize("specs", [*KINDS, MIXED], ids=name_of)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_the_model_says_what_the_materialised_network_measures(specs, data):
    scheme = data.draw(schemes(kinds=len(specs)))
    name = name_of(specs)
    if name not in _built:
        net = tiny_supernet(specs)
        _built[name] = net, CostModel(net, SHAPE)
    net, model = _built[name]
    assert model.cost(scheme) == measure(materialise(net, scheme), SHAPE)


def test_a_foreign_network():
    shape = (3, 32, 32)
    net = Supernet(
        "resnet18",
        attention=[AttentionSpec(kind="se", sharing="stage"), "sge"],
        in_channels=3,
        classes=5,
        seed=0,
    )
    model = CostModel(net, shape)
    for text in ("00-00-00-00", "11-01-22-12", "20-00-10-00"):
        scheme = Scheme.parse(text)
        assert model.cost(scheme) == measure(materialise(net, scheme), shape)


def test_attention_that_the_network_brings_with_it_counts_where_it_is_connected():
    net = Supernet(
        "timm:mobilenetv3_small_050", attention=[OWN, "eca"], in_channels=3, classes=5, seed=0
    )
    shape = (3, 64, 64)
    model = CostModel(net, shape)
    for choices in ((0,), (1,), (2,), (0, 1, 2)):
        scheme = Scheme.of(islice(cycle(choices), sum(net.stages)), net.stages)
        assert model.cost(scheme) == measure(materialise(net, scheme), shape)
    plain = Scheme.uniform(net.stages, 0)
    own = sum(p.numel() for stage in net.stage_attention for p in stage.parameters())
    eca = model.cost(Scheme.uniform(net.stages, 2)).params - model.cost(plain).params
    full = model.cost(Scheme.uniform(net.stages, 1)).params
    assert full - model.cost(plain).params == own - eca


def test_images_too_small_are_refused():
    with pytest.raises(BackboneError, match="do not go through resnet20"):
        CostModel(tiny_supernet(), (3, 16, 16))


def test_bottlenecks_too():
    net = tiny_supernet(["se", "dia"], backbone="resnet164")
    model = CostModel(net, SHAPE)
    for text in ("00-000-0", "11-111-1", "20-122-2"):
        scheme = Scheme.parse(text)
        assert model.cost(scheme) == measure(materialise(net, scheme), SHAPE)


def test_a_shared_module_counts_once_a_stage_where_it_is_used():
    net = tiny_supernet(["dia"])
    model = CostModel(net, SHAPE)
    params = {t: model.cost(Scheme.parse(t)).params for t in ("00-000-0", "00-010-0", "00-111-0")}
    own = sum(p.numel() for p in net.stage_attention[1].parameters())
    assert params["00-010-0"] == params["00-111-0"] == params["00-000-0"] + own


def test_a_scheme_that_does_not_fit_is_refused():
    with pytest.raises(SchemeError, match="stages"):
        CostModel(tiny_supernet(), SHAPE).cost(Scheme.parse("1-1"))


def test_counting_leaves_the_network_as_it_was():
    net = tiny_supernet(["se", "dia"])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    CostModel(net, SHAPE)
    measure(materialise(net, Scheme.uniform(BLOCKS, 1)), SHAPE)
    assert all(module.training for module in net.modules())
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "shape", "macs"),
    [
        ("resnet20", (3, 32, 32), 40_551_040),  # 40.55 M, the number usually printed
        ("resnet56", (3, 32, 32), 125_485_696),
    ],
)
def test_multiply_adds_of_known_networks(name, shape, macs):
    backbone = build_backbone(name, in_channels=3, classes=10)
    assert measure(backbone, shape).macs == macs


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (1, 5), groups=2, bias=False),
        nn.ConvTranspose2d(4, 6, 3, stride=2),
        nn.Linear(7, 5),
        nn.Linear(7, 5, bias=False),
    ],
    ids=repr,
)
def test_multiply_adds_agree_with_the_counter_of_torch(module):
    shape = (4, 9, 7)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, *shape))
    cost = measure(module, shape)
    assert (2 * cost.macs, cost.elementwise) == (counter.get_total_flops(), 0)


class Products(nn.Module):
    def forward(self, x):  # (1, 1, 3, 4)
        rows, column = x[0, 0], x[0, 0, 0]
        return (
            torch.baddbmm(torch.zeros(()), x[0], x[0].transpose(1, 2)),  # 3 * 4 * 3
            rows @ column,  # 3 * 4
            torch.addmv(torch.zeros(3), rows, column),  # 3 * 4
            torch.dot(column, column),  # 4
        )


def test_products_that_torchs_counter_does_not_know():
    cost = measure(Products(), (1, 3, 4))
    assert cost == Cost(params=0, macs=36 + 12 + 12 + 4, elementwise=0)


class Attending(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x[..., :3, :], x[..., :3, :])


def test_attention_in_one_kernel_counts_both_its_products():
    # 2 heads, 5 queries by 3 keys, 4 channels each, then the weighted values.
    assert measure(Attending(), (2, 5, 4)).macs == 2 * (5 * 3 * 4 + 5 * 3 * 4)


class Pooled(nn.Module):
    def forward(self, x):  # (1, 4, 6, 6): 144 elements
        return (
            F.adaptive_avg_pool2d(x, 2),
            F.adaptive_max_pool2d(x, 1),
            F.max_pool2d(x, 2),
            x.amax(1),
            x.var((2, 3)),
            x.std((2, 3)),
            x.flatten(2).softmax(-1),
            F.layer_norm(x, (6, 6)),
            F.batch_norm(x, torch.zeros(4), torch.ones(4)),
            torch.sort(x, dim=1),
        )


def test_pooling_norms_and_reductions_count_once_an_element():
    assert measure(Pooled(), (4, 6, 6)) == Cost(params=0, macs=0, elementwise=10 * 144)


class Elements(nn.Module):
    def forward(self, x):  # (1, 4, 6, 5): 120 elements
        y = x.flatten(2).transpose(1, 2).unsqueeze(0)[:, :, ::2]  # views: 0
        y = y + torch.zeros_like(y)  # factory 0, sum 60
        y = torch.relu_(y)  # 60
        means = x.mean((2, 3))  # reads 120
        parts = means.chunk(2, dim=1)  # views: 0
        return F.pad(y, (0, 1)), parts  # writes 15 * 5


def test_other_operations_count_the_elements_they_read_or_write():
    cost = measure(Elements(), (4, 6, 5))
    assert cost == Cost(params=0, macs=0, elementwise=60 + 60 + 120 + 75)


def test_se_by_hand():
    # mean reads C H W; relu 4, sigmoid C; product C H W. Two products with 4 hidden units.
    channels, pixels = 8, 30
    net = nn.Sequential(build_attention("se", channels))
    cost = measure(net, (channels, 6, 5))
    assert cost.macs == 2 * 4 * channels
    assert cost.elementwise == 2 * channels * pixels + 4 + channels
    assert cost.params == 2 * 4 * channels + 4 + channels


def test_latency_is_measured_where_asked_for():
    net = build_backbone("resnet20", in_channels=2, classes=2, width=4, blocks=(1, 1, 1))
    assert measure(net, SHAPE).latency_ms is None
    latency = measure(net, SHAPE, latency=True, batch=2, repeats=3).latency_ms
    assert latency is not None
    assert latency > 0


def test_images_are_those_of_the_network():
    net = build_backbone("resnet20", in_channels=2, classes=2, width=4, blocks=(1, 1, 1)).double()
    assert measure(net, SHAPE).macs == measure(net.float(), SHAPE).macs
    assert net(images(1)).shape == (1, 2)
