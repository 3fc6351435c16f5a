"""Controls: the random scheme of the same density, and a scheme for every role."""

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sat_optuna.evidence.controls import control_schemes, same_density
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


@given(schemes(), schemes(), SEEDS)
def test_every_role_has_a_scheme_and_the_ticket_is_first(ticket, random_best, seed):
    found = control_schemes(ticket, random_best=random_best, seed=seed)
    assert tuple(found) == ROLES
    assert (found["ticket"], found["random-best"]) == (ticket, random_best)
    assert found["random-density"] == same_density(ticket, seed=seed)
    assert found["plain"].density == 0
    assert set(found["full"].choices) == {1}


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
    found = control_schemes(ticket, random_best=ticket, seed=0, kinds=kinds)
    assert [role for role in found if role.startswith("full")] == roles
    for choice, role in enumerate(roles, start=1):
        assert found[role] == Scheme.uniform((2, 2), choice)
