"""Schemes scored through the tree are, to the bit, schemes scored alone."""

from typing import Any

import pytest
import timm
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sat_optuna.attention.dia import DIA
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.errors import DataError, SchemeError
from sat_optuna.evaluate import Evaluation, Evaluator, evaluator, network, score_scheme
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec
from tests.evaluate.scoring import alone, chunks, some_images
from tests.networks import KINDS, name_of, schemes, stirred, tiny_supernet

IMAGES = some_images(23)
CALIBRATION = chunks(7, 5, 3)
CHUNK = 9


def drawn(net: Supernet, count: int) -> list[Scheme]:
    """Some schemes, with none, and with each kind everywhere."""
    chance = torch.Generator().manual_seed(0)
    blocks, kinds = sum(net.stages), len(net.specs)
    rows = torch.randint(0, kinds + 1, (count, blocks), generator=chance).tolist()
    some = [Scheme.of(row, net.stages) for row in rows]
    return list(dict.fromkeys(some + [Scheme.uniform(net.stages, c) for c in range(kinds + 1)]))


@pytest.fixture
def logits(monkeypatch):
    """The logits that are judged, in order."""
    seen: list[Tensor] = []
    judge = network.judge

    def spy(logits, labels, *, task):
        seen.append(logits.clone())
        return judge(logits, labels, task=task)

    for module in (network, evaluator):
        monkeypatch.setattr(module, "judge", spy)
    return seen


def check(net, logits, *, images=IMAGES, calibration=CALIBRATION, chunk=CHUNK, count=6):
    """Compare the tree with each scheme alone: logits bit for bit, and scores."""
    asked = sorted(drawn(net, count), key=lambda scheme: scheme.choices)
    got = Evaluator(net, images, calibration=calibration, chunk=chunk).score_many(asked)
    passes = -(-len(images) // chunk)
    tree = [logits[k * len(asked) + s] for s in range(len(asked)) for k in range(passes)]
    logits.clear()
    wanted = alone(net, asked, images, calibration, chunk)
    assert got == wanted
    assert [e.class_hits for e in got.values()] == [e.class_hits for e in wanted.values()]
    for ours, theirs in zip(tree, logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert len({e.loss for e in got.values()}) > len(asked) // 2  # they do differ


@pytest.mark.parametrize("specs", KINDS, ids=name_of)
def test_every_module_and_sharing(specs, logits):
    check(tiny_supernet(specs), logits)


@pytest.mark.parametrize("backbone", ["preresnet110", "resnet164", "preresnet164"])
def test_every_backbone_of_ours(backbone, logits):
    check(tiny_supernet(["srm", "dia"], backbone=backbone, blocks=(2, 1, 2)), logits)


@pytest.mark.parametrize(
    "build",
    [
        lambda: torchvision.models.resnet18(num_classes=5),
        lambda: timm.create_model("resnetv2_50", num_classes=5, layers=(1, 1, 1, 1)),
        lambda: timm.create_model("mobilenetv3_small_050", num_classes=5),
    ],
    ids=["torchvision", "timm, pre-activation", "timm, steps between the blocks"],
)
def test_networks_of_others(build, logits):
    kinds: list[AttentionSpec | str] = [AttentionSpec(kind="cbam", sharing="block"), "eca"]
    net = stirred(Supernet(build(), attention=kinds, seed=0))
    shape = (3, 32, 32)
    check(net, logits, images=some_images(5, shape), calibration=chunks(4, shape=shape), chunk=3)


def test_attention_that_the_blocks_bring(logits):
    model = timm.create_model("seresnet18", num_classes=5)
    net = stirred(Supernet(model, attention=["own"], seed=0))
    shape = (3, 32, 32)
    check(net, logits, images=some_images(5, shape), calibration=chunks(4, shape=shape), chunk=3)


@pytest.mark.parametrize("specs", [["se"], ["srm", "dia"]], ids="+".join)
def test_without_calibration_the_networks_own_statistics_are_used(specs, logits):
    check(tiny_supernet(specs), logits, calibration=[])


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(schemes(kinds=2), min_size=1, max_size=6))
def test_any_set_of_schemes_in_any_order(asked):
    net = tiny_supernet(["cbam", "dia"])
    one = Evaluator(net, IMAGES, calibration=CALIBRATION, chunk=CHUNK)
    got = one.score_many(iter(asked))
    assert list(got) == list(dict.fromkeys(asked))
    assert got == alone(net, got, IMAGES, CALIBRATION, CHUNK)
    assert one.score_many(reversed(asked)) == got
    assert one.score(asked[0]) == got[asked[0]]


def test_all_schemes_of_two_kinds():
    net = tiny_supernet(["se", "dia"], blocks=(2, 1, 1))
    got = Evaluator(net, IMAGES, calibration=CALIBRATION).score_all()
    assert [str(scheme) for scheme in got][:4] == ["00-0-0", "00-0-1", "00-0-2", "00-1-0"]
    assert len(got) == 3**4
    some = [*got][::9]
    assert {s: got[s] for s in some} == alone(net, some, IMAGES, CALIBRATION, 100)


def test_more_schemes_than_a_unit_are_scored_unit_by_unit(monkeypatch):
    net = tiny_supernet(["se"], blocks=(2, 1, 1))
    whole = Evaluator(net, IMAGES, calibration=CALIBRATION, chunk=CHUNK).score_all()
    monkeypatch.setattr(evaluator, "UNIT", 5)
    parted = Evaluator(net, IMAGES, calibration=CALIBRATION, chunk=CHUNK)
    assert [len(unit) for unit in parted.results(whole)] == [4] * 4
    assert parted.score_all() == whole


def test_each_branch_runs_once_for_a_prefix_and_a_chunk():
    net = tiny_supernet(["se"])
    calls = dict.fromkeys(range(6), 0)
    blocks = [block for blocks in net.view.blocks for block in blocks]
    for place, block in enumerate(blocks):
        first = block.module.get_submodule("conv1")
        first.register_forward_hook(lambda *_, k=place: count(calls, k))
    one = Evaluator(net, IMAGES, calibration=[], chunk=12)  # two chunks
    calls.update(dict.fromkeys(range(6), 0))  # of the trial run of all parts
    one.score_all()
    assert calls == {k: 2 * 2**k for k in range(6)}
    calls.update(dict.fromkeys(range(6), 0))
    one = Evaluator(net, IMAGES, calibration=CALIBRATION, chunk=12)
    calls.update(dict.fromkeys(range(6), 0))
    one.score_all()
    assert calls == {k: (2 + 3) * 2**k for k in range(6)}


def count(calls: dict[int, int], key: int) -> None:
    calls[key] += 1


def test_the_chunk_changes_logits_by_rounding_alone(logits):
    net = tiny_supernet(["se"])
    asked = sorted(drawn(net, 6), key=lambda scheme: scheme.choices)
    one = Evaluator(net, IMAGES, calibration=CALIBRATION, chunk=23).score_many(asked)
    whole = [*logits]
    logits.clear()
    other = Evaluator(net, IMAGES, calibration=CALIBRATION, chunk=4).score_many(asked)
    for place, scheme in enumerate(asked):
        parted = torch.cat(logits[place :: len(asked)])
        bound = 1e-5 * float(whole[place].abs().max())
        torch.testing.assert_close(parted, whole[place], rtol=0, atol=bound)
        assert one[scheme].accuracy == other[scheme].accuracy
        assert one[scheme].loss == pytest.approx(other[scheme].loss, rel=1e-5)


def test_another_calibration_chunk_is_another_score():
    net, whole = tiny_supernet(["se"]), chunks(16)
    scheme = Scheme.parse("11-010-1")
    parted = [part for x in whole for part in x.split(8)]
    one, other = (
        Evaluator(net, IMAGES, calibration=c).score(scheme).loss for c in (whole, parted)
    )
    assert one != other


def test_a_state_that_is_a_view_of_the_features(logits, monkeypatch):
    def forward(self, features, state=None):
        before = 0.0 if state is None else state[0].mean((1, 2, 3), keepdim=True)
        return features * (features.mean((2, 3), keepdim=True) + before), (features[:, :2],)

    monkeypatch.setattr(DIA, "forward", forward)
    check(tiny_supernet(["dia", "se"]), logits)


class TestLeftAsFound:
    @staticmethod
    def state(net):
        return {
            name: (id(value), value.clone(), value._version)
            for name, value in net.state_dict(keep_vars=True).items()
        } | {
            name: (m.training, getattr(m, "momentum", None), len(m._forward_pre_hooks))
            for name, m in net.named_modules()
        }

    @staticmethod
    def same(one, other):
        for name, (first, *rest) in one.items():
            assert first == other[name][0], name
            if isinstance(rest[0], Tensor):
                torch.testing.assert_close(rest[0], other[name][1], rtol=0, atol=0)
            assert rest[1:] == list(other[name][2:])

    def net(self):
        net = tiny_supernet(["cbam", "dia"]).train()
        net.view.blocks[0][0].module.eval()  # modes of several kinds
        return net

    def test_after_scores(self):
        net = self.net()
        before = self.state(net)
        Evaluator(net, IMAGES, calibration=CALIBRATION, cache=10**6).score_many(drawn(net, 3))
        self.same(before, self.state(net))

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    @pytest.mark.parametrize("nth", [1, 8, 13])
    def test_after_an_exception_and_the_next_score_is_right(self, error, nth):
        net = self.net()
        asked, before = drawn(net, 3), self.state(net)
        one = Evaluator(net, IMAGES, calibration=CALIBRATION, chunk=CHUNK, cache=10**6)
        calls = 0

        def fail(*_):
            nonlocal calls
            calls += 1
            if calls == nth:
                raise error

        hook = net.view.blocks[1][0].module.conv2.register_forward_hook(fail)
        with pytest.raises(error):
            one.score_many(asked)
        hook.remove()
        self.same(before, {k: v for k, v in self.state(net).items() if k in before})
        assert one.score_many(asked) == alone(net, asked, IMAGES, CALIBRATION, CHUNK)


class TestCache:
    def test_the_same_scores_from_call_to_call(self):
        net = tiny_supernet(["cbam", "dia"])
        asked = drawn(net, 12)
        wanted = alone(net, asked, IMAGES, CALIBRATION, CHUNK)
        for limit in (1, 200_000, 10**6, 10**9):
            one = Evaluator(net, IMAGES, calibration=CALIBRATION, chunk=CHUNK, cache=limit)
            got: dict[Scheme, Evaluation] = {}
            for start in range(0, len(asked), 4):
                got |= one.score_many(asked[start : start + 4])
            assert got == wanted
            assert {s: one.score(s) for s in asked} == wanted

    @pytest.mark.parametrize("change", ["fused step", "data", "statistics", "another tensor"])
    def test_weights_that_change_between_calls(self, change):
        net = tiny_supernet(["se"])
        one = Evaluator(net, IMAGES, cache=10**9)
        scheme = drawn(net, 1)[0]
        block: Any = net.view.blocks[0][0].module
        before, conv = one.score(scheme), block.conv1
        with torch.no_grad():
            if change == "fused step":  # torch counts it as no change
                for parameter in net.parameters():
                    parameter.grad = torch.ones_like(parameter)
                torch.optim.SGD(net.parameters(), lr=0.01, fused=True).step()
            elif change == "data":
                conv.weight.data.mul_(1.5)
            elif change == "statistics":
                block.bn1.running_mean += 0.3
            else:
                conv.weight = torch.nn.Parameter(conv.weight * 1.5)
        after = one.score(scheme)
        assert after != before
        assert after == Evaluator(net, IMAGES).score(scheme)

    def test_it_saves_branch_passes_and_stays_within_its_bound(self):
        net = tiny_supernet(["se"])
        calls: dict[int, int] = {0: 0}
        first = net.view.blocks[0][0].module.get_submodule("conv1")
        first.register_forward_hook(lambda *_: count(calls, 0))
        for limit, more in ((0, 4), (10**9, 0)):
            one = Evaluator(net, IMAGES, calibration=CALIBRATION, chunk=23, cache=limit)
            one.score(Scheme.parse("00-000-0"))
            calls[0] = 0
            one.score(Scheme.parse("00-000-1"))
            assert calls[0] == more
        for limit in (10**6, 10**7):
            one = Evaluator(net, IMAGES, calibration=CALIBRATION, chunk=CHUNK, cache=limit)
            one.score_many(drawn(net, 12))
            assert 0 < one.cached_bytes <= limit

    def test_other_weights_are_other_scores(self):
        net = tiny_supernet(["se"])
        scheme = Scheme.parse("01-010-1")
        one = Evaluator(net, IMAGES, calibration=CALIBRATION, chunk=CHUNK, cache=10**9)
        before = one.score(scheme)
        with torch.no_grad():
            next(net.parameters()).mul_(1.5)
        after = one.score(scheme)
        assert after != before
        assert after == score_scheme(
            net, scheme, calibration=CALIBRATION, images=IMAGES, batch=CHUNK
        )


class TestBadInput:
    def test_schemes_of_another_network(self):
        one = Evaluator(tiny_supernet(), IMAGES)
        with pytest.raises(SchemeError, match=r"stages \(2, 3\) and the network \(2, 3, 1\)"):
            one.score_many([Scheme.parse("00-000-0"), Scheme.parse("01-000")])
        with pytest.raises(SchemeError, match="asks for kind 2 and the network has 1"):
            one.score(Scheme.parse("00-000-2"))

    def test_no_scheme_is_no_work(self):
        assert Evaluator(tiny_supernet(), IMAGES).score_many([]) == {}

    def test_too_many_schemes(self):
        one = Evaluator(tiny_supernet(), IMAGES)
        with pytest.raises(SchemeError, match="has 64 schemes, more than the limit of 63; raise"):
            one.score_all(limit=63)

    def test_no_image(self):
        with pytest.raises(DataError, match="no image given to evaluate on"):
            Evaluator(tiny_supernet(), IMAGES.subset(torch.empty(0, dtype=torch.int64)))

    def test_a_calibration_chunk_of_one_image(self):
        with pytest.raises(DataError, match=r"chunk 2 has 1 image\(s\), and the statistics"):
            Evaluator(tiny_supernet(), IMAGES, calibration=chunks(4, 1))

    def test_a_norm_that_two_blocks_share(self):
        net = tiny_supernet(["se"])
        first, second = (block.module for block in net.view.blocks[1][:2])
        second.bn2 = first.bn2
        Evaluator(net, IMAGES).score(Scheme.parse("00-000-0"))
        with pytest.raises(BackboneError, match=r"runs backbone.*bn2 in several parts"):
            Evaluator(net, IMAGES, calibration=CALIBRATION)
