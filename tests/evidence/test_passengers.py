"""Passengers: connections that a ticket can do without, and what stays."""

from dataclasses import replace

import numpy as np
import pytest

from sat_optuna.errors import DataError
from sat_optuna.evaluate import SchemeResult
from sat_optuna.evidence.passengers import Passengers, drop_passengers, not_worse
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Measure

IMAGES = 600


def scoring(right_of, loss_of=lambda choices: 0.0):
    """A `score` for `drop_passengers`, of which images a scheme's choices get right."""

    def score(schemes):
        found = {}
        for scheme in schemes:
            bits = np.broadcast_to(right_of(scheme.choices), IMAGES)
            packed = np.packbits(bits.astype(bool)).tobytes()
            loss = loss_of(scheme.choices)
            found[scheme] = SchemeResult(scheme=scheme, right=packed, loss=loss, n=IMAGES)
        return found

    return score


def images_below(share):
    return np.arange(IMAGES) < share * IMAGES


def test_of_two_redundant_blocks_one_stays_and_what_does_nothing_goes():
    # Block 0 or block 1 is worth 20 points, both no more than one; block 3 nothing; block 4 ten.
    def right(choices):
        return images_below(0.6 + 0.2 * bool(choices[0] or choices[1]) + 0.1 * bool(choices[4]))

    found = drop_passengers(Scheme.parse("110-110"), scoring(right))
    assert sorted(drop.block for drop in found.dropped) in (
        ["s1.b00", "s2.b00"],
        ["s1.b01", "s2.b00"],
    )
    assert found.candidate.connections == 2
    assert found.candidate.choices[4] == 1
    assert all(drop.loss == drop.error == 0 for drop in found.dropped)
    # The ten points of block 4 are the least of what is left, and 60 of 600 images are seen.
    assert found.kept is not None
    assert (found.kept.block, round(found.kept.loss, 6)) == ("s2.b01", 10.0)
    error = 100 * np.std([1] * 60 + [0] * 540, ddof=1) / np.sqrt(IMAGES)
    assert found.kept.error == pytest.approx(error)


def test_one_standard_error_is_counted_from_the_searched_scheme_and_not_step_by_step():
    # A block that goes turns 4 images wrong and 2 right: 2 n images against about sqrt(6 n).
    def right(choices):
        gone = 4 - sum(choices)
        bits = np.arange(IMAGES) >= 4 * gone
        bits[100 + 2 * gone : 108] = False
        return bits

    found = drop_passengers(Scheme.parse("1111"), scoring(right))
    assert len(found.dropped) == 1
    assert found.kept is not None
    for drop, lost in ((found.dropped[0], 2), (found.kept, 4)):
        base, left = (right(s.choices).astype(float) for s in (found.searched, drop.scheme))
        assert drop.loss == pytest.approx(100 * lost / IMAGES)
        error = 100 * (base - left).std(ddof=1) / np.sqrt(IMAGES)
        assert drop.error == pytest.approx(error)


def test_of_equal_losses_that_of_lower_log_loss_goes_first_and_then_the_deeper_block():
    right = scoring(lambda _: images_below(0.5), lambda choices: 5.0 * (1 - choices[1]))
    found = drop_passengers(Scheme.parse("111-1"), right)
    assert [drop.block for drop in found.dropped] == ["s2.b00", "s1.b02", "s1.b00", "s1.b01"]
    assert found.kept is None
    assert found.candidate == Scheme.parse("000-0")


def test_a_scheme_may_gain_by_a_drop_and_what_is_fixed_stays():
    right = scoring(lambda choices: images_below(0.9 - 0.1 * choices[0] - 0.1 * choices[2]))
    found = drop_passengers(Scheme.parse("201"), right, fixed=[0])
    assert found.candidate == Scheme.parse("200")
    assert found.dropped[0].loss == pytest.approx(-10.0)
    assert Passengers.from_dict(found.to_dict()) == found
    assert "makes +10.00 points" in str(found)


def test_a_class_counts_as_the_metric_says_and_other_metrics_are_refused():
    # 60 of 600 images are of class 1, all of which block 0 gets right: 10 points of accuracy,
    # 50 of balanced accuracy.
    labels = (np.arange(IMAGES) < 60).astype(np.int64)
    right = scoring(lambda choices: (labels == 0) | bool(choices[0]))
    balanced = Measure("balanced_accuracy")
    found = drop_passengers(Scheme.parse("1"), right, measure=balanced, labels=labels)
    assert found.kept is not None
    assert found.kept.loss == pytest.approx(50.0)
    plain = drop_passengers(Scheme.parse("1"), right)
    assert plain.kept is not None
    assert plain.kept.loss == pytest.approx(10.0)
    with pytest.raises(DataError, match=r"log loss is no mean over images.*held_back = 0"):
        drop_passengers(Scheme.parse("1"), right, measure=Measure("log_loss", "nats", "lower"))


def test_a_candidate_replaces_a_ticket_only_where_it_is_shown_to_be_no_worse():
    ticket = [95.2, 95.1, 95.0, 95.2]
    noise = np.array([0.1, -0.2, 0.3, -0.2])
    for shift, margin, wanted in (
        (0.0, 1.0, True),
        (-0.5, 1.0, True),
        (-1.0, 1.0, False),
        (0.0, 0.1, False),  # such seeds cannot show so little
        (3.0, 0.0, True),
    ):
        assert not_worse(list(ticket + noise + shift), ticket, margin=margin) is wanted
    lower = replace(Measure("log_loss", "nats"), better="lower")
    assert not_worse([0.31, 0.30, 0.32], [0.9, 0.91, 0.9], margin=0.1, measure=lower)
    assert not not_worse([0.9, 0.91, 0.9], [0.31, 0.30, 0.32], margin=0.1, measure=lower)


@pytest.mark.parametrize("gain", [-0.5, 0.0, 0.5])
def test_equal_gains_are_told_by_the_sign_test_and_one_seed_tells_nothing(gain):
    # Each of n seeds lies above -1.0, which chance does with 2 to the minus n.
    for seeds, wanted in ((1, False), (4, False), (5, True)):
        searched = [95.0] * seeds
        assert not_worse([95.0 + gain] * seeds, searched, margin=1.0) is wanted
    near = [95.0 + gain] * 3 + [95.01 + gain]  # no longer equal: Student's t
    assert not_worse(near, [95.0] * 4, margin=1.0)
    assert not not_worse([95.0 + gain] * 9, [95.0] * 9, margin=-gain)  # it loses the margin itself
