"""Statistics against tables, against scipy's own tests, and against simulation."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sat_optuna.evidence.statistics import (
    Comparison,
    compare,
    detectable_differences,
    holm,
    paired,
    summarise,
    summarise_accuracies,
    wilson,
)

PROBABILITIES = st.lists(st.floats(0, 1), max_size=8)


@pytest.mark.golden
def test_interval_of_a_known_sample():
    # Student's t at 97.5 % with 4 degrees of freedom is 2.776 in every table.
    spread = summarise([97.1, 97.3, 96.8, 97.6, 97.2])
    assert spread.n == 5
    assert spread.mean == pytest.approx(97.2)
    assert spread.sd == pytest.approx(0.29155, abs=1e-5)
    assert spread.high - spread.mean == pytest.approx(2.776 * 0.29155 / math.sqrt(5), abs=1e-4)
    assert spread.mean - spread.low == pytest.approx(spread.high - spread.mean)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_interval_is_scipys(n):
    values = np.random.default_rng(n).normal(90, 2, n)
    spread = summarise(list(values))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (spread.low, spread.high) == pytest.approx((expected.low, expected.high))


def test_interval_covers_the_mean_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(5, 3, (4000, 4))
    inside = [spread.low <= 5 <= spread.high for spread in map(summarise, samples)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.01)  # three standard errors


def test_one_value_has_a_mean_and_no_interval():
    spread = summarise([90.0])
    assert (spread.mean, spread.n) == (90.0, 1)
    assert all(math.isnan(number) for number in (spread.low, spread.high, spread.sd))


def test_equal_values_have_an_interval_of_no_width():
    spread = summarise([90.0] * 3)
    assert (spread.mean, spread.low, spread.high, spread.sd) == (90.0, 90.0, 90.0, 0.0)


def test_nan_is_handed_on():
    assert math.isnan(summarise([90.0, math.nan, 91.0]).mean)


def test_no_value_is_refused():
    with pytest.raises(ValueError, match="no value given; a mean needs one"):
        summarise([])


@pytest.mark.golden
def test_holm_of_a_worked_example():
    # 0.01 * 4, 0.02 * 3, 0.03 * 2 (not below the one before), 0.4 * 1.
    assert holm([0.03, 0.01, 0.4, 0.02]) == pytest.approx([0.06, 0.04, 0.4, 0.06])


@given(PROBABILITIES)
def test_holm_is_the_definition(pvalues):
    # The largest, over the sets of hypotheses that contain i, of Bonferroni's least p: closed
    # testing, which Holm's procedure is a short cut of.
    def bonferroni(hypotheses):
        return min(1.0, len(hypotheses) * min(pvalues[i] for i in hypotheses))

    def closed(i):
        others = [j for j in range(len(pvalues)) if j != i]
        sizes = range(len(pvalues))
        return max(bonferroni((i, *some)) for n in sizes for some in combinations(others, n))

    assert holm(pvalues) == pytest.approx([closed(i) for i in range(len(pvalues))])


@given(PROBABILITIES, st.integers(0, 8))
def test_holm_does_not_count_what_was_not_tested(pvalues, index):
    with_gap = [*pvalues[:index], math.nan, *pvalues[index:]]
    corrected = holm(with_gap)
    assert math.isnan(corrected[min(index, len(pvalues))])
    assert [p for p in corrected if not math.isnan(p)] == holm(pvalues)


def test_compare_is_scipys_paired_test_with_holms_correction():
    rng = np.random.default_rng(1)
    ticket = rng.normal(92, 0.5, 5)
    controls = {
        role: ticket + rng.normal(d, 0.2, 5) for role, d in (("plain", -1.0), ("full", 0.1))
    }
    raw = [stats.ttest_rel(ticket, values).pvalue for values in controls.values()]
    found = compare(list(ticket), {role: list(v) for role, v in controls.items()})
    assert [entry.control for entry in found] == ["plain", "full"]
    assert [entry.p for entry in found] == pytest.approx(holm(raw))
    assert [entry.within_noise for entry in found] == [False, True]
    for entry, values in zip(found, controls.values(), strict=True):
        interval = stats.ttest_rel(ticket, values).confidence_interval(0.95)
        assert (entry.difference.low, entry.difference.high) == pytest.approx(
            (interval.low, interval.high)
        )


def test_pairing_takes_out_what_a_seed_does_to_all_networks():
    ticket = [90.0, 94.0, 98.0]
    (entry,) = compare(ticket, {"plain": [89.0, 92.9, 97.1]})
    assert not entry.within_noise
    assert stats.ttest_ind(ticket, [89.0, 92.9, 97.1]).pvalue > 0.5


def test_false_alarms_are_as_rare_as_promised():
    rng = np.random.default_rng(2)
    runs = rng.normal(0, 1, (800, 5, 4))  # ticket and four controls, all the same at heart
    alarms = [
        any(not e.within_noise for e in compare(run[0], {str(i): run[i] for i in range(1, 5)}))
        for run in runs
    ]
    assert np.mean(alarms) < 0.05 + 0.023  # three standard errors


@pytest.mark.parametrize(("n", "p"), [(3, 0.25), (5, 0.0625), (10, 2 / 1024)])
@pytest.mark.parametrize("sign", [1, -1])
def test_equal_differences_get_the_exact_sign_test(n, p, sign):
    ticket = [90.1 + seed / 7 for seed in range(n)]  # differences that are equal up to rounding
    (entry,) = compare(ticket, {"plain": [value - sign * 0.1 for value in ticket]})
    assert entry.p == pytest.approx(p)
    assert entry.within_noise == (n < 10)


def test_networks_of_equal_accuracies_cannot_be_told_apart():
    (entry,) = compare([90.0, 91.0, 92.0], {"plain": [90.0, 91.0, 92.0]})
    assert (entry.p, entry.difference.mean, entry.within_noise) == (1.0, 0.0, True)


def test_one_seed_decides_nothing():
    (entry,) = compare([99.0], {"plain": [10.0]})
    assert math.isnan(entry.p)
    assert entry.within_noise


def test_nan_is_never_significant():
    (entry,) = compare([90.0, math.nan, 91.0], {"plain": [10.0, 10.0, 10.5]})
    assert math.isnan(entry.p)
    assert entry.within_noise


def test_other_numbers_of_seeds_cannot_be_paired():
    with pytest.raises(ValueError, match="shorter"):
        compare([90.0, 91.0], {"plain": [90.0]})


def test_the_level_is_five_per_cent():
    spread = summarise([0.0, 1.0])
    assert [Comparison("plain", spread, p).within_noise for p in (0.0499, 0.05)] == [False, True]


@pytest.mark.golden
def test_detectable_of_a_worked_example():
    ticket = [92.0, 93.0, 94.0]
    differences = [paired(ticket, [91.0] * 3), paired(ticket, [92.0, 94.0, 93.0])]
    # Differences 1 2 3 and 0 -1 1: both of standard deviation 1; t with 2 degrees is 4.303.
    by_seeds, by_images = detectable_differences(differences, accuracy=90, images=1000)
    assert by_seeds == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)
    # Wilson's interval of 900 in 1000 is 0.87986 to 0.91706: sqrt(0.02014^2 + 0.01706^2).
    assert by_images == pytest.approx(2.639, abs=5e-3)


def test_detectable_by_the_test_set_is_what_two_equal_networks_differ_by():
    right = np.random.default_rng(3).binomial(1000, 0.9, (2, 20_000))
    _, by_images = detectable_differences(
        [paired([1.0, 2.0], [1.0, 3.0])], accuracy=90, images=1000
    )
    points = 100 * (right[0] - right[1]) / 1000
    assert np.mean(np.abs(points) < by_images) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("accuracy", [0.0, 100.0])
def test_networks_that_never_err_are_not_known_perfectly(accuracy):
    spread = paired([accuracy] * 3, [accuracy] * 3, images=10)
    by_seeds, by_images = detectable_differences([spread], accuracy=accuracy, images=10)
    assert math.isnan(by_seeds)
    # Wilson's interval of 10 in 10 begins at 10 / (10 + 1.96^2) = 0.7225.
    assert by_images == pytest.approx(27.75, abs=0.01)
    assert (spread.low, spread.high) == pytest.approx((-by_images, by_images))


@pytest.mark.parametrize(("share", "images"), [(0.9, 60), (0.59375, 64), (1.0, 1000), (0.0, 7)])
def test_seeds_that_do_not_differ_have_the_interval_of_the_images(share, images):
    values = [100 * share] * 3
    spread = summarise_accuracies(values, images=images)
    wanted = stats.binomtest(round(share * images), images).proportion_ci(method="wilson")
    assert (spread.low, spread.high) == pytest.approx((100 * wanted.low, 100 * wanted.high))
    (entry,) = compare(values, {"plain": values}, images=images)
    assert entry.difference.low < 0 < entry.difference.high
    (entry,) = compare(values, {"plain": values})
    assert math.isnan(entry.difference.low)


@pytest.mark.parametrize("values", [[99.0, 100.0, 97.5], [1.0, 0.0, 4.0], [100.0, 100.0, 99.0]])
def test_intervals_end_at_0_and_100_per_cent(values):
    spread, student = summarise_accuracies(values, images=50), summarise(values)
    assert student.low < 0 or student.high > 100
    assert (spread.low, spread.high) == (max(student.low, 0.0), min(student.high, 100.0))
    (entry,) = compare([100.0, 100.0, 60.0], {"plain": [0.0, 30.0, 0.0]})
    assert entry.difference.high == 100.0


def test_newcombes_interval_of_a_published_example():
    # Newcombe (1998), table II, case (b), method 10: 9/10 - 3/10 is 0.1705 to 0.8090.
    (entry,) = compare([90.0] * 3, {"plain": [30.0] * 3}, images=10)
    assert entry.difference.low == pytest.approx(17.05, abs=0.01)
    assert entry.difference.high == pytest.approx(80.90, abs=0.01)


def test_detectable_by_one_seed_is_not_known():
    by_seeds, by_images = detectable_differences([paired([9.0], [8.0])], accuracy=50, images=100)
    assert math.isnan(by_seeds)
    # Wilson's interval of 50 in 100 is 0.40383 to 0.59617: 0.09617 * sqrt(2).
    assert by_images == pytest.approx(13.600, abs=1e-3)


@given(images=st.integers(1, 20_000), share=st.sampled_from([0.0, 1.0]) | st.floats(0, 1))
def test_an_accuracy_lies_within_its_own_interval(images, share):
    low, high = wilson(100 * share, images)
    assert 0 <= low <= 100 * share <= high <= 100
