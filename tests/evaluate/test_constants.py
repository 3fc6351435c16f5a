"""Modules that became constants: the tree's scores, a walk by hand, and the folded network."""

from collections.abc import Sequence
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from sat_optuna.attention import ATTENTION, OWN
from sat_optuna.errors import DataError, SchemeError
from sat_optuna.evaluate import Evaluation, Evaluator, evaluate_network
from sat_optuna.evaluate.constants import PrefixConstants, scheme_constants
from sat_optuna.evaluate.journal import Journal, JournalError
from sat_optuna.evaluate.parts import Parts
from sat_optuna.evaluate.tree import walk
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.batchnorm import evaluating
from sat_optuna.supernet.folding import FoldError, check_trained, folded_network, gate_at
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec
from tests.evaluate.scoring import chunks, some_images
from tests.evaluate.test_tree import CALIBRATION, CHUNK, IMAGES, drawn
from tests.networks import OURS, images, stirred, tiny_supernet

RGB = (3, 32, 32)
GATED = [kind for kind in ATTENTION.names() if ATTENTION.get(kind).gated]


def evaluator(net: Supernet, **more: Any) -> Evaluator:
    usual: dict[str, Any] = {"images": IMAGES, "calibration": CALIBRATION, "chunk": CHUNK}
    return Evaluator(net, estimates=PrefixConstants, **usual | more)


def by_hand(net: Supernet, scheme: Scheme, calibration: Sequence[Tensor], x: Tensor) -> Tensor:
    """Logits in the definition, without the tree."""
    places = [(s, b) for s, size in enumerate(net.stages) for b in range(size)]
    means: dict[int, list[Tensor]] = {}

    def walked(x: Tensor, constants: dict[int, Tensor] | None) -> Tensor:
        size = x.shape[2:]
        x = net.view.stem(x)
        for number, ((stage, block), choice) in enumerate(
            zip(places, scheme.choices, strict=True)
        ):
            view = net.view.blocks[stage][block]
            features, shortcut = view.branch(x)
            attended, _ = net.stage_attention[stage].module_for(1, block)(features, None)
            if not choice and constants is None:
                gates = gate_at(net.stage_attention[stage], 1, block)(features)
                means.setdefault(number, []).append(gates.mean(0))
            if not choice:
                factor = means[number][-1] if constants is None else constants[number]
                attended = features * factor[:, None, None]
            x = view.merge(attended, shortcut)
        return net.view.head(x, size)

    net.eval()
    with torch.no_grad():
        for chunk in calibration:
            walked(chunk, None)
        return walked(x, {number: torch.stack(each).mean(0) for number, each in means.items()})


def scored(net: Supernet, schemes: Sequence[Scheme], calibration: Sequence[Tensor], x: Tensor):
    """The logits that the tree judges, by scheme."""
    parts = Parts(net)
    constants = PrefixConstants.of(parts, x, calibration)
    asked = sorted(scheme.choices for scheme in schemes)
    none: dict[str, Any] = {"known": {}, "wanted": (), "keep": {}}
    with evaluating(net), torch.inference_mode(), constants.prepared(asked):
        constants.train(mode=True)
        for chunk in calibration:
            list(walk(parts, constants, asked, chunk, **none))
        constants.train(mode=False)
        return {
            Scheme(c, net.stages): made for c, made in walk(parts, constants, asked, x, **none)
        }


def same(one: Tensor, other: Tensor, *, to: float) -> None:
    apart = float((one - other).abs().max() / other.abs().max())
    assert apart <= to


@pytest.mark.parametrize(
    "spec",
    [AttentionSpec(kind=kind, sharing=s) for kind in GATED for s in ATTENTION.get(kind).sharings],
    ids=lambda spec: f"{spec.kind}-{spec.sharing}",
)
def test_every_gate_folded_is_what_the_tree_scores_and_the_definition(spec):
    asked = [Scheme.parse(text) for text in ("0-00-0", "0-11-0", "1-01-1", "1-11-1")]
    for dtype, limit in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        net = tiny_supernet([spec], blocks=(1, 2, 1)).to(dtype)
        calibration = [x.to(dtype) for x in CALIBRATION]
        x = images(6).to(dtype)
        logits = scored(net, asked, calibration, x)
        for scheme in asked:
            constants = scheme_constants(net, scheme, calibration)
            network = folded_network(net, scheme, constants).eval()
            with torch.no_grad():
                same(network(x), logits[scheme], to=limit)
            same(by_hand(net, scheme, calibration, x), logits[scheme], to=limit)
            assert len(constants) == 4 - scheme.connections


def test_the_score_is_the_folded_networks():
    net = tiny_supernet(["se"])
    one = evaluator(net)
    for scheme in drawn(net, 4):
        network = folded_network(net, scheme, scheme_constants(net, scheme, CALIBRATION))
        wanted = evaluate_network(network, IMAGES)
        got = one.score(scheme)
        assert got.class_hits == wanted.class_hits
        assert got.loss == pytest.approx(wanted.loss, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param("seresnet18", OWN, marks=pytest.mark.slow),  # into the BatchNorm before
        ("regnety_002", OWN),  # past an activation, into the convolution after
        ("mobilenetv3_small_050", OWN),
        ("tinynet_e", OWN),  # efficientnet's blocks
        pytest.param("regnetv_040", OWN, marks=pytest.mark.slow),  # into the convolution before
        pytest.param("resnetv2_18", "se", marks=pytest.mark.slow),
        pytest.param("regnetx_002", "timm:ese", marks=pytest.mark.slow),
    ],
)
def test_networks_of_others_fold_exactly(name, kind):
    model = timm.create_model(name, num_classes=5)
    net = stirred(Supernet(model, attention=[kind], seed=0)).double().eval()
    calibration = [x.double() for x in chunks(4, 3, shape=RGB)]
    x = images(3, shape=RGB).double()
    for scheme in (Scheme.uniform(net.stages, 0), drawn(net, 1)[0]):
        network = folded_network(net, scheme, scheme_constants(net, scheme, calibration)).eval()
        with torch.no_grad():
            same(network(x), by_hand(net, scheme, calibration, x), to=1e-11)
        kept = sum(value.numel() for value in network.parameters())
        had = sum(value.numel() for value in net.parameters())
        assert kept < had


def test_a_grouped_convolution_after_takes_the_factor_of_its_own_channels():
    conv = torch.nn.Conv2d(6, 4, 3, groups=2, padding=1)
    factor, x = torch.linspace(0.5, 1.5, 6), images(2, shape=(6, 5, 5))
    with torch.no_grad():
        wanted = conv(x * factor[:, None, None])
    block = type("Block", (), {"last": None, "after": conv})()
    from sat_optuna.supernet.folding import fold_factor

    fold_factor(block, factor)
    torch.testing.assert_close(conv(x), wanted)


def test_all_modules_kept_is_the_network_as_it_is():
    net = tiny_supernet(["srm"])
    full = Scheme.uniform(net.stages, 1)
    wanted = evaluate_network(net, IMAGES, scheme=full, batch=CHUNK)
    assert evaluator(net).score(full) == wanted


def test_a_scheme_has_one_score_whatever_it_is_scored_with_and_kept():
    net = tiny_supernet(["se"], blocks=(1, 2, 1)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    asked = drawn(net, 4)
    wanted: dict[Scheme, Evaluation] = {s: evaluator(net).score(s) for s in asked}
    for cache in (0, 200_000, 10**9):
        one = evaluator(net, cache=cache)
        assert one.score_many(asked[:2]) | one.score_many(asked) == wanted
    assert len({score.loss for score in wanted.values()}) == len(asked)
    assert net.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    again = evaluator(net).score_all()
    assert {scheme: again[scheme] for scheme in asked} == wanted


def test_a_constant_depends_on_the_choices_before_it_and_on_no_later_one():
    net = tiny_supernet(["se"])
    texts = ("11-011-1", "11-000-0", "01-011-1")
    one, same_first, other = (
        scheme_constants(net, Scheme.parse(text), CALIBRATION)[1, 0] for text in texts
    )
    assert torch.equal(one, same_first)
    assert not torch.equal(one, other)


def test_chunks_are_part_of_the_score_and_one_image_is_a_chunk():
    net = tiny_supernet(["se"])
    scheme = Scheme.parse("00-010-0")
    whole = [torch.cat(CALIBRATION)]
    single = [x[None] for x in whole[0]]
    losses = [
        evaluator(net, calibration=c).score(scheme).loss for c in (whole, CALIBRATION, single)
    ]
    assert len(set(losses)) == 3
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-2)


class TestBadInput:
    @pytest.mark.parametrize("calibration", [[], [torch.zeros(0, 2, 16, 16)]])
    def test_no_calibration(self, calibration):
        for call in (
            lambda net: evaluator(net, calibration=calibration),
            lambda net: scheme_constants(net, Scheme.parse("00-000-0"), calibration),
        ):
            with pytest.raises(DataError, match="no calibration image given to take the gates'"):
                call(tiny_supernet(["se"]))

    @pytest.mark.parametrize(
        "kind", [k for k in OURS if not ATTENTION.get(k).gated] + ["timm:gc", "timm:cbam"]
    )
    def test_a_kind_that_is_no_channel_gate(self, kind):
        words = (
            rf"^{kind} at stage 1, block 1 is no gate for each channel, .*\(eca, ie, se, spa, s"
        )
        with pytest.raises(FoldError, match=words + "rm, timm:ceca, timm:eca, .*, and own where"):
            evaluator(tiny_supernet([kind]))

    def test_a_networks_own_that_is_no_gate(self):
        model = timm.create_model("resnet18", block_args={"attn_layer": "cbam"}, num_classes=5)
        net = Supernet(model, attention=[OWN], seed=0)
        with pytest.raises(FoldError, match=r"^own \(CbamModule\) at stage 1, block 1 is no gate"):
            evaluator(net, images=some_images(5, RGB), calibration=chunks(4, shape=RGB))

    def test_several_kinds(self):
        with pytest.raises(FoldError, match=r"^2 kinds of attention given \(se, eca\), and fold"):
            evaluator(tiny_supernet(["se", "eca"]))

    def test_a_block_that_rescales_its_features_last(self):
        model = timm.create_model("seresnet18", num_classes=5)
        net = Supernet(model, attention=["se"], seed=0)
        with pytest.raises(FoldError, match="ends in no convolution or BatchNorm with weights"):
            evaluator(net, images=some_images(5, RGB), calibration=chunks(4, shape=RGB))

    def test_a_scheme_of_another_network(self):
        with pytest.raises(SchemeError, match="stages"):
            scheme_constants(tiny_supernet(["se"]), Scheme.parse("0-0"), CALIBRATION)

    def test_a_network_that_was_never_trained(self):
        net = Supernet("resnet20", attention=["se"], in_channels=1, classes=2, seed=0, width=4)
        with pytest.raises(FoldError, match=r"^this resnet20 was never trained .* connect=1.0"):
            check_trained(net)
        next(net.buffers())[0] = 0.5
        check_trained(net)

    def test_a_journal_of_the_other_way(self, tmp_path):
        net = tiny_supernet(["se"])
        ways = (evaluator(net), Evaluator(net, IMAGES, calibration=CALIBRATION, chunk=CHUNK))
        for number, (one, other) in enumerate((ways, ways[::-1])):
            Journal(tmp_path / f"{number}.jsonl", one).score([Scheme.parse("00-000-0")])
            with pytest.raises(JournalError, match="holds results of another calibration than"):
                Journal(tmp_path / f"{number}.jsonl", other)
