"""The supernet: its weights, its one walk, the schemes it is trained under, its calibration."""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from sat_optuna.attention.contract import Attention, AttentionError
from sat_optuna.backbones.contract import BackboneError, Block
from sat_optuna.errors import DataError, SchemeError, UnknownName
from sat_optuna.scheme import Scheme
from sat_optuna.supernet import Supernet, draw_scheme, evaluating, recalibrated, walk
from sat_optuna.surgery import materialise
from sat_optuna.ticket import AttentionSpec
from tests.networks import BLOCKS, KINDS, images, name_of, schemes, tiny_supernet

ON = Scheme.uniform(BLOCKS, 1)
OFF = Scheme.uniform(BLOCKS, 0)


def same(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0)


class TestBuilding:
    def test_it_says_what_it_is(self):
        net = tiny_supernet(["se", "dia"])
        assert net.stages == BLOCKS
        assert [(spec.kind, spec.sharing) for spec in net.specs] == [
            ("se", "block"),
            ("dia", "stage"),
        ]
        assert net.backbone_name == "resnet20"
        assert net.backbone_settings == {"width": 8, "stem_stride": 1, "blocks": list(BLOCKS)}

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
        x = net.backbone.blocks[0][0](net.backbone.stem(images(3)))
        dia = net.stage_attention[1].module_for(1, 0)
        se = net.stage_attention[1].module_for(2, 3)
        b = net.backbone.blocks[1]
        # 0 1 0 2 1 0 by hand: the cell sees blocks 1 and 4 alone.
        x = b[0](x)
        features, shortcut = b[1].branch(x)
        features, state = dia(features, (torch.zeros(3, 16), torch.zeros(3, 16)))
        x = b[2](b[1].merge(features, shortcut))
        features, shortcut = b[3].branch(x)
        x = b[3].merge(se(features)[0], shortcut)
        features, shortcut = b[4].branch(x)
        x = b[5](b[4].merge(dia(features, state)[0], shortcut))
        logits = net.backbone.head(net.backbone.blocks[2][0](x))
        same(net(images(3), Scheme.parse("0-010210-0")), logits)

    def test_state_does_not_cross_stages(self):
        net = tiny_supernet(["dia"]).eval()
        seen: list[bool] = []
        for stage in net.stage_attention:
            stage.module_for(1, 0).register_forward_pre_hook(
                lambda _, args: seen.append(args[1] is None)
            )
        net(images(1), ON)
        assert seen == [True, False, True, False, False, True]

    def test_attention_acts_on_the_branch_never_on_the_shortcut(self):
        class Closed:
            def module_for(self, choice, block):
                return lambda features, state: (torch.zeros_like(features), state)

        net = tiny_supernet().eval()
        x = net.backbone.stem(images(2))
        for blocks in net.backbone.blocks:
            for block in blocks:
                assert isinstance(block, Block)
                x = F.relu(block.branch(x)[1])
        closed = walk(net.backbone, [Closed()] * len(BLOCKS), ON, images(2))
        same(closed, net.backbone.head(x))


class TestDrawScheme:
    stages = (2, 3, 2)

    def draw(
        self,
        step: int,
        *,
        kinds: int = 1,
        connect: float = 0.5,
        draws: str = "iid",
        seed: int = 0,
    ) -> Scheme:
        return draw_scheme(self.stages, kinds, connect=connect, draws=draws, seed=seed, step=step)

    @given(
        st.integers(0, 10**6),
        st.integers(0, 10**6),
        st.integers(1, 4),
        st.sampled_from(["iid", "balanced"]),
    )
    @settings(max_examples=30, deadline=None)
    def test_a_pure_function_of_seed_and_step(self, seed, step, kinds, draws):
        drawn = self.draw(step, kinds=kinds, draws=draws, seed=seed)
        torch.rand(3)  # the global generator has no part in it
        assert self.draw(step, kinds=kinds, draws=draws, seed=seed) == drawn
        assert drawn.stages == self.stages
        assert max(drawn.choices) <= kinds

    @pytest.mark.parametrize("draws", ["iid", "antithetic", "balanced"])
    def test_seeds_and_steps_draw_different_schemes(self, draws):
        drawn = [
            self.draw(2 * step, draws=draws, seed=seed) for step in range(20) for seed in (0, 1)
        ]
        assert len(set(drawn)) > 30

    @given(st.integers(0, 10**6), st.integers(0, 10**6))
    @settings(max_examples=30, deadline=None)
    def test_antithetic_pairs_are_complements(self, seed, pair):
        one, other = (
            self.draw(2 * pair + k, draws="antithetic", seed=seed).choices for k in (0, 1)
        )
        assert [a + b for a, b in zip(one, other, strict=True)] == [1] * 7

    @given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 5))
    @settings(max_examples=30, deadline=None)
    def test_a_balanced_run_takes_each_choice_once_at_each_block(self, seed, run, kinds):
        steps = range(run * (kinds + 1), (run + 1) * (kinds + 1))
        drawn = [self.draw(s, kinds=kinds, draws="balanced", seed=seed).choices for s in steps]
        for taken in zip(*drawn, strict=True):
            assert sorted(taken) == list(range(kinds + 1))

    @pytest.mark.parametrize("draws", ["antithetic", "balanced"])
    def test_on_and_off_are_equally_often(self, draws):
        drawn = [self.draw(step, draws=draws).choices for step in range(20)]
        assert [sum(taken) for taken in zip(*drawn, strict=True)] == [10] * 7

    @pytest.mark.parametrize("connect", [0.0, 0.25, 1.0])
    def test_iid_blocks_are_connected_with_the_probability_asked_for(self, connect):
        drawn = [self.draw(step, kinds=3, connect=connect).choices for step in range(400)]
        counts = Counter(choice for choices in drawn for choice in choices)
        wanted = {0: 1 - connect, 1: connect / 3, 2: connect / 3, 3: connect / 3}
        for choice, share in wanted.items():
            assert counts[choice] / 2800 == pytest.approx(share, abs=0.03)

    def test_iid_blocks_are_drawn_apart(self):
        drawn = [self.draw(step).choices for step in range(400)]
        for left, right in pairwise(range(7)):
            agree = sum(choices[left] == choices[right] for choices in drawn) / 400
            assert agree == pytest.approx(0.5, abs=0.1)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"connect": 1.5}, r"connect = 1\.5 given; give a probability in 0\.\.1"),
            ({"draws": "idd"}, "draws = 'idd' given; choose one of iid, antithetic, balanced"),
            ({"draws": "antithetic", "connect": 0.4}, r"connect = 0\.4 and 1 kind"),
            ({"draws": "antithetic", "kinds": 2}, r"connect = 0\.5 and 2 kind"),
        ],
    )
    def test_what_cannot_be_drawn(self, wrong, message):
        with pytest.raises(SchemeError, match=message):
            self.draw(0, **wrong)


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
            assert not torch.equal(buffer, before["backbone.stages.0.0.bn1.running_mean"])
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
