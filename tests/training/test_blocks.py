"""A supernet's step in pieces is the usual one: the same weights, momentum, records and draws."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from sat_optuna.attention.se import SE
from sat_optuna.backbones.cifar_resnet import BasicBlock
from sat_optuna.errors import CheckpointError, SatOptunaWarning
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import seeded
from sat_optuna.supernet.random_schemes import draw_scheme
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec
from sat_optuna.training import step as steps
from sat_optuna.training.checkpoint import load_tensors, read_record
from sat_optuna.training.loop import Checkpoint, fit
from sat_optuna.training.precision import Arithmetic
from sat_optuna.training.step import TrainingStep, strategy_for
from tests.networks import stirred
from tests.training import test_loop
from tests.training.test_loop import (
    CONFIG,
    Stop,
    assert_same,
    images,
    stop_after,
    weights,
)

BLOCKS = (2, 1, 1)
GRAPH = replace(CONFIG, strategy="graph")
EAGER = replace(CONFIG, strategy="eager")
BFLOAT16 = {"precision": "bfloat16", "memory_format": "channels_last"}
CPU, GPU = torch.device("cpu"), torch.device("cuda")
SHARED_SE, SHARED_SRM, SHARED_CBAM = (
    AttentionSpec(kind=kind, sharing="stage", settings=settings)
    for kind, settings in (("se", {"reduction": 2}), ("srm", {}), ("cbam", {"reduction": 2}))
)


def supernet(*kinds, backbone="resnet20", blocks=BLOCKS):
    """With dropout before the last layer, and with a layer that no pass uses."""
    net = Supernet(
        backbone,
        attention=kinds or ("se",),
        in_channels=1,
        classes=3,
        seed=0,
        width=4,
        blocks=blocks,
    )
    return with_more(stirred(net))


def with_more(net):
    net.backbone.head.insert(-1, nn.Dropout(0.5))
    with seeded("unused"):
        net.unused = nn.Linear(2, 2)
    return net


def trained(path, net, **more):
    """Return the records of two epochs, and all tensors that the checkpoint has."""

    def draw(step):
        return draw_scheme(net.stages, len(net.specs), connect=0.6, draws="iid", seed=3, step=step)

    more = {"images": images(), "epochs": 2, "draw": draw, **more}
    history = fit(net, seed=1, checkpoint=Checkpoint(path, "mine"), **more)
    return history, load_tensors(path)


def both(folder, kinds, way):
    """Return what the usual steps and those in pieces make, and the second network."""
    nets = [supernet(*kinds), supernet(*kinds)]
    usual, pieces = (
        trained(folder / config.strategy, net, config=replace(config, **way))
        for net, config in zip(nets, (EAGER, GRAPH), strict=True)
    )
    stored = [read_record(folder / name)["strategy"] for name in ("eager", "graph")]
    assert stored == ["eager", "blocks"]
    return usual, pieces, nets[1]


@pytest.mark.parametrize(
    ("kinds", "way"),
    [
        (("se",), BFLOAT16),
        (("se", "eca", "simam"), {"momentum": 0.0, "nesterov": False}),
        (("dia",), BFLOAT16 | {"precision": "float32"}),
        (("srm", "dia"), {}),
        ((SHARED_SE, SHARED_SRM), {}),
    ],
    ids=["bfloat16", "no momentum", "recurrent", "one of two recurrent", "shared"],
)
def test_a_step_in_pieces_is_the_usual_one_to_the_bit(tmp_path, kinds, way):
    usual, pieces, net = both(tmp_path, kinds, way)
    assert pieces[0] == usual[0]  # losses, accuracies and rates
    assert_same(pieces[1], usual[1])  # weights, statistics and momentum
    assert torch.equal(net.unused.weight, supernet(*kinds).unused.weight)
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("kinds", "way"),
    [((SHARED_CBAM,), {}), ((SHARED_SE,), BFLOAT16)],
    ids=["used twice", "bfloat16"],
)
def test_what_blocks_share_may_differ_in_the_last_bits(tmp_path, kinds, way):
    usual, pieces, _ = both(tmp_path, kinds, way)
    assert [one.loss for one in pieces[0]] == pytest.approx(
        [one.loss for one in usual[0]], rel=1e-2 if way else 1e-5
    )


def test_modules_that_a_scheme_leaves_out_are_left_alone():
    """Neither decay nor momentum moves them, and nobody counts a batch there."""
    net, data = supernet("srm", "dia"), images(8)
    step = TrainingStep(net.train(), GRAPH, Arithmetic("float32", "contiguous"), "blocks")
    (batch,) = data.batches(None, 8)

    def held():
        momentum = {f"{name} momentum": one.clone() for name, one in step.momentum().items()}
        return weights(net) | momentum

    step(*batch, rate=0.1, scheme=Scheme.parse("12-1-2"))
    before = held()
    step(*batch, rate=0.1, scheme=Scheme.parse("10-0-2"))
    after = held()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    attention = {name for name in changed if name.startswith("attention")}
    assert {".".join(name.split(".")[1:5]) for name in attention} == {
        "0.slots.srm.0",
        "2.slots.dia.shared",
    }
    assert "backbone.stem.0.weight" in changed
    counted = [f"attention.{stage}.slots.srm.0" for stage in (0, 1)]
    batches = [
        int(value)
        for place in counted
        for name, value in after.items()
        if name.startswith(place) and name.endswith("num_batches_tracked")
    ]
    assert batches == [2, 1]


def test_it_goes_on_from_its_checkpoint_and_takes_a_smaller_last_batch(tmp_path):
    loader = DataLoader(test_loop.TestUserImages.items, 16)  # 16, 16 and 8
    runs = {name: tmp_path / name for name in ("usual", "unbroken", "begun")}
    usual = trained(runs["usual"], supernet(), images=loader, config=EAGER)
    unbroken = trained(runs["unbroken"], supernet(), images=loader, config=GRAPH)
    assert unbroken[0] == usual[0]
    assert_same(unbroken[1], usual[1])
    with pytest.raises(Stop):
        trained(runs["begun"], supernet(), images=loader, config=GRAPH, on_event=stop_after(0))
    with pytest.raises(
        CheckpointError, match=r"strategy = 'blocks', and train\.strategy is 'eager'"
    ):
        trained(runs["begun"], supernet(), images=loader, config=EAGER)
    with pytest.warns(SatOptunaWarning, match="does not store what a DataLoader draws"):
        told = trained(runs["begun"], supernet(), images=loader, config=GRAPH)
    assert told[0] == unbroken[0]
    assert_same(told[1], unbroken[1])


def test_a_supernet_that_was_begun_eagerly_goes_on_so(tmp_path):
    """Versions before trained supernets eagerly, whatever was asked for."""
    config = replace(GRAPH, precision="float32", memory_format="contiguous")
    path = tmp_path / "net"
    trained(path, supernet(), epochs=1, config=replace(config, strategy="eager"))
    with pytest.warns(
        SatOptunaWarning, match="and eager, and goes on so; here a new .* and block"
    ):
        trained(path, supernet(), config=config)
    assert read_record(path)["strategy"] == "eager"


class Narrowing(SE):
    """Attention whose result is float32, whatever it is given."""

    def forward(self, features, state=None):
        return super().forward(features.float(), state)


class Widening(BasicBlock):
    """A block that makes float64 of what has no attention."""

    def branch(self, x):
        features, shortcut = super().branch(x)
        return features.double(), shortcut


class Floating(BasicBlock):
    """A block that takes both."""

    def branch(self, x):
        return super().branch(x.float())


def test_what_cannot_be_cut_is_said_and_trained_with_the_same_bits(tmp_path):
    nets = [supernet("se"), supernet("se")]
    for net in nets:
        net.backbone.stages[1][0].__class__ = Widening
        net.backbone.stages[2][0].__class__ = Floating
        net.attention[1].slots["se"]["0"].__class__ = Narrowing
    usual = trained(tmp_path / "eager", nets[0], config=EAGER)
    with pytest.warns(
        SatOptunaWarning, match="cannot be recorded as a CUDA graph .*, and is made"
    ):
        other = trained(tmp_path / "graph", nets[1], config=GRAPH)
    assert other[0] == usual[0]
    assert_same(other[1], usual[1])


def test_who_is_trained_so(monkeypatch):
    class Own(Supernet):
        def forward(self, x, scheme):
            return 2 * super().forward(x, scheme)

    def picked(config=GRAPH, net=None, *, device=CPU, precision="float32", drawn=True):
        net = supernet() if net is None else net
        return strategy_for(config, net, device, precision=precision, drawn=drawn)

    assert (picked(), picked(precision="bfloat16"), picked(drawn=False)) == (
        "blocks",
        "blocks",
        "graph",
    )
    assert picked(EAGER) == picked(precision="float16") == "eager"
    own = Own("resnet20", attention=["se"], in_channels=1, classes=3, seed=0, width=4)
    assert picked(net=own) == "eager"
    auto = replace(CONFIG, strategy="auto")
    assert (picked(auto, device=GPU), picked(auto)) == ("blocks", "eager")
    assert picked(auto, own, device=GPU) == "eager"
    assert picked(auto, device=GPU, precision="float16") == "eager"
    params = sum(parameter.numel() for parameter in supernet().parameters())
    for most, expected in ((params - 1, "eager"), (params, "blocks")):
        monkeypatch.setattr(steps, "SUPERNETS", {"cuda": most})
        assert picked(auto, device=GPU) == expected
        assert picked(replace(auto, compile=True), device=GPU) == expected  # of no matter there
        assert picked(auto) == "eager"


def test_a_step_that_nobody_needs_is_gone_at_once():
    """With the memory of its graphs, which no allocation would ask for."""
    net = supernet("dia").train()
    step = TrainingStep(net, GRAPH, Arithmetic("float32", "contiguous"), "blocks")
    (batch,) = images(8).batches(None, 8)
    step(*batch, rate=0.1, scheme=Scheme.parse("11-1-0"))
    blocks = vars(step)["_blocks"]
    held = [weakref.ref(one) for one in (step, blocks, blocks._passes)]
    gc.disable()
    try:
        del step, blocks
        assert [one() for one in held] == [None] * 3
    finally:
        gc.enable()
