"""Attention in any model: bit for bit plain without a scheme, the supernet's bits under one."""

import copy
import pickle
import threading
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, cast

import optuna
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock
from torchvision.ops.misc import FrozenBatchNorm2d

from sat_optuna.attention import ATTENTION
from sat_optuna.attention.contract import AttentionError
from sat_optuna.backbones.cifar_resnet import BasicBlock as OurBlock
from sat_optuna.cost.operations import CostModel
from sat_optuna.errors import DataError, SatOptunaWarning, SchemeError
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import seeded
from sat_optuna.slots import AttachError, SchemeInUse, Slots, attach
from sat_optuna.supernet.batchnorm import recalibrated
from sat_optuna.supernet.materialise import kinds_of, materialise, scheme_of
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec
from tests.networks import images, stirred_module

SHAPE = (3, 32, 32)
SCHEME = Scheme.parse("1-0-1-1")
OTHER = Scheme.parse("0-1-1-0")
STATELESS = {
    sharing: [
        AttentionSpec(kind=kind, sharing=sharing)
        for kind in ATTENTION.single_names()
        if not ATTENTION.get(kind).recurrent and sharing in ATTENTION.get(kind).sharings
    ]
    for sharing in ("block", "stage")
}


def same(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0)


def resnet(
    norm: Callable[..., nn.Module] = nn.BatchNorm2d, *, blocks: Sequence[int] = (1, 1, 1, 1)
) -> nn.Module:
    with seeded("resnet"):
        model = torchvision.models.ResNet(BasicBlock, list(blocks), num_classes=4, norm_layer=norm)
    return stirred_module(model)


class Nested(nn.Module):
    """A model that no table knows, around a network's blocks: what a detector or a U-Net is."""

    def __init__(self, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"body": encoder or resnet()})
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(self.encoder["body"](x)[:, :, None, None])
        return made


def attached(*kinds: str | AttentionSpec) -> tuple[nn.Module, Slots]:
    model = Nested()
    slots = attach(model, attention=kinds or ["se"], seed=0)
    stirred_module(model)
    return model, slots


def two_blocks() -> tuple[nn.Module, Slots]:
    with seeded("blocks"):
        model = nn.Sequential(OurBlock(4, 4, stride=1), OurBlock(4, 8, stride=2))
    return model, attach(model, attention=["se"], seed=0)


def test_stages_are_containers_in_module_order_and_names_are_those_of_the_model():
    model, slots = attached("se", "cbam")
    assert slots.stages == (1, 1, 1, 1)
    assert slots.paths[2] == ("encoder.body.layer3.0",)
    assert slots.kinds == ("se", "cbam")
    again = attach(
        torchvision.models.detection.fasterrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=2
        ),
        attention=["eca"],
        seed=0,
    )
    assert again.stages == (3, 4, 6, 3)
    assert again.paths[0][1] == "backbone.body.layer1.1"
    assert type(model.get_submodule("encoder.body.layer1.0")).__name__ == "BasicBlockWithSlot"


@pytest.mark.parametrize("sharing", ["block", "stage"])
def test_each_kind_computes_what_a_supernet_of_the_same_seed_does(sharing):
    model, kinds = resnet(blocks=(2, 1, 1, 1)), STATELESS[sharing]
    net = Supernet(copy.deepcopy(model), attention=kinds, seed=3)
    slots = attach(model, attention=kinds, seed=3)
    x = images(3, shape=SHAPE)
    for begin in range(1, len(kinds) + 1, 4):
        c = [min(begin + k, len(kinds)) for k in range(4)]
        scheme = Scheme.of([c[0], c[0], c[1], c[2], c[3]], slots.stages)
        results = []
        for net_, call in ((model, model), (net, lambda x, scheme=scheme: net(x, scheme))):
            net_.zero_grad()
            with slots.using(scheme):
                logits = call(x)
                torch.autograd.backward(logits.sum())
            grads = [p.grad for p in net_.parameters() if p.grad is not None]
            results.append((logits, len(grads), sum(float(g.abs().sum()) for g in grads)))
        same(results[0][0], results[1][0])
        assert results[0][1] == results[1][1]
        assert results[0][2] == pytest.approx(results[1][2])
        ticket, other = slots.materialise(scheme), materialise(net, scheme)
        assert list(ticket.state_dict()) == list(other.state_dict())
        for name, value in other.state_dict().items():
            same(ticket.state_dict()[name], value)


def test_without_a_scheme_the_model_computes_what_it_did_and_detach_leaves_it_as_it_was():
    plain, x = Nested(), images(3, shape=SHAPE)
    model = copy.deepcopy(plain)
    slots = attach(model, attention=["se", AttentionSpec(kind="srm", sharing="stage")], seed=1)
    with slots.using(SCHEME):
        assert not torch.equal(model.eval()(x), plain.eval()(x))
    for mode in (True, False):
        same(model.train(mode)(x), plain.train(mode)(x))
    for name, value in plain.state_dict().items():
        same(model.state_dict()[name], value)
    with pytest.raises(RuntimeError, match="by hand"), slots.using(SCHEME):
        raise RuntimeError("by hand")
    same(model(x), plain(x))  # also after an error
    slots.detach()
    assert list(model.state_dict()) == list(plain.state_dict())
    assert str(model) == str(plain)
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    same(model(x), plain(x))
    for use in (slots.detach, lambda: slots.materialise(SCHEME)):
        with pytest.raises(AttachError, match="these slots were detached; call attach again"):
            use()
    attach(model, attention=["se"], seed=0)


def test_what_is_materialised_is_a_model_of_the_same_type_that_knows_nothing_of_slots():
    model, slots = attached("cbam", AttentionSpec(kind="sge", sharing="stage"))
    scheme, x = Scheme.parse("1-0-2-1"), images(2, shape=SHAPE)
    model.eval()
    with slots.using(scheme):
        wanted = model(x)
        ticket = slots.materialise(scheme)  # not under the scheme in use, but of it
    assert type(ticket) is Nested
    assert (scheme_of(ticket), kinds_of(ticket)) == (scheme, ("cbam", "sge"))
    for net in (ticket, copy.deepcopy(ticket), pickle.loads(pickle.dumps(ticket))):
        same(net(x), wanted)
    same(torch.fx.symbolic_trace(ticket)(x), wanted)
    more = set(ticket.state_dict()) - set(Nested().state_dict())
    assert {name.partition(".attention")[0] for name in more} == {
        f"encoder.body.layer{n}.0" for n in (1, 3, 4)
    }
    assert not [m for m in ticket.modules() if "WithSlot" in type(m).__name__]
    pointers = {value.data_ptr() for value in model.state_dict().values()}
    assert not pointers & {value.data_ptr() for value in ticket.state_dict().values()}


def test_an_average_of_the_weights_is_run_under_the_scheme_and_another_process_is_plain():
    model, slots = attached()
    model.eval()
    averaged, x = torch.optim.swa_utils.AveragedModel(model), images(2, shape=SHAPE)
    sent = pickle.dumps(model)
    with slots.using(SCHEME):
        same(averaged(x), model(x))
        attended = model(x)
    same(pickle.loads(sent)(x), model(x))
    assert not torch.equal(attended, model(x))


def test_optuna_asks_for_schemes_of_the_model():
    _, slots = attached("se", "eca")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = []

    def objective(trial: optuna.Trial) -> float:
        seen.append(slots.suggest(trial))
        return float(seen[-1].connections)

    study.optimize(objective, n_trials=3)
    assert list(study.trials[0].params) == ["s1.b00", "s2.b00", "s3.b00", "s4.b00"]
    assert slots.suggest(study.best_trial) == seen[study.best_trial.number]


def test_random_schemes_are_a_function_of_seed_and_step():
    (_, slots), (_, other) = attached("se"), attached("se")
    drawn = [slots.random_scheme(0, step) for step in range(8)]
    assert drawn == [other.random_scheme(0, step) for step in range(8)]
    assert len(set(drawn)) > 4
    assert drawn != [slots.random_scheme(1, step) for step in range(8)]


def test_statistics_are_those_that_a_supernet_is_given():
    net = Supernet(resnet(), attention=["se"], seed=2)
    model: Any = resnet()
    slots = attach(model, attention=["se"], seed=2)
    batches = [images(4, seed=k, shape=SHAPE) for k in range(2)]
    x = images(3, shape=SHAPE)
    before = copy.deepcopy(model.state_dict())
    with recalibrated(net, SCHEME, batches), slots.recalibrated(SCHEME, batches, forward=model):
        assert not any(module.training for module in model.modules())
        same(model(x), net(x, SCHEME))
    assert all(module.training for module in model.modules())
    for name, value in model.state_dict().items():
        same(value, before[name])
    # A BatchNorm that no pass runs keeps its own statistics.
    body = nn.Sequential(model.conv1, model.bn1)
    with slots.recalibrated(SCHEME, batches, forward=body):
        same(model.layer4[0].bn1.running_var, before["layer4.0.bn1.running_var"])
        assert not torch.equal(model.bn1.running_var, before["bn1.running_var"])
    with pytest.raises(DataError, match="no calibration batch given; give at least one"):
        slots.recalibrated(SCHEME, [], forward=model).__enter__()


def test_with_frozen_statistics_there_is_nothing_to_recalibrate_and_that_is_said():
    model = resnet(FrozenBatchNorm2d)
    slots, x = attach(model, attention=["se"], seed=0), images(2, shape=SHAPE)
    model.eval()
    with slots.using(SCHEME):
        wanted = model(x)
    with (
        pytest.warns(SatOptunaWarning, match=r"FrozenBatchNorm2d .* nothing to recalibrate"),
        slots.recalibrated(SCHEME, [x], forward=model),
    ):
        same(model(x), wanted)


@pytest.mark.parametrize("sharing", ["block", "stage"])
def test_cost_is_what_a_scheme_adds(sharing):
    spec = AttentionSpec(kind="se", sharing=sharing)
    model = resnet(blocks=(2, 1, 1, 1))
    costs = CostModel(Supernet(copy.deepcopy(model), attention=[spec], seed=0), SHAPE)
    slots = attach(model, attention=[spec], seed=0)
    plain = costs.cost(Scheme.uniform(slots.stages, 0))
    for scheme in map(Scheme.parse, ("11-1-0-1", "00-0-0-0", "01-0-0-0")):
        cost, whole = slots.cost(scheme, images(1, shape=SHAPE)), costs.cost(scheme)
        assert cost.params == whole.params - plain.params
        assert cost.macs == whole.macs - plain.macs
        assert cost.elementwise == whole.elementwise - plain.elementwise
    twice = slots.cost(Scheme.parse("11-1-0-1"), (images(2, shape=SHAPE),))
    assert twice.macs == 2 * slots.cost(Scheme.parse("11-1-0-1"), images(1, shape=SHAPE)).macs
    assert model.training


class TestOutsideTheBlock:
    def test_a_backward(self):
        model, slots = two_blocks()
        x = images(2, shape=(4, 6, 6))
        with slots.using(Scheme.parse("11")):
            loss = model(x).sum()
            torch.autograd.backward(loss, retain_graph=True)
        with pytest.raises(SchemeInUse, match=r"backward runs outside the with .* scheme 11"):
            torch.autograd.backward(loss, retain_graph=True)
        with slots.using(Scheme.parse("10")), pytest.raises(SchemeInUse, match="backward runs"):
            torch.autograd.backward(loss)
        torch.autograd.backward(model(x).sum())  # without a scheme all is as ever

    @pytest.mark.parametrize("reentrant", [True, False])
    def test_a_recomputation(self, reentrant):
        model, slots = two_blocks()
        x = images(2, shape=(4, 6, 6)).requires_grad_()
        run = partial(checkpoint, model, use_reentrant=reentrant)

        def gradient(call: Callable[[Tensor], Tensor]) -> Tensor:
            with slots.using(Scheme.parse("11")):
                (made,) = torch.autograd.grad(call(x).square().sum(), x)
            return made

        if reentrant:  # it works with backward alone
            with slots.using(Scheme.parse("11")):
                torch.autograd.backward(run(x).square().sum())
            assert x.grad is not None
            found = x.grad
        else:
            found = gradient(run)
        same(found, gradient(model))
        with slots.using(Scheme.parse("11")):
            loss = run(x).sum()
        with pytest.raises(SchemeInUse, match=r"call backward inside"):
            torch.autograd.backward(loss)
        torch.autograd.backward(run(x).sum())

    def test_a_forward_in_another_thread(self):
        model, slots = two_blocks()
        x, errors = images(2, shape=(4, 6, 6)), []

        def run() -> None:
            try:
                model(x)
            except SchemeInUse as error:
                errors.append(str(error))

        def in_thread() -> None:
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()

        with slots.using(Scheme.parse("11")):
            in_thread()
        in_thread()  # no scheme is in use
        assert len(errors) == 1
        assert "in another thread than the one that uses scheme 11; run the model in" in errors[0]

    def test_a_second_scheme_and_detach(self):
        _, slots = two_blocks()
        with slots.using(Scheme.parse("11")):
            with (
                pytest.raises(SchemeInUse, match="scheme 11 is in use, and 01 was asked for; lea"),
                slots.using(Scheme.parse("01")),
            ):
                pass
            with pytest.raises(SchemeInUse, match="scheme 11 is in use; leave its with block, th"):
                slots.detach()
        with slots.using(Scheme.parse("01")):
            pass


@pytest.mark.parametrize(
    ("text", "words"),
    [("11", r"scheme 11 has stages \(2,\) and the net"), ("2-0-0-0", "asks for kind 2 and the n")],
)
def test_a_scheme_of_another_model(text, words):
    model, slots = attached()
    scheme = Scheme.parse(text)
    for use in (
        lambda: slots.using(scheme).__enter__(),
        lambda: slots.materialise(scheme),
        lambda: slots.cost(scheme, images(1, shape=SHAPE)),
        lambda: slots.recalibrated(scheme, [1], forward=model).__enter__(),
    ):
        with pytest.raises(SchemeError, match=words):
            use()


class Derived(BasicBlock):  # type: ignore[misc]
    """A block of somebody who derives from torchvision's."""


def on_meta(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        with torch.device("meta"):
            return build()

    return made


def derived() -> nn.Module:
    model: nn.Module = torchvision.models.ResNet(Derived, [1, 1, 1, 1])
    return model


def split_up() -> nn.Module:
    model = resnet()
    model.fc.to("meta")
    return model


def with_slots() -> nn.Module:
    model = Nested()
    attach(model, attention=["se"], seed=0)
    return model


def ticket() -> nn.Module:
    return Nested(materialise(Supernet(resnet(), attention=["se"], seed=0), SCHEME))


def quantised() -> nn.Module:
    model = nn.Sequential(OurBlock(4, 4, stride=1), nn.Linear(4, 4))
    model[1] = torch.ao.quantization.QuantStub()
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: nn.Sequential(nn.Conv2d(3, 3, 1)),
            r"no residual .*of torch.nn alone; reg",
        ),
        (on_meta(torchvision.models.vgg11), r"VGG holds no residual block of a known type, but"),
        (
            torchvision.models.densenet121,
            r"but .*_DenseBlock, .*_DenseLayer, .*_Transition; register",
        ),
        (derived, r"layer1.0 is of type .*Derived, a subclass of .*resnet.BasicBlock, which may"),
        (split_up, r"the model is on several devices \(cpu, meta\); move it to one"),
        (with_slots, r"attached to encoder.body.layer1.0 already; use its slots, or call their d"),
        (ticket, r"the model's encoder.body.layer1.0 carries attention already, as a ticket's"),
        (lambda: nn.DataParallel(resnet()), "the model is wrapped in DataParallel; attach to the"),
        (
            lambda: nn.Sequential(cast("nn.Module", torch.compile(resnet()))),
            r"the model's 0 is compiled or traced \(OptimizedModule\), so its blocks cannot be",
        ),
        (lambda: torch.fx.symbolic_trace(resnet()), r"compiled or traced \(GraphModule\)"),
        (quantised, r"the model's 1 is quantised, or will be \(QuantStub\); attach to the model"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_models_that_are_refused(make, words):
    model = make()
    before = [type(module) for module in model.modules()]
    with pytest.raises(AttachError, match=words) as caught:
        attach(model, attention=["se"], seed=0)
    assert "\n" not in str(caught.value)
    assert [type(module) for module in model.modules()] == before


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (["dia"], "dia carries a state from block to block, which a model that is not walked"),
        (
            ["own"],
            "attention 'own' given, which attach does not take out of blocks; give",
        ),
        ([], r"attention kinds \[\] given; name at least one"),
        (["se", "se"], "name at least one, and each of them once"),
        ([AttentionSpec(kind="sge", settings={"groups": 5})], "groups = 5, which does not divide"),
    ],
)
def test_kinds_that_are_refused(kinds, words):
    model = resnet()
    with pytest.raises(AttentionError, match=words):
        attach(model, attention=kinds, seed=0)
    attach(model, attention=["se"], seed=0)  # the model was left as it is


def test_weights_of_attention_are_drawn_by_the_seed_alone():
    draws = [torch.get_rng_state()]
    nets = [two_blocks()[0].state_dict() for _ in range(2)]
    assert all(torch.equal(value, nets[1][name]) for name, value in nets[0].items())
    torch.set_rng_state(draws[0])
    model = nn.Sequential(OurBlock(4, 4, stride=1))
    draws = [torch.get_rng_state()]
    attach(model, attention=["se"], seed=0)
    draws.append(torch.get_rng_state())
    assert all(torch.equal(*pair) for pair in pairwise(draws))
