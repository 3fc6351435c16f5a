"""Folding against multiplying by hand, and exact where a gate is constant."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from sat_optuna.attention import ATTENTION
from sat_optuna.attention.contract import Attention
from sat_optuna.export.fold import FoldError, fold_constant
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import apart, materialise, scheme_of
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec
from tests.networks import BLOCKS, OURS, images, stirred_module, tiny_supernet

GATED = [name for name in OURS if ATTENTION.get(name).gated]
KEEP = Scheme.parse("01-100-0")
OFF = Scheme.uniform(BLOCKS, 0)


def full_network(kind: str = "se", *, sharing: str = "block", backbone: str = "resnet20"):
    """A network with attention at all blocks, in eval mode."""
    net = tiny_supernet([AttentionSpec(kind=kind, sharing=sharing)], backbone=backbone)
    return materialise(net, Scheme.uniform(net.stages, 1)).eval()


def constant(network: nn.Module) -> nn.Module:
    """Make the gates of SE depend on nothing."""
    for name, value in network.named_parameters():
        if name.endswith("excite.weight"):
            nn.init.zeros_(value)
    return network


def walked(network: nn.Module, x: Tensor, attend: Callable[..., Tensor]) -> Tensor:
    """The logits of a network run block by block; `attend` gets stage and block as well."""
    view, _ = apart(network)
    size = x.shape[2:]
    x = view.stem(x)
    for stage, blocks in enumerate(view.blocks):
        for number, block in enumerate(blocks):
            features, shortcut = block.branch(x)
            x = block.merge(attend(features, stage, number), shortcut)
    return view.head(x, size)


def scaled_by_hand(network: nn.Module, keep: Scheme, x: Tensor) -> tuple[Tensor, list[float]]:
    """Logits where the gates of dropped blocks are their means over x, and the dispersions."""
    gates: dict[tuple[int, int], Tensor] = {}
    _, attention = apart(network)

    def attended(features: Tensor, stage: int, block: int) -> Tensor:
        result, _ = attention[stage].module_for(1, block)(features, None)
        # Each pixel of a channel has the same gate; the median leaves out those near 0 / 0.
        gates[stage, block] = (result / features).nanmedian(3)[0].nanmedian(2)[0]
        return result

    def scaled(features: Tensor, stage: int, block: int) -> Tensor:
        if keep.by_stage()[stage][block]:
            return attended(features, stage, block)
        return features * means[stage, block][:, None, None]

    walked(network, x, attended)
    means = {block: gate.mean(0) for block, gate in gates.items()}
    spreads = [
        float((gate - means[stage, block]).abs().max())
        for (stage, block), gate in gates.items()
        if not keep.by_stage()[stage][block]
    ]
    return walked(network, x, scaled), spreads


@pytest.mark.parametrize("sharing", ["block", "stage"])
@pytest.mark.parametrize("kind", GATED)
def test_folding_is_multiplying_by_the_mean_gates(kind, sharing):
    network = full_network(kind, sharing=sharing)
    x = images(6)
    folded, report = fold_constant(network, KEEP, [x[:4], x[4:]])
    with torch.no_grad():
        wanted, spreads = scaled_by_hand(network, KEEP, x)
        before, after = network(x), folded(x)
    torch.testing.assert_close(after, wanted, rtol=1e-4, atol=1e-5)
    dropped = [(1, 1), (2, 2), (2, 3), (3, 1)]
    assert [(block.stage, block.block) for block in report.blocks] == dropped
    assert {block.kind for block in report.blocks} == {kind}
    got = [block.dispersion for block in report.blocks]
    assert got == pytest.approx(spreads, rel=1e-2, abs=1e-5)
    change = (after - before).abs().amax(1) / before.abs().amax(1)
    assert report.change_max == pytest.approx(float(change.max()), rel=1e-4)
    assert report.change_mean == pytest.approx(float(change.mean()), rel=1e-4)
    assert report.unchanged == float((after.argmax(1) == before.argmax(1)).float().mean())
    assert report.images == 6


def test_what_is_folded_is_gone_and_what_is_kept_is_the_same():
    network = full_network()
    folded, _ = fold_constant(network, KEEP, [images(4)])
    names = [name for name, module in folded.named_modules() if isinstance(module, Attention)]
    assert names == ["stages.0.1.attention", "stages.1.0.attention"]
    assert type(folded) is type(network)
    assert scheme_of(folded) == KEEP
    had, has = network.state_dict(), folded.state_dict()
    other = {name for name, value in has.items() if not torch.equal(value, had[name])}
    dropped = ("0.0", "1.1", "1.2", "2.0")
    assert other == {f"stages.{b}.bn2.{w}" for b in dropped for w in ("weight", "bias")}


@pytest.mark.parametrize(
    "backbone", ["resnet20", "preresnet110"], ids=["BatchNorm", "convolution"]
)
def test_a_constant_gate_folds_without_a_trace(backbone):
    network = constant(full_network(backbone=backbone))
    folded, report = fold_constant(network, OFF, [images(5)])
    x = images(7, seed=3)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-6, atol=1e-6)
    assert report.change_max < 1e-6
    assert report.unchanged == 1.0
    assert max(block.dispersion for block in report.blocks) < 1e-7


@pytest.mark.parametrize(
    "backbone",
    ["resnet18", "timm:mobilenetv3_small_050", "timm:regnetx_002", "timm:resnetv2_50"],
)
def test_constants_fold_into_networks_of_others(backbone):
    net = Supernet(backbone, attention=["se"], in_channels=3, classes=5, seed=0)
    stirred_module(net)
    network = constant(materialise(net, Scheme.uniform(net.stages, 1)).eval())
    x = images(2, shape=(3, 48, 48))
    folded, report = fold_constant(network, Scheme.uniform(net.stages, 0), [x])
    assert len(report.blocks) == sum(net.stages)
    assert report.change_max < 1e-5
    torch.testing.assert_close(folded(x), network(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backbone", ["timm:seresnet18", "timm:convnext_atto"])
def test_blocks_that_rescale_their_features_last_are_refused(backbone):
    net = Supernet(backbone, attention=["se"], in_channels=3, classes=5, seed=0)
    network = materialise(net, Scheme.uniform(net.stages, 1))
    with pytest.raises(FoldError, match="at stage 1, block 1 ends in no convolution or BatchNorm"):
        fold_constant(network, Scheme.uniform(net.stages, 0), [images(1, shape=(3, 48, 48))])


def test_folding_everything_leaves_a_plain_network():
    network = full_network("srm", sharing="stage")
    folded, _ = fold_constant(network, OFF, [images(4)])
    plain = materialise(tiny_supernet(["se"]), OFF)
    assert set(folded.state_dict()) == set(plain.state_dict())
    assert not [module for module in folded.modules() if isinstance(module, Attention)]


def test_blocks_that_share_a_module_have_their_own_constants():
    network = full_network(sharing="stage")
    folded, _ = fold_constant(network, Scheme.parse("00-111-1"), [images(4)])
    had, has = network.state_dict(), folded.state_dict()
    names = [f"stages.0.{block}.bn2.weight" for block in (0, 1)]
    first, second = (has[name] / had[name] for name in names)
    assert ((first > 0) & (first < 1)).all()
    assert not torch.allclose(first, second, rtol=1e-3)


def test_folding_nothing_changes_nothing():
    network = full_network()
    folded, report = fold_constant(network, scheme_of(network), [images(4)])
    assert torch.equal(folded(images(3)), network(images(3)))
    assert (report.change_max, report.blocks) == (0.0, ())


def test_the_network_is_left_as_it_is():
    network = full_network("srm").train()
    network.stages[0].eval()
    modes = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded, _ = fold_constant(network, KEEP, [images(4)])
    assert [module.training for module in network.modules()] == modes
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert folded.training
    pointers = {value.data_ptr() for value in network.state_dict().values()}
    assert not pointers & {value.data_ptr() for value in folded.state_dict().values()}


@pytest.mark.parametrize("kind", [name for name in OURS if name not in GATED])
def test_what_is_no_channel_gate_is_refused(kind):
    network = full_network(kind, sharing=ATTENTION.get(kind).sharings[0])
    words = f"{kind} at stage 1, block 1 is no gate for each.*eca, ie, se, spa, srm.*keep it"
    with pytest.raises(FoldError, match=words):
        fold_constant(network, KEEP, [images(2)])
    fold_constant(network, scheme_of(network), [images(2)])  # kept, it does not matter


@pytest.mark.parametrize("keep", ["22-222-2", "11-111", "12-111-1"])
def test_a_scheme_that_is_no_part_of_the_network_is_refused(keep):
    with pytest.raises(FoldError, match=rf"scheme {keep} keeps what the network of 11-111-1 has"):
        fold_constant(full_network(), Scheme.parse(keep), [images(2)])


def test_a_block_without_a_layer_for_the_constant_is_refused():
    network = full_network()
    block = apart(network)[0].blocks[2][0].module
    block.bn2 = nn.BatchNorm2d(32, affine=False)
    words = "BasicBlock at stage 3, block 1 ends in no convolution or BatchNorm with weights"
    with pytest.raises(FoldError, match=words):
        fold_constant(network, KEEP, [images(2)])


@pytest.mark.parametrize("batches", [[], [images(0)]], ids=["none", "empty"])
def test_no_images_are_refused(batches: Sequence[Tensor]):
    with pytest.raises(FoldError, match="no image given to take means over; give at least one"):
        fold_constant(full_network(), KEEP, batches)


def test_several_kinds_fold_where_they_are():
    net = Supernet(
        "resnet20",
        attention=["se", "sge"],
        in_channels=2,
        classes=5,
        seed=0,
        width=8,
        blocks=BLOCKS,
    )
    network = materialise(net, Scheme.parse("12-121-0")).eval()
    folded, report = fold_constant(network, Scheme.parse("02-021-0"), [images(4)])
    assert [(block.stage, block.block) for block in report.blocks] == [(1, 1), (2, 1)]
    assert str(scheme_of(folded)) == "02-021-0"
