"""A scheme: its text form, its grouping, and every way to get one wrong."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sat_optuna.errors import SchemeError
from sat_optuna.scheme import MAX_KINDS, Scheme


@st.composite
def any_scheme(draw):
    stages = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    kinds = draw(st.integers(0, MAX_KINDS))
    choices = st.lists(st.integers(0, kinds), min_size=sum(stages), max_size=sum(stages))
    return Scheme.of(draw(choices), stages)


def message(call, *args, **kwargs):
    with pytest.raises(SchemeError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


@given(any_scheme())
def test_parse_and_str_are_each_others_inverse(scheme):
    text = str(scheme)
    assert Scheme.parse(text) == scheme
    assert Scheme.parse(f" {text}\n", stages=scheme.stages, kinds=max(scheme.choices)) == scheme
    assert hash(Scheme.parse(text)) == hash(scheme)
    assert text.count("-") == len(scheme.stages) - 1


@given(any_scheme())
def test_groups_density_and_connections_agree(scheme):
    groups = scheme.by_stage()
    assert tuple(len(group) for group in groups) == scheme.stages
    assert tuple(choice for group in groups for choice in group) == scheme.choices
    assert scheme.connections == len(scheme.choices) - scheme.choices.count(0)
    assert scheme.density == pytest.approx(1 - scheme.sparsity)
    assert scheme.density * len(scheme.choices) == pytest.approx(scheme.connections)


def test_the_text_of_the_paper_reads_from_shallow_to_deep():
    scheme = Scheme.parse("100-1011-010011-011")
    assert scheme.stages == (3, 4, 6, 3)
    assert scheme.by_stage()[1] == (1, 0, 1, 1)
    assert (scheme.connections, scheme.density) == (9, 9 / 16)


def test_digits_go_from_0_to_z():
    assert Scheme.parse("0az").choices == (0, 10, 35)
    assert str(Scheme((0, 10, 35), (3,))) == "0az"


def test_of_takes_whole_numbers_of_any_library_and_no_others():
    scheme = Scheme.of(np.array([1, 0, 2]), [2, 1])
    assert scheme == Scheme((1, 0, 2), (2, 1))
    assert all(type(choice) is int for choice in scheme.choices)
    with pytest.raises(TypeError):
        Scheme.of([0.5], [1])  # type: ignore[list-item]


def test_uniform_has_one_choice_everywhere():
    assert str(Scheme.uniform([2, 1], 0)) == "00-0"
    assert str(Scheme.uniform((2, 1), 3)) == "33-3"


def test_parameter_names_sort_as_the_blocks_do():
    names = Scheme.parameter_names((1, 18))
    assert names[:3] == ("s1.b00", "s2.b00", "s2.b01")
    assert names == tuple(sorted(names))
    assert len(set(names)) == 19


@pytest.mark.parametrize(
    ("choices", "stages", "said"),
    [
        ((), (), "stages () given; each stage needs at least one block"),
        ((1,), (1, 0), "stages (1, 0) given; each stage needs at least one block"),
        (
            (1, 0),
            (1, 2),
            "2 choices given for 3 blocks in stages (1, 2); give one choice a block",
        ),
        ((36,), (1,), "choice 36 given; a choice lies in 0..35"),
        ((0, -1), (2,), "choice -1 given; a choice lies in 0..35"),
    ],
)
def test_a_wrong_scheme_cannot_be_built(choices, stages, said):
    assert message(Scheme, choices, stages) == said


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (
            "10-1A",
            {},
            "scheme '10-1A' has 'A' at block 4; "
            "write a digit 0-9 or a-z a block and '-' between stages",
        ),
        (
            "10 01",
            {},
            "scheme '10 01' has ' ' at block 3; "
            "write a digit 0-9 or a-z a block and '-' between stages",
        ),
        (
            "102-1",
            {"kinds": 1},
            "scheme '102-1' has '2' at block 3; write 0 for none or a digit up to 1, "
            "one for each kind of attention there is",
        ),
        (
            "110-010",
            {"stages": [3, 3, 3]},
            "scheme '110-010' has stages (3, 3), not (3, 3, 3); "
            "write one digit a block and '-' between stages",
        ),
        (
            "",
            {},
            "scheme '' has stages (0,), not stages of at least one block; "
            "write one digit a block and '-' between stages",
        ),
        (
            "11--1",
            {},
            "scheme '11--1' has stages (2, 0, 1), not stages of at least one block; "
            "write one digit a block and '-' between stages",
        ),
    ],
)
def test_a_wrong_text_is_answered_with_what_to_write(text, options, said):
    assert message(Scheme.parse, text, **options) == said


@given(st.text(st.sampled_from("01a-A \n\N{SUPERSCRIPT TWO}"), max_size=8))
def test_any_text_is_a_scheme_or_a_scheme_error(text):
    stages = text.strip().split("-")
    if all(re.fullmatch("[0-9a-z]+", stage) for stage in stages):
        assert str(Scheme.parse(text)) == text.strip()
    else:
        assert message(Scheme.parse, text).startswith(f"scheme {text!r} has ")
