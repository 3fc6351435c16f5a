"""The design's balance, and the model against times that are affine to the digit."""

from itertools import combinations, product

import numpy as np
import pytest

from sat_optuna.backbones.contract import BackboneError
from sat_optuna.cost.latency import LatencyModel, fit_latency, latency_design
from sat_optuna.cost.timing import Estimate, TimingError
from sat_optuna.errors import SchemeError
from sat_optuna.events import Event
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.supernet import Supernet
from tests.cost.clock import Clock
from tests.networks import BLOCKS, SHAPE, tiny_supernet

PLAIN = 20.0
# Milliseconds that each kind adds at each of the six blocks of BLOCKS.
ADDED = ((3.0, 0.5), (1.0, 2.0), (0.25, 4.0), (2.0, 1.0), (0.75, 0.125), (5.0, 3.0))


def affine_ms(scheme: Scheme) -> float:
    added = zip(ADDED, scheme.choices, strict=True)
    return PLAIN + sum(kinds[choice - 1] for kinds, choice in added if choice)


@pytest.mark.parametrize("kinds", [1, 2, 3, 4])
@pytest.mark.parametrize("blocks", [1, 2, 6, 9, 16, 54])
def test_every_pair_of_blocks_has_all_pairs_of_choices_in_proportion(blocks, kinds):
    design = latency_design((blocks,), kinds)
    choices = np.array([scheme.choices for scheme in design])
    runs = len(design)
    assert runs >= 2 * (blocks * kinds + 1)
    prime = {1: 2, 2: 3, 3: 5, 4: 5}[kinds]
    share = np.full(kinds + 1, 1 / prime)
    share[0] = (prime - kinds) / prime  # choices above K became 0
    for block in range(blocks):
        assert np.bincount(choices[:, block], minlength=kinds + 1).tolist() == pytest.approx(
            (runs * share).tolist()
        )
    for one, other in combinations(range(blocks), 2):
        together = np.zeros((kinds + 1, kinds + 1))
        np.add.at(together, (choices[:, one], choices[:, other]), 1)
        np.testing.assert_allclose(together, runs * np.outer(share, share))


@pytest.mark.parametrize("kinds", [1, 2, 4])
def test_a_design_repeats_no_scheme_where_no_choice_is_left_over(kinds):
    design = latency_design((3, 4, 6, 3), kinds)
    assert len(set(design)) == len(design)
    assert design[0] == Scheme.uniform((3, 4, 6, 3), 0)
    assert {scheme.stages for scheme in design} == {(3, 4, 6, 3)}


@pytest.mark.golden
def test_sizes_of_designs():
    # The least power of p, the least prime from K + 1 on, that is 2 (m K + 1) or more.
    sizes = {(16, 1): 64, (16, 2): 81, (16, 3): 125, (9, 1): 32, (54, 1): 128, (54, 4): 625}
    for (blocks, kinds), runs in sizes.items():
        assert len(latency_design((blocks,), kinds)) == runs


def test_of_one_kind_no_three_blocks_depend_on_one_another():
    # All eight triples of choices equally often: interactions of two blocks disturb no estimate.
    choices = np.array([scheme.choices for scheme in latency_design((3, 4, 6, 3), 1)])
    for triple in combinations(range(16), 3):
        counts = np.bincount(choices[:, triple] @ (4, 2, 1), minlength=8)
        assert set(counts.tolist()) == {len(choices) // 8}


@pytest.fixture
def clocked(monkeypatch):
    """A supernet that takes affine time, by a clock, and notes what it is asked for."""
    clock = Clock(monkeypatch)
    asked: list[Scheme] = []

    def forward(self, x, scheme):
        asked.append(scheme)
        clock.pass_ms(affine_ms(scheme))

    monkeypatch.setattr(Supernet, "forward", forward)
    return tiny_supernet(["se", "sge"]), asked


@pytest.mark.golden
def test_affine_times_are_found_again(clocked):
    net, asked = clocked
    rounds: list[int] = []

    def note(event: Event) -> None:
        assert (event.step, event.done, event.total) == ("latency", len(rounds) + 1, 6)
        rounds.append(len(asked))

    model = fit_latency(net, SHAPE, batch=3, rounds=6, on_event=note)
    assert (model.stages, model.kinds, model.batch) == (BLOCKS, ("se", "sge"), 3)
    assert (model.rounds, model.runs, model.fresh) == (6, 27, 8)
    assert model.plain_ms.value == pytest.approx(PLAIN)
    found = [[kind.value for kind in block] for block in model.increments_ms]
    np.testing.assert_allclose(found, ADDED, rtol=1e-6)
    assert all(e.low == pytest.approx(e.high) for block in model.increments_ms for e in block)
    assert model.residual_percent == pytest.approx(0, abs=1e-6)
    assert rounds == [35 * turn for turn in range(2, 8)]  # a round warms up


def test_interrupted_passes_hardly_move_the_fit(monkeypatch):
    # One pass in 20 takes up to four times as long, all others 1 % more or less.
    clock, chance = Clock(monkeypatch), np.random.default_rng(0)

    def forward(self, x, scheme):
        interrupted = chance.random() < 0.05
        factor = 1 + 3 * chance.random() if interrupted else chance.normal(1, 0.01)
        clock.pass_ms(factor * affine_ms(scheme))

    monkeypatch.setattr(Supernet, "forward", forward)
    model = fit_latency(tiny_supernet(["se", "sge"]), SHAPE, batch=1, rounds=15)
    found = np.array([[kind.value for kind in block] for block in model.increments_ms])
    assert np.abs(found - ADDED).max() < 0.3
    widths = [kind.high - kind.low for block in model.increments_ms for kind in block]
    assert np.median(widths) < 0.5
    inside = [
        kind.low <= true <= kind.high
        for block, true_block in zip(model.increments_ms, ADDED, strict=True)
        for kind, true in zip(block, true_block, strict=True)
    ]
    assert sum(inside) >= 10
    assert model.residual_percent is not None
    assert model.residual_percent < 2


def test_each_round_has_all_schemes_in_another_order(clocked):
    net, asked = clocked
    fit_latency(net, SHAPE, batch=3, rounds=6, fresh=5)
    turns = [tuple(asked[start : start + 32]) for start in range(0, len(asked), 32)]
    assert len(turns) == 7
    assert len({tuple(sorted(map(str, turn))) for turn in turns}) == 1
    assert len(set(turns)) == 7
    design = set(latency_design(BLOCKS, 2))
    fresh = set(asked) - design
    assert (len(fresh), design - set(asked)) == (5, set())
    asked.clear()
    fit_latency(net, SHAPE, batch=3, rounds=6, fresh=5, seed=1)
    assert set(asked) - design != fresh


def test_what_is_not_affine_shows_in_the_fresh_schemes(monkeypatch):
    clock = Clock(monkeypatch)
    # Pairs of neighbours are dearer than both alone.
    monkeypatch.setattr(
        Supernet,
        "forward",
        lambda self, x, scheme: clock.pass_ms(
            20 + 5 * sum(a * b for a, b in zip(scheme.choices, scheme.choices[1:], strict=False))
        ),
    )
    net = tiny_supernet(["se", "sge"])
    residual = fit_latency(net, SHAPE, batch=1, rounds=6).residual_percent
    assert residual is not None
    assert residual > 1


def test_a_network_so_small_that_the_design_has_all_its_schemes(monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(Supernet, "forward", lambda self, x, scheme: clock.pass_ms(1))
    model = fit_latency(tiny_supernet(blocks=(1, 1, 1)), SHAPE, batch=1, rounds=6)
    assert (model.runs, model.fresh, model.residual_percent) == (8, 0, None)
    # One block: four runs of two schemes, each measured twice.
    stages = latency_design((1,), 1)
    assert [str(scheme) for scheme in stages] == ["0", "0", "1", "1"]


def test_a_real_network_is_measured_and_left_as_it_was():
    net = tiny_supernet()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model = fit_latency(net, SHAPE, batch=1, rounds=6, fresh=2)
    assert model.plain_ms.value > 0
    assert model.residual_percent is not None
    assert all(module.training for module in net.modules())
    assert all((value == before[name]).all() for name, value in net.state_dict().items())


def test_bad_input_is_refused_before_anything_is_measured(clocked):
    net, asked = clocked
    with pytest.raises(TimingError, match="5 rounds given; give at least 6"):
        fit_latency(net, SHAPE, batch=1, rounds=5)
    with pytest.raises(BackboneError, match="3x16x16 do not go through"):
        fit_latency(net, (3, 16, 16), batch=1, rounds=6)
    assert not asked


MODEL = LatencyModel(
    stages=BLOCKS,
    kinds=("se", "sge"),
    batch=1,
    rounds=6,
    runs=27,
    plain_ms=Estimate(PLAIN, 19, 21),
    increments_ms=tuple(tuple(Estimate(ms, 0, 9) for ms in block) for block in ADDED),
    fresh=0,
    residual_percent=None,
)


def test_predictions_add_up():
    for choices in product(range(3), repeat=6):
        scheme = Scheme(choices, BLOCKS)
        assert MODEL.predict(scheme) == affine_ms(scheme)


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("connections", range(7))
def test_the_cheapest_scheme_is_the_cheapest_of_all(connections, kind):
    found = MODEL.cheapest(connections, kind=kind)
    assert found.connections == connections
    assert set(found.choices) <= {0, kind}
    every = (Scheme(choices, BLOCKS) for choices in product((0, kind), repeat=6))
    least = min(affine_ms(scheme) for scheme in every if scheme.connections == connections)
    assert MODEL.predict(found) == least


def test_the_cheapest_of_one_kind_needs_no_kind_named():
    assert str(MODEL.cheapest(3)) == "01-101-0"


@pytest.mark.parametrize("text", ["1-1", "00-000-3"])
def test_a_scheme_of_another_network_cannot_be_predicted(text):
    message = rf"scheme {text} given to a latency model of stages \(2, 3, 1\) and kinds se, sge"
    with pytest.raises(SchemeError, match=message):
        MODEL.predict(Scheme.parse(text))


@pytest.mark.parametrize(("connections", "kind"), [(7, 1), (-1, 1), (2, 0), (2, 3)])
def test_there_is_no_cheapest_of_more_blocks_or_kinds_than_there_are(connections, kind):
    message = rf"{connections} connections of kind {kind} asked for; there are 6 blocks"
    with pytest.raises(SchemeError, match=message):
        MODEL.cheapest(connections, kind=kind)
