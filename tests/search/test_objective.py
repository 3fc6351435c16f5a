"""Both objectives: what they return, store and report, and that they leave the supernet alone."""

import optuna
import pytest
import torch
from optuna.trial import TrialState

from sat_optuna.config.config import TrainConfig
from sat_optuna.cost.operations import measure
from sat_optuna.data import load_dataset
from sat_optuna.evaluate import calibration_batches, evaluate_network, score_scheme
from sat_optuna.scheme import Scheme
from sat_optuna.search.objective import SupernetObjective, TrainObjective
from sat_optuna.search.space import NETWORK_KEY
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec
from sat_optuna.training.loop import fit, pretrain

CONFIG = TrainConfig(batch=32, shift=1)
NAMES = ("s1.b00", "s2.b00", "s3.b00")


@pytest.fixture(scope="module")
def data():
    return load_dataset("mnist5k", seed=0, limit=200)


@pytest.fixture(scope="module")
def net(data):
    made = Supernet(
        "resnet20",
        attention=("se", AttentionSpec(kind="dia", sharing="stage")),
        in_channels=1,
        classes=10,
        seed=0,
        width=4,
        stem_stride=4,
        blocks=(1, 1, 1),
    )
    pretrain(made, data, epochs=1, seed=0, config=CONFIG)
    return made


def trial_of(*choices):
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(dict(zip(NAMES, choices, strict=True)))
    return study, study.ask()


def test_the_search_space_is_a_categorical_a_block(net, data):
    objective = SupernetObjective(net, data, calibration=32)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=1)
    assert list(study.trials[0].distributions) == list(NAMES)
    choices = optuna.distributions.CategoricalDistribution(("none", "se", "dia"))
    assert all(d == choices for d in study.trials[0].distributions.values())


def test_supernet_objective_scores_with_the_schemes_own_statistics(net, data):
    objective = SupernetObjective(net, data, sparsity_weight=3.0, calibration=64, seed=5)
    study, trial = trial_of("none", "se", "dia")
    value = objective(trial)
    scheme = Scheme.parse("0-1-2")
    expected = score_scheme(
        net,
        scheme,
        calibration=calibration_batches(data.train, count=64, seed=5),
        images=data.valid,
    )
    assert value == expected.accuracy + 3.0 / 3
    stored = trial.user_attrs
    cost = measure(materialise(net, scheme), data.shape)
    assert stored["scheme"] == "0-1-2"
    assert (stored["accuracy"], stored["loss"]) == (expected.accuracy, expected.loss)
    assert (stored["reward"], stored["sparsity"]) == (value, pytest.approx(1 / 3))
    assert (stored["params"], stored["macs"]) == (cost.params, cost.macs)
    assert stored["elementwise"] == cost.elementwise
    network = study.user_attrs[NETWORK_KEY]
    assert network["attention"][1] == {"kind": "dia", "sharing": "stage", "settings": {}}
    assert network["dataset_fingerprint"] == data.fingerprint
    assert network["backbone_settings"] == {"width": 4, "stem_stride": 4, "blocks": [1, 1, 1]}


def test_the_value_of_a_scheme_does_not_depend_on_what_came_before(net, data):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    objective = SupernetObjective(net, data, calibration=32)
    first = objective(trial_of("se", "none", "se")[1])
    objective(trial_of("dia", "dia", "dia")[1])
    assert objective(trial_of("se", "none", "se")[1]) == first
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_batch_scored_ahead_has_the_values_of_trials_alone(net, data):
    plain = SupernetObjective(net, data, calibration=32, cache=0)
    choices = [("se", "none", "se"), ("se", "dia", "se"), ("none", "none", "dia")]
    alone = [plain(trial_of(*picked)[1]) for picked in choices]
    passes = 0

    def count(*_):
        nonlocal passes
        passes += 1

    hook = net.view.blocks[2][0].module.conv1.register_forward_hook(count)
    objective = SupernetObjective(net, data, calibration=32)
    schemes = [Scheme.parse(text) for text in ("1-0-1", "1-2-1", "0-0-2")]
    objective.score_ahead(schemes)
    done = passes
    assert [objective(trial_of(*picked)[1]) for picked in choices] == alone
    assert passes == done > 0  # the trials had nothing left to do
    assert objective(trial_of(*choices[0])[1]) == alone[0]  # and again, when it is forgotten
    hook.remove()


def test_the_calibration_chunk_is_part_of_the_score_and_none_is_the_nets_own(net, data):
    losses = {}
    for count, chunk in ((64, 128), (64, 64), (64, 32), (0, 128)):
        objective = SupernetObjective(net, data, calibration=count, calibration_chunk=chunk)
        _, trial = trial_of("se", "none", "dia")
        objective(trial)
        losses[count, chunk] = trial.user_attrs["loss"]
    assert losses[64, 128] == losses[64, 64]  # a set smaller than a chunk is one
    assert len(set(losses.values())) == 3
    own = evaluate_network(net, data.valid, scheme=Scheme.parse("1-0-2"), batch=100)
    assert losses[0, 128] == own.loss


def test_train_objective_trains_the_masked_network_itself(net, data):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    objective = TrainObjective(net, data, epochs=2, seed=4, config=CONFIG)
    study, trial = trial_of("se", "none", "dia")
    value = objective(trial)
    study.tell(trial, value)
    from sat_optuna.seeds import seed_for

    model = materialise(net, Scheme.parse("1-0-2"))
    fit(model, data.train, epochs=2, seed=seed_for("trial", 4), config=CONFIG)
    expected = evaluate_network(model, data.valid)
    assert value == pytest.approx(expected.accuracy + 2 / 3)
    told = study.trials[0]
    assert sorted(told.intermediate_values) == [0, 1]
    assert told.intermediate_values[1] == value
    for name, stored in net.state_dict().items():
        torch.testing.assert_close(stored, before[name], rtol=0, atol=0)


def test_a_scheme_measured_again_is_trained_with_another_seed_each_time(net, data):
    """And with the same ones when the study is repeated."""
    objective = TrainObjective(net, data, epochs=1, config=CONFIG)
    losses = []
    for _ in range(2):
        study = optuna.create_study(direction="maximize")
        for choices in (("se", "none", "se"), ("none", "none", "se"), ("se", "none", "se")):
            study.enqueue_trial(dict(zip(NAMES, choices, strict=True)))
        study.optimize(objective, n_trials=3)
        losses.append([trial.user_attrs["loss"] for trial in study.trials])
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][2]


class _Never(optuna.pruners.BasePruner):
    def prune(self, study, trial):
        return trial.last_step == 0


def test_a_pruner_is_honoured_and_leaves_what_was_measured(net, data):
    objective = TrainObjective(net, data, epochs=3, config=CONFIG)
    study = optuna.create_study(direction="maximize", pruner=_Never())
    study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    assert trial.state is TrialState.PRUNED
    assert sorted(trial.intermediate_values) == [0]
    assert trial.user_attrs["reward"] == trial.intermediate_values[0]


def test_a_trial_taken_over_repeats_its_reports_without_a_word(net, data):
    objective = TrainObjective(net, data, epochs=2, config=CONFIG)
    study, trial = trial_of("none", "none", "se")
    trial.report(1.0, 0)
    objective(trial)  # Optuna would warn of a second report of step 0, and warnings are errors
    assert study.trials[0].intermediate_values[0] == 1.0
