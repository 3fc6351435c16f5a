"""T1's bound is never exceeded, for its formula and for measured errors; T4 against numpy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sat_optuna.data.split import Split
from sat_optuna.errors import SchemeError
from sat_optuna.evaluate import calibration_batches, evaluate_network
from sat_optuna.evidence.theory import (
    TheoryError,
    redundancy,
    removal_bound,
    single_removals,
    theory,
)
from sat_optuna.export.fold import fold_constant
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec
from tests.evidence.test_lipschitz import GATED
from tests.networks import images, stirred


def full(
    kind="se", *, seed=0, sharing="block", backbone="resnet20", blocks=(1, 2, 1), classes=3, **more
):
    net = Supernet(
        backbone,
        attention=[AttentionSpec(kind=kind, sharing=sharing)],
        in_channels=2,
        classes=classes,
        seed=seed,
        width=8 if kind == "sge" else 4,
        blocks=blocks,
        **more,
    )
    return materialise(stirred(net), Scheme.uniform(net.stages, 1)).eval()


def pictures(count=6, *, seed=0):
    return images(count, seed=seed, shape=(2, 8, 8))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sharing", ["block", "stage"])
@pytest.mark.parametrize("kind", GATED)
def test_the_error_never_exceeds_the_bound(kind, sharing, seed):
    backbone = ("resnet20", "preresnet110", "resnet164")[seed]
    network = full(kind, seed=seed, sharing=sharing, backbone=backbone)
    chance = np.random.default_rng([seed, len(kind)])
    keep = Scheme.of(chance.integers(0, 2, 4), (1, 2, 1))
    batches = [pictures(4, seed=seed), pictures(2, seed=seed + 9)]
    found = removal_bound(network, keep, batches)
    assert found.holds
    assert found.images == 6
    folded, report = fold_constant(network, keep, batches)
    with torch.no_grad():
        off = max(float((network(x) - folded(x)).norm(dim=1).max()) for x in batches)
    assert found.error == pytest.approx(off, rel=1e-3, abs=1e-6)
    assert found.error <= found.bound
    spread = [block.dispersion for block in report.blocks]
    assert [r.dispersion for r in found.removed[::-1]] == pytest.approx(spread, rel=1e-4)
    names = Scheme.parameter_names((1, 2, 1))
    dropped = [name for name, kept in zip(names, keep.choices, strict=True) if not kept]
    assert [r.block for r in found.removed] == dropped[::-1]
    for removed in found.removed:
        assert removed.error <= removed.bound


@pytest.mark.parametrize("head", ["fcn", "density"])
@pytest.mark.parametrize("kind", ["se", "eca"])
def test_the_bound_of_maps_is_of_all_pixels_of_an_image(kind, head):
    network = full(kind, head=head)
    x = images(4, shape=(2, 10, 7))  # padded to 12 x 8
    keep = Scheme.parse("0-10-0")
    found = removal_bound(network, keep, [x[:3], x[3:]])
    assert found.holds
    folded, _ = fold_constant(network.double(), keep, [x[:3].double(), x[3:].double()])
    with torch.no_grad():
        off = network(x.double()) - folded(x.double())
    assert off.shape == (4, 3, 10, 7)
    assert found.error == pytest.approx(float(off.square().sum((1, 2, 3)).sqrt().max()))
    assert 0 < found.error <= found.bound < math.inf
    assert len(found.removed) == 3
    for removed in found.removed:
        assert removed.error <= removed.bound


@pytest.mark.slow
def test_deeplabv3_has_a_bound_too():
    network = full(head="deeplabv3", blocks=(1, 1, 1))
    found = removal_bound(network, Scheme.parse("1-1-0"), [images(2, shape=(2, 8, 8))])
    assert found.holds
    assert 0 < found.error <= found.bound < math.inf


@pytest.mark.parametrize(
    ("task", "targets", "metric", "said", "head", "classes"),
    [
        ("segmentation", "masks", "", "miou", "fcn", 3),
        ("counting", "density", "mae", "mae", "density", 1),
        ("regression", "numbers", "rmse", "rmse", "linear", 1),
        ("classification", "labels", "log_loss", "log loss", "linear", 3),
    ],
)
def test_losses_are_in_the_metric_of_the_task(task, targets, metric, said, head, classes):
    chance, x = torch.Generator().manual_seed(0), pictures(40)
    truth = {
        "masks": torch.randint(0, 3, (40, 8, 8), generator=chance),
        "density": torch.rand(40, 8, 8, generator=chance) / 50,
        "numbers": torch.randn(40, generator=chance),
        "labels": torch.arange(40) % 3,
    }[targets]
    network = full(head=head, classes=classes)
    for name, value in network.named_parameters():
        if "excite" in name or ("head" in name and value.ndim > 1):
            value.data *= 40  # so that gates and answers vary
    data = Split.from_arrays(x, truth, valid=0.5, targets=targets)
    found = theory(network, data, Scheme.parse("0-10-1"), images=20, task=task, metric=metric)
    assert (found.refused, found.metric) == ("", said)
    lines = replace(found, tau=0.5, p=0.1).lines()
    assert f"dispersion against {said} lost when one module" in lines[1]
    name = metric or "miou"
    sign = 1 if name == "miou" else -1
    batches = calibration_batches(data.train, count=20, seed=0)
    folds = single_removals(network, batches)
    for single, (block, _, folded) in zip(found.singles, folds, strict=True):
        before, after = (
            evaluate_network(net, data.valid, task=task, metrics=[name]).scores[name]
            for net in (network, folded)
        )
        assert (single.block, single.drop) == (block, sign * (before - after))
    assert any(single.drop for single in found.singles)


def test_the_last_module_has_the_bound_of_the_formula():
    network, x = full(blocks=(1, 1, 1)), pictures()
    seen: dict[str, torch.Tensor] = {}
    block = network.stages[2][0]
    block.bn2.register_forward_hook(lambda _m, _x, out: seen.update(features=out.detach()))
    found = removal_bound(network, Scheme.parse("1-1-0"), [x])
    network.double()(x.double())
    features = seen["features"].numpy()
    with torch.no_grad():
        gates = block.attention.gate(seen["features"]).numpy()
    weight = network.head[2].weight.detach().numpy()
    spread = np.abs(gates - gates.mean(0)).max(1)
    radius = spread * np.sqrt((features**2).sum((1, 2, 3)))
    head = np.linalg.norm(weight, 2) / 2  # the mean of 2 x 2 pixels
    (removed,) = found.removed
    assert removed.dispersion == pytest.approx(spread.max())
    assert removed.radius == pytest.approx(radius.max())
    assert removed.lipschitz == pytest.approx(head)
    assert found.bound == pytest.approx(radius.max() * head)
    assert not found.is_vacuous


def test_gates_that_look_at_nothing_have_neither_error_nor_bound():
    network = full()
    for name, value in network.named_parameters():
        if name.endswith("excite.weight"):
            nn.init.zeros_(value)
    found = removal_bound(network, Scheme.parse("0-00-0"), [pictures()])
    assert found.bound < 1e-9
    assert found.error < 1e-12
    assert found.holds
    nothing = removal_bound(network, Scheme.parse("1-11-1"), [pictures()])
    assert (nothing.bound, nothing.error, nothing.ratio) == (0, 0, 1)


@pytest.mark.parametrize("kind", ["sge", "dia", "cbam", "gc"])
def test_other_attention_is_refused(kind):
    sharing = "stage" if kind == "dia" else "block"
    with pytest.raises(TheoryError) as caught:
        removal_bound(full(kind, sharing=sharing), Scheme.parse("0-00-0"), [pictures()])
    assert str(caught.value).startswith(
        f"{kind} at s1.b00 is no gate for each channel without state, and T1 speaks of such gates "
        "alone (eca, ie, se, spa, srm); give"
    )


def test_maps_of_channel_gates_are_their_gates_and_correlate_as_numpy_says():
    network, x = full(blocks=(1, 3, 1)), pictures()
    gates = {}
    for number, block in enumerate(network.stages[1]):
        block.bn2.register_forward_hook(
            lambda _m, _x, out, number=number: gates.update({number: out.detach()})
        )
    found = redundancy(network, [x[:4], x[4:]], density=0.25)
    network(x)
    with torch.no_grad():
        maps = [
            block.attention.gate(gates[number]).flatten().numpy()
            for number, block in enumerate(network.stages[1])
        ]
    wanted = np.corrcoef(maps)
    assert list(found.pairs) == [
        ("s2.b00", "s2.b01"),
        ("s2.b00", "s2.b02"),
        ("s2.b01", "s2.b02"),
    ]
    assert list(found.pairs.values()) == pytest.approx(
        [wanted[0, 1], wanted[0, 2], wanted[1, 2]], rel=1e-3
    )
    assert found.mean == pytest.approx(wanted[np.triu_indices(3, 1)].mean(), rel=1e-3)
    assert found.line.endswith(" 3 pairs); the best ticket keeps 25% of the blocks")


@pytest.mark.parametrize("blocks", [(1, 1, 1)])
def test_stages_of_one_block_have_nothing_alike(blocks):
    found = redundancy(full(blocks=blocks), [pictures()], density=0.0)
    assert found.pairs == {}
    assert found.line.startswith("T4: no stage has two blocks")


def split():
    x = pictures(60)
    return Split.from_arrays(x, torch.arange(60) % 3, valid=0.5)


def test_the_theory_of_a_network_in_lines():
    network, data = full(), split()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = theory(network, data, Scheme.parse("0-10-1"), images=20)
    assert all(torch.equal(before[name], v) for name, v in network.state_dict().items())
    assert [single.block for single in found.singles] == ["s1.b00", "s2.b00", "s2.b01", "s3.b00"]
    order = sorted(found.singles, key=lambda single: -single.dispersion)
    kept = {single.block for single in order[:2]}
    names = Scheme.parameter_names((1, 2, 1))
    assert found.rival == Scheme.of([name in kept for name in names], (1, 2, 1))
    first, second, third, fourth = found.lines()
    assert first.startswith("T1: 2 modules became constants (`0-10-1` stays); the outputs change")
    assert first.endswith("never exceeded on 20 images")
    assert "T1: dispersion against accuracy lost" in second or "too few blocks" in second
    assert third == f"T1: the dispersion ticket, which needs no search, is `{found.rival}`"
    assert fourth.startswith("T4: attention maps of two blocks of a stage correlate by ")
    assert fourth.endswith("the best ticket keeps 50% of the blocks")


def test_a_single_removal_is_the_fold_of_one_module():
    network, x = full(), pictures()
    found = {name: (d, net) for name, d, net in single_removals(network, [x])}
    folded, report = fold_constant(network, Scheme.parse("1-01-1"), [x])
    dispersion, net = found["s2.b00"]
    assert dispersion == report.blocks[0].dispersion
    assert torch.equal(net(x), folded(x))


@pytest.mark.parametrize(("kind", "sharing"), [("sge", "block"), ("dia", "stage")])
def test_where_t1_does_not_speak_t4_does(kind, sharing):
    found = theory(full(kind, sharing=sharing), split(), Scheme.parse("0-10-1"), images=20)
    said, alike = found.lines()
    assert said.startswith(f"T1: not computed: {kind} at s1.b00 is no gate")
    assert alike.startswith("T4: attention maps of two blocks")
    assert (found.bound, found.rival, found.singles) == (None, None, ())


@pytest.mark.parametrize("text", ["0-1-0", "2-11-1"])
def test_a_ticket_of_another_network_is_refused(text):
    with pytest.raises(SchemeError):
        theory(full(), split(), Scheme.parse(text))
