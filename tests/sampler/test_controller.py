"""What the two controllers share."""

import math

import numpy as np
import pytest

from sat_optuna.sampler.actor_critic import ActorCritic
from sat_optuna.sampler.controller import scalarised
from sat_optuna.sampler.published import PaperController
from tests.sampler.schemes import batch_of


def test_one_objective_is_its_own_reward_and_several_weigh_the_same():
    one = np.array([[3.0], [5.0]])
    assert scalarised(one).tolist() == [3.0, 5.0]
    several = np.array([[1.0, 1000.0, 7.0], [2.0, 3000.0, 7.0], [3.0, 2000.0, 7.0]])
    unit = math.sqrt(1.5)
    np.testing.assert_allclose(scalarised(several), np.array([-2, 1, 1]) * unit / 3, atol=1e-12)


def test_several_objectives_are_standardised_and_averaged_by_their_weights():
    values = np.array([[1.0, 10.0], [2.0, 30.0], [6.0, 20.0]])
    z = (values - values.mean(axis=0)) / values.std(axis=0)
    np.testing.assert_allclose(scalarised(values), z.mean(axis=1))
    np.testing.assert_allclose(scalarised(values, (3, 1)), (3 * z[:, 0] + z[:, 1]) / 4)


@pytest.mark.parametrize("controller", [ActorCritic((2, 2)), PaperController((2, 2), seed=0)])
def test_without_a_critic_a_scheme_is_as_good_as_its_mean_reward(controller):
    assert [len(part) for part in controller.merits()] == [0, 0]
    controller.tell(batch_of([[0, 1], [0, 0], [0, 1]], [1.0, 2.5, 3.0]))
    schemes, merits = controller.merits()
    assert schemes.tolist() == [[0, 0], [0, 1]]
    assert merits.tolist() == [2.5, 2.0]
