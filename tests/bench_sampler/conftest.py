"""A table that the tests of the duel share."""

import itertools

import numpy as np
import pytest


@pytest.fixture
def table(tmp_path):
    """The name of a problem of 27 schemes, whose best value is 3.5."""
    schemes = np.array(list(itertools.product(range(3), repeat=3)))
    np.savez(tmp_path / "table.npz", schemes=schemes, values=schemes @ [1.0, 0.5, 0.25])
    return f"table:{tmp_path / 'table.npz'}"
