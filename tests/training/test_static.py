"""The static step is the usual one: the same weights, momentum and records, bit for bit."""

import gc
import weakref
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from sat_optuna.bench.training_plan import Network
from sat_optuna.config.config import TrainConfig
from sat_optuna.data.split import Split
from sat_optuna.errors import CheckpointError, SatOptunaWarning
from sat_optuna.scheme import Scheme
from sat_optuna.search.objective import TrainObjective
from sat_optuna.supernet.materialise import materialise
from sat_optuna.training import step as steps
from sat_optuna.training.checkpoint import load_tensors, read_record, save_checkpoint
from sat_optuna.training.loop import Checkpoint, fit
from sat_optuna.training.precision import Arithmetic
from sat_optuna.training.static import recorded
from sat_optuna.training.step import TrainingStep, strategy_for, together_for
from tests.training.test_loop import (
    CONFIG,
    Stop,
    TestUserImages,
    assert_same,
    images,
    stop_after,
    supernet,
    supernet_with_dropout,
    weights,
)

GRAPH = replace(CONFIG, strategy="graph")
CPU, GPU = torch.device("cpu"), torch.device("cuda")


class WithUnused(nn.Module):
    """A network of one scheme, with dropout, and with a layer that no pass uses."""

    def __init__(self, seed=0):
        super().__init__()
        self.net = materialise(supernet_with_dropout(), Scheme.parse("1-0-1"))
        self.unused = nn.Linear(3, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(seed)

    def forward(self, x):
        return self.net(x)


def trained(path, net, **more):
    """Return the records of three epochs, and all tensors that the checkpoint has."""
    checkpoint = Checkpoint(path, "mine")
    history = fit(net, images(), seed=1, checkpoint=checkpoint, **{"epochs": 3, **more})
    return history, load_tensors(path)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_the_static_step_is_the_usual_one_to_the_bit(tmp_path, precision, memory_format, momentum):
    way = {"precision": precision, "memory_format": memory_format}
    way |= {"momentum": momentum, "nesterov": momentum > 0}
    nets = [WithUnused(), WithUnused()]
    nets[1].load_state_dict(nets[0].state_dict())
    before = nets[0].unused.weight.clone()
    usual, static = (
        trained(tmp_path / config.strategy, net, config=replace(config, **way))
        for net, config in zip(nets, (CONFIG, GRAPH), strict=True)
    )
    assert static[0] == usual[0]  # losses, accuracies and rates
    assert_same(static[1], usual[1])  # weights, statistics and momentum
    assert any(name.startswith("momentum.") for name in static[1]) == (momentum > 0)
    assert torch.equal(nets[1].unused.weight, before)
    assert nets[1].unused.weight.grad is None
    stored = [read_record(tmp_path / name)["strategy"] for name in ("auto", "graph")]
    assert stored == ["eager", "graph"]


def test_gradients_from_before_count_for_nothing():
    fresh, used = supernet(), supernet()
    for parameter in used.parameters():
        parameter.grad = torch.ones_like(parameter)
    plain, other = (materialise(net, Scheme.parse("0-0-0")) for net in (fresh, used))
    for net in (fresh, used):
        net.forward = partial(net.forward, scheme=Scheme.parse("1-0-0"))
        fit(net, images(), epochs=1, seed=1, config=GRAPH)
    assert_same(weights(fresh), weights(used))
    assert_same(weights(plain), weights(other))


def test_a_static_training_goes_on_from_its_checkpoint(tmp_path):
    unbroken, begun, continued = (WithUnused(seed) for seed in (0, 0, 9))
    begun.load_state_dict(unbroken.state_dict())
    history, tensors = trained(tmp_path / "unbroken", unbroken, config=GRAPH)
    with pytest.raises(Stop):
        trained(tmp_path / "begun", begun, config=GRAPH, on_event=stop_after(0))
    told = trained(tmp_path / "begun", continued, config=GRAPH)
    assert told[0] == history
    assert_same(told[1], tensors)


def test_momentum_is_loaded_where_it_lies():
    arithmetic = Arithmetic("float32", "contiguous")
    step = TrainingStep(supernet(), CONFIG, arithmetic, "graph")
    before = {name: value.data_ptr() for name, value in step.momentum().items()}
    ones = {f"momentum.{k}": torch.ones_like(value) for k, value in step.momentum().items()}
    step.load_state(ones)
    assert {name: value.data_ptr() for name, value in step.momentum().items()} == before
    assert all((value == 1).all() for value in step.momentum().values())


def test_a_last_batch_that_is_smaller_goes_through_too():
    loader = DataLoader(TestUserImages.items, 16)  # 16, 16 and 8
    nets = [materialise(supernet(), Scheme.parse("1-0-1")) for _ in range(2)]
    told = [
        fit(net, loader, epochs=2, seed=1, config=config)
        for net, config in zip(nets, (CONFIG, GRAPH), strict=True)
    ]
    assert told[0] == told[1]
    assert_same(weights(nets[0]), weights(nets[1]))


def test_float16_is_trained_step_by_step():
    net = supernet()
    picked = [
        strategy_for(GRAPH, net, CPU, precision=precision, drawn=False)
        for precision in ("float32", "bfloat16", "float16")
    ]
    assert picked == ["graph", "graph", "eager"]


def test_auto_is_looked_up_by_device_and_parameters(monkeypatch):
    net = nn.Linear(9, 1)  # 10 parameters

    def auto(device, **asked):
        config = TrainConfig(**asked)
        return strategy_for(config, net, device, precision="float32", drawn=False)

    for most, picked in ((9, "eager"), (10, "graph")):
        monkeypatch.setattr(steps, "STRATEGIES", {"cpu": 0, "cuda": most})
        assert (auto(CPU), auto(GPU)) == ("eager", picked)
        assert auto(GPU, compile=True) == "eager"
        assert auto(GPU, compile=True, strategy="graph") == "graph"


@pytest.mark.parametrize(
    ("network", "picked", "drawn", "together"),
    [
        (Network(), "graph", "blocks", 5),
        (Network(width=32), "graph", "blocks", 5),  # the largest supernet that was measured
        (Network(backbone="resnet56"), "graph", "blocks", 5),
        (Network(width=33), "graph", "eager", 1),
        (Network(backbone="resnet56", width=32), "graph", "eager", 1),  # the largest network
        (Network(backbone="resnet56", width=33), "eager", "eager", 1),
    ],
)
def test_what_was_measured_on_a_gpu_is_what_auto_means_there(network, picked, drawn, together):
    supernet, config = network.supernet(), TrainConfig()
    net = materialise(supernet, Scheme.uniform(supernet.stages, 1))
    params = sum(parameter.numel() for parameter in net.parameters())
    assert strategy_for(config, net, GPU, precision="float32", drawn=False) == picked
    assert strategy_for(config, supernet, GPU, precision="float32", drawn=True) == drawn
    assert together_for(config, GPU, params=params) == together
    for one, random in ((net, False), (supernet, True)):
        assert strategy_for(config, one, CPU, precision="float32", drawn=random) == "eager"
    assert together_for(config, CPU, params=params) == 1
    largest = Network(backbone="resnet56", width=32)
    assert (params == steps.STRATEGIES["cuda"]) == (network == largest)
    most = steps.TOGETHER["cuda"][1], steps.SUPERNETS["cuda"]
    assert most.count(params) == 2 * (network == Network(width=32))


def test_a_step_that_nobody_needs_is_gone_at_once():
    """With the memory of its graph, which no allocation would ask for."""
    step = TrainingStep(WithUnused(), CONFIG, Arithmetic("float32", "contiguous"), "graph")
    step(*next(images().batches(None, 8)), rate=0.1)
    held = weakref.ref(step)
    gc.disable()
    try:
        del step
        assert held() is None
    finally:
        gc.enable()


def test_a_training_goes_on_by_the_strategy_it_was_begun_with(tmp_path):
    path, config = tmp_path / "net.safetensors", replace(GRAPH, precision="float32")
    trained(path, WithUnused(), config=config, epochs=1)
    with pytest.raises(
        CheckpointError, match=r"with strategy = 'graph', and train.strategy is 'eager'; move"
    ):
        trained(path, WithUnused(), config=replace(config, strategy="eager"))
    with pytest.warns(SatOptunaWarning, match="contiguous and graph, and goes on so; here"):
        trained(path, WithUnused(), config=replace(config, strategy="auto"))
    assert read_record(path)["strategy"] == "graph"


def test_a_checkpoint_of_an_older_version_was_trained_step_by_step(tmp_path):
    path = tmp_path / "net.safetensors"
    trained(path, WithUnused(), config=CONFIG, epochs=1)
    record = read_record(path)
    del record["strategy"]
    save_checkpoint(path, load_tensors(path), record)
    trained(path, WithUnused(), config=CONFIG)
    assert read_record(path)["strategy"] == "eager"


def test_a_study_holds_its_strategy_and_one_of_an_older_version_goes_on():
    def train_of(config):
        objective = TrainObjective(supernet(), split(), epochs=1, config=config)
        return objective.scored_with()["train"]

    # The keys of version 0.2.0; each that came later is left out where it is at its default.
    keys = "batch lr momentum nesterov weight_decay schedule label_smoothing shift flip cutout"
    older = {key: asdict(CONFIG)[key] for key in f"{keys} precision memory_format".split()}
    assert train_of(CONFIG) == older | {"compile": None}
    assert train_of(GRAPH)["strategy"] == "graph"
    assert train_of(replace(CONFIG, ema=0.9)) == older | {"compile": None, "ema": 0.9}


def split():
    return Split.from_arrays(torch.rand(30, 1, 8, 8), torch.arange(30) % 3)


def test_work_that_takes_more_memory_than_a_plain_step_is_done_without_graphs():
    def full(_capture):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    asked: dict[str, Any] = {"device": torch.device("cpu"), "state": list, "forget": lambda: None}
    with pytest.warns(SatOptunaWarning, match=r"\(CUDA out of memory\. .*\), and is made without"):
        assert recorded(full, takes_more=True, **asked) is None
    with pytest.raises(torch.OutOfMemoryError):
        recorded(full, **asked)
