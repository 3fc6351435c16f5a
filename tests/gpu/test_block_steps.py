"""A supernet's steps recorded piece by piece: the usual step, its continuation, others beside it.

What could not be recorded warns, and warnings are errors here.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from sat_optuna.errors import SatOptunaWarning
from sat_optuna.seeds import seeded
from sat_optuna.supernet.random_schemes import draw_scheme
from sat_optuna.ticket import AttentionSpec
from sat_optuna.training.checkpoint import load_tensors, read_record
from sat_optuna.training.loop import Checkpoint, Training, fit, fit_together
from sat_optuna.training.precision import Arithmetic
from sat_optuna.training.step import TrainingStep
from tests.gpu.made import CONFIG, assert_same, images, supernet, weights
from tests.training.test_loop import Stop, stop_after

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("same_kernels", "exact_floats")]
PLAIN = replace(CONFIG, precision="float32", memory_format="contiguous", strategy="eager")
GRAPH = replace(PLAIN, strategy="graph")
FLOAT32 = Arithmetic("float32", "contiguous")
SHARED = AttentionSpec(kind="srm", sharing="stage")


def network(device, *kinds, seed=0):
    """A supernet with dropout, and with a layer that no pass uses."""
    net = supernet(device, kinds or ("cbam",), seed=seed)
    net.backbone.head.insert(-1, nn.Dropout(0.5))
    with seeded("unused"):
        net.unused = nn.Linear(2, 2)
    return net.to(device)


def drawing(net):
    return partial(_draw, net.stages, len(net.specs))


def _draw(stages, kinds, step):
    return draw_scheme(stages, kinds, connect=0.6, draws="iid", seed=3, step=step)


@pytest.mark.parametrize(
    ("kinds", "arithmetic", "momentum"),
    [
        (("cbam",), FLOAT32, 0.9),
        (("se", "eca"), FLOAT32, 0.0),
        (("dia",), FLOAT32, 0.9),
        ((SHARED, "dia", "simam"), FLOAT32, 0.9),
        (("se", "dia"), Arithmetic("float32", "channels_last"), 0.9),  # what `auto` means
        (("se",), Arithmetic("bfloat16", "channels_last"), 0.9),
    ],
    ids=["cbam", "two kinds", "recurrent", "shared", "channels_last", "bfloat16"],
)
def test_steps_in_pieces_are_the_usual_ones_to_the_bit(device, kinds, arithmetic, momentum):
    """From the first step on: what the recording did itself is undone, draws of dropout too."""
    config = replace(PLAIN, momentum=momentum, nesterov=momentum > 0)
    batches = list(images(80, device).batches(None, 16)) * 2
    # A graph reads its learning rate in float32.
    rates = [float(np.float32(rate)) for rate in (0.02, 0.013, 0.1, 0.003, 0.0)] * 2
    found = []
    for strategy in ("eager", "blocks"):
        net = network(device, *kinds).train()
        step, draw = TrainingStep(net, config, arithmetic, strategy), drawing(net)
        with seeded("forward", 0, 0, device=device):
            made = [
                step(*batch, rate=rate, scheme=draw(number))
                for number, (batch, rate) in enumerate(zip(batches, rates, strict=True))
            ]
            drawn = {"cpu": torch.rand(3), "device": torch.rand(3, device=device)}  # what is next
        losses = {f"loss {number}": loss for number, (loss, _) in enumerate(made)}
        hits = {f"hits {number}": hits for number, (_, hits) in enumerate(made)}
        moved = {f"momentum of {name}": value for name, value in step.momentum().items()}
        found.append(losses | hits | drawn | weights(net) | moved)
        assert net.unused.weight.grad is None
    assert_same(*found)


def test_a_continued_training_ends_with_the_bits_of_an_unbroken_one(device, tmp_path):
    unbroken, continued = network(device), network(device, seed=9)
    begun = network(device)
    again = partial(fit, images=images(40, device), epochs=3, seed=1, config=GRAPH)
    history = again(unbroken, draw=drawing(unbroken))
    mine = Checkpoint(tmp_path / "net.safetensors", "mine")
    with pytest.raises(Stop):
        again(begun, draw=drawing(begun), checkpoint=mine, on_event=stop_after(0))
    told = again(continued, draw=drawing(continued), checkpoint=mine)
    assert told == history
    assert_same(weights(continued), weights(unbroken))
    assert read_record(mine.path)["strategy"] == "blocks"


def test_pieces_of_a_network_that_was_moved_are_recorded_anew(device):
    batches = list(images(64, device).batches(None, 16))
    nets = [network(device).train() for _ in range(2)]
    steps = [TrainingStep(net, PLAIN, FLOAT32, "blocks") for net in nets]
    for number, batch in enumerate(batches):
        if number == 2:
            for parameter in nets[1].parameters():
                parameter.data = parameter.data.clone()
        for net, step in zip(nets, steps, strict=True):
            with seeded("forward", number, device=device):
                step(*batch, rate=0.02, scheme=drawing(net)(number))
    assert_same(weights(nets[0]), weights(nets[1]))


def test_trained_together_is_trained_one_after_the_other(device, tmp_path):
    def trainings(name):
        nets = [network(device), network(device, "dia", seed=2), network(device, "se", seed=4)]
        ways = [GRAPH, GRAPH, PLAIN]
        return [
            Training(
                net,
                images(32, device),
                epochs=2,
                seed=number,
                config=config,
                draw=drawing(net),
                checkpoint=Checkpoint(tmp_path / f"{name} {number}", name),
            )
            for number, (net, config) in enumerate(zip(nets, ways, strict=True))
        ]

    expected = [history for one in trainings("alone") for history in fit_together([one])]
    assert list(fit_together(trainings("together"))) == expected
    for number in range(3):
        assert_same(
            *(load_tensors(tmp_path / f"{name} {number}") for name in ("alone", "together"))
        )


class Waiting(nn.Module):
    """A stem that reads a number from the device in each pass, which changes nothing."""

    def __init__(self, stem):
        super().__init__()
        self.stem = stem

    def forward(self, x):
        return self.stem(x) * (1.0 if x.sum().item() > float("-inf") else 0.0)


def test_what_cannot_be_recorded_is_said_and_trained_with_the_same_bits(card):
    recorded, waiting = network(card), network(card)
    waiting.backbone.stem = Waiting(waiting.backbone.stem)
    way = {"images": images(64, card), "epochs": 2, "seed": 1, "config": GRAPH}
    expected = fit(recorded, draw=drawing(recorded), **way)
    with pytest.warns(
        SatOptunaWarning, match="cannot be recorded as a CUDA graph .*, and is made"
    ):
        told = fit(waiting, draw=drawing(waiting), **way)
    assert told == expected
    names = {name.replace("stem.stem", "stem"): v for name, v in weights(waiting).items()}
    assert_same(names, weights(recorded))
