"""Training steps recorded as CUDA graphs: the usual step, its continuation, several at a time.

A step that could not be recorded warns, and warnings are errors here.
"""

import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sat_optuna.errors import SatOptunaWarning
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import seeded
from sat_optuna.supernet.materialise import materialise
from sat_optuna.training.checkpoint import load_tensors, read_record
from sat_optuna.training.loop import Checkpoint, Training, fit, fit_together
from sat_optuna.training.precision import Arithmetic
from sat_optuna.training.step import TrainingStep
from tests.gpu.made import CONFIG, assert_same, draw, images, supernet, weights
from tests.training.test_loop import Stop, stop_after

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("same_kernels", "exact_floats")]
PLAIN = replace(CONFIG, precision="float32", memory_format="contiguous", strategy="eager")
GRAPH = replace(PLAIN, strategy="graph")


def network(device, scheme="10-1-1", *, seed=0):
    """A network of one scheme, with dropout, and with a layer that no pass uses."""
    made = supernet(device, ("cbam",), seed=seed)
    made.backbone.head.insert(-1, nn.Dropout(0.5))
    net = materialise(made, Scheme.parse(scheme))
    with seeded("unused"):
        net.unused = nn.Linear(2, 2)
    return net.to(device)


@pytest.mark.parametrize(
    ("arithmetic", "momentum"),
    [
        (Arithmetic("float32", "contiguous"), 0.9),
        (Arithmetic("float32", "contiguous"), 0.0),
        (Arithmetic("float32", "channels_last"), 0.9),  # what `auto` means
        (Arithmetic("bfloat16", "channels_last"), 0.9),
    ],
)
def test_a_recorded_step_is_the_usual_one_to_the_bit(device, arithmetic, momentum):
    """From the first step on: what the recording did itself is undone, draws of dropout too."""
    config = replace(PLAIN, momentum=momentum, nesterov=momentum > 0)
    batches = list(images(80, device).batches(None, 16))
    # A graph reads its learning rate in float32.
    rates = [float(np.float32(rate)) for rate in (0.02, 0.013, 0.1, 0.003, 0.0)]
    found = []
    for strategy in ("eager", "graph"):
        net = network(device).train()
        step = TrainingStep(net, config, arithmetic, strategy)
        with seeded("forward", 0, 0, device=device):
            made = [step(*batch, rate=rate) for batch, rate in zip(batches, rates, strict=True)]
            drawn = [torch.rand(3), torch.rand(3, device=device)]  # what comes next
        losses = {str(number): loss for number, (loss, _) in enumerate(made)}
        hits = {f"hits {number}": hits for number, (_, hits) in enumerate(made)}
        states = {"cpu": drawn[0], "device": drawn[1]}
        found.append(losses | hits | states | weights(net) | step.momentum())
        assert net.unused.weight.grad is None
    assert_same(*found)


def test_a_training_by_graph_is_the_usual_one(device):
    usual, graph = (
        fit(network(device), images(96, device), epochs=2, seed=0, config=config)
        for config in (PLAIN, GRAPH)
    )
    assert [one.loss for one in graph] == pytest.approx([one.loss for one in usual], rel=1e-2)
    assert graph[-1].loss < graph[0].loss


def test_a_continued_training_ends_with_the_bits_of_an_unbroken_one(device, tmp_path):
    config, data = GRAPH, images(32, device)
    unbroken, continued = network(device), network(device, seed=9)
    history = fit(unbroken, data, epochs=3, seed=1, config=config)
    mine = Checkpoint(tmp_path / "net.safetensors", "mine")
    again = partial(fit, images=data, epochs=3, seed=1, config=config, checkpoint=mine)
    with pytest.raises(Stop):
        again(network(device), on_event=stop_after(0))
    told = again(continued)
    assert told == history
    assert_same(weights(continued), weights(unbroken))
    assert read_record(mine.path)["strategy"] == "graph"


def test_a_last_batch_that_is_smaller_goes_through_too(device):
    pixels, labels = torch.randn(40, 3, 16, 16), torch.arange(40) % 4
    loader = DataLoader(TensorDataset(pixels, labels), 16)  # 16, 16 and 8
    usual, graph = (
        fit(network(device), loader, epochs=1, seed=1, config=config)[0]
        for config in (PLAIN, GRAPH)
    )
    assert graph.loss == pytest.approx(usual.loss, rel=1e-2)


def test_a_network_that_was_moved_is_recorded_anew(device):
    batches = list(images(64, device).batches(None, 16))
    nets = [network(device).train() for _ in range(2)]
    arithmetic = Arithmetic("float32", "contiguous")
    steps = [TrainingStep(net, PLAIN, arithmetic, "graph") for net in nets]
    for number, batch in enumerate(batches):
        if number == 2:
            for parameter in nets[1].parameters():
                parameter.data = parameter.data.clone()
        for step in steps:
            with seeded("forward", number, device=device):
                step(*batch, rate=0.02)
    assert_same(weights(nets[0]), weights(nets[1]))


def trainings(folder, device):
    """Other schemes, seeds, lengths and strategies, some with dropout."""

    def training(name, net, **given):
        checkpoint = Checkpoint(folder / name, name)
        asked = {"epochs": 2, "config": GRAPH, "checkpoint": checkpoint, **given}
        return Training(net, images(32, device), **asked)

    def without_dropout(scheme):
        return materialise(supernet(device), Scheme.parse(scheme))

    return [
        training("one", network(device), seed=1),
        training("other seed", network(device), seed=2),
        training("other scheme", network(device, "00-0-1"), seed=1, epochs=3),
        training("no dropout", without_dropout("11-1-1"), seed=1),
        training("plain", without_dropout("00-0-0"), seed=1),
        training("usual", network(device), seed=1, config=PLAIN),
        training("supernet", supernet(device), seed=3, config=PLAIN, draw=draw),
    ]


def test_trained_together_is_trained_one_after_the_other(device, tmp_path):
    alone, together = (trainings(tmp_path / name, device) for name in ("alone", "together"))
    expected = [history for one in alone for history in fit_together([one])]
    before = torch.get_rng_state()
    with seeded("whatever was drawn before", device=device):
        assert list(fit_together(together)) == expected
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(alone, together, strict=True):
        assert_same(weights(one.net), weights(other.net))
        name = str(one.checkpoint and one.checkpoint.path.name)
        assert_same(*(load_tensors(tmp_path / kept / name) for kept in ("alone", "together")))


class Waiting(nn.Module):
    """A network that reads a number from the device in each pass, which changes nothing."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x) * (1.0 if x.sum().item() > float("-inf") else 0.0)


def test_what_cannot_be_recorded_is_said_and_trained_with_the_same_bits(card):
    recorded, waiting = network(card), Waiting(network(card))
    expected = fit(recorded, images(64, card), epochs=2, seed=1, config=GRAPH)
    with pytest.warns(
        SatOptunaWarning, match="cannot be recorded as a CUDA graph .*, and is made"
    ):
        told = fit(waiting, images(64, card), epochs=2, seed=1, config=GRAPH)
    assert told == expected
    assert_same(weights(waiting.net), weights(recorded))


def test_a_recording_that_breaks_leaves_the_generator_in_order(card):
    """In a process of its own, for what breaks there shall break nothing else."""
    program = """
        import warnings
        import torch
        from tests.gpu.test_graph_step import *
        torch.backends.cudnn.deterministic = True

        class Breaking(nn.Module):
            def __init__(self, net):
                super().__init__()
                self.net = net

            def forward(self, x):
                x = self.net(x)
                if torch.cuda.is_current_stream_capturing():
                    torch.cuda.current_stream().synchronize()
                return x

        card = torch.device("cuda:0")
        whole, broken = network(card), Breaking(network(card))
        expected = fit(whole, images(64, card), epochs=2, seed=1, config=GRAPH)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            told = fit(broken, images(64, card), epochs=2, seed=1, config=GRAPH)
        assert any("cannot be recorded as a CUDA graph" in str(one.message) for one in caught)
        assert told == expected
        assert_same(weights(broken.net), weights(whole))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
