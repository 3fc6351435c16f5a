"""Both objectives through a real Optuna study on the device."""

import optuna
import pytest

from sat_optuna.sampler import PolicyGradientSampler
from sat_optuna.scheme import Scheme
from sat_optuna.search.objective import SupernetObjective, TrainObjective
from tests.gpu.made import CONFIG, assert_same, split, supernet, weights

pytestmark = pytest.mark.gpu


def study_of(folder, name="mine"):
    return optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}",
        study_name=name,
        direction="maximize",
        sampler=PolicyGradientSampler(seed=0, batch=4),
        load_if_exists=True,
    )


@pytest.mark.parametrize("calibration", [0, 32])
def test_a_supernet_scores_a_study(device, tmp_path, calibration):
    net = supernet(device)
    before = weights(net)
    objective = SupernetObjective(net, split(120, device), calibration=calibration)
    study = study_of(tmp_path)
    study.optimize(objective, n_trials=6)
    for trial in study.trials:
        scheme = Scheme.parse(trial.user_attrs["scheme"])
        alone = objective.reward(scheme, objective.evaluator.score(scheme))
        assert trial.value == pytest.approx(alone)
    assert_same(weights(net), before)


def test_networks_are_trained_for_a_study(device, tmp_path, same_kernels):
    net = supernet(device)
    before = weights(net)
    objective = TrainObjective(net, split(120, device), epochs=2, config=CONFIG)
    values = []
    for name in ("mine", "again"):
        study = study_of(tmp_path, name)
        study.optimize(objective, n_trials=3)
        assert all(list(trial.intermediate_values) == [0, 1] for trial in study.trials)
        values.append([trial.value for trial in study.trials])
    assert values[0] == values[1]  # a study is a function of its seed
    assert_same(weights(net), before)
