"""Removal is proved: a ticket, its supernet and networks written here are one function."""

import re
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.attention.contract import Attention
from sat_optuna.errors import SchemeError
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import TicketNetwork, materialise
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec
from tests.networks import BLOCKS, KINDS, images, name_of, schemes, stirred, tiny_supernet

ON = Scheme.uniform(BLOCKS, 1)
OFF = Scheme.uniform(BLOCKS, 0)
TARGETS = torch.tensor([0, 1, 2, 3])


def same(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0)


# --- A plain ResNet and an SE-ResNet, in the way they are usually written --------------------


class ReferenceSE(nn.Module):
    def __init__(self, planes: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Linear(planes, max(planes // 16, 4))
        self.fc2 = nn.Linear(max(planes // 16, 4), planes)

    def forward(self, x):
        n, c, _, _ = x.size()
        y = self.pool(x).view(n, c)
        y = torch.sigmoid(self.fc2(torch.relu(self.fc1(y))))
        return x * y.view(n, c, 1, 1).expand_as(x)


class ReferenceBlock(nn.Module):
    def __init__(self, in_planes: int, planes: int, stride: int, se: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.se = ReferenceSE(planes) if se else None
        self.stride = stride
        self.extra = planes - in_planes

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.se is not None:
            out = self.se(out)
        if self.extra:
            zeros = x.new_zeros(x.shape[0], self.extra // 2, *out.shape[2:])
            x = torch.cat([zeros, x[:, :, :: self.stride, :: self.stride], zeros], dim=1)
        return F.relu(out + x)


class ReferenceResNet(nn.Module):
    def __init__(
        self,
        *,
        width: int,
        blocks: Sequence[int],
        stem_stride: int,
        in_planes: int,
        classes: int,
        se: bool,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, width, 3, stride=stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._layer(width, width, blocks[0], 1, se)
        self.layer2 = self._layer(width, 2 * width, blocks[1], 2, se)
        self.layer3 = self._layer(2 * width, 4 * width, blocks[2], 2, se)
        self.linear = nn.Linear(4 * width, classes)

    def _layer(
        self, in_planes: int, planes: int, count: int, stride: int, se: bool
    ) -> nn.Sequential:
        first = ReferenceBlock(in_planes, planes, stride, se)
        rest = [ReferenceBlock(planes, planes, 1, se) for _ in range(count - 1)]
        return nn.Sequential(first, *rest)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.adaptive_avg_pool2d(out, (1, 1))
        return self.linear(torch.flatten(out, 1))


def our_name(name: str) -> str:
    """The supernet's name for a tensor of the reference network."""
    name = re.sub(r"^conv1\.", "backbone.stem.0.", name)
    name = re.sub(r"^bn1\.", "backbone.stem.1.", name)
    name = re.sub(r"^linear\.", "backbone.head.2.", name)
    if match := re.match(r"layer(\d)\.(\d+)\.(?:se\.fc([12])\.)?(.*)", name):
        layer, block, fc, rest = match.groups()
        stage = int(layer) - 1
        if fc:
            linear = {"1": "squeeze", "2": "excite"}[fc]
            return f"attention.{stage}.slots.se.{block}.{linear}.{rest}"
        return f"backbone.stages.{stage}.{block}.{rest}"
    return name


def ticket_name(name: str, scheme: Scheme) -> str:
    """The ticket's name for a tensor of the supernet: attention is inside its block.

    A module that a stage shares is inside the first block that carries it.
    """
    match = re.match(r"attention\.(\d+)\.slots\.[^.]+\.(\w+)\.(.*)", name)
    if match is None:
        return name.removeprefix("backbone.")
    stage, slot, rest = match.groups()
    choices = scheme.by_stage()[int(stage)]
    block = next(n for n, choice in enumerate(choices) if choice) if slot == "shared" else slot
    return f"stages.{stage}.{block}.attention.{rest}"


def ticket_name_of(scheme: Scheme, specs: Sequence[AttentionSpec], name: str) -> str:
    """`ticket_name` where a stage may carry several kinds."""
    kinds = [spec.kind for spec in specs]
    match = re.match(r"attention\.\d+\.slots\.([^.]+)\.", name)
    if match is None:
        return ticket_name(name, scheme)
    choice = 1 + kinds.index(match[1])
    alone = Scheme.of([int(c == choice) for c in scheme.choices], scheme.stages)
    if not any(alone.by_stage()[int(name.split(".")[1])]):
        return name  # not connected
    return ticket_name(name, alone)


def reference_of(net: Supernet, *, se: bool, **settings: int) -> ReferenceResNet:
    reference = ReferenceResNet(blocks=net.stages, se=se, **settings)
    ours = net.state_dict()
    reference.load_state_dict({name: ours[our_name(name)] for name in reference.state_dict()})
    return reference


def trained_once(
    call: Callable[[Tensor], Tensor], net: nn.Module
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Logits of a train-mode pass, then the gradients it left and the running statistics."""
    net.train()
    logits = call(images(4, seed=7))
    torch.autograd.backward(F.cross_entropy(logits, TARGETS))
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return logits, gradients, dict(net.named_buffers())


@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize("choice", [0, 1], ids=["all zero: plain", "all one: SE-ResNet"])
def test_supernet_ticket_and_a_network_written_here_are_one_function(choice, stem_stride):
    shape = {"width": 8, "stem_stride": stem_stride}
    net = stirred(
        Supernet("resnet20", attention=["se"], in_channels=2, classes=5, seed=0, **shape)
    )
    scheme = Scheme.uniform(net.stages, choice)
    ticket = materialise(net, scheme)
    reference = reference_of(net, se=bool(choice), in_planes=2, classes=5, **shape)
    x = images(3)
    same(net.eval()(x, scheme), reference.eval()(x))
    same(ticket.eval()(x), reference(x))

    logits, gradients, buffers = trained_once(reference, reference)
    calls = (
        (net, lambda x: net(x, scheme), our_name),
        (ticket, ticket, lambda name: ticket_name(our_name(name), scheme)),
    )
    for network, call, named in calls:
        our_logits, our_gradients, our_buffers = trained_once(call, network)
        same(our_logits, logits)
        assert set(our_gradients) == {named(name) for name in gradients}
        for name, gradient in gradients.items():
            same(our_gradients[named(name)], gradient)
        assert set(our_buffers) == {named(name) for name in buffers}
        for name, buffer in buffers.items():
            same(our_buffers[named(name)], buffer)
    # The statistics have moved, so eval differs from before, and for all three in the same way.
    same(net.eval()(x, scheme), reference.eval()(x))
    same(ticket.eval()(x), reference(x))


@pytest.mark.parametrize(
    ("autocast", "memory"),
    [
        (False, torch.contiguous_format),
        (True, torch.channels_last),
        pytest.param(False, torch.channels_last, marks=pytest.mark.slow),
        pytest.param(True, torch.contiguous_format, marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize("specs", KINDS, ids=name_of)
@given(data=st.data())
@settings(max_examples=3, deadline=None)
def test_a_materialised_network_is_the_masked_one(specs, autocast, memory, data):
    scheme = data.draw(schemes(kinds=len(specs)))
    net = tiny_supernet(specs).to(memory_format=memory)
    ticket = materialise(net, scheme)
    x = images(3).to(memory_format=memory)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        same(ticket.eval()(x), net.eval()(x, scheme))
        logits, gradients, buffers = trained_once(ticket, ticket)
        their_logits, their_gradients, their_buffers = trained_once(lambda x: net(x, scheme), net)
    same(logits, their_logits)
    assert len(gradients) == len(their_gradients)
    # Those of recurrent kinds are walked as the supernet is, and have its names.
    named = str if isinstance(ticket, TicketNetwork) else partial(ticket_name_of, scheme, specs)
    for name, gradient in their_gradients.items():
        same(gradients[named(name)], gradient)
    connected = {name: value for name, value in their_buffers.items() if named(name) in buffers}
    assert len(connected) == len(buffers)
    for name, buffer in connected.items():
        same(buffers[named(name)], buffer)


@pytest.mark.parametrize("specs", KINDS, ids=name_of)
@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_unconnected_modules_do_not_exist(specs, data):
    scheme = data.draw(schemes(kinds=len(specs)))
    net = _nets.setdefault(name_of(specs), tiny_supernet(specs))
    ticket = materialise(net, scheme)
    walked = isinstance(ticket, TicketNetwork)
    wanted, seen = set(), set()
    for stage, choices in enumerate(scheme.by_stage()):
        for block, choice in enumerate(choices):
            if choice:
                spec = specs[choice - 1]
                slot = "shared" if spec.sharing == "stage" else block
                if (stage, choice, slot) not in seen:
                    seen.add((stage, choice, slot))
                    walk = f"attention.{stage}.slots.{spec.kind}.{slot}"
                    wanted.add(walk if walked else f"stages.{stage}.{block}.attention")
    there = {name for name, module in ticket.named_modules() if isinstance(module, Attention)}
    assert there == wanted
    begin = "backbone." if walked else ""
    outside = set(ticket.state_dict()) - {f"{begin}{name}" for name in net.backbone.state_dict()}
    assert all(name.startswith(tuple(f"{path}." for path in wanted)) for name in outside)


_nets: dict[str, Supernet] = {}


def test_parameters_grow_with_the_scheme():
    net = tiny_supernet(["se"])
    text = ["00-000-0", "10-000-0", "10-010-0", "10-010-1", "11-111-1"]
    counts = [sum(p.numel() for p in materialise(net, Scheme.parse(t)).parameters()) for t in text]
    assert counts == sorted(set(counts))


def test_a_ticket_shares_no_tensor_with_its_supernet():
    net = tiny_supernet(["se"])
    pointers = {value.data_ptr() for value in net.state_dict().values()}
    assert not pointers & {v.data_ptr() for v in materialise(net, ON).state_dict().values()}


def test_tickets_of_one_seed_start_from_equal_shared_parts():
    one = materialise(tiny_supernet(["se", "sge"]), Scheme.parse("10-120-0")).state_dict()
    other = materialise(tiny_supernet(["se"]), Scheme.parse("11-010-1")).state_dict()
    shared = set(one) & set(other)
    assert "stages.0.0.attention.squeeze.weight" in shared
    assert {name for name in one if "attention" not in name} < shared
    for name in shared:
        same(one[name], other[name])


def test_a_scheme_that_does_not_fit_is_refused():
    with pytest.raises(SchemeError, match=r"stages \(1, 1\) and the network"):
        materialise(tiny_supernet(), Scheme.parse("1-1"))


def test_off_is_smaller_than_on():
    net = tiny_supernet(["dia"])
    assert len(materialise(net, OFF).state_dict()) < len(materialise(net, ON).state_dict())
