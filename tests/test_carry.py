"""A scheme on a network of other depth: what must stay, and each choice by an exact search."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sat_optuna.carry import TransferError, carried, check_told, rule_for
from sat_optuna.scheme import Scheme

STAGES = st.lists(st.integers(1, 7), min_size=1, max_size=4)


@st.composite
def scheme_and_stages(draw, *, same=False):
    sizes = draw(STAGES)
    choices = draw(st.lists(st.integers(0, 3), min_size=sum(sizes), max_size=sum(sizes)))
    wanted = sizes if same else [draw(st.integers(1, 20)) for _ in sizes]
    return Scheme.of(choices, sizes), tuple(wanted)


def nearest(block, blocks, source):
    """The nearest of the source's blocks by exact fractions, the first of equals."""
    place = Fraction(2 * block + 1, 2 * blocks)
    return min(range(source), key=lambda j: (abs(Fraction(2 * j + 1, 2 * source) - place), j))


@given(scheme_and_stages())
def test_each_block_takes_the_choice_of_the_nearest_source_block(case):
    scheme, stages = case
    found = carried(scheme, stages)
    assert found.stages == stages
    for given_, made in zip(scheme.by_stage(), found.by_stage(), strict=True):
        wanted = [given_[nearest(i, len(made), len(given_))] for i in range(len(made))]
        assert list(made) == wanted


@given(scheme_and_stages(same=True))
def test_equal_depth_is_the_identity(case):
    scheme, stages = case
    assert carried(scheme, stages) == scheme
    assert rule_for(scheme, stages).startswith("the same scheme")


@given(STAGES, STAGES, st.integers(0, 3))
def test_none_stays_none_and_full_stays_full(sizes, wanted, choice):
    wanted = (wanted * 4)[: len(sizes)]
    assert carried(Scheme.uniform(sizes, choice), wanted) == Scheme.uniform(wanted, choice)


@given(scheme_and_stages())
def test_order_is_kept_and_a_deeper_stage_loses_no_block(case):
    scheme, stages = case
    marked = [Scheme.of(range(size), (size,)) for size in scheme.stages]
    for mark, blocks in zip(marked, stages, strict=True):
        taken = carried(mark, (blocks,)).choices
        assert list(taken) == sorted(taken)
        if blocks >= len(mark.choices):
            assert set(taken) == set(mark.choices)


@pytest.mark.parametrize(
    ("scheme", "stages", "wanted"),
    [
        ("110-000-001", (5, 5, 5), "11100-00000-00011"),  # resnet20 to resnet32
        ("110-000-001", (9, 9, 9), "111111000-000000000-000000111"),  # to resnet56
        ("12-3", (3, 1), "112-3"),  # block 1 of 3 is as near to both: the shallower
        ("1200-0", (1, 4), "2-0000"),  # one block: the middle, of two the shallower
        ("10203-1", (1, 1), "2-1"),
    ],
)
def test_the_rule_by_hand(scheme, stages, wanted):
    assert str(carried(Scheme.parse(scheme), stages)) == wanted


@pytest.mark.parametrize(
    ("scheme", "stages", "said"),
    [
        ("10-00", (3, 3, 3), r"scheme 10-00 is of 2 stages and the network has 3, \(3, 3, 3\): a"),
        ("1-0-1", (2, 2), "is of 3 stages and the network has 2"),
        ("101", (2, 2, 2, 2), "scheme 101 is of 1 stage and the network has 4"),
    ],
)
def test_another_number_of_stages_is_refused(scheme, stages, said):
    with pytest.raises(TransferError, match=said) as caught:
        carried(Scheme.parse(scheme), stages)
    assert "a ticket whose stages do not fit the trunk; take a network of" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "stages", "said"),
    [
        ("000-00", (3, 2), "ticket 000-00 is the plain network, which is among the controls"),
        ("11-1", (4, 1), "ticket 11-1 becomes 1111-1 in this network, which is the full network"),
        ("22-2", (2, 1), "ticket 22-2 is the full network"),
        ("100-0", (1, 1), "ticket 100-0 becomes 0-0 in this network, which is the plain network"),
    ],
)
def test_what_is_a_control_is_not_transferred(source, stages, said):
    scheme = Scheme.parse(source)
    with pytest.raises(TransferError, match=said) as caught:
        check_told(carried(scheme, stages), source=scheme)
    assert "it is not transferred; give a ticket with" in str(caught.value)


def test_what_differs_from_plain_and_full_may_go():
    check_told(Scheme.parse("12-1"), source=Scheme.parse("12-1"))
