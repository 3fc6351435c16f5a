"""The constant control: the ticket's blocks with gates that look at nothing, and their start."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from sat_optuna.attention import ATTENTION, OWN, build_attention, default_spec
from sat_optuna.attention.constant import Constant, ConstantShift
from sat_optuna.attention.contract import Attention
from sat_optuna.config.config import TrainConfig
from sat_optuna.data.split import Split
from sat_optuna.errors import TicketError, UnknownName
from sat_optuna.evaluate.network import calibration_batches
from sat_optuna.evidence.constants import constant_scheme, constant_ticket, real_ticket
from sat_optuna.evidence.retrain import retrain
from sat_optuna.export.fold import fold_constant
from sat_optuna.export.weights import load_ticket
from sat_optuna.export.write import export_ticket
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.constants import start_constants
from sat_optuna.supernet.materialise import build_network, materialise, scheme_of
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec, Ticket
from tests.networks import images, tiny_supernet
from tests.tickets import ticket_of

SCHEME = Scheme.parse("10-011-1")
TWO = Scheme.parse("10-021-2")
# What a fresh module rescales normal features to, as issue and method have it, and how far the
# blocks and seeds were found from it.
STARTS = {
    "bam": (1.5, 0.06),
    "cbam": (0.24, 0.07),
    "dia": (0.24, 0.05),
    "eca": (0.5, 0.02),
    "ie": (0.27, 0.002),
    "se": (0.5, 0.06),
    "sge": (0.73, 0.002),
    "simam": (0.74, 0.05),
    "spa": (0.5, 0.06),
    "srm": (0.5, 0.03),
}


def ticket(*kinds: str | AttentionSpec, scheme: Scheme = SCHEME) -> Ticket:
    return ticket_of(tiny_supernet(kinds, blocks=scheme.stages), scheme)


def constants(net: nn.Module) -> list[Constant]:
    return [module for module in net.modules() if isinstance(module, Constant)]


def rescalings(twin: nn.Module, x: torch.Tensor) -> list[float]:
    """<M(F), F> / <F, F> of each call of an attention module, in their order."""
    found: list[float] = []

    def hook(_module, given, made):
        features, attended = given[0].double().numpy(), made[0].double().detach().numpy()
        found.append(float((attended * features).sum() / (features**2).sum()))

    twin = copy.deepcopy(twin).train()
    for module in twin.modules():
        if isinstance(module, Attention):
            module.register_forward_hook(hook)
    with torch.no_grad():
        twin(x)
    return found


@pytest.mark.golden
@pytest.mark.parametrize(
    ("kind", "sharing"),
    [(kind, ATTENTION.get(kind).sharings[0]) for kind in STARTS] + [("se", "stage")],
)
def test_factors_start_where_the_fresh_module_rescales_to(kind, sharing):
    control = constant_ticket(ticket(AttentionSpec(kind=kind, sharing=sharing)))
    real = real_ticket(control)
    assert real is not None
    net, twin = build_network(control, seed=1), build_network(real, seed=1)
    before, x = copy.deepcopy(twin.state_dict()), images(128)
    expected = rescalings(twin, x)
    start_constants(net, twin, [x])
    factors = [module.factor.detach() for module in constants(net)]
    assert len(factors) == SCHEME.connections
    for factor, value in zip(factors, expected, strict=True):
        torch.testing.assert_close(factor, torch.full_like(factor, value), rtol=1e-5, atol=1e-5)
    about, within = STARTS[kind]
    assert all(abs(value - about) <= within for value in expected)
    assert all(torch.equal(twin.state_dict()[name], value) for name, value in before.items())


def test_two_chunks_count_as_their_images_and_a_branch_of_zeros_is_told_by_noise():
    control = constant_ticket(ticket("ie", "sge", scheme=TWO))
    real = real_ticket(control)
    assert real is not None
    net, twin = build_network(control, seed=0), build_network(real, seed=0)
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):  # each branch ends in one
            nn.init.zeros_(module.weight)
    start_constants(net, twin, [images(8), images(4, seed=1)])
    found = [float(module.factor[0].detach()) for module in constants(net)]
    assert found == pytest.approx([0.2689, 0.7311, 0.2689, 0.7311], abs=2e-3)


@pytest.mark.parametrize("kind", ["gc", "timm:gca", "timm:nl"])
def test_what_adds_has_a_number_that_is_added_and_starts_at_zero(kind):
    control = constant_ticket(ticket(kind))
    assert isinstance(build_attention(f"constant:{kind}", 4), ConstantShift)
    data = Split.from_arrays(images(30), torch.arange(30) % 5)
    net = retrain(control, data, epochs=1, seed=0)
    shifts = [module.bias for module in net.modules() if isinstance(module, ConstantShift)]
    assert len(shifts) == SCHEME.connections
    assert all(0 < float(shift.detach().abs().max()) < 0.5 for shift in shifts)  # it was learnt


@pytest.mark.parametrize("kinds", [("se",), ("dia", "se"), ("timm:eca", "gc"), ("cbam", "srm")])
def test_a_control_has_the_blocks_of_its_ticket_and_goes_the_ways_of_a_ticket(kinds, tmp_path):
    specs = [AttentionSpec(kind=kind, sharing=ATTENTION.get(kind).sharings[-1]) for kind in kinds]
    scheme = TWO if len(kinds) > 1 else SCHEME
    found = ticket(*specs, scheme=scheme)
    control = constant_ticket(found)
    assert control.role == "constant"
    assert [spec.kind for spec in control.attention] == [*kinds, *(f"constant:{k}" for k in kinds)]
    assert [c and c - len(kinds) for c in control.scheme.choices] == [*scheme.choices]
    assert Ticket.from_json(control.to_json()) == control
    real = real_ticket(control)
    assert real is not None
    assert (real.scheme, real.attention) == (found.scheme, found.attention)
    assert real_ticket(found) is None
    net = build_network(control, seed=3).eval()
    assert scheme_of(net) == control.scheme
    made = [m for m in net.modules() if isinstance(m, Attention)]
    assert {type(module) for module in made} <= {Constant, ConstantShift}
    x = images(3)
    path = tmp_path / "control.safetensors"
    export_ticket(net, control, path, to="safetensors")
    assert torch.equal(load_ticket(path).eval()(x), net(x))


def test_the_control_of_a_networks_own_attention():
    net = Supernet("timm:seresnet18", attention=[OWN], in_channels=3, classes=5, seed=0)
    found = replace(ticket_of(net, Scheme.uniform(net.stages, 1)), input_shape=(3, 32, 32))
    control = constant_ticket(found)
    made = build_network(control, seed=0)
    assert len(constants(made)) == sum(net.stages)
    assert not any("se." in name for name, _ in made.named_parameters())
    x = images(4, shape=(3, 32, 32))
    real = real_ticket(control)
    assert real is not None
    start_constants(made, build_network(real, seed=0), [x])
    # Gates of fresh SE; the last norm of each branch starts at zero here.
    assert all(0.4 < float(c.factor[0].detach()) < 0.6 for c in constants(made))


def test_retraining_starts_the_factors_on_images_that_the_studys_seed_draws():
    control = constant_ticket(ticket("ie"))
    data = Split.from_arrays(images(30), torch.arange(30) % 5)
    still = TrainConfig(lr=1e-8, weight_decay=0.0)
    net = retrain(control, data, epochs=1, seed=7, config=still)
    real, expected = real_ticket(control), build_network(control, seed=7)
    assert real is not None
    batches = calibration_batches(data.train_and_valid, seed=control.seed)
    start_constants(expected, build_network(real, seed=7), batches)
    pairs = zip(constants(net), constants(expected), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one.factor, other.factor)
        assert float(one.factor[0].detach()) == pytest.approx(0.2689, abs=1e-3)


def test_a_kind_that_the_ticket_lists_not_stands_for_its_default():
    alone = ticket("constant:dia")
    real = real_ticket(alone)
    assert real is not None
    assert real.attention == (default_spec("dia"),)
    assert real.scheme == alone.scheme


def test_a_control_folds_into_the_plain_network_with_no_error():
    net = tiny_supernet(["constant:se"])
    control = materialise(net, Scheme.uniform(net.stages, 1)).eval()
    x = images(6)
    plain, report = fold_constant(control, Scheme.uniform(net.stages, 0), [x])
    assert {block.dispersion for block in report.blocks} == {0.0}
    torch.testing.assert_close(plain.double()(x.double()), control.double()(x.double()))
    assert not [m for m in plain.modules() if isinstance(m, Attention)]


def test_what_has_no_control_says_why():
    off = Scheme.uniform(SCHEME.stages, 0)
    with pytest.raises(TicketError, match=r"^scheme 00-000-0 connects nothing, so a constant"):
        constant_ticket(ticket("se", scheme=off))
    with pytest.raises(TicketError, match=r"uses kind 18 of 18.*choices up to 36.*has 35; list"):
        constant_scheme(Scheme.of([18], [1]), kinds=18)
    assert constant_scheme(Scheme.of([17, 0], [2]), kinds=18).choices == (35, 0)
    with pytest.raises(UnknownName, match="no attention module 'sgee'; did you mean 'sge'"):
        build_attention("constant:sgee", 8)
    with pytest.raises(UnknownName, match="constant:se is constant already; name it alone"):
        build_attention("constant:constant:se", 8)
