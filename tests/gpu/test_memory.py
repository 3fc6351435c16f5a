"""Memory that is really used up: one sentence, and everything goes on with smaller batches."""

import gc
from contextlib import nullcontext
from dataclasses import replace

import optuna
import pytest
import torch

from sat_optuna.config.config import TrainConfig
from sat_optuna.device import DeviceMemoryError
from sat_optuna.errors import SatOptunaWarning
from sat_optuna.evaluate import Evaluator
from sat_optuna.scheme import Scheme
from sat_optuna.search.objective import SupernetObjective, TrainObjective
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.training.loop import fit
from tests.gpu.made import assert_same, images, split, weights

pytestmark = pytest.mark.gpu
ROOM = 2**30  # bytes
LARGE = 16384  # images, of which one takes 64 KiB in each layer of the first stage


@pytest.fixture
def little_memory(card):
    """A GPU of which this process may have no more than ROOM beside what it has."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(card).total_memory
    # cuBLAS keeps a workspace for each stream that tests before this one have used.
    held = torch.cuda.memory_reserved(card)
    torch.cuda.set_per_process_memory_fraction((held + ROOM) / total, card)
    yield card
    torch.cuda.set_per_process_memory_fraction(1.0, card)
    gc.collect()
    torch.cuda.empty_cache()


def wide(device):
    return Supernet(
        "resnet20", attention=("se",), in_channels=3, classes=4, seed=0, width=64, blocks=(1, 1, 1)
    ).to(device)


@pytest.mark.parametrize("strategy", ["eager", "graph"])
@pytest.mark.parametrize("draw", [None, lambda _: Scheme.parse("1-0-1")], ids=["net", "supernet"])
def test_training_says_it_and_goes_on_with_smaller_batches(little_memory, strategy, draw):
    config = TrainConfig(batch=LARGE, strategy=strategy)
    net, data = wide(little_memory), images(LARGE, little_memory)
    net = net if draw else net.backbone
    # Graphs of a supernet take more memory than its steps without them, which are tried then.
    tried = draw and strategy == "graph"
    warned = pytest.warns(SatOptunaWarning, match="cannot be recorded as a CUDA graph")
    with (
        warned if tried else nullcontext(),
        pytest.raises(DeviceMemoryError, match=rf"in batches of {LARGE} images \(.*iB more"),
    ):
        fit(net, data, epochs=1, seed=0, config=config, draw=draw)
    gc.collect()
    few = data.subset(torch.arange(64))
    fit(net, few, epochs=1, seed=0, config=replace(config, batch=32), draw=draw)


def test_scoring_says_it_and_leaves_the_network_as_it_was(little_memory):
    net, data = wide(little_memory), images(LARGE, little_memory)
    before = weights(net)
    with pytest.raises(DeviceMemoryError, match=rf"in chunks of {LARGE} images .* smaller chunk"):
        Evaluator(net, data, chunk=LARGE).score_all()
    gc.collect()
    assert_same(weights(net), before)
    assert len(Evaluator(net, data, chunk=256).score_all()) == 8


def test_a_study_goes_on(little_memory):
    net, data = wide(little_memory), split(LARGE, little_memory)
    study = optuna.create_study(direction="maximize")
    objective = TrainObjective(net, data, epochs=1, config=TrainConfig(batch=LARGE // 2))
    with pytest.raises(DeviceMemoryError):
        study.optimize(objective, n_trials=1)
    gc.collect()
    other = optuna.create_study(direction="maximize")
    other.optimize(SupernetObjective(net, data, calibration=64), n_trials=2)
    assert [trial.state.name for trial in other.trials] == ["COMPLETE", "COMPLETE"]
    assert [trial.state.name for trial in study.trials] == ["FAIL"]
