"""Controls: the random scheme of the same density, and a scheme for every role."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sat_optuna.evidence.controls import (
    control_schemes,
    heuristic_schemes,
    random_family,
    same_density,
)
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import ROLES
from tests.networks import schemes

SEEDS = st.integers(0, 2**40)


@given(schemes(kinds=3), SEEDS)
def test_same_density_has_the_same_choices_elsewhere(scheme, seed):
    drawn = same_density(scheme, seed=seed)
    assert drawn.stages == scheme.stages
    assert Counter(drawn.choices) == Counter(scheme.choices)
    assert drawn.density == scheme.density
    assert (drawn == scheme) == (len(set(scheme.choices)) == 1)


@given(schemes(kinds=2), SEEDS)
def test_same_density_is_a_function_of_the_seed(scheme, seed):
    assert same_density(scheme, seed=seed) == same_density(scheme, seed=seed)


@given(st.integers(0, 35), SEEDS)
def test_a_uniform_scheme_is_its_own_control(choice, seed):
    scheme = Scheme.uniform((2, 1), choice)
    assert same_density(scheme, seed=seed) is scheme


def test_all_other_arrangements_are_drawn_about_equally_often():
    scheme = Scheme.parse("11-000")
    counts = Counter(same_density(scheme, seed=seed).choices for seed in range(900))
    assert counts.keys() == set(permutations(scheme.choices)) - {scheme.choices}
    assert max(counts.values()) < 140  # 100 each, four standard errors
    assert min(counts.values()) > 60


@given(schemes(kinds=2), SEEDS)
def test_the_random_family_is_of_one_density_distinct_and_without_the_ticket(scheme, seed):
    family = random_family(scheme, seed=seed)
    others = len(set(permutations(scheme.choices))) - 1
    assert len(set(family)) == len(family) == min(others, 20)
    assert scheme not in family
    assert all(Counter(drawn.choices) == Counter(scheme.choices) for drawn in family)
    assert {drawn.stages for drawn in family} <= {scheme.stages}
    assert family == random_family(scheme, seed=seed)
    assert not family or family[0] == same_density(scheme, seed=seed)


def test_the_random_family_of_a_large_network_is_drawn_evenly():
    scheme = Scheme.parse("1" * 4 + "0" * 50)
    families = [random_family(scheme, seed=seed) for seed in range(50)]
    placed = np.sum([drawn.choices for family in families for drawn in family], axis=0)
    assert placed.sum() == 50 * 20 * 4
    assert max(abs(placed - 4000 / 54)) < 4.5 * (4000 / 54) ** 0.5


@given(schemes(kinds=2))
def test_heuristics_are_where_their_names_say(scheme):
    found, k = heuristic_schemes(scheme), scheme.connections
    blocks = len(scheme.choices)
    connected = {role: [bool(c) for c in placed.choices] for role, placed in found.items()}
    assert connected["first-k"] == [block < k for block in range(blocks)]
    assert connected["last-k"] == [block >= blocks - k for block in range(blocks)]
    assert connected["every-other"] == [block % 2 == 0 for block in range(blocks)]
    assert connected["stage-ends"] == [False, True, False, False, True, True]
    for role in ("first-k", "last-k"):
        assert Counter(found[role].choices) == Counter(scheme.choices)


@given(schemes(), SEEDS)
def test_every_role_has_a_scheme_and_the_ticket_is_first(ticket, seed):
    found = control_schemes(ticket, seed=seed)
    # Nothing that is connected has nothing to be constant.
    assert tuple(found) == tuple(r for r in ROLES if r != "constant" or ticket.connections)
    assert found["ticket"] == ticket
    assert found["random-density"] == same_density(ticket, seed=seed)
    assert found["plain"].density == 0
    assert set(found["full"].choices) == {1}
    if ticket.connections:
        assert found["constant"].choices == tuple(2 * choice for choice in ticket.choices)


def test_more_kinds_than_digits_for_two_of_each_leave_the_constant_control_out():
    kinds = [f"kind{number}" for number in range(18)]
    assert "constant" in control_schemes(Scheme.of([17], [1]), seed=0, kinds=kinds)
    assert "constant" not in control_schemes(Scheme.of([18], [1]), seed=0, kinds=kinds)


@pytest.mark.parametrize(
    ("kinds", "roles"),
    [
        (("se",), ["full"]),
        (("se", "sge"), ["full-se", "full-sge"]),
        (("timm:eca", "dia", "own"), ["full-timm-eca", "full-dia", "full-own"]),
    ],
)
def test_each_kind_has_its_full_network(kinds, roles):
    ticket = Scheme.parse("10-01")
    found = control_schemes(ticket, seed=0, kinds=kinds)
    assert [role for role in found if role.startswith("full")] == roles
    assert found["constant"].choices == tuple(len(kinds) * c + c for c in ticket.choices)
    for choice, role in enumerate(roles, start=1):
        assert found[role] == Scheme.uniform((2, 2), choice)
