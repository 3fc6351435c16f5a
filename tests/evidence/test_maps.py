"""Which test images a report shows, what stands at them, and what it says of trivial rules."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given as drawn_by
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import nn

import sat_optuna as sat
from sat_optuna.evidence import canvas, map_figures
from sat_optuna.evidence.map_figures import draw_maps
from sat_optuna.evidence.maps import (
    MapExamples,
    MapResults,
    ShownImage,
    chosen_ranks,
    map_examples,
    picture_of,
)
from sat_optuna.evidence.trivial_rules import TrivialRule
from sat_optuna.tasks import METRICS, TASKS
from sat_optuna.ticket import Measure

MINUS = "\N{MINUS SIGN}"
MIOU, MAE = (METRICS.get(name).measure for name in ("miou", "mae"))


@pytest.mark.parametrize(
    ("scores", "rows"),
    [
        ([5.0, 1.0, 4.0, 2.0, 3.0], [1, 3, 4, 2, 0]),
        ([3.0] * 9, [0, 2, 4, 6, 8]),  # of equal ones as they lie
        ([2.0, 1.0], [1, 0]),
        ([2.0, math.nan, 1.0, 3.0], [2, 0, 3]),
        ([1.0], [0]),
        ([math.nan], []),
    ],
)
def test_the_worst_the_quartiles_and_the_best_are_shown(scores, rows):
    chosen = chosen_ranks(scores)
    assert [row for row, _ in chosen] == rows
    words = [rank for _, rank in chosen]
    assert (
        words
        == {
            5: ["worst", "lower quartile", "median", "upper quartile", "best"],
            3: ["worst", "median", "best"],
            2: ["worst", "best"],
            1: ["worst"],
            0: [],
        }[len(rows)]
    )


@drawn_by(st.lists(st.floats(-10, 10), min_size=5, max_size=60))
def test_ranks_are_those_of_all_images(scores):
    shown = [scores[row] for row, _ in chosen_ranks(scores)]
    assert shown[0] == min(scores)
    assert shown[-1] == max(scores)
    assert shown == sorted(shown)
    assert len({row for row, _ in chosen_ranks(scores)}) == 5


@pytest.mark.parametrize(
    ("channels", "size"),
    [(1, (8, 6)), (2, (8, 13)), (3, (8, 6)), (4, (17, 13)), (5, (17, 20)), (12, (26, 20))],
)
def test_an_image_of_any_channels_is_a_picture(channels, size):
    image = np.random.default_rng(0).integers(0, 255, (channels, 8, 6)).astype(np.uint8)
    picture = picture_of(image)
    assert picture.dtype == np.uint8
    assert picture.shape == (*size, 3)
    for channel in range(3):
        wanted = image[channel if channels == 3 else 0]
        assert np.array_equal(picture[:8, :6, channel], wanted)
    if channels == 4:
        assert np.array_equal(picture[9:, 7:, 1], image[3])
        assert np.all(picture[8] == 255)
        assert np.all(picture[:, 6] == 255)


class Fixed(nn.Module):
    """Answers each image with a map that was given, whatever the image shows but its number."""

    def __init__(self, maps):
        super().__init__()
        self.maps = torch.as_tensor(maps)

    def forward(self, x):
        return self.maps[(x[:, 0, 0, 0]).long()]


def numbered(count, channels=1, side=4):
    """Images of floats; the first pixel is the image's number."""
    x = torch.zeros(count, channels, side, side)
    x[:, 0, 0, 0] = torch.arange(count)
    return x


def examples_of(networks, y, targets, task, metric, channels=1):
    x = numbered(len(y), channels)
    data = sat.Split.from_arrays(x, y, test=(x, y), targets=targets)
    found = map_examples(
        {label: Fixed(maps) for label, maps in networks.items()},
        data,
        task=TASKS.get(task),
        metric=METRICS.get(metric),
        test={label: f"{metric} of {label}" for label in networks},
        seed=3,
    )
    assert found is not None
    return found


def one_hot(masks, classes):
    return nn.functional.one_hot(masks.long(), classes).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("channels", [1, 4])
def test_masks_are_ranked_by_the_metric_on_each_image_alone(channels):
    y = torch.zeros(6, 4, 4, dtype=torch.int64)
    y[:, 2:] = 1
    answer, wrong = y.clone(), [3, 0, 5, 1, 2, 4]
    for number, count in enumerate(wrong):
        answer[number].view(-1)[:count] = 1
    y[0, 3, 3] = 255  # there the image's own answer does not count
    networks = {"ticket": one_hot(answer, 2), "plain = full": one_hot(y.clamp(max=1), 2)}
    found = examples_of(networks, y, "masks", "segmentation", "miou", channels)
    assert [shown.number for shown in found.shown] == [2, 5, 0, 3, 1]
    for shown in found.shown:
        off, ones = wrong[shown.number], 7 if shown.number == 0 else 8
        iou = 50 * ((8 - off) / 8 + ones / (ones + off))
        assert shown.told == {"ticket": f"{iou:.2f} %", "plain = full": "100.00 %"}
        assert np.array_equal(shown.truth, y[shown.number].numpy())
        assert np.array_equal(shown.answers["ticket"], answer[shown.number].numpy())
        assert shown.count == ""
    assert found.test == {"ticket": "miou of ticket", "plain = full": "miou of plain = full"}
    planes = " An image stands as its 4 channels, row by row." if channels == 4 else ""
    assert str(found) == (
        "Test images 2, 5, 0, 3, 1 (from 0): of all 6 by the ticket's miou on each the worst, the "
        f"best, the median and the quartiles; networks of seed 3.{planes}"
    )


@pytest.mark.parametrize("metric", ["mae", "rmse", "r2"])
def test_densities_are_ranked_by_how_far_the_count_is_off(metric):
    y, answer = torch.zeros(2, 40, 4, 4)
    y[:, 0, 0], y[1, 0, 0], y[7, 0, 0], y[19, 0, 0] = 12.0, 1.0, 1.4, 0.0
    answer[:, 1, 1] = y.sum((1, 2))
    answer[:, 2, 2] = torch.arange(40) * 0.1 * (-1) ** torch.arange(40)
    networks = {"ticket": answer[:, None], "plain": y[:, None], "full": -y[:, None]}
    found = examples_of(networks, y, "density", "counting", metric)
    assert [shown.number for shown in found.shown] == [39, 29, 19, 10, 0]
    assert [shown.count for shown in found.shown] == [
        "12 dots",
        "12 dots",
        "0 dots",
        "12 dots",
        "12 dots",
    ]
    assert [shown.told["ticket"] for shown in found.shown] == [
        "8.1",
        "9.1",
        "-1.9",
        "13.0",
        "12.0",
    ]
    assert [shown.told["full"] for shown in found.shown][1:4] == ["-12.0", "0.0", "-12.0"]
    assert "of all 40 by how far the ticket's count is off the worst" in str(found)
    few = examples_of({"ticket": answer[:8, None]}, y[:8], "density", "counting", metric)
    assert [(shown.number, shown.count) for shown in few.shown] == [
        (7, "1.4 dots"),
        (5, "12 dots"),
        (3, "12 dots"),
        (2, "12 dots"),
        (0, "12 dots"),
    ]
    assert {"1 dot"} == {
        shown.count
        for shown in examples_of(
            {"ticket": answer[1:2, None].repeat(2, 1, 1, 1)},
            y[1:2].repeat(2, 1, 1),
            "density",
            "counting",
            metric,
        ).shown
    }


def test_images_on_which_the_metric_has_no_value_are_not_shown():
    y = torch.zeros(4, 4, 4, dtype=torch.int64)
    y[1:3, 0, 0] = 2
    y[3] = 1
    found = examples_of(
        {"ticket": one_hot(y.clamp(max=1), 3)}, y, "masks", "segmentation", "iou_2"
    )
    assert [(shown.number, shown.rank) for shown in found.shown] == [(1, "worst"), (2, "best")]


NAMES = ["background", "sea", "land", "lake", "snow", "sand", "bog", "bush", "boat", "10", "1"]


def segmentation(classes=4, rows=2, networks=("ticket", "plain"), side=12, ignored=False):
    """Images of which each shows all classes, in stripes."""
    mask = np.arange(side)[:, None].repeat(side, axis=1) * classes // side
    if ignored:
        mask[:2, :2] = 255
    grey = np.linspace(0, 255, side * side).reshape(side, side, 1).astype(np.uint8)
    return MapExamples(
        targets="masks",
        shown=[
            ShownImage(
                number=10 + row,
                rank="worst",
                picture=np.broadcast_to(grey, (side, side, 3)),
                truth=mask,
                answers={name: np.minimum(mask, 1) for name in networks},
                told={name: f"{row} % of {name}" for name in networks},
            )
            for row in range(rows)
        ],
        class_names=NAMES[:classes],
        test={name: f"miou of {name}" for name in networks},
        caption="somehow",
        planes="4 channels",
    )


def counting(most=0.01, answer=0.004):
    truth = np.zeros((12, 12))
    truth[4, 4] = most
    return MapExamples(
        targets="density",
        shown=[
            ShownImage(
                number=7,
                rank="best",
                picture=np.full((12, 12, 3), 90, np.uint8),
                truth=truth,
                answers={"ticket": np.full((12, 12), answer)},
                told={"ticket": "11.4"},
                count="12 dots",
            )
        ],
        class_names=["density"],
        test={"ticket": "mae 0.5"},
        caption="somehow",
    )


@pytest.fixture
def seen(monkeypatch) -> list[Figure]:
    """The figures that were drawn, as matplotlib has them; none is written."""
    kept: list[Figure] = []
    monkeypatch.setattr(map_figures, "save", lambda figure, _path: kept.append(figure))
    return kept


@pytest.mark.parametrize("examples", [segmentation(11, rows=1), counting()])
def test_the_figure_has_the_same_bytes_each_time_and_no_empty_border(tmp_path, examples):
    first = draw_maps(tmp_path / "figures" / "maps.png", examples)
    second = draw_maps(tmp_path / "maps.png", examples)
    assert first.read_bytes() == second.read_bytes()
    vector = first.with_suffix(".svg").read_bytes()
    assert vector == second.with_suffix(".svg").read_bytes()
    assert len(vector) < 200_000
    picture = imread(first)[..., :3]
    inked, (height, width) = np.argwhere((picture < 0.99).any(axis=2)), picture.shape[:2]
    assert width == 1280
    low, high = inked.min(axis=0), inked.max(axis=0)
    assert (low >= 1).all()
    assert (high < (height - 1, width - 1)).all()
    assert low[0] < 40
    assert height - high[0] < 40


def test_columns_are_image_truth_and_networks_with_scores_below(tmp_path, seen):
    draw_maps(tmp_path / "maps.png", segmentation(networks=("ticket = plain", "full-se")))
    axes = seen[0].axes
    assert [one.get_title() for one in axes[:4]] == [
        "image\n4 channels",
        "truth",
        "ticket = plain\nmiou of ticket = plain",
        "full-se\nmiou of full-se",
    ]
    assert [one.get_xlabel() for one in axes[4:]] == [
        "",
        "",
        "1 % of ticket = plain",
        "1 % of full-se",
    ]
    assert [axes[at].get_ylabel() for at in (0, 4)] == ["worst\nimage 10", "worst\nimage 11"]
    assert [text.get_text() for text in seen[0].legends[0].get_texts()] == NAMES[:4]
    assert not any(one.texts for one in axes)


def test_many_networks_have_room_for_their_scores(tmp_path, seen):
    networks = [
        "ticket",
        "plain",
        *(f"full-{kind}" for kind in ("se", "sge", "cbam", "srm", "eca")),
    ]
    draw_maps(tmp_path / "maps.png", segmentation(networks=networks))
    renderer = FigureCanvasAgg(seen[0]).get_renderer()
    seen[0].draw(renderer)
    boxes = [axes.title.get_window_extent(renderer) for axes in seen[0].axes[:9]]
    boxes += [axes.xaxis.label.get_window_extent(renderer) for axes in seen[0].axes[2:9]]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def drawn_colours(axes):
    """The colour of each class in a mask."""
    (image,) = axes.images
    found = image.get_array()
    return {
        int(number): to_hex(image.cmap(image.norm(number)))
        for number in np.unique(found.compressed())
    }


def test_pixels_without_a_class_are_hatched_in_the_truth(tmp_path, seen):
    draw_maps(tmp_path / "maps.png", segmentation(ignored=True))
    truth = seen[0].axes[1]
    assert truth.images[0].get_array().mask.sum() == 4
    assert truth.patch.get_hatch()
    assert set(drawn_colours(truth)) == {0, 1, 2, 3}
    assert seen[0].legends[0].get_texts()[-1].get_text() == "no class, not scored"


@pytest.mark.parametrize(
    ("classes", "begins"),
    [
        (8, []),
        (9, ["ba", "se", "lan", "lak", "sn", "sa", "bog", "bu", "boa"]),
        (11, ["ba", "se", "lan", "lak", "sn", "sa", "bog", "bu", "boa", "10", "1"]),
    ],
)
def test_many_classes_have_their_names_in_the_masks_too(tmp_path, seen, classes, begins):
    draw_maps(tmp_path / "maps.png", segmentation(classes, side=33))
    truth = seen[0].axes[1]
    colours = drawn_colours(truth)
    assert colours[0] == canvas.OFF
    assert len(set(colours.values())) == classes
    written = [text.get_text() for text in truth.texts]
    said = [text.get_text() for text in seen[0].legends[0].get_texts()]
    assert written == begins
    assert said == [
        name if mark in ("", name) else f"{mark}: {name}"
        for mark, name in zip(begins or [""] * classes, NAMES[:classes], strict=True)
    ]
    for text in truth.texts:
        column, row = text.get_position()
        shown = truth.images[0].get_array()[row, column]
        assert begins[shown] == text.get_text()


def test_more_classes_than_colours_share_them_where_few_are_shown_they_do_not(tmp_path, seen):
    many = segmentation(4)
    names = [f"class {number}" for number in range(40)]
    far = [
        ShownImage(
            number=shown.number,
            rank=shown.rank,
            picture=shown.picture,
            truth=shown.truth * 12,
            answers=shown.answers,
            told=shown.told,
        )
        for shown in many.shown
    ]
    draw_maps(
        tmp_path / "maps.png",
        MapExamples(targets="masks", shown=far, class_names=names, test={}, caption=""),
    )
    assert len(set(drawn_colours(seen[0].axes[1]).values())) == 4


@pytest.mark.parametrize(
    ("most", "answer", "top", "extend"),
    [(0.01, 0.004, 0.01, "neither"), (0.01, 0.02, 0.01, "max"), (0.0, 0.3, 1.0, "neither")],
)
def test_densities_have_one_scale_and_their_counts_below(
    tmp_path, seen, most, answer, top, extend
):
    draw_maps(tmp_path / "maps.png", counting(most, answer))
    _, truth, ticket, bar = seen[0].axes
    assert (truth.get_xlabel(), ticket.get_xlabel()) == ("12 dots", "11.4")
    for axes in (truth, ticket):
        norm = axes.images[0].norm
        assert (norm.vmin, norm.vmax) == (0, top)
        assert axes.images[0].cmap.name == "cividis"
    assert ticket.images[0].colorbar.extend == extend
    assert bar.get_xlabel() == "density, dots a pixel: one scale for all, of square roots"


RULES = [
    TrivialRule("one", {MIOU: 30.0}),
    TrivialRule("two", {MIOU: 34.0, METRICS.get("pixel_accuracy").measure: 60.0}),
]


def told(scores, measure=MIOU, rules=RULES, **others):
    return MapResults(rules=rules).parts({"ticket": scores, **others}, measure)


def test_the_table_of_rules_has_their_scores_and_the_ticket_s_difference():
    head, table, _ = told([35.0, 37.0])
    assert head == "## Against trivial rules"
    assert table.splitlines() == [
        "| rule | miou % | pixel accuracy % | ticket minus rule, points |",
        "|---|---:|---:|---:|",
        "| one | 30.00 | \N{EN DASH} | +6.00 |",
        "| two | 34.00 | 60.00 | +2.00 |",
    ]
    assert MapResults(rules=[]).parts({"ticket": [1.0]}, MIOU) == ()
    examples = segmentation()
    shown = ("## Maps", "![maps](figures/maps.png)", str(examples))
    assert MapResults(examples=examples).parts({"ticket": [1.0]}, MIOU) == shown
    assert MapResults(rules=RULES, examples=examples).parts({"ticket": [1.0]}, MIOU)[:3] == shown


BEST = "the best of these rules** (two)"
COUNTS = [TrivialRule("two", {MAE: 1.5}), TrivialRule("one", {MAE: 2.0})]


@pytest.mark.parametrize(
    ("scores", "measure", "rules", "said"),
    [
        (
            [36.0, 37.0, 38.0],
            MIOU,
            RULES,
            f"The ticket is **above {BEST}: +3.00 points (95 % interval over 3 seeds +0.52 to "
            "+5.48), positive where the ticket is better.",
        ),
        (
            [34.0, 35.0, 39.0],
            MIOU,
            RULES,
            f"The ticket is **not shown to be above {BEST}: +2.00 points (95 % interval over 3 "
            f"seeds {MINUS}4.57 to +8.57), positive where the ticket is better.",
        ),
        (
            [34.0, 34.0],
            MIOU,
            RULES,
            f"The ticket is **not above {BEST}: +0.00 points (95 % interval over 2 seeds +0.00 to "
            "+0.00), positive where the ticket is better.",
        ),
        (
            [35.0],
            MIOU,
            RULES,
            f"The ticket is **above {BEST}: +1.00 points (one seed: the noise is not known), "
            "positive where the ticket is better.",
        ),
        (
            [0.9, 1.0, 1.1],
            MAE,
            COUNTS,
            f"The ticket is **better than {BEST}: +0.5000 mae (95 % interval over 3 seeds +0.2516 "
            "to +0.7484), positive where the ticket is better.",
        ),
        (
            [2.0],
            MAE,
            COUNTS,
            f"The ticket is **not better than {BEST}: {MINUS}0.5000 mae (one seed: the noise is "
            "not known), positive where the ticket is better.",
        ),
    ],
)
def test_the_ticket_is_said_to_be_above_the_best_rule_or_not(scores, measure, rules, said):
    *_, text = told(scores, measure, rules)
    assert text.endswith(said)
    assert text.startswith("What needs no network: rules made of the images that the networks ")


@pytest.mark.parametrize(
    ("measure", "rules", "said"),
    [
        (MIOU, RULES, " Of the others not above it in the mean: plain."),
        (MAE, COUNTS, " Of the others not better than it in the mean: full."),
    ],
)
def test_the_other_networks_that_are_not_above_it_are_named(measure, rules, said):
    *_, text = told([1.0, 1.0], measure, rules, plain=[1.4, 1.5], full=[100.0, 40.0])
    assert text.endswith(said)


def test_a_metric_of_ones_own_with_a_unit_is_told_in_it():
    own = Measure("off", "dots", "lower")
    _, table, text = told([1.0], own, [TrivialRule("two", {own: 1.5})])
    assert "| rule | off dots | ticket minus rule, dots |" in table
    assert "+0.5000 dots (one seed" in text
