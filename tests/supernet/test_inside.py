"""A ticket is the user's own network: its type, its forward, its hooks, and the walk's bits."""

import contextlib
import copy
import multiprocessing
import pickle
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any, cast

import pytest
import torch
import torchvision
from safetensors.torch import load, save
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.feature_extraction import create_feature_extractor

from sat_optuna.attention import ATTENTION
from sat_optuna.attention.contract import Attention, AttentionError
from sat_optuna.backbones import build_backbone
from sat_optuna.backbones.contract import BackboneError, Block
from sat_optuna.backbones.tables import BlockSplit, add_block, add_network
from sat_optuna.backbones.view import view_of
from sat_optuna.errors import SchemeError
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import seeded
from sat_optuna.supernet.inside import extended
from sat_optuna.supernet.materialise import (
    TicketNetwork,
    apart,
    kinds_of,
    materialise,
    scheme_of,
)
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec
from tests.networks import images, stirred, stirred_module, tiny_supernet

STATELESS = [
    name
    for name in (*ATTENTION.single_names(), "timm:eca", "timm:coord")
    if not ATTENTION.get(name).recurrent
]
FAMILIES: dict[str, dict[str, Any]] = {
    "resnet20": {"width": 8, "blocks": (2, 2, 1)},
    "preresnet164": {"width": 8, "blocks": (2, 2, 1)},
    "resnet18": {},
    "timm:resnet18": {},
    "timm:seresnet18": {},
    "timm:convnext_atto": {},
    "timm:resnetv2_18": {},
    "timm:regnety_002": {},
    "timm:mobilenetv3_small_050": {},
    "timm:efficientnet_b0": {},
}
SIDE = (3, 32, 32)


def same(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0)


def specs_of(sharing: str, widths: Sequence[Sequence[int]]) -> list[AttentionSpec]:
    """All kinds that may be shared so in a network of such widths."""
    kinds = [k for k in STATELESS if sharing in ATTENTION.get(k).sharings]
    even = all(len(set(stage)) == 1 for stage in widths)
    return [AttentionSpec(kind=k, sharing=sharing) for k in kinds] if even else []


def covering(net: Supernet) -> list[Scheme]:
    """Schemes of which each kind is in one at least: a kind a block, or two blocks of a stage."""
    blocks, left, made = sum(net.stages), range(1, len(net.specs) + 1), []
    shared = net.specs[0].sharing == "stage"
    each = len(net.stages) if shared else blocks
    for begin in range(0, len(left), each):
        kinds = cycle(left[begin : begin + each])
        choices: list[int] = []
        for size in net.stages:
            choices += [next(kinds)] * size if shared else islice(kinds, size)
        made.append(Scheme.of(choices, net.stages))
    return made


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def assert_same_network(net: Supernet, scheme: Scheme, ticket: nn.Module) -> None:
    """Bits of logits in eval; of logits, gradients and statistics in train mode."""
    x = images(2, shape=SIDE)
    with torch.no_grad():
        same(ticket.eval()(x), net.eval()(x, scheme))
    results = []
    for network, call in ((net, lambda x: net(x, scheme)), (ticket, ticket)):
        network.train()
        network.zero_grad()
        with seeded("forward"):  # drop-path
            logits = call(x)
        torch.autograd.backward(logits.square().sum())
        results.append(logits.detach())
    same(*results)
    ours, theirs = gradients(ticket), gradients(net)
    assert len(ours) == len(theirs)
    pairs = [(net.backbone, ticket)]
    _, stages = apart(ticket)
    for stage, walked, choices in zip(stages, net.stage_attention, scheme.by_stage(), strict=True):
        for block, choice in enumerate(choices):
            if choice:
                pairs.append((walked.module_at(choice, block), stage.module_at(choice, block)))
    compared = set()
    for their, our in pairs:
        held = dict(our.named_parameters()) | dict(our.named_buffers())
        for name, value in (*their.named_parameters(), *their.named_buffers()):
            if name not in held:  # statistics of a block that is not connected
                continue
            same(held[name], value)
            if value.grad is not None:
                grad = held[name].grad
                assert grad is not None
                same(grad, value.grad)
                compared.add(held[name])
    assert len(compared) == len(ours)


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["block", "stage"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_stateless_kind_in_each_family_has_the_bits_of_the_walk(family, sharing):
    with seeded("family"):
        model = build_backbone(family, in_channels=3, classes=3, **FAMILIES[family])
    stirred_module(model)
    specs = specs_of(sharing, view_of(model).stage_channels)
    assert specs
    net = Supernet(model, attention=specs, seed=0)
    stirred_module(net.attention)
    seen = set()
    for scheme in covering(net):
        ticket = materialise(net, scheme)
        assert type(ticket) is type(model)
        assert scheme_of(ticket) == scheme
        assert kinds_of(ticket) == tuple(spec.kind for spec in specs)
        seen |= set(scheme.choices)
        assert_same_network(net, scheme, ticket)
        x = images(2, shape=SIDE)
        traced = torch.fx.symbolic_trace(ticket.eval())
        same(traced(x), ticket(x))
    assert seen == set(range(1, len(specs) + 1))


@pytest.mark.parametrize("sharing", ["block", "stage"])
def test_each_stateless_kind_has_the_bits_of_the_walk(sharing):
    """The family of ours alone, for the fast tests."""
    test_each_stateless_kind_in_each_family_has_the_bits_of_the_walk("resnet20", sharing)


def resnet_ticket(sharing: str = "block", text: str = "10-01-11-11") -> Any:
    net = Supernet(
        torchvision.models.resnet18(num_classes=5),
        attention=[AttentionSpec(kind="cbam", sharing=sharing)],
        seed=0,
    )
    return materialise(stirred(net), Scheme.parse(text)).eval()


class TestWhatPeopleDoWithAResNet:
    def test_keys_are_as_they_were_and_attention_is_in_its_block(self):
        ticket = resnet_ticket()
        names = list(ticket.state_dict())
        plain = set(torchvision.models.resnet18().state_dict())
        assert plain < set(names)
        more = {name.split(".attention.")[0] for name in set(names) - plain}
        assert more == {"layer1.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0", "layer4.1"}
        assert type(ticket.layer1[0]).__name__ == "BasicBlockWithAttention"
        assert isinstance(ticket.layer1[0], torchvision.models.resnet.BasicBlock)
        assert type(ticket.layer1[1]) is torchvision.models.resnet.BasicBlock
        assert "BasicBlockWithAttention(" in str(ticket)
        assert type(ticket.layer1[0]) is type(ticket.layer4[1])  # one class for each type

    def test_hooks_on_a_block_fire_as_grad_cam_needs_them(self):
        ticket = resnet_ticket()
        seen: dict[str, Tensor] = {}

        def forward(_module: nn.Module, _given: object, made: Tensor) -> None:
            seen["features"] = made
            made.register_hook(lambda gradient: seen.update(gradient=gradient))

        ticket.layer4[-1].register_forward_hook(forward)
        logits = ticket(images(2, shape=(3, 64, 64)))
        torch.autograd.backward(logits[:, 0].sum())
        weights = seen["gradient"].mean((2, 3), keepdim=True)
        cam = (weights * seen["features"]).sum(1)
        assert cam.shape == (2, 2, 2)
        assert cam.abs().min() > 0

    @pytest.mark.slow
    @pytest.mark.parametrize("sharing", ["block", "stage"])
    def test_features_graphs_and_necks(self, sharing):
        ticket, x = resnet_ticket(sharing), images(2, shape=(3, 64, 64))
        wanted = ticket(x)
        features: dict[str, Tensor] = {}
        handle = ticket.layer4.register_forward_hook(
            lambda *given: features.update(layer4=given[-1])
        )
        ticket(x)
        handle.remove()
        same(create_feature_extractor(ticket, ["layer4"])(x)["layer4"], features["layer4"])
        same(torch.fx.symbolic_trace(ticket)(x), wanted)
        same(torch.export.export(ticket, (x,)).module()(x), wanted)
        torch.compiler.reset()
        same(torch.compile(ticket, backend="eager", fullgraph=True)(x), wanted)
        layers = {f"layer{n}": str(n) for n in (1, 2, 3, 4)}
        got = IntermediateLayerGetter(ticket, layers)(x)
        same(got["4"], features["layer4"])
        neck = BackboneWithFPN(ticket, layers, [64, 128, 256, 512], 16)
        assert [m.shape[1] for m in neck(x).values()] == [16] * 5

    @pytest.mark.parametrize("sharing", ["block", "stage"])
    def test_copies_and_files(self, sharing):
        ticket, x = resnet_ticket(sharing), images(1, shape=SIDE)
        wanted = ticket(x)
        for other in (copy.deepcopy(ticket), pickle.loads(pickle.dumps(ticket))):
            same(other(x), wanted)
            assert scheme_of(other) == scheme_of(ticket)
            assert list(other.state_dict()) == list(ticket.state_dict())
            other = cast("Any", other)
            for block, copied in zip(ticket.layer3, other.layer3, strict=True):
                assert type(copied) is type(block)
                assert copied.attention is not block.attention
            # A plain reference goes where the module goes.
            shared = other.layer3[0].attention is other.layer3[1].attention
            assert shared == (sharing == "stage")
            other.double()
            assert other(x.double()).dtype == torch.float64
        held = load(save(ticket.state_dict()))  # no tensor twice
        with torch.device("meta"):
            empty = copy.deepcopy(ticket).to("meta")
        empty.to_empty(device="cpu").load_state_dict(held)
        same(empty.eval()(x), wanted)

    @pytest.mark.slow
    def test_another_process_gets_it(self):
        ticket, x = resnet_ticket("stage"), images(1, shape=SIDE)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            same(pool.apply(_logits, (ticket, x)), ticket(x).detach())


def _logits(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = net(x)
    return logits


def test_recurrent_kinds_keep_the_walk_and_only_where_they_are_connected():
    net = tiny_supernet(["se", "dia"])
    walked, plain = (materialise(net, Scheme.parse(t)) for t in ("10-020-1", "10-010-1"))
    assert isinstance(walked, TicketNetwork)
    assert type(plain) is type(net.backbone)
    assert kinds_of(walked) == kinds_of(plain) == ("se", "dia")
    assert (str(scheme_of(walked)), str(scheme_of(plain))) == ("10-020-1", "10-010-1")
    assert apart(walked)[0] is walked.view


def test_other_networks_carry_no_scheme():
    with pytest.raises(SchemeError, match=r"ResNet given, on which no scheme is noted; give what"):
        scheme_of(torchvision.models.resnet18())
    assert scheme_of(cast("nn.Module", torch.compile(resnet_ticket()))) == Scheme.parse(
        "10-01-11-11"
    )


def test_a_ticket_is_no_backbone_of_a_second_attention():
    with pytest.raises(
        BackboneError,
        match=r"network torchvision.*ResNet carries attention in layer1.0 already, as a ticket's",
    ):
        Supernet(resnet_ticket(), attention=["se"], seed=0)
    plain = resnet_ticket(text="00-00-00-00")  # carries none
    net = Supernet(plain, attention=["se"], seed=0)
    assert scheme_of(materialise(net, Scheme.parse("10-00-00-00"))).connections == 1


class Named(nn.Module):
    """A block with an `attention` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.attention(x)
        return x + features


class Twice(nn.Module):
    """A network that runs one block twice, and classifies by the means."""

    def __init__(self, *, twice: bool) -> None:
        super().__init__()
        self.block, self.twice = Named(), twice

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return (self.block(x) if self.twice else x).mean((2, 3))


@pytest.fixture(scope="module", autouse=True)
def _registered():
    split = BlockSplit(
        lambda block, x: (block.attention(x), x), lambda _, features, x: x + features, lambda _: 4
    )
    # A worker that was handed these tests in two parts comes here twice.
    with contextlib.suppress(BackboneError):
        add_block(Named, split)
        add_network(
            Twice,
            stem=lambda _, x: x,
            stages=lambda model: [[model.block] * (1 + model.twice)],
            head=lambda _, x: x.mean((2, 3)),
        )


def test_a_block_that_has_an_attention_keeps_it_and_a_block_run_twice_is_walked():
    x = images(2, shape=(4, 5, 5))
    net = Supernet(Twice(twice=False), attention=["se"], seed=0).eval()
    ticket: Any = materialise(net, Scheme.parse("1"))
    assert any(name.startswith("block.added_attention.") for name in ticket.state_dict())
    assert isinstance(ticket.block.attention, nn.Conv2d)
    same(ticket(x), net(x, Scheme.parse("1")))
    net = Supernet(Twice(twice=True), attention=["se"], seed=0).eval()
    for scheme in map(Scheme.parse, ("10", "01", "11")):
        ticket = materialise(net, scheme)
        assert isinstance(ticket, TicketNetwork)
        same(ticket(x), net(x, scheme))


class Undeclared(Attention):
    """Hands a state on, and does not say so."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, features, state=None):
        return features, (features,)


def test_a_state_that_is_not_declared_is_refused_and_never_dropped(request):
    request.addfinalizer(lambda: ATTENTION.remove("undeclared"))
    ATTENTION.add("undeclared", Undeclared)
    net = Supernet(Twice(twice=False), attention=["undeclared"], seed=0)
    with pytest.raises(AttentionError, match="'undeclared' returns a state, and its class says"):
        net.check_input((4, 5, 5))
    with pytest.raises(AttentionError, match=r"Undeclared returns a state, .* set recurrent = Tr"):
        materialise(net, Scheme.parse("1"))(images(1, shape=(4, 5, 5)))


def test_a_type_that_no_table_has_cannot_be_loaded():
    with pytest.raises(BackboneError, match=r"ReLU is in no table; register it with .*is loaded"):
        extended(nn.ReLU, own=False)
    with pytest.raises(BackboneError, match=r"Block is in no table"):
        extended(Block, own=True)
