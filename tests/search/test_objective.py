"""Both objectives: what they return, store and report, and that they leave the supernet alone."""

import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch.utils.data import DataLoader, TensorDataset

from sat_optuna.config.config import TrainConfig
from sat_optuna.config.objectives import directions_of
from sat_optuna.cost.latency import LatencyModel
from sat_optuna.cost.operations import measure
from sat_optuna.cost.timing import Estimate
from sat_optuna.data import load_dataset
from sat_optuna.data.split import Split
from sat_optuna.errors import ConfigError, DataError, StudyError
from sat_optuna.evaluate import calibration_batches, evaluate_network, score_scheme
from sat_optuna.scheme import Scheme
from sat_optuna.search.objective import FoldedObjective, SupernetObjective, TrainObjective
from sat_optuna.search.space import COUNTS_KEY, NETWORK_KEY, ChoiceError
from sat_optuna.search.tickets import ticket_of
from sat_optuna.supernet.folding import FoldError
from sat_optuna.supernet.materialise import materialise
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import AttentionSpec
from sat_optuna.training.checkpoint import EpochRecord
from sat_optuna.training.loop import fit, pretrain

if TYPE_CHECKING:
    from sat_optuna.events import Event

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
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=1)
    assert list(study.trials[0].distributions) == list(NAMES)
    choices = optuna.distributions.CategoricalDistribution(("none", "se", "dia"))
    assert all(d == choices for d in study.trials[0].distributions.values())


def test_a_study_is_scored_with_one_network_data_and_weight_and_is_maximised(net, data):
    study, trial = trial_of("se", "none", "dia")
    SupernetObjective(net, data, calibration=32)(trial)
    other = SupernetObjective(net, data, calibration=32, sparsity_weight=0.5)
    with pytest.raises(StudyError, match="scored with another sparsity_weight than is given"):
        study.optimize(other, n_trials=1)
    trained = copy.deepcopy(net)
    pretrain(trained, data, epochs=1, seed=1, config=CONFIG)
    one_bit = copy.deepcopy(net)
    next(one_bit.buffers())[0] += 2**-20
    for weights in (trained, one_bit):
        with pytest.raises(StudyError, match="scored with another weights than is given"):
            study.optimize(SupernetObjective(weights, data, calibration=32), n_trials=1)
    less = load_dataset("mnist5k", seed=0, limit=190)
    with pytest.raises(StudyError, match="scored with another dataset_fingerprint than is given"):
        study.optimize(SupernetObjective(net, less, calibration=32), n_trials=1)
    with pytest.raises(StudyError, match="create it with direction='maximize'"):
        optuna.create_study().optimize(other, n_trials=1)


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
    assert study.user_attrs[COUNTS_KEY] == torch.bincount(data.valid.labels, minlength=10).tolist()
    assert stored["balanced_accuracy"] == expected.balanced_accuracy
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


def test_data_of_ones_own_are_searched_on_as_split_or_loaders(net):
    x, y = torch.rand(60, 1, 28, 28), torch.arange(60) % 10
    items = TensorDataset(x[:40], y[:40]), TensorDataset(x[40:], y[40:])
    arrays = Split.from_arrays(x[:40], y[:40], valid=(x[40:], y[40:]))
    loaders = Split.from_loaders(*(DataLoader(part, 8) for part in items))
    values = [
        SupernetObjective(net, data, calibration=32)(trial_of("se", "none", "dia")[1])
        for data in (arrays, Split.from_loaders(*items), loaders)
    ]
    assert values[0] == values[1] == values[2]
    events: list[Event] = []
    objective = TrainObjective(net, loaders, epochs=2, config=CONFIG, on_event=events.append)
    _, trial = trial_of("se", "none", "dia")
    assert objective(trial) == trial.user_attrs["reward"]
    assert [event.made.epoch for event in events if isinstance(event.made, EpochRecord)] == [0, 1]
    assert objective.scored_with()["dataset"] == "loaders"


@pytest.mark.parametrize("objective", [SupernetObjective, partial(TrainObjective, epochs=1)])
def test_what_is_no_split_is_refused(net, objective):
    with pytest.raises(
        DataError, match=r"^a Tensor was given where a Split is wanted; make one wi"
    ):
        objective(net, torch.zeros(3, 1, 28, 28))


def test_epochs_below_1_are_refused(net, data):
    with pytest.raises(ConfigError, match=r"^TrainObjective: epochs is -1; write at least 1$"):
        TrainObjective(net, data, epochs=-1)


def test_an_event_that_raises_fails_the_trial_and_the_study_goes_on(net, data):
    told = []

    def stop(event):
        told.append(event)
        if event.made:
            raise RuntimeError("enough")

    study = optuna.create_study(direction="maximize")
    stopping = TrainObjective(net, data, epochs=2, config=CONFIG, on_event=stop)
    study.optimize(stopping, n_trials=1, catch=RuntimeError)
    study.optimize(TrainObjective(net, data, epochs=2, config=CONFIG), n_trials=1)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert told[-1].done == 1


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


@pytest.fixture(scope="module")
def full_net(data):
    """A network that was trained with attention in all its blocks."""
    made = Supernet(
        "resnet20",
        attention=("se",),
        in_channels=1,
        classes=10,
        seed=0,
        width=4,
        stem_stride=4,
        blocks=(1, 1, 1),
    )
    pretrain(made, data, epochs=1, seed=0, config=CONFIG, connect=1.0)
    return made


def test_a_folded_scheme_is_scored_as_its_folded_network(full_net, data):
    before = {name: value.clone() for name, value in full_net.state_dict().items()}
    objective = FoldedObjective(full_net, data, calibration=64, sparsity_weight=3.0)
    study, trial = trial_of("none", "se", "none")
    value = objective(trial)
    folded = objective.folded(Scheme.parse("0-1-0"))
    expected = evaluate_network(folded, data.valid)
    assert value == expected.accuracy + 3.0 * 2 / 3
    assert trial.user_attrs["loss"] == pytest.approx(expected.loss, rel=1e-5)
    assert trial.user_attrs["params"] == measure(folded, data.shape).params
    for name, value in full_net.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    # Neither way of scoring goes on with the trials of the other.
    study.tell(trial, 1.0)
    other = optuna.create_study(direction="maximize")
    SupernetObjective(full_net, data, calibration=64, sparsity_weight=3.0)(other.ask())
    for begun, now in ((study, SupernetObjective), (other, FoldedObjective)):
        with pytest.raises(StudyError, match="scored with another calibration than is given"):
            now(full_net, data, calibration=64, sparsity_weight=3.0)(begun.ask())


def test_folding_what_tells_nothing_is_refused(net, full_net, data):
    with pytest.raises(FoldError, match=r"^2 kinds of attention given \(se, dia\), and folding"):
        FoldedObjective(net, data)
    fresh = Supernet("resnet20", attention=["se"], in_channels=1, classes=10, seed=0, width=4)
    with pytest.raises(FoldError, match=r"^this resnet20 was never trained \(its BatchNorms have"):
        FoldedObjective(fresh, data)
    with pytest.raises(DataError, match=r"^no calibration image given to take the gates' means"):
        FoldedObjective(full_net, data, calibration=0)


def stored(study):
    """Everything that a study's storage has of it, in memory."""
    trials = [
        (t.number, t.state, t.value, t.params, t.user_attrs, t.system_attrs, t.intermediate_values)
        for t in study.get_trials(deepcopy=True)
    ]
    return trials, dict(study.user_attrs)


def both(net, data):
    return (
        SupernetObjective(net, data, calibration=32),
        TrainObjective(net, data, epochs=2, config=CONFIG),
    )


def test_a_trial_of_no_study_is_scored_and_nothing_is_stored(net, data):
    """`study.best_trial`, a trial that Optuna has not copied, FixedTrial: all give the value."""
    for objective in both(net, data):
        study, trial = trial_of("se", "none", "dia")
        study.tell(trial, objective(trial))
        before = stored(study)
        fixed = optuna.trial.FixedTrial(study.best_params, number=7)
        (own,) = study.get_trials(deepcopy=False)
        for given in (study.best_trial, own, fixed):
            attributes = dict(given.user_attrs)
            assert objective(given) == study.best_value
            assert given.user_attrs == attributes
        assert stored(study) == before


def test_a_scheme_that_was_trained_again_keeps_its_own_value(net, data):
    """Each repeat has a seed of its own, which its trial brings along."""
    objective = TrainObjective(net, data, epochs=1, config=CONFIG)
    study = optuna.create_study(direction="maximize")
    for _ in range(3):
        study.enqueue_trial(dict(zip(NAMES, ("se", "se", "dia"), strict=True)))
    study.optimize(objective, n_trials=3)
    trials = study.get_trials()
    losses = [trial.user_attrs["loss"] for trial in trials]
    assert len(set(losses)) == 3
    assert [objective(trial) for trial in trials] == [trial.value for trial in trials]


def frozen(choices, kinds):
    return optuna.trial.create_trial(
        params=choices,
        distributions=dict.fromkeys(
            choices, optuna.distributions.CategoricalDistribution(("none", *kinds))
        ),
        value=0.0,
    )


@pytest.mark.parametrize(
    ("trial", "said"),
    [
        (
            optuna.trial.FixedTrial({"s1.b00": "se"}),
            "has no choice for block 's2.b00'; give a trial with all 3 blocks of this network",
        ),
        (
            optuna.trial.FixedTrial(dict.fromkeys(NAMES, 1)),
            "was given 1 for block 's1.b00'; give it one of: 'none', 'se', 'dia'",
        ),
        (
            optuna.trial.FixedTrial(dict.fromkeys(NAMES, "sge")),
            "was given 'sge' for block 's1.b00'; give it one of: 'none', 'se', 'dia'",
        ),
        (  # of a deeper network
            frozen(dict.fromkeys((*NAMES, "s3.b01"), "se"), ("se", "dia")),
            "was given a choice for 's3.b01', which is no block of this network; its 3 blocks are",
        ),
        (  # of a search over another list of kinds
            frozen(dict.fromkeys(NAMES, "se"), ("se",)),
            "is of a search over other kinds than se, dia; give one of this network, or its",
        ),
        (frozen({"lr": "se"}, ("se",)), "has no choice for block 's1.b00'"),
    ],
)
def test_a_trial_of_another_search_is_refused_in_one_sentence(net, data, trial, said):
    for objective in both(net, data):
        with pytest.raises(ChoiceError, match=said):
            objective(trial)


def test_a_trial_that_has_its_choices_already_keeps_them(net, data):
    """Suggested before the objective is called, or attached again after its process died."""
    objective = SupernetObjective(net, data, calibration=32)
    study = optuna.create_study(direction="maximize")
    trial = study.ask()
    first = trial.suggest_categorical(NAMES[0], ("none", "se", "dia"))
    again = optuna.trial.Trial(study, trial._trial_id)
    study.tell(again, objective(again))
    assert study.best_params[NAMES[0]] == first
    assert objective(study.best_trial) == study.best_value


def latency_of(net):
    """A model in which a plain pass takes 4 ms and each SE and DIA adds 0.5 and 2 ms."""
    added = tuple((Estimate(0.5, 0.4, 0.6), Estimate(2.0, 1.9, 2.1)) for _ in NAMES)
    return LatencyModel(
        stages=net.stages,
        kinds=("se", "dia"),
        batch=8,
        rounds=6,
        runs=9,
        plain_ms=Estimate(4.0, 3.9, 4.1),
        increments_ms=added,
        fresh=0,
        residual_percent=None,
    )


@pytest.mark.parametrize(
    "objectives",
    [("accuracy", "latency_ms"), ("macs", "accuracy"), ("accuracy", "params", "latency_ms")],
)
@pytest.mark.parametrize("kind", ["supernet", "train"])
def test_several_objectives_are_the_metric_and_the_costs_in_their_order(
    net, data, objectives, kind
):
    more: Any = {"objectives": objectives, "latency": latency_of(net)}
    objective: SupernetObjective | TrainObjective
    single: SupernetObjective | TrainObjective
    if kind == "train":
        objective = TrainObjective(net, data, epochs=1, config=CONFIG, **more)
        single = TrainObjective(net, data, epochs=1, config=CONFIG, sparsity_weight=0.0)
    else:
        objective = SupernetObjective(net, data, calibration=32, **more)
        single = SupernetObjective(net, data, calibration=32, sparsity_weight=0.0)
    study = optuna.create_study(directions=directions_of(objectives))
    study.enqueue_trial(dict(zip(NAMES, ("se", "none", "dia"), strict=True)))
    study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    cost = measure(materialise(net, Scheme.parse("1-0-2")), data.shape)
    expected = {
        "accuracy": single(trial_of("se", "none", "dia")[1]),
        "latency_ms": 6.5,
        "params": cost.params,
        "macs": cost.macs,
    }
    assert trial.values == [expected[name] for name in objectives]
    assert {name: trial.user_attrs[name] for name in expected} == expected
    assert "reward" not in trial.user_attrs
    assert study.metric_names == list(objectives)
    assert objective(trial) == tuple(trial.values)  # a trial of no study is scored the same
    assert ticket_of(study, trial).latency_ms == 6.5


def test_objectives_that_cannot_be_are_refused(net, data):
    build: Any = partial(SupernetObjective, net, data, calibration=32)
    for given, words in (
        ({"objectives": ["accuracy", "speed"]}, "objectives has 'speed'; known: accuracy, lat"),
        ({"objectives": ["accuracy"]}, "name accuracy and one or more of latency_ms, params"),
        ({"objectives": ["accuracy", "latency_ms"]}, "latency is None; give what fit_latency ret"),
    ):
        with pytest.raises(ConfigError, match=f"SupernetObjective: .*{words}"):
            build(**given)
    trial = optuna.create_study(directions=["maximize", "maximize"]).ask()
    for objective, returned, wanted in (
        (build(objectives=["accuracy", "macs"]), "accuracy, macs", r"'maximize', 'minimize'"),
        (build(), "one reward", "'maximize'"),
    ):
        with pytest.raises(StudyError, match=rf"returns {returned}; .*directions=\[{wanted}\]"):
            objective(trial)


def test_a_study_goes_on_with_its_objectives_and_its_latency_model_alone(net, data):
    build: Any = partial(SupernetObjective, net, data, calibration=32)
    two = {"objectives": ["accuracy", "latency_ms"], "latency": latency_of(net)}
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.optimize(build(**two), n_trials=1)
    other = replace(latency_of(net), plain_ms=Estimate(5.0, 4.9, 5.1))
    for changed, words in (
        ({"objectives": ["accuracy", "macs"]}, "objectives"),
        ({**two, "latency": other}, "latency_model"),
    ):
        with pytest.raises(StudyError, match=f"were scored with another {words} than is given"):
            build(**changed)(study.ask())


def test_a_trial_trains_what_was_loaded_at_its_own_rate(net, data):
    """Half the rate for all of a network without attention is half its rate, to the bit."""
    loaded = frozenset(name for name, _ in net.backbone.named_parameters())
    ways: list[tuple[TrainConfig, frozenset[str]]] = [
        (replace(CONFIG, lr=0.25), frozenset()),
        (replace(CONFIG, lr=0.5, lr_body=0.25), loaded),
        (replace(CONFIG, lr=0.5, lr_body=0.25), frozenset()),
    ]
    losses = []
    for config, body in ways:
        study = optuna.create_study(direction="maximize")
        study.enqueue_trial(dict.fromkeys(NAMES, "none"))
        study.optimize(TrainObjective(net, data, epochs=1, config=config, body=body), n_trials=1)
        losses.append(study.trials[0].user_attrs["loss"])
    assert losses[0] == losses[1] != losses[2]
