"""Optuna's own suites for samplers.

Left out: `SingleOnlySamplerTestCase`, for samplers that refuse several objectives, which ours
takes; and two tests of `RelativeSamplerTestCase`, which want numbers from `sample_relative`: ours
hands those to `sample_independent`, as Optuna's own samplers of one kind of parameter do.
"""

import pytest
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

from sat_optuna.sampler import PolicyGradientSampler

SAMPLERS = {
    "default": lambda: PolicyGradientSampler(seed=0),
    "default in batches": lambda: PolicyGradientSampler(seed=0, batch=4),
    "paper": lambda: PolicyGradientSampler(seed=0, preset="paper"),
}


@pytest.fixture(params=SAMPLERS)
def made(request):
    return SAMPLERS[request.param]


class TestConformance(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self, made):
        return made


class TestRelative:
    @pytest.fixture
    def sampler(self, made):
        return made

    test_sample_relative_categorical = RelativeSamplerTestCase.test_sample_relative_categorical
    test_trial_relative_params = RelativeSamplerTestCase.test_trial_relative_params
