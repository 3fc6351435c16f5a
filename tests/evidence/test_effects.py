"""Effects of blocks against scipy's and the plain formulas, and how often their intervals hold."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from sat_optuna.evidence.contributions import shapley_values
from sat_optuna.evidence.effects import Effect, block_effects, in_words, readings
from sat_optuna.ticket import Measure

STAGES, KINDS, IMAGES = (2, 2), ("se", "sge"), 400


def effects(schemes, accuracy, right=None, images=IMAGES, kinds=KINDS, stages=STAGES):
    found = block_effects(
        schemes, accuracy, stages=stages, kinds=kinds, images=images, right=right
    )
    return {(effect.block, effect.kind): effect for effect in found}


def drawn(rng, count=80, blocks=4, choices=3):
    return rng.integers(0, choices, (count, blocks)).astype(np.uint8)


def test_one_block_and_kind_is_students_two_sample_test():
    rng = np.random.default_rng(0)
    schemes = np.arange(30)[:, None].astype(np.uint8) % 2
    accuracy = rng.normal(90, 1, 30) + 0.5 * schemes[:, 0]
    (effect,) = effects(schemes, accuracy, kinds=("se",), stages=(1,)).values()
    wanted = stats.ttest_ind(accuracy[1::2], accuracy[::2])
    interval = wanted.confidence_interval(0.95)
    assert effect.points == pytest.approx(accuracy[1::2].mean() - accuracy[::2].mean())
    assert (effect.low, effect.high) == pytest.approx((interval.low, interval.high))
    assert effect.p == pytest.approx(wanted.pvalue)


def test_intervals_over_schemes_and_images_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        schemes = drawn(rng)
        # Each image has an own chance to be right, and an own effect of SE at the first block.
        easy, gain = rng.uniform(0.3, 0.7, IMAGES), rng.normal(0.1, 0.15, IMAGES)
        chances = easy + np.outer(schemes[:, 0] == 1, gain)
        right = rng.random((80, IMAGES)) < chances
        found = effects(schemes, 100 * right.mean(axis=1), np.packbits(right, axis=1))
        effect = found["s1.b00", "se"]
        held += effect.low < 10.0 < effect.high
    assert held / 200 > 0.95 - 0.05  # three standard errors; both errors together may be too wide


def test_random_schemes_find_the_block_and_no_other():
    rng = np.random.default_rng(2)
    schemes = drawn(rng)
    accuracy = 80 + 3.0 * (schemes[:, 2] == 2) - 2.0 * (schemes[:, 1] == 1) + rng.normal(0, 1, 80)
    found = effects(schemes, accuracy)
    said = dict(zip(found, readings(list(found.values())), strict=True))
    assert {name: word for name, word in said.items() if word != "not told from 0"} == {
        ("s2.b00", "sge"): "pays",
        ("s1.b01", "se"): "hurts",
    }


@pytest.mark.parametrize("bits", [True, False])
def test_equal_scores_are_known_no_better_than_the_images_allow(bits):
    schemes = drawn(np.random.default_rng(3))
    right = np.tile(np.packbits(np.arange(IMAGES) % 4 > 0), (80, 1)) if bits else None
    found = effects(schemes, np.full(80, 75.0), right)
    widest = 100 * stats.binomtest(0, IMAGES).proportion_ci(method="wilson").high
    assert len(found) == 8
    for effect in found.values():
        assert (effect.low, effect.high) == pytest.approx((-widest, widest))
    assert set(readings(list(found.values()))) == {"not told from 0"}


@pytest.mark.parametrize("points", [0.0, 0.5, -50.0])
def test_an_effect_without_any_error_is_no_certainty(points):
    schemes = drawn(np.random.default_rng(4))
    found = effects(schemes, 60.0 + points * (schemes[:, 0] == 1))
    assert found["s1.b00", "se"].points == pytest.approx(points)
    for effect in found.values():
        assert effect.p == 1 if abs(effect.points) < 1e-9 else math.isnan(effect.p)
    assert set(readings(list(found.values()))) == {"not told from 0"}
    # So it is where the runs of a whole table do not differ, in either room.
    every = np.array(list(product((0, 1), repeat=3)), dtype=np.uint8)
    runs = np.tile(60.0 + points * every[:, :1], 2)
    both = block_effects(every, runs.mean(axis=1), images=0, runs=runs, stages=(3,), kinds=("se",))
    others = shapley_values(every, runs, stages=(3,), kinds=("se",))
    for one, other in zip(both, others, strict=True):
        assert one.points == pytest.approx(other.points)
        assert one.p == 1 if abs(one.points) < 1e-9 else math.isnan(one.p)
        assert math.isnan(other.p)


@pytest.mark.parametrize("count", [1, 5, 9])
def test_too_few_schemes_give_no_effect(count):
    schemes = drawn(np.random.default_rng(4), count)
    assert effects(schemes, np.linspace(70, 80, count)) == {}


def test_a_choice_that_was_never_drawn_gives_no_effect():
    schemes = drawn(np.random.default_rng(5)) % 2
    assert effects(schemes, np.arange(80.0)) == {}


def test_many_blocks_are_read_with_holms_correction():
    lone = Effect("s1.b00", "se", 1.0, 0.1, 1.9, p=0.03)
    assert readings([lone]) == ["pays"]
    assert readings([lone, lone]) == ["not told from 0"] * 2


def test_effects_are_said_in_plain_words():
    rows = [
        Effect("s2.b01", "se", -0.8, -1.3, -0.3, p=1e-3),
        Effect("s1.b00", "srm", 31.5, 30.0, 33.0, p=1e-9),
        Effect("s3.b00", "se", 0.1, -0.4, 0.6, p=0.7),
    ]
    minus = "\N{MINUS SIGN}"
    assert in_words(rows, schemes=60, terms=3) == [
        f"SE hurts at s2.b01: {minus}0.80 points ({minus}1.30 to {minus}0.30)",
        "SRM pays at s1.b00: +31.50 points (+30.00 to +33.00)",
        f"SE at s3.b00: not told from 0, +0.10 points ({minus}0.40 to +0.60)",
    ]
    assert in_words([], schemes=9, terms=18) == [
        "nothing can be told: 9 schemes for 18 effects of a kind at a block"
    ]
    loss = Measure("log_loss", "nats", "lower")
    assert in_words(rows[:1], schemes=60, terms=1, measure=loss) == [
        f"SE hurts at s2.b01: {minus}0.8000 log loss nats ({minus}1.3000 to {minus}0.3000)"
    ]
