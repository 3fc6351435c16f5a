"""Figures are real pictures, with something on them, the same bytes each time."""

import re
from itertools import combinations, product
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text

from sat_optuna.errors import WriteError
from sat_optuna.evidence import canvas, figures, map_figures
from sat_optuna.evidence.effects import Effect
from sat_optuna.evidence.figures import (
    draw_blocks,
    draw_confusion,
    draw_connections,
    draw_costs,
    draw_curves,
    draw_front,
    draw_ranking,
    draw_search,
    draw_ticket,
    draw_truth,
    shares_by_batch,
)
from sat_optuna.evidence.map_figures import draw_maps
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import ACCURACY
from tests.evidence.test_maps import counting, segmentation

NETWORKS = {
    "ticket": (40, [97.1, 97.4, 96.9]),
    "plain": (0, [97.0, 97.0, 97.0]),
    "full": (160, [96.0, 97.5, 96.8]),
    "constant": (10, [97.2]),
    "random scheme": (80, [97.2, 97.0, 96.0]),
    "first-k": (60, [96.0, 96.5]),
}
TRUTH = np.array([90.0, 90.5, 91.0, 91.0, 95.0, np.nan])


TABLE = [
    ["network", "test accuracy %", "95 % interval, n = 3", "parameters", "latency ms"],
    ["ticket", "97.13", "96.51 to 97.76", "17,700 (+700)", "3.21"],
    ["plain", "96.93", "96.17 to 97.69", "17,000", "2.50"],
]


def ticket(path, text="110-010-001", kinds=("se",), table=TABLE):
    title = f"ticket {text}"
    return draw_ticket(path, Scheme.parse(text), kinds=kinds, title=title, table=table)


def search(path, rewards=(90.0, 92.0, 91.0), random=(90.5, 90.0), pruned=()):
    rows, others = (
        [(number, reward, number not in pruned) for number, reward in enumerate(values)]
        for values in (rewards, random)
    )
    return draw_search(path, rows, others, name="policy")


def blocks(path, text="110-010-001", kinds=("se",), half=0.4):
    scheme = Scheme.parse(text)
    effects = [
        Effect(name, kind, points, points - half, points + half, p=0.5)
        for points, (name, kind) in enumerate(
            product(Scheme.parameter_names(scheme.stages), kinds), start=-3
        )
    ]
    return draw_blocks(path, effects, scheme, kinds=kinds)


def confusion(path):
    counts = np.array([[50, 0, 1], [5, 5, 10], [7, 3, 0]])
    return draw_confusion(path, counts, ["a", "b", "c"], title="answers")


def costs(path, networks=NETWORKS):
    return draw_costs(path, networks, cost="parameters more than plain", images=100)


def truth(path):
    return draw_truth(path, TRUTH, {"plain": 90.0, "full": 91.0, "constant": 90.6}, score="points")


def ranking(path, tau=(0.5, 0.4, 0.6)):
    marked = {"plain": 0, "full": 3}
    scores = np.array([80.0, 82.0, 81.0, 84.0, 85.0, 83.0])
    return draw_ranking(path, scores, TRUTH, marked, tau=tau, score="supernet", truth="scratch")


def curves(path):
    seeds = {"ticket": [[50, 80, 95], [40, 70, 90]], "plain": [[30, 40, 41]]}
    floor = ("chance, 10.0 %", 10.0)
    return draw_curves(path, seeds, score="training accuracy, %", floor=floor)


def connections(path, text="110-010-001"):
    scheme = Scheme.parse(text)
    shares, ends = shares_by_batch([scheme.choices, [0] * len(scheme.choices)] * 20, batches=12)
    return draw_connections(path, shares, ends, scheme, name="policy")


def front(path, costs=("latency_ms",)):
    """A front of two schemes among three trials; the first is the ticket."""
    objectives = ("accuracy", *costs)
    rows = {"10": (90.0, 3.0, 30.0), "00": (88.0, 2.0, 20.0), "01": (87.0, 2.5, 25.0)}
    cut = {name: values[: len(objectives)] for name, values in rows.items()}
    return draw_front(
        path,
        list(cut.values()),
        {name: cut[name] for name in ("10", "00")},
        {"plain": cut["00"], "full-se": (90.5, 4.0, 40.0)[: len(objectives)]},
        objectives=objectives,
        measure=ACCURACY,
        ticket="10",
    )


DRAWN = [ticket, search, blocks, costs, truth, ranking, curves, connections, front]


@pytest.fixture
def seen(monkeypatch) -> list[Figure]:
    """The figures that were drawn, as matplotlib has them; none is written."""
    kept: list[Figure] = []
    for module, write in ((figures, "save"), (figures, "write_png"), (map_figures, "save")):
        monkeypatch.setattr(module, write, lambda figure, _path: kept.append(figure))
    return kept


def pixels(path):
    """The picture as (H, W, 4), in 0..1."""
    picture = imread(path)
    assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    assert 200 <= picture.shape[0] <= 1300
    assert 600 <= picture.shape[1] <= 2400
    return picture


def share_of(picture, colour):
    wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return np.all(np.abs(picture[..., :3] - wanted) < 0.02, axis=-1).mean()


@pytest.mark.parametrize("draw", DRAWN)
def test_a_figure_is_a_picture_of_the_same_bytes_each_time(tmp_path, draw):
    first, second = draw(tmp_path / "figures" / "one.png"), draw(tmp_path / "two.png")
    assert first == tmp_path / "figures" / "one.png"
    assert first.read_bytes() == second.read_bytes()
    assert b"Matplotlib" not in first.read_bytes()
    picture = pixels(first)
    assert share_of(picture, "#ffffff") > 0.3
    assert share_of(picture, "#ffffff") < 0.99
    # Beside it the same as SVG, and nothing else.
    drawn = first.with_suffix(".svg").read_bytes()
    assert sorted(first.parent.iterdir()) == [first, first.with_suffix(".svg")]
    assert drawn == second.with_suffix(".svg").read_bytes()
    assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    assert b"<dc:date>" not in drawn
    assert len(drawn) < 200_000


def test_a_picture_of_very_many_points_is_no_svg(tmp_path):
    search(tmp_path / "search.png")
    assert (tmp_path / "search.svg").exists()
    search(tmp_path / "search.png", np.linspace(90, 95, 3000).tolist())
    assert [path.name for path in tmp_path.iterdir()] == ["search.png"]


@pytest.mark.parametrize("draw", DRAWN)
def test_a_figure_that_cannot_be_written_is_said(tmp_path, draw):
    (tmp_path / "file").write_text("old")
    with pytest.raises(WriteError):
        draw(tmp_path / "file" / "figure.png")


def test_a_ticket_shows_as_many_coloured_blocks_as_it_has_connections(tmp_path):
    shares = [
        share_of(pixels(ticket(tmp_path / f"{text}.png", text)), "#d55e00")
        for text in ("000-000", "100-000", "110-001", "111-111")
    ]
    assert shares[0] == 0
    assert shares[2] == pytest.approx(3 * shares[1], rel=0.05)
    assert shares[3] == pytest.approx(6 * shares[1], rel=0.05)


def test_each_kind_has_its_colour(tmp_path):
    picture = pixels(ticket(tmp_path / "two.png", "120-010", ("se", "sge")))
    assert share_of(picture, "#d55e00") == pytest.approx(2 * share_of(picture, "#0072b2"), rel=0.1)


@pytest.mark.parametrize(
    ("text", "said"),
    [("0", 1), ("000-000", 1), ("00-00-00", 1), ("1", 0), ("000-100", 0), ("02-00", 0)],
)
def test_a_ticket_without_attention_says_so_and_is_no_row_of_dashes(
    tmp_path, monkeypatch, text, said
):
    written = []
    known = Axes.text

    def noted(axes, x, y, text, **more):
        written.append(text)
        return known(axes, x, y, text, **more)

    monkeypatch.setattr(Axes, "text", noted)
    pixels(ticket(tmp_path / "ticket.png", text, ("se", "sge")))
    assert written.count("no block carries attention") == said
    assert written.count("\N{EN DASH}") == (0 if said else text.count("0"))


SIZES = [(1,), (1, 1), (3, 4, 6, 3), (18, 18, 18), (3, 4, 23, 3), (36, 36, 38)]


def texts(axes):
    """What is written into a figure, in its order."""
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("stages", SIZES[::2])
def test_networks_of_any_size_fit(tmp_path, stages):
    picture = pixels(ticket(tmp_path / "ticket.png", str(Scheme.uniform(stages, 1)), ("sge",)))
    assert share_of(picture, "#d55e00") > 0.01
    assert np.all(picture[:, [0, -1], :3] == 1)  # nothing touches the sides
    assert np.all(picture[[0, -1], :, :3] == 1)
    assert share_of(picture, "#ffffff") < (0.93 if len(stages) > 1 else 0.96)


@pytest.mark.parametrize("stages", SIZES)
@pytest.mark.parametrize("kind", ["se", "cbam", "timm:gather_excite"])
def test_every_block_has_its_number_and_its_kind_and_room_for_both(tmp_path, seen, stages, kind):
    scheme = Scheme.of([block % 2 for block in range(sum(stages))], stages)
    ticket(tmp_path / "ticket.png", str(scheme), (kind,))
    axes = seen[0].axes[0]
    numbers = [text for text in texts(axes) if re.fullmatch(r"b\d\d", text)]
    assert numbers == [f"b{block:02d}" for size in stages for block in range(size)]
    shown = kind.upper() if len(kind) < 5 else "1"  # a long name stands once, below
    assert texts(axes).count(shown) == scheme.connections
    assert ("1 TIMM:GATHER_EXCITE" in texts(axes)) == (len(kind) > 5 and shown in texts(axes))
    renderer = FigureCanvasAgg(seen[0]).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    whole = seen[0].bbox
    assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 for box in boxes)
    assert min(text.get_fontsize() for text in axes.texts) >= 6


def test_a_ticket_tells_what_it_reaches_beside_the_others(tmp_path, seen):
    ticket(tmp_path / "ticket.png")
    assert texts(seen[0].axes[0])[-15:] == [cell for row in TABLE for cell in row]
    bold = [text for text in seen[0].axes[0].texts if text.get_fontweight() == "bold"]
    assert "97.13" in [text.get_text() for text in bold]
    assert "96.93" not in [text.get_text() for text in bold]


@pytest.mark.parametrize("name", ["$x$ and $y$", "$\\frac$", "_{a}^b"])
def test_names_that_a_user_gave_stand_as_they_are(tmp_path, name):
    path = draw_ticket(tmp_path / "a.png", Scheme.parse("1-0"), kinds=("se",), title=name)
    draw_confusion(tmp_path / "b.png", np.eye(2, dtype=np.int64), [name, "b"], title=name)
    draw_search(tmp_path / "c.png", [(0, 1.0, True)], [(0, 1.0, True)], name=name)
    # Of each letter the SVG has a comment with the text that it is of.
    assert f"<!-- {name} -->" in path.with_suffix(".svg").read_text()
    assert f"<!-- sampler: {name} -->" in (tmp_path / "c.svg").read_text()


def test_random_search_has_its_own_line(tmp_path):
    assert share_of(pixels(search(tmp_path / "search.png")), "#9aa5b1") > 0.0005


@pytest.mark.parametrize("rewards", [(90.0,), (90.0, 90.0), tuple(range(300))])
def test_searches_of_any_length_are_drawn(tmp_path, rewards):
    assert share_of(pixels(search(tmp_path / "search.png", rewards, rewards)), "#d55e00") > 0


def test_pruned_trials_are_drawn_and_are_never_the_best(tmp_path):
    whole = share_of(pixels(search(tmp_path / "all.png")), "#d55e00")
    # Without its best trial the line is flat: the step of one point up to it is not there.
    pruned = pixels(search(tmp_path / "pruned.png", pruned={1}))
    assert 0 < share_of(pruned, "#d55e00") < whole
    none = pixels(search(tmp_path / "none.png", rewards=(), random=(90.0,)))
    assert share_of(none, "#d55e00") == 0


@pytest.mark.parametrize(
    ("rewards", "pruned", "below"),
    [
        ((90.0, 92.0, 91.0, 90.5), (), []),
        ((90.0, 10.0, 92.0, 91.0, 90.5), (), [1]),
        ((90.0, 10.0, 92.0, 91.0, 12.0, 90.5, 91.5, 90.7, 91.2), (1,), [1, 4]),
        ((90.0, 92.0, 91.0, 80.0, 79.0, 81.0), (3, 4, 5), []),  # half of them are no outliers
        ((-0.3, -0.25, -0.2, -40.0), (), [3]),  # minus a loss
        ((90.0, 90.0, 90.0, 10.0), (), []),  # nothing else would be flattened
        ((-0.3, -np.inf, -0.2), (), [1]),
        ((-0.3, -np.inf, -0.3), (), [1]),
    ],
)
def test_a_few_trials_far_below_stand_at_the_edge_and_are_counted(
    tmp_path, seen, rewards, pruned, below
):
    search(tmp_path / "search.png", rewards, random=rewards[:1], pruned=pruned)
    axes = seen[0].axes[0]
    marked = points(axes, "v")
    assert [x for x, _ in marked] == below
    inside = [reward for at, reward in enumerate(rewards) if at not in below]
    low, high = axes.get_ylim()
    assert low < min(inside) <= max(inside) < high
    assert all(low < y < min(inside) for _, y in marked)
    assert high - low < 1.5 * (max(inside) - min(inside) or 1) or not below
    crosses = [x for x, _ in points(axes, "x")]
    assert crosses == [at for at in pruned if at not in below]
    said = [text.get_text() for one in axes.findobj(Legend) for text in one.get_texts()]
    lowest = f"{min(rewards):.4g}"
    assert (f"{len(below)} below the axis, the lowest {lowest}" in said) == bool(below)
    assert ("pruned" in said) == bool(crosses)
    # The legends stand above the points.
    renderer = FigureCanvasAgg(seen[0]).get_renderer()
    seen[0].draw(renderer)
    top = axes.get_window_extent(renderer).y1
    assert all(one.get_window_extent(renderer).y0 >= top for one in axes.findobj(Legend))


def test_one_bad_trial_does_not_flatten_a_front_and_plain_is_always_in_it(tmp_path, seen):
    trials = [(90 + n / 10, 3.0 + n / 10) for n in range(8)] + [(10.0, 2.0)]
    objectives = ("accuracy", "latency_ms")
    for plain in (88.0, 40.0):
        draw_front(
            tmp_path / "front.png",
            trials,
            {"10": trials[7]},
            {"plain": (plain, 2.0)},
            objectives=objectives,
            measure=ACCURACY,
            ticket="10",
        )
        low, _ = seen[-1].axes[0].get_ylim()
        assert plain - 10 < low < plain
        assert [x for x, _ in points(seen[-1].axes[0], "v")] == [2.0]


def test_each_kind_at_each_block_has_its_interval(tmp_path):
    one = pixels(blocks(tmp_path / "one.png"))
    assert share_of(one, "#0072b2") == 0
    wide = pixels(blocks(tmp_path / "wide.png", half=2.0))
    assert share_of(wide, "#d55e00") > share_of(one, "#d55e00") > 0
    two = pixels(blocks(tmp_path / "two.png", "120-011", ("se", "sge")))
    assert min(share_of(two, colour) for colour in ("#d55e00", "#0072b2")) > 0
    many = pixels(blocks(tmp_path / "many.png", "1" * 36 + "-" + "0" * 18))
    assert np.all(many[:, [0, -1], :3] == 1)


def points(axes, marker):
    """Where a marker is drawn, point by point."""
    lines = [line for line in axes.lines if line.get_marker() == marker]
    return [(x, y) for line in lines for x, y in zip(*line.get_data(), strict=True)]


def test_networks_stand_at_their_cost_and_mean_with_their_seeds(tmp_path, seen):
    costs(tmp_path / "costs.png", NETWORKS | {"random-2": (81, [95.0]), "full-sge": (160, [90.0])})
    axes = seen[0].axes[0]
    assert points(axes, "*") == [(40, pytest.approx(97.1333, abs=1e-3))]
    assert points(axes, "s") == [(0, 97.0)]
    assert points(axes, "^")[0] == (160, pytest.approx(96.7667, abs=1e-3))
    assert points(axes, "^")[1][0] > 160  # as dear as the other full, so beside it
    assert [y for _, y in points(axes, "o")] == [pytest.approx(96.7333, abs=1e-3), 95.0]
    listed = [
        v for label, (_, values) in NETWORKS.items() for v in values if "random" not in label
    ]
    assert sorted(y for _, y in points(axes, ".")) == sorted([*listed, 90.0])
    texts = {text.get_text() for text in axes.texts}
    assert {"ticket, 97.1 %", "plain, 97.0 %", "constant, 97.2 %", "random schemes"} <= texts
    assert axes.get_title(loc="left") == (
        "n = 1 to 3 seeds a network; large mark: mean; small dot: one seed\nbar: 95 % interval, "
        "Student's t over the seeds (of equal seeds Wilson's over the images)"
    )


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ([90.0], "n = 1 seed, so no interval is known"),
        ([90.0, 91.0], "n = 2 seeds a network; large mark: mean; small dot: one seed\nbar: 95 % "
         "interval, Student's t over the seeds"),
    ],
)  # fmt: skip
def test_how_many_seeds_a_figure_is_of_and_what_its_bars_are(tmp_path, seen, seeds, said):
    costs(tmp_path / "costs.png", {"ticket": (1, seeds), "plain": (0, seeds)})
    assert seen[0].axes[0].get_title(loc="left") == said


def test_labels_hide_neither_one_another_nor_a_point(tmp_path, seen):
    close = {"ticket": (1, [90.0, 90.2]), "plain": (0, [90.0, 90.1]), "full": (9, [90.1, 90.1])}
    costs(tmp_path / "costs.png", close | {f"first-{n}": (0.1 * n, [90.0]) for n in range(5)})
    figure = seen[0]
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert len(boxes) == 8
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    at = figure.axes[0].transData.transform([(x, 90.0) for x in (0, 1, 0.1, 0.2)])
    assert not any(box.contains(*point) for box in boxes for point in at)


@pytest.mark.parametrize("values", [[97.0, 97.0, 97.0], [97.0]])
def test_equal_accuracies_and_single_ones_are_drawn(tmp_path, values):
    path = costs(tmp_path / "costs.png", {"ticket": (0, values), "plain": (0, [97.0])})
    assert share_of(pixels(path), "#50616f") > 0


def test_the_truth_has_all_known_schemes_and_a_line_for_each_network(tmp_path, seen):
    truth(tmp_path / "truth.png")
    axes = seen[0].axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == 5
    assert axes.get_title(loc="left") == "5 of the 6 schemes"
    lines = {line.get_xdata()[0]: line for line in axes.lines if len(line.get_xdata()) == 2}
    assert sorted(lines) == [90.0, 90.6, 91.0]
    assert len({str(line.get_linestyle()) for line in lines.values()}) == 3
    assert [text.get_text() for text in axes.texts] == ["plain", "full", "constant"]
    draw_truth(tmp_path / "whole.png", TRUTH[:5], {}, score="points")
    assert seen[1].axes[0].get_title(loc="left") == "all 5 schemes"


@pytest.mark.parametrize(
    ("tau", "said"), [((0.5, 0.4, 0.6), "0.50 (0.40 to 0.60)"), ((0.11, np.nan, np.nan), "0.11")]
)
def test_a_ranking_has_tau_in_its_title(tmp_path, seen, tau, said):
    ranking(tmp_path / "ranking.png", tau)
    axes = seen[0].axes[0]
    assert axes.get_title(loc="left") == f"Kendall's tau {said}: 1 the same order, 0 none"
    assert points(axes, "s") == [(80.0, 90.0)]
    assert points(axes, "^") == [(84.0, 91.0)]
    assert len(points(axes, "o")) == 6
    assert [text.get_text() for text in axes.texts] == ["plain", "full"]


def test_curves_are_thin_for_seeds_and_thick_for_their_mean(tmp_path, seen):
    curves(tmp_path / "curves.png")
    axes = seen[0].axes[0]
    thick = {line.get_marker(): line for line in axes.lines if line.get_linewidth() > 2}
    assert list(thick["*"].get_ydata()) == [45, 75, 92.5]
    assert list(thick["s"].get_ydata()) == [30, 40, 41]
    assert thick["*"].get_linestyle() != thick["s"].get_linestyle()
    thin = [list(line.get_ydata()) for line in axes.lines if line.get_linewidth() < 1]
    assert thin == [[50, 80, 95], [40, 70, 90], [30, 40, 41]]
    (floor,) = (line for line in axes.lines if line.get_linewidth() == 1)
    assert list(floor.get_ydata()) == [10, 10]
    assert (
        axes.get_title(loc="left")
        == "n = 1 to 2 seeds a network; thin: one seed; thick: their mean"
    )


ENDS = {"ticket": 99.0, "random scheme": 98.0, "full": 98.9, "plain": 50.0, "constant": 50.5}
FLOOR = "largest class, 11.0 %"
LONG = "ticket = plain = random scheme = random-best"


@pytest.mark.parametrize(
    ("ends", "order"),
    [
        (ENDS, [FLOOR, "plain", "constant", "random scheme", "full", "ticket"]),
        (dict.fromkeys(ENDS, 100.0), [FLOOR, *reversed(ENDS)]),
        (dict.fromkeys([*ENDS, "a", "b"], 10.5), ["b", "a", *reversed(ENDS), FLOOR]),
        ({LONG: 90.0, "full": 91.0}, [FLOOR, LONG, "full"]),
    ],
)
@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_labels_of_curves_stand_in_the_order_of_their_ends_and_apart(
    tmp_path, seen, ends, order, epochs
):
    draw_curves(
        tmp_path / "curves.png",
        {label: [[20.0] * (epochs - 1) + [end]] for label, end in ends.items()},
        score="%",
        floor=("largest class,\n11.0 %", 11.0),
    )
    labels = seen[0].axes[0].texts
    assert [text.get_text().replace("\n", " ") for text in labels] == order
    renderer = FigureCanvasAgg(seen[0]).get_renderer()
    seen[0].draw(renderer)
    boxes = [Text.get_window_extent(text, renderer) for text in labels]  # without their lines
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert [box.y0 for box in boxes] == sorted(box.y0 for box in boxes)
    whole, axes = seen[0].bbox, seen[0].axes[0].get_window_extent(renderer)
    assert all(box.x1 < whole.x1 for box in boxes)
    assert all(axes.y0 - 2 < box.y0 and box.y1 < axes.y1 + 2 for box in boxes)


def test_connections_are_the_shares_of_each_batch(tmp_path, seen):
    trials = [[1, 0, 2], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1]]
    shares, ends = shares_by_batch(trials, batches=2)
    assert ends == [3, 5]
    assert shares == pytest.approx(np.array([[1, 1 / 3, 1 / 3], [0, 1, 0.5]]))
    draw_connections(tmp_path / "a.png", shares, ends, Scheme.parse("1-1-0"), name="tpe")
    axes = seen[0].axes[0]
    assert np.array_equal(axes.images[0].get_array(), shares.T)
    assert [y for _, y in points(axes, "*")] == [0, 1]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["s1.b00", "s2.b00", "s3.b00"]
    connections(tmp_path / "many.png", "1" * 18 + "-" + "0" * 18 + "-" + "01" * 9)
    assert seen[1].get_size_inches()[1] * 160 < 1200
    assert len(seen[1].axes[0].get_yticklabels()) == 27


@pytest.mark.parametrize(
    ("effects", "said"),
    [
        ([(0.9, 1e-6), (0.1, 0.5), (-0.8, 1e-4)], ["pays", "hurts"]),
        ([(0.9, 0.6), (0.1, 0.5), (-0.8, 0.3)], []),
    ],
)
def test_what_is_told_of_a_block_stands_at_it(tmp_path, seen, effects, said):
    rows = [
        Effect(f"s{n}.b00", "se", points, points - 0.3, points + 0.3, p)
        for n, (points, p) in enumerate(effects, start=1)
    ]
    draw_blocks(tmp_path / "blocks.png", rows, Scheme.parse("1-0-0"), kinds=["se"])
    assert [text.get_text() for text in seen[0].axes[0].texts] == said


def test_looks_differ_without_colour():
    looks = [*figures._LOOKS.values(), figures._OTHER]
    assert len({look.marker for look in looks}) == len(looks)
    assert len({str(look.line) for look in looks}) == len(looks)
    assert len(set(figures._SHAPES)) == len(figures._KINDS) == len(figures._SHAPES)


# Machado et al., 2009: what linear RGB becomes for whoever lacks a kind of cone.
VISIONS = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def lab(colour, vision):
    """CIE Lab of a colour as it is seen (D65)."""
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    t = XYZ @ np.clip(VISIONS[vision] @ linear, 0, 1) / np.array([0.95047, 1, 1.08883])
    f = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


def ciede2000(first, second):
    """The distance of two colours in Lab (Sharma et al., 2005)."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    c7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    a1, a2 = (a * (1.5 - 0.5 * np.sqrt(c7 / (c7 + 25**7))) for a in (a1, a2))
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    light, chroma, hue = (l1 + l2) / 2, (c1 + c2) / 2, (h1 + turn / 2) % 360
    t = 1 + sum(
        factor * np.cos(np.radians(times * hue + shift))
        for factor, times, shift in (
            (-0.17, 1, -30),
            (0.24, 2, 0),
            (0.32, 3, 6),
            (-0.2, 4, -63),
        )
    )
    sl = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    sc, sh = 1 + 0.045 * chroma, 1 + 0.015 * chroma * t
    bend = np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    rt = -2 * np.sqrt(chroma**7 / (chroma**7 + 25**7)) * bend
    dl, dc, dh = (l2 - l1) / sl, (c2 - c1) / sc, dh / sh
    return float(np.sqrt(dl**2 + dc**2 + dh**2 + rt * dc * dh))


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_that_meet_in_a_figure_are_told_apart(vision):
    # Of the published test data (Sharma et al., table 1).
    assert ciede2000((50, 2.6772, -79.7751), (50, 0, -82.7485)) == pytest.approx(2.0425, abs=1e-4)
    assert ciede2000((22.7233, 20.0904, -46.694), (23.0331, 14.973, -42.5619)) == pytest.approx(
        2.0373, abs=1e-4
    )
    networks = [look.colour for look in (*figures._LOOKS.values(), figures._OTHER)]
    kinds = (*figures._KINDS, canvas.OFF, canvas.INK)
    for together in (networks, kinds, (*map_figures._CLASSES, canvas.OFF, "#ffffff")):
        seen = [lab(colour, vision) for colour in together]
        assert min(ciede2000(a, b) for a, b in combinations(seen, 2)) >= 10


EVERY = {role: (n, [90.0 + n, 91.0]) for n, role in enumerate([*figures._LOOKS, "first-k"])}
EIGHT = tuple("abcdefgh")
WHOLE = [
    lambda path: ticket(path, "12345678-0", EIGHT),
    lambda path: blocks(path, "123456780", EIGHT),
    lambda path: search(path, (90.0, 92.0, 91.0, 10.0, 89.0), pruned={4}),
    lambda path: costs(path, EVERY),
    lambda path: draw_curves(
        path, {k: [v] for k, (_, v) in EVERY.items()}, score="%", floor=("chance", 10.0)
    ),
    lambda path: draw_truth(path, TRUTH, {k: float(n) for k, (n, _) in EVERY.items()}, score="%"),
    lambda path: draw_ranking(
        path,
        np.arange(6.0),
        np.arange(6.0),
        {k: n for k, (n, _) in EVERY.items()},
        tau=(0.1, 0.0, 0.2),
        score="a",
        truth="b",
    ),
    front,
    connections,
    confusion,
    lambda path: draw_maps(path, segmentation(11, rows=1, ignored=True)),
    lambda path: draw_maps(path, counting()),
]


def colours(axes):
    """The colours of what is drawn, as they look on white, and white; not those of a scale."""
    found = {"#ffffff"}
    flat = [one for one in axes.collections if one.get_array() is None]
    for one in (*axes.lines, *axes.patches, *flat):
        if isinstance(one, Line2D):
            own = [one.get_color()] * (one.get_linestyle() != "None")
            own += [one.get_markeredgecolor(), one.get_markerfacecolor()] * (
                one.get_marker() not in ("None", None, "")
            )
        else:
            own = [*np.atleast_2d(one.get_facecolor()), *np.atleast_2d(one.get_edgecolor())]
        for colour in own:  # nothing at all is white
            *rgb, alpha = to_rgba(colour, one.get_alpha())
            red, green, blue = (alpha * value + 1 - alpha for value in rgb)
            found.add(to_hex((red, green, blue)))
    return sorted(found)


@pytest.mark.parametrize("number", range(len(WHOLE)))
def test_all_that_meets_in_a_figure_is_told_apart_whatever_cones_one_has(tmp_path, seen, number):
    WHOLE[number](tmp_path / "a.png")
    for axes, vision in product(seen[0].axes, VISIONS):
        pairs = combinations(colours(axes), 2)
        near = {pair: ciede2000(*(lab(colour, vision) for colour in pair)) for pair in pairs}
        assert {pair: round(d, 1) for pair, d in near.items() if d < 10} == {}, vision


def luminance(colour):
    c = np.array(to_rgba(colour)[:3])
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    """WCAG 2: 1 to 21."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def ground(axes, text):
    """The colour that a text of a figure stands on."""
    x, y = text.get_position()
    for patch in axes.patches if text in axes.texts else ():
        box = patch.get_bbox() if isinstance(patch, FancyBboxPatch) else None
        if (
            box is not None
            and box.x0 < x < box.x1
            and min(box.y0, box.y1) < y < max(box.intervaly)
        ):
            return patch.get_facecolor()
    for image in axes.images if text in axes.texts else ():
        return image.cmap(image.norm(image.get_array()[int(y), int(x)]))
    return "white"


@pytest.mark.parametrize("number", range(len(WHOLE)))
def test_every_text_can_be_read_on_what_it_stands_on(tmp_path, seen, number):
    assert contrast("black", "white") == pytest.approx(21)
    assert contrast("#767676", "white") == pytest.approx(4.54, abs=0.01)  # WCAG's own example
    WHOLE[number](tmp_path / "a.png")
    seen[0].draw_without_rendering()
    told = [
        (text.get_text(), contrast(text.get_color(), ground(axes, text)))
        for axes in seen[0].axes
        for text in axes.findobj(Text)
        if text.get_visible() and text.get_text()
    ]
    assert told
    assert [one for one in told if one[1] < 4.5] == []


def test_a_front_has_its_line_ticket_plain_and_full_and_a_panel_for_each_cost(tmp_path):
    one, two = front(tmp_path / "1.png"), front(tmp_path / "2.png", ("latency_ms", "params"))
    for path in (one, two):
        for colour in ("#d55e00", "#50616f", "#0072b2", "#22303c"):
            assert share_of(pixels(path), colour) > 0.0003
    assert pixels(two).shape[1] > 1.6 * pixels(one).shape[1]
