"""The graphs of optuna-dashboard: their numbers, what tells things apart, how large they are."""

import itertools

import numpy as np
import pytest

from sat_optuna.evidence.effects import block_effects, readings
from sat_optuna.evidence.figures import shares_by_batch
from sat_optuna.evidence.graphs import Scored, connections_graph, costs_graph, effects_graph
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Measure

LOSS = Measure("log_loss", "nats", "lower")


def traces(figure):
    return {trace["name"]: trace for trace in figure.to_plotly_json()["data"]}


@pytest.mark.parametrize("text", ["10", "110-010", "0-1-2"])
def test_the_heat_map_has_the_share_of_each_block_in_each_part(text):
    scheme = Scheme.parse(text)
    rng = np.random.default_rng(0)
    tried = rng.integers(0, 3, (20, len(scheme.choices)))
    shares, ends = shares_by_batch(tried.tolist(), batches=4)
    figure = connections_graph(shares, ends, scheme, name="policy")
    (heat,) = figure.data
    expected = (tried > 0).reshape(4, 5, -1).mean(axis=1).T
    np.testing.assert_allclose(np.array(heat.z), expected, atol=5e-4)
    parts = [part.replace("\N{EN DASH}", "-") for part in heat.x]
    assert parts == ["1-5", "6-10", "11-15", "16-20"]
    names = Scheme.parameter_names(scheme.stages)
    assert [name.removeprefix("★ ") for name in heat.y] == list(names)
    assert [name.startswith("★") for name in heat.y] == [choice > 0 for choice in scheme.choices]
    assert [line.y0 for line in figure.layout.shapes] == [
        end - 0.5 for end in itertools.accumulate(scheme.stages[:-1])
    ]


@pytest.mark.parametrize("kinds", [["se"], ["se", "srm"], ["se", "srm", "eca"]])
def test_effects_have_their_intervals_and_readings(kinds):
    scheme = Scheme.of([1, 0, len(kinds)], (2, 1))
    table = np.array(list(itertools.product(range(len(kinds) + 1), repeat=3)), dtype=np.uint8)
    table = np.concatenate([table, table])
    rng = np.random.default_rng(0)
    scores = 60 + 5.0 * (table[:, 0] == 1) + rng.normal(0, 0.1, len(table))
    effects = block_effects(table, scores, stages=(2, 1), kinds=kinds, images=0)
    found = traces(effects_graph(effects, scheme, kinds=kinds))
    assert list(found) == [kind.upper() for kind in kinds]
    for place, kind in enumerate(kinds):
        own, trace = [e for e in effects if e.kind == kind], found[kind.upper()]
        assert list(trace["x"]) == ["s1.b00", "s1.b01", "s2.b00"]
        np.testing.assert_allclose(trace["y"], [e.points for e in own], atol=1e-4)
        for side, ends in (("array", "high"), ("arrayminus", "low")):
            width = [abs(getattr(e, ends) - e.points) for e in own]
            np.testing.assert_allclose(trace["error_y"][side], width, atol=1e-4)
        filled = [not symbol.endswith("-open") for symbol in trace["marker"]["symbol"]]
        assert filled == [choice == place + 1 for choice in scheme.choices]
    assert effects[0].kind == "se"
    assert readings(effects)[0] == found["SE"]["text"][0] == "pays"
    shapes = {trace["marker"]["symbol"][0].removesuffix("-open") for trace in found.values()}
    assert len(shapes) == len({t["marker"]["color"] for t in found.values()}) == len(kinds)


@pytest.mark.parametrize("measure", [Measure(), LOSS])
def test_the_front_is_what_no_trial_beats_at_once(measure):
    rng = np.random.default_rng(1)
    trials = [
        Scored(f"{n:04b}", float(score), float(cost), n)
        for n, (score, cost) in enumerate(
            zip(rng.random(40), rng.integers(0, 20, 40), strict=True)
        )
    ]
    expected = [
        one
        for one in trials
        if not any(
            other.cost <= one.cost
            and measure.points(other.score) >= measure.points(one.score)
            and other != one
            for other in trials
        )
    ]
    found = traces(costs_graph(trials, {}, cost="parameters", measure=measure))
    assert set(found["front"]["text"]) == {one.scheme for one in expected}
    assert list(found["front"]["x"]) == sorted(one.cost for one in expected)
    assert list(found["trials"]["text"]) == [f"#{n}" for n in range(40)]


@pytest.mark.parametrize(
    "fulls", [["full"], ["full-se", "full-srm"], ["full-a", "full-b", "full-c"]]
)
def test_networks_are_told_apart_by_shape_as_well(fulls):
    references = {
        role: Scored("1", 60.0 + place, 100.0 + place)
        for place, role in enumerate(["ticket", "plain", *fulls])
    }
    found = traces(costs_graph([Scored("0", 59.0, 90.0, 0)], references, cost="parameters"))
    shapes = [found[role]["marker"]["symbol"] for role in references]
    assert len(set(shapes)) == len(shapes)
    assert [found[role]["x"][0] for role in references] == [s.cost for s in references.values()]


@pytest.mark.parametrize("blocks", [54, 110])
def test_the_graphs_of_a_thousand_trials_of_a_deep_network_are_small(blocks):
    """They are sent with each refresh of a page, and a page of 54 blocks has 16 MB."""
    rng = np.random.default_rng(0)
    scheme = Scheme.of(rng.integers(0, 2, blocks), (blocks // 2, blocks - blocks // 2))
    shares, ends = shares_by_batch(rng.integers(0, 2, (1000, blocks)).tolist(), batches=30)
    trials = [Scored(str(scheme), float(s), 68e3 + n, n) for n, s in enumerate(rng.random(1000))]
    for figure in (
        connections_graph(shares, ends, scheme, name="policy"),
        costs_graph(trials, {}, cost="parameters"),
    ):
        assert len(figure.to_json()) < 50_000
