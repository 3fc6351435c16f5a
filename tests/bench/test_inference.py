"""Which networks are measured, what the times say, and what the document holds."""

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torchvision
from scipy import stats

from sat_optuna.attention.contract import AttentionError
from sat_optuna.backbones.contract import BackboneError
from sat_optuna.bench.inference import bench_inference, p_faster
from sat_optuna.bench.inference_plan import (
    FIT_ROUNDS,
    PUBLISHED,
    InferencePlan,
    plan_inference,
)
from sat_optuna.cost.timing import TimingError
from sat_optuna.errors import SchemeError, UnknownName
from sat_optuna.evidence.statistics import holm
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.inside import carried_by
from sat_optuna.supernet.materialise import TicketNetwork, kinds_of, scheme_of
from sat_optuna.supernet.supernet import Supernet
from tests.cost.clock import Clock

if TYPE_CHECKING:
    from sat_optuna.events import Event

RESNET50 = (3, 4, 6, 3)
TICKETS = {
    "dia": "110-0011-110010-011",
    "se": "010-0010-110011-001",
    "sge": "100-1011-010011-011",
}


SMALL = {"resolution": 32, "batch": 1, "rounds": 6, "classes": 5}


def plan_of(*modules, **more) -> InferencePlan:
    """A network with ResNet-50's stages."""
    return plan_inference("resnet34", modules=modules, **(SMALL | more))


def tiny_plan(*modules, **more) -> InferencePlan:
    """A network with four blocks."""
    settings = {"width": 16, "blocks": [1, 2, 1]}
    return plan_inference("resnet20", modules=modules, settings=settings, **(SMALL | more))


def described(plan, kind):
    return [(one.role, one.spec.sharing, str(one.scheme)) for one in plan.networks[kind]]


@pytest.mark.golden
def test_the_published_schemes():
    assert {kind: str(one.scheme) for kind, one in PUBLISHED.items()} == TICKETS
    assert {one.scheme.stages for one in PUBLISHED.values()} == {RESNET50}
    assert "probably" in PUBLISHED["se"].note


def test_the_networks_on_the_stages_of_resnet50():
    plan = plan_of("se", "sge", "dia")
    full = "111-1111-111111-111"
    for kind in ("se", "sge"):
        assert described(plan, kind) == [
            ("full", "block", full),
            ("share-full", "stage", full),
            ("ticket", "stage", TICKETS[kind]),
        ]
    assert described(plan, "dia") == [
        ("share-full", "stage", full),
        ("ticket", "stage", TICKETS["dia"]),
    ]
    settings = {kind: dict(members[0].spec.settings) for kind, members in plan.networks.items()}
    assert settings == {"se": {"reduction": 16}, "sge": {"groups": 64}, "dia": {"reduction": 20}}
    assert (plan.plain.role, plan.plain.scheme.connections) == ("plain", 0)
    assert plan.fits == (("se", "sge", "dia"),)
    assert {kind: str(one.scheme) for kind, one in plan.references.items()} == TICKETS
    assert plan_of("se", cheapest=False).fits == ()


def test_another_network_has_no_published_scheme_and_settings_that_fit_it():
    plan = tiny_plan("se", "sge", "dia")
    assert [row[0] for row in described(plan, "se")] == ["full", "share-full"]
    settings = {kind: dict(members[0].spec.settings) for kind, members in plan.networks.items()}
    assert settings == {"se": {"reduction": 16}, "sge": {}, "dia": {}}
    assert (plan.references, plan.fits) == ({}, ())


def test_given_schemes_are_measured_for_each_module_once_each():
    plan = tiny_plan("se", "dia", schemes=["1-01-0", "0-11-1", "1-01-0"])
    assert described(plan, "se")[2:] == [
        ("given", "stage", "1-01-0"),
        ("given", "stage", "0-11-1"),
    ]
    assert [row[0] for row in described(plan, "dia")] == ["share-full", "given", "given"]
    assert {str(one.scheme) for one in plan.references.values()} == {"1-01-0"}


def test_many_modules_are_fitted_three_at_a_time():
    kinds = ("se", "sge", "dia", "eca", "srm", "ie", "simam")
    plan = tiny_plan(*kinds, schemes=["1-01-0"])
    assert plan.fits == (kinds[:3], kinds[3:6], kinds[6:])


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        (
            {"modules": ("se", "sgee")},
            UnknownName,
            "no attention module 'sgee'; did you mean 'sge'",
        ),
        ({"modules": ()}, AttentionError, "no module given; name at least one of bam, cbam"),
        ({"backbone": "resnet51"}, UnknownName, "no backbone 'resnet51'; did you mean 'resnet"),
        ({"rounds": 5}, TimingError, "5 rounds given; give at least 6"),
        (
            {"schemes": ["11-11"]},
            SchemeError,
            r"scheme '11-11' has stages \(2, 2\), not \(3, 3, 3",
        ),
        ({"schemes": ["200-000-000"]}, SchemeError, "has '2' at block 1; write 0 for none"),
        ({"schemes": ["1x0-000-000"]}, SchemeError, r"has 'x' at block 2; write 0 for none"),
        (
            {"modules": ("spa",), "resolution": 8},
            BackboneError,
            "stage 3 of resnet20 with 2 .* spa needs 4",
        ),
        ({"settings": {"widht": 3}}, BackboneError, "no setting 'widht'; did you mean 'width'"),
        ({"settings": {"width": 2}}, AttentionError, "groups = 8, which does not divide 2 chan"),
    ],
)
def test_bad_input_is_one_sentence(changed, error, words):
    given = {"modules": ("sge",), "resolution": 32, "batch": 1, "rounds": 6} | changed
    with pytest.raises(error, match=words) as raised:
        plan_inference(given.pop("backbone", "resnet20"), **given)
    assert "\n" not in str(raised.value)


# Milliseconds that a connected block adds: the earlier, the more.
EACH = {"se": 0.125, "sge": 2.0, "dia": 1.0}
PLAIN = 100.0


def added_ms(kind: str, block: int) -> float:
    return EACH[kind] * (16 - block) / 16


@pytest.fixture(scope="module")
def document():
    """Three modules on the stages of ResNet-50, measured by a clock with known times."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return measured_by_clock(monkeypatch)  # what follows has a real clock again


def measured_by_clock(monkeypatch):
    clock = Clock(monkeypatch)
    turn = [0]

    def taken(specs, scheme):
        chosen = [(block, c) for block, c in enumerate(scheme.choices) if c]
        return PLAIN + sum(added_ms(specs[c - 1], block) for block, c in chosen)

    def supernet_forward(self, x, scheme):
        clock.pass_ms(taken([spec.kind for spec in self.specs], scheme))

    def ticket_forward(self, x):
        if not isinstance(self, TicketNetwork) and carried_by(self) is None:
            return real(self, x)  # a supernet's backbone, which is looked at before
        # The machine is slower or faster from pass to pass, by a thousandth or two.
        turn[0] += 1
        noise = 1 + 0.001 * np.sin(turn[0])
        return clock.pass_ms(noise * taken(kinds_of(self), scheme_of(self)))

    plan = plan_of("se", "sge", "dia", rounds=16)
    monkeypatch.setattr(Supernet, "forward", supernet_forward)
    real = torchvision.models.ResNet.forward
    for network in (TicketNetwork, torchvision.models.ResNet):  # walked with DIA alone
        monkeypatch.setattr(network, "forward", ticket_forward)
    events: list[Event] = []
    made = bench_inference(plan, on_event=events.append)
    assert plan.turns == FIT_ROUNDS + 16
    assert [event.done for event in events] == list(range(1, plan.turns + 1))
    assert {(event.step, event.total) for event in events} == {("bench inference", plan.turns)}
    return json.loads(json.dumps(made, allow_nan=False))


def row_of(document, module, network):
    (row,) = (r for r in document["rows"] if (r["module"], r["network"]) == (module, network))
    return row


def test_all_networks_are_in_one_document(document):
    found = [(row["module"], row["network"]) for row in document["rows"]]
    assert found == [
        (None, "plain"),
        *(
            (kind, network)
            for kind in ("se", "sge")
            for network in ("full", "share-full", "ticket", "cheapest")
        ),
        *(("dia", network) for network in ("share-full", "ticket", "cheapest")),
    ]
    assert {(row["batch"], row["resolution"]) for row in document["rows"]} == {(1, 32)}
    assert {row["threads"] for row in document["rows"]} == {document["threads"]}
    assert document["modules"]["sge"] == {"groups": 64}
    for key in ("device", "capability", "versions", "backbone", "rounds", "classes"):
        assert document[key]


def test_milliseconds_increments_and_shares(document):
    plain = row_of(document, None, "plain")
    assert plain["ms"] == pytest.approx(PLAIN, rel=2e-3)
    assert {plain[key] for key in ("increment_percent", "share_of_full", "full")} == {None}
    ticket = row_of(document, "sge", "ticket")
    bits = Scheme.parse(TICKETS["sge"]).choices
    ms = sum(added_ms("sge", block) for block, bit in enumerate(bits) if bit)
    assert ticket["increment_percent"] == pytest.approx(ms, abs=0.2)  # of 100 ms
    assert ticket["increment_percent_low"] <= ms <= ticket["increment_percent_high"]
    everywhere = sum(added_ms("sge", block) for block in range(16))
    assert ticket["share_of_full"] == pytest.approx(ms / everywhere, abs=0.02)
    assert (ticket["full"], row_of(document, "dia", "ticket")["full"]) == ("full", "share-full")
    full = row_of(document, "sge", "full")
    assert (full["share_of_full"], full["share_of_full_low"]) == (1, 1)
    assert "probably" in row_of(document, "se", "ticket")["note"]


def test_the_cheapest_scheme_has_as_many_connections_at_the_cheapest_blocks(document):
    for kind, connections in (("se", 7), ("sge", 9), ("dia", 9)):
        found = row_of(document, kind, "cheapest")
        late = (0,) * (16 - connections) + (1,) * connections
        assert found["scheme"] == str(Scheme(late, RESNET50))
        assert found["note"] == f"the cheapest {connections} blocks by the latency model"
        assert found["increment_percent"] < row_of(document, kind, "ticket")["increment_percent"]


def test_the_latency_model_is_in_the_document(document):
    (model,) = document["latency_models"]
    assert (model["kinds"], model["runs"], model["rounds"]) == (["se", "sge", "dia"], 125, 9)
    assert (model["fresh_schemes"], model["plain_ms"]) == (8, pytest.approx(PLAIN))
    assert model["residual_percent"] == pytest.approx(0, abs=1e-3)
    for kind, blocks in model["increments_ms"].items():
        for block, found in enumerate(blocks):
            assert found["ms"] == pytest.approx(added_ms(kind, block), abs=1e-3)
            assert found["ms_low"] <= found["ms"] <= found["ms_high"]


def test_every_scheme_is_tested_against_share_full_and_the_cheapest_against_its_reference(
    document,
):
    pairs = {
        (test["faster"].split()[:2][1], test["than"].split()[1]) for test in document["tests"]
    }
    assert pairs == {("ticket", "share-full"), ("cheapest", "share-full"), ("cheapest", "ticket")}
    assert len(document["tests"]) == 9
    raw = [test["p"] for test in document["tests"]]
    assert [test["p_holm"] for test in document["tests"]] == pytest.approx(holm(raw))
    for test in document["tests"]:
        assert test["faster"].split()[0] == test["than"].split()[0]
        assert test["difference_percent_low"] <= test["difference_percent"] < 0.2
    cheapest = row_of(document, "sge", "cheapest")
    by_name = {
        (t["faster"].split()[0], t["than"].split()[1]): t["p_holm"]
        for t in document["tests"][::-1]
    }
    assert cheapest["p_cheaper_than_share_full"] == by_name["sge", "share-full"] < 0.01
    assert cheapest["p_cheaper_than_ticket"] == by_name["sge", "ticket"] < 0.01
    assert row_of(document, "sge", "ticket")["p_cheaper_than_ticket"] is None
    assert row_of(document, "sge", "full")["p_cheaper_than_share_full"] is None


def test_p_is_scipys_signed_rank_test_of_the_log_ratios():
    draws = np.random.default_rng(3)
    slow = draws.uniform(90, 110, 20)
    fast = slow * draws.normal(0.99, 0.01, 20)
    expected = stats.wilcoxon(np.log(fast), np.log(slow), alternative="less").pvalue
    assert p_faster(fast.tolist(), slow.tolist()) == pytest.approx(expected)
    assert p_faster(slow.tolist(), fast.tolist()) > 0.9


@pytest.mark.golden
def test_p_by_hand():
    # Always faster in 6 rounds: one of 2^6 sign patterns.
    assert p_faster([1, 2, 3, 4, 5, 6], [2, 4, 7, 9, 12, 20]) == pytest.approx(1 / 64)


def test_equal_times_show_no_difference():
    assert p_faster([1.0] * 8, [1.0] * 8) == 1.0
    assert 0.4 < p_faster([1.0] * 6 + [1.1, 0.9], [1.0] * 8) < 0.8  # warns of no zeros


def test_a_real_network_is_measured():
    plan = tiny_plan("se", "dia", schemes=["1-01-0"], resolution=16)
    made = bench_inference(plan)
    assert all(row["ms"] > 0 for row in made["rows"])
    assert len(made["rows"]) == 1 + 4 + 3
