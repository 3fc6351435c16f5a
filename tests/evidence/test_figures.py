"""Figures are real pictures, with something on them, the same bytes each time."""

from itertools import product

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from sat_optuna.errors import WriteError
from sat_optuna.evidence.effects import Effect
from sat_optuna.evidence.figures import (
    draw_accuracies,
    draw_blocks,
    draw_front,
    draw_search,
    draw_ticket,
)
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import ACCURACY

ACCURACIES = {
    "ticket": [97.1, 97.4, 96.9],
    "plain": [97.0, 97.0, 97.0],
    "full": [96.0, 97.5, 96.8],
    "random-density": [97.2],
    "another": [96.0, 96.5],
}


def ticket(path, text="110-010-001", kinds=("se",)):
    return draw_ticket(path, Scheme.parse(text), kinds=kinds, title=f"ticket {text}")


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


def accuracies(path, values=ACCURACIES):
    return draw_accuracies(path, values, images=100)


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


def pixels(path):
    """The picture as (H, W, 4), in 0..1."""
    picture = imread(path)
    assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    assert 200 <= picture.shape[0] <= 1200
    assert 600 <= picture.shape[1] <= 2400
    return picture


def share_of(picture, colour):
    wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return np.all(np.abs(picture[..., :3] - wanted) < 0.02, axis=-1).mean()


@pytest.mark.parametrize("draw", [ticket, search, blocks, accuracies, front])
def test_a_figure_is_a_picture_of_the_same_bytes_each_time(tmp_path, draw):
    first, second = draw(tmp_path / "figures" / "one.png"), draw(tmp_path / "two.png")
    assert first == tmp_path / "figures" / "one.png"
    assert first.read_bytes() == second.read_bytes()
    assert b"Matplotlib" not in first.read_bytes()
    picture = pixels(first)
    assert share_of(picture, "#ffffff") > 0.3
    assert share_of(picture, "#ffffff") < 0.99
    assert len(list(first.parent.iterdir())) == 1


@pytest.mark.parametrize("draw", [ticket, search, blocks, accuracies, front])
def test_a_figure_that_cannot_be_written_is_said(tmp_path, draw):
    (tmp_path / "file").write_text("old")
    with pytest.raises(WriteError):
        draw(tmp_path / "file" / "figure.png")


def test_a_ticket_shows_as_many_coloured_blocks_as_it_has_connections(tmp_path):
    shares = [
        share_of(pixels(ticket(tmp_path / f"{text}.png", text)), "#e07a1f")
        for text in ("000-000", "100-000", "110-001", "111-111")
    ]
    assert shares[0] == 0
    assert shares[2] == pytest.approx(3 * shares[1], rel=0.05)
    assert shares[3] == pytest.approx(6 * shares[1], rel=0.05)


def test_each_kind_has_its_colour(tmp_path):
    picture = pixels(ticket(tmp_path / "two.png", "120-010", ("se", "sge")))
    assert share_of(picture, "#e07a1f") == pytest.approx(2 * share_of(picture, "#1f77b4"), rel=0.1)


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


@pytest.mark.parametrize("stages", [(1,), (1, 1), (3, 4, 6, 3), (18, 18, 18)])
def test_networks_of_any_size_fit(tmp_path, stages):
    scheme = Scheme.uniform(stages, 1)
    path = draw_ticket(tmp_path / "ticket.png", scheme, kinds=("sge",), title="any")
    picture = pixels(path)
    assert share_of(picture, "#e07a1f") > 0.01
    assert np.all(picture[:, [0, -1], :3] == 1)  # nothing touches the sides
    assert np.all(picture[[0, -1], :, :3] == 1)


def test_random_search_has_its_own_line(tmp_path):
    assert share_of(pixels(search(tmp_path / "search.png")), "#9aa5b1") > 0.0005


@pytest.mark.parametrize("rewards", [(90.0,), (90.0, 90.0), tuple(range(300))])
def test_searches_of_any_length_are_drawn(tmp_path, rewards):
    assert share_of(pixels(search(tmp_path / "search.png", rewards, rewards)), "#e07a1f") > 0


def test_pruned_trials_are_drawn_and_are_never_the_best(tmp_path):
    whole = share_of(pixels(search(tmp_path / "all.png")), "#e07a1f")
    # Without its best trial the line is flat: the step of one point up to it is not there.
    pruned = pixels(search(tmp_path / "pruned.png", pruned={1}))
    assert 0 < share_of(pruned, "#e07a1f") < whole
    none = pixels(search(tmp_path / "none.png", rewards=(), random=(90.0,)))
    assert share_of(none, "#e07a1f") == 0
    assert share_of(pixels(search(tmp_path / "each.png", pruned={0, 1, 2})), "#e07a1f") == 0


def test_each_kind_at_each_block_has_its_interval(tmp_path):
    one = pixels(blocks(tmp_path / "one.png"))
    assert share_of(one, "#1f77b4") == 0
    wide = pixels(blocks(tmp_path / "wide.png", half=2.0))
    assert share_of(wide, "#e07a1f") > share_of(one, "#e07a1f") > 0
    two = pixels(blocks(tmp_path / "two.png", "120-011", ("se", "sge")))
    assert min(share_of(two, colour) for colour in ("#e07a1f", "#1f77b4")) > 0
    many = pixels(blocks(tmp_path / "many.png", "1" * 36 + "-" + "0" * 18))
    assert np.all(many[:, [0, -1], :3] == 1)


def test_equal_accuracies_and_single_ones_are_drawn(tmp_path):
    values = {"ticket": [97.0, 97.0, 97.0], "plain": [97.0]}
    assert share_of(pixels(accuracies(tmp_path / "accuracy.png", values)), "#607d8b") > 0


def test_a_front_has_its_line_ticket_plain_and_full_and_a_panel_for_each_cost(tmp_path):
    one, two = front(tmp_path / "1.png"), front(tmp_path / "2.png", ("latency_ms", "params"))
    for path in (one, two):
        for colour in ("#e07a1f", "#607d8b", "#1f77b4", "#22303c"):
            assert share_of(pixels(path), colour) > 0.0003
    assert pixels(two).shape[1] > 1.6 * pixels(one).shape[1]
