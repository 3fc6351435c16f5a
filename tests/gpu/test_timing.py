"""Milliseconds are those of the device's work, not of handing it over."""

import pytest
import torch

from sat_optuna.bench.inference_plan import plan_inference
from sat_optuna.cost.latency import fit_latency
from sat_optuna.cost.timing import interleaved_ms, network_ms
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from tests.gpu.made import SHAPE, supernet

pytestmark = pytest.mark.gpu


def test_the_clock_stops_when_the_card_has_finished(card):
    factor = torch.randn(4096, 4096, device=card)

    def work():
        for _ in range(20):
            factor @ factor

    work()
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begun.record()
    work()
    ended.record()
    ended.synchronize()
    times = interleaved_ms({"work": work, "nothing": lambda: None}, device=card, rounds=6)
    assert min(times["work"]) > 0.5 * begun.elapsed_time(ended)
    # Work that one pass left behind would be counted in the other.
    assert max(times["nothing"]) < 0.1 * min(times["work"])


def test_networks_and_schemes_are_timed(device):
    net = supernet(device)
    nets = {text: materialise(net, Scheme.parse(text)) for text in ("00-0-0", "11-1-1")}
    times = network_ms(nets, SHAPE, batch=4, rounds=6)
    assert all(len(passed) == 6 and min(passed) > 0 for passed in times.values())
    model = fit_latency(net, SHAPE, batch=4, rounds=6)
    assert model.predict(Scheme.parse("11-1-1")) > 0


def test_the_inference_benchmark_is_planned_on_the_device(card):
    plan = plan_inference("resnet50", modules=["dia"], resolution=64, batch=2, rounds=6)
    assert next(plan.supernet([plan.plain.spec]).parameters()).device.type == card.type
