"""Costs: counted by hand, against another counter, and added up without building anything."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sat_optuna.attention import build_attention
from sat_optuna.backbones import build_backbone
from sat_optuna.cost import Cost, CostModel, latencies_ms, measure
from sat_optuna.errors import SchemeError
from sat_optuna.scheme import Scheme
from sat_optuna.surgery import materialise
from tests.networks import BLOCKS, KINDS, SHAPE, images, name_of, schemes, tiny_supernet

_models: dict[str, CostModel] = {}


@pytest.mark.parametrize("specs", KINDS, ids=name_of)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_the_model_says_what_the_materialised_network_measures(specs, data):
    scheme = data.draw(schemes(kinds=len(specs)))
    net = tiny_supernet(specs)
    model = _models.setdefault(name_of(specs), CostModel(net, SHAPE))
    assert model.cost(scheme) == measure(materialise(net, scheme), SHAPE)


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


class Batched(nn.Module):
    def forward(self, x):
        return torch.baddbmm(x[0] @ x[0].transpose(1, 2), x[0], x[0].transpose(1, 2))


def test_batched_products():
    # (2, 3, 4) by (2, 4, 3), twice: 2 * 2 * 3 * 3 * 4
    assert measure(Batched(), (2, 3, 4)) == Cost(params=0, macs=144, elementwise=0)


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


class Witness(nn.Module):
    """Notes when and how it is called."""

    def __init__(self, name: str, calls: list[Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.name, self.calls = name, calls

    def forward(self, x):
        self.calls.append((self.name, self.training, torch.is_inference_mode_enabled(), x.shape))
        assert x.dtype == torch.float64
        return x


def test_latencies_take_turns_in_eval_and_inference_mode():
    calls: list[Any] = []
    models = {name: Witness(name, calls) for name in ("a", "b", "c")}
    models["c"].eval()
    timed = latencies_ms(models, SHAPE, batch=3, repeats=6)
    assert list(timed) == ["a", "b", "c"]
    assert all(value > 0 for value in timed.values())
    assert {call[1:] for call in calls} == {(False, True, torch.Size((3, *SHAPE)))}
    rounds = ["".join(call[0] for call in calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert rounds == ["abc", "bca", "cab"] * 3  # 3 to warm up, then 6
    assert [model.training for model in models.values()] == [True, True, False]


def test_no_network_takes_no_time():
    assert latencies_ms({}, SHAPE, batch=1, repeats=1) == {}


def test_images_are_those_of_the_network():
    net = build_backbone("resnet20", in_channels=2, classes=2, width=4, blocks=(1, 1, 1)).double()
    assert measure(net, SHAPE).macs == measure(net.float(), SHAPE).macs
    assert net(images(1)).shape == (1, 2)
