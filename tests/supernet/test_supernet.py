"""The supernet: its weights, its one walk, the schemes it is trained under, its calibration."""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.attention import ATTENTION
from sat_optuna.attention.contract import Attention, AttentionError, State
from sat_optuna.attention.dia import DIA
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.backbones.view import BlockView
from sat_optuna.errors import DataError, SchemeError, UnknownName
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.batchnorm import evaluating, recalibrated
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.supernet import Supernet, walk
from sat_optuna.ticket import AttentionSpec
from tests.networks import BLOCKS, KINDS, images, name_of, schemes, tiny_supernet

ON = Scheme.uniform(BLOCKS, 1)
OFF = Scheme.uniform(BLOCKS, 0)


def same(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0)


class OtherDIA(DIA):
    """A second recurrent kind."""


def run(block: BlockView, x: Tensor) -> Tensor:
    """A block without attention."""
    return block.merge(*block.branch(x))


class TestBuilding:
    def test_it_says_what_it_is(self):
        net = tiny_supernet(["se", "dia"])
        assert net.stages == BLOCKS
        assert [(spec.kind, spec.sharing) for spec in net.specs] == [
            ("se", "block"),
            ("dia", "stage"),
        ]
        assert net.backbone_name == "resnet20"
        assert net.backbone_settings == {"width": 8, "blocks": list(BLOCKS)}

    def test_parts_that_two_share_have_equal_weights(self):
        one, other = tiny_supernet(["se"]), tiny_supernet(["sge", "se"])
        theirs = other.state_dict()
        for name, value in one.state_dict().items():
            same(value, theirs[name])

    def test_another_seed_draws_other_weights(self):
        one, other = tiny_supernet(seed=0), tiny_supernet(seed=1)
        for ours, theirs in zip(one.modules(), other.modules(), strict=True):
            if isinstance(ours, nn.Conv2d | nn.Linear) and isinstance(theirs, type(ours)):
                assert not torch.equal(ours.weight, theirs.weight)

    def test_building_leaves_the_global_generator_alone(self):
        before = torch.random.get_rng_state()
        tiny_supernet()
        same(torch.random.get_rng_state(), before)

    @pytest.mark.parametrize("specs", KINDS, ids=name_of)
    def test_no_tensor_is_held_twice(self, specs):
        tensors = tiny_supernet(specs).state_dict().values()
        assert len({value.data_ptr() for value in tensors}) == len(tensors)

    @pytest.mark.parametrize(
        ("attention", "error", "message"),
        [
            ([], AttentionError, r"kinds \[\] given; name at least one"),
            (["se", "se"], AttentionError, "each of them once"),
            (["sf"], UnknownName, "no attention module 'sf'; did you mean 'se'"),
            ([AttentionSpec(kind="dia")], AttentionError, "it allows 'stage' only"),
            ([AttentionSpec(kind="sge", settings={"groups": 16})], AttentionError, "8 channels"),
            ([AttentionSpec(kind="se", settings={"r": 4})], AttentionError, "no setting 'r'"),
        ],
    )
    def test_attention_that_cannot_be_built(self, attention, error, message):
        with pytest.raises(error, match=message):
            tiny_supernet(attention)

    def test_a_backbone_that_cannot_be_built(self):
        with pytest.raises(BackboneError, match="3 stages"):
            tiny_supernet(blocks=(1, 1))
        with pytest.raises(UnknownName, match="no backbone 'resnet2'"):
            tiny_supernet(backbone="resnet2")


class TestForward:
    @pytest.mark.parametrize(
        ("scheme", "message"),
        [
            ("11-111", r"stages \(2, 3\) and the network \(2, 3, 1\)"),
            ("02-000-0", r"asks for kind 2 and the network has 1; use digits 0\.\.1"),
        ],
    )
    def test_a_scheme_that_does_not_fit(self, scheme, message):
        with pytest.raises(SchemeError, match=message):
            tiny_supernet()(images(1), Scheme.parse(scheme))

    def test_the_all_zero_scheme_is_the_backbone_alone(self):
        net, x = tiny_supernet().eval(), images(3)
        same(net(x, OFF), net.backbone(x))

    def test_the_scheme_is_an_argument_and_leaves_no_trace(self):
        net, x = tiny_supernet(["se", "sge"]).eval(), images(3)
        before = net(x, ON)
        assert not torch.equal(net(x, OFF), before)
        same(net(x, ON), before)

    def test_each_branch_is_computed_once(self):
        net = tiny_supernet(["se", "dia"])
        calls: Counter[str] = Counter()
        for name, module in net.named_modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d | Attention):
                module.register_forward_hook(lambda *_, name=name: calls.update([name]))
        net(images(2), Scheme.parse("12-021-0"))
        convolutions = [n for n, m in net.backbone.named_modules() if isinstance(m, nn.Conv2d)]
        assert all(calls[f"backbone.{name}"] == 1 for name in convolutions)
        assert {name: n for name, n in calls.items() if name.startswith("attention")} == {
            "attention.0.slots.se.0": 1,
            "attention.0.slots.dia.shared": 1,
            "attention.1.slots.dia.shared": 1,
            "attention.1.slots.se.2": 1,
        }

    def test_unconnected_modules_get_no_gradient(self):
        net = tiny_supernet()
        net(images(2), Scheme.parse("01-000-0")).sum().backward()
        with_gradient = {
            name.rsplit(".", 2)[0]
            for name, value in net.attention.named_parameters()
            if value.grad is not None
        }
        assert with_gradient == {"0.slots.se.1"}

    def test_state_starts_at_the_first_connected_block_and_passes_the_others_untouched(self):
        net = tiny_supernet(["dia", "se"], blocks=(1, 6, 1)).eval()
        x = run(net.view.blocks[0][0], net.view.stem(images(3)))
        dia = net.stage_attention[1].module_at(1, 0)
        se = net.stage_attention[1].module_at(2, 3)
        b = net.view.blocks[1]
        # 0 1 0 2 1 0 by hand: the cell sees blocks 1 and 4 alone.
        x = run(b[0], x)
        features, shortcut = b[1].branch(x)
        features, state = dia(features, (torch.zeros(3, 16), torch.zeros(3, 16)))
        x = run(b[2], b[1].merge(features, shortcut))
        features, shortcut = b[3].branch(x)
        x = b[3].merge(se(features)[0], shortcut)
        features, shortcut = b[4].branch(x)
        x = run(b[5], b[4].merge(dia(features, state)[0], shortcut))
        logits = net.view.head(run(net.view.blocks[2][0], x), (8, 8))
        same(net(images(3), Scheme.parse("0-010210-0")), logits)

    def test_each_kind_has_a_state_of_its_own(self, request):
        request.addfinalizer(partial(ATTENTION.remove, "other dia"))
        ATTENTION.add("other dia", OtherDIA)
        shared = AttentionSpec(kind="other dia", sharing="stage")
        net = tiny_supernet(["dia", shared], blocks=(1, 6, 1)).eval()
        dia, other = (net.stage_attention[1].module_at(choice, 0) for choice in (1, 2))
        assert type(other) is OtherDIA
        x = run(net.view.blocks[0][0], net.view.stem(images(3)))
        # 1 2 0 1 2 2 by hand: what one cell hands on, the other does not get.
        first: State | None = None
        second: State | None = None
        for block, choice in zip(net.view.blocks[1], (1, 2, 0, 1, 2, 2), strict=True):
            features, shortcut = block.branch(x)
            if choice == 1:
                features, first = dia(features, first)
            if choice == 2:
                features, second = other(features, second)
            x = block.merge(features, shortcut)
        logits = net.view.head(run(net.view.blocks[2][0], x), (8, 8))
        scheme = Scheme.parse("0-120122-0")
        same(net(images(3), scheme), logits)
        same(materialise(net, scheme).eval()(images(3)), logits)

    def test_state_does_not_cross_stages(self):
        net = tiny_supernet(["dia"]).eval()
        seen: list[bool] = []
        for stage in net.stage_attention:
            stage.module_at(1, 0).register_forward_pre_hook(
                lambda _, args: seen.append(args[1] is None)
            )
        net(images(1), ON)
        assert seen == [True, False, True, False, False, True]

    def test_attention_acts_on_the_branch_never_on_the_shortcut(self):
        class Closed:
            def module_for(self, choice, block):
                return lambda features, state: (torch.zeros_like(features), state)

        net = tiny_supernet().eval()
        x = net.view.stem(images(2))
        for blocks in net.view.blocks:
            for block in blocks:
                x = F.relu(block.branch(x)[1])
        closed = walk(net.view, [Closed()] * len(BLOCKS), ON, images(2))
        same(closed, net.view.head(x, (8, 8)))


def statistics_by_hand(
    net: nn.Module, run: Callable[[nn.Module, Tensor], Tensor], batches: Sequence[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean over the chunks of each BatchNorm input's mean and unbiased variance, in float64."""
    net = copy.deepcopy(net).eval()
    norms = {name: m for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    seen: dict[str, list[Tensor]] = {name: [] for name in norms}
    for name, norm in norms.items():
        norm.train()
        norm.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0]))
    with torch.no_grad():
        for batch in batches:
            run(net, batch)
    return {
        name: (
            torch.stack([x.double().mean((0, 2, 3)) for x in inputs]).mean(0).float(),
            torch.stack([x.double().var((0, 2, 3)) for x in inputs]).mean(0).float(),
        )
        for name, inputs in seen.items()
    }


class TestRecalibrated:
    batches = (images(8, seed=1), images(8, seed=2), images(5, seed=3))

    @given(schemes(kinds=2))
    @settings(max_examples=8, deadline=None)
    def test_statistics_are_the_average_over_the_chunks(self, scheme):
        net = tiny_supernet(["se", "dia"])
        wanted = statistics_by_hand(net, lambda n, x: n(x, scheme), self.batches)
        with recalibrated(net, scheme, self.batches):
            for name, (mean, variance) in wanted.items():
                norm = net.get_submodule(name)
                torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-5)

    def test_a_materialised_network_gets_the_same_ones(self):
        net, scheme = tiny_supernet(["se", "sge"]), Scheme.parse("01-201-2")
        ticket, x = materialise(net, scheme), images(4)
        with recalibrated(net, scheme, self.batches), recalibrated(ticket, None, self.batches):
            same(ticket(x), net(x, scheme))

    def test_everything_is_in_eval_mode_inside_and_as_before_outside(self):
        net = tiny_supernet()
        net.train()
        net.attention.eval()
        norm = net.get_submodule("backbone.stages.0.0.bn1")
        assert isinstance(norm, nn.BatchNorm2d)
        norm.momentum = 0.3
        before = {name: value.clone() for name, value in net.state_dict().items()}
        modes = {name: module.training for name, module in net.named_modules()}
        buffer = norm.get_buffer("running_mean")
        with recalibrated(net, ON, self.batches):
            assert not any(module.training for module in net.modules())
            inside = norm.get_buffer("running_mean")
            assert not torch.equal(inside, before["backbone.stages.0.0.bn1.running_mean"])
        assert {name: module.training for name, module in net.named_modules()} == modes
        assert norm.momentum == 0.3
        assert norm.running_mean is buffer
        for name, value in net.state_dict().items():
            same(value, before[name])

    @pytest.mark.parametrize(
        "scheme", [ON, Scheme.parse("1-1")], ids=["inside", "while averaging"]
    )
    def test_an_error_restores_it_too(self, scheme):
        net = tiny_supernet()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        with (
            pytest.raises((ZeroDivisionError, SchemeError)),
            recalibrated(net, scheme, self.batches),
        ):
            raise ZeroDivisionError
        for name, value in net.state_dict().items():
            same(value, before[name])
        assert all(module.training for module in net.modules())

    def test_no_gradient_is_kept(self):
        net = tiny_supernet()
        with recalibrated(net, ON, self.batches):
            assert all(not value.requires_grad for value in net.buffers())
        assert all(value.grad is None for value in net.parameters())

    def test_no_batch_is_refused(self):
        with (
            pytest.raises(DataError, match="no calibration batch given"),
            recalibrated(tiny_supernet(), ON, []),
        ):
            pass


def test_evaluating_gives_each_module_its_mode_back():
    net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    net[1].eval()
    with evaluating(net):
        assert not any(module.training for module in net.modules())
    with pytest.raises(ZeroDivisionError), evaluating(net):
        raise ZeroDivisionError
    assert [module.training for module in net.modules()] == [True, True, False]


def test_supernet_is_called_by_keywords_after_its_subject():
    with pytest.raises(TypeError, match="positional"):
        Supernet("resnet20", ["se"], 1, 10, 0)  # type: ignore[call-arg]
