"""The loop that ours is measured against on a GPU trains as plain steps do on a CPU too."""

import pytest
import torch

from tests.gpu.conftest import exact_floats, same_kernels
from tests.gpu.test_graphed import test_a_graphed_step_is_a_step

__all__ = ["exact_floats", "same_kernels", "test_a_graphed_step_is_a_step"]


@pytest.fixture
def device():
    """Where the fast tests run; those marked gpu have the card."""
    return torch.device("cpu")
