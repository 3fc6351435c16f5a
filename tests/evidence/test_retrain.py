"""A ticket's network trained from scratch by `retrain`, on whatever data it is given."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from sat_optuna.config.config import DataConfig, RetrainConfig, StudyConfig, TrainConfig
from sat_optuna.data import load_configured
from sat_optuna.data.split import Split
from sat_optuna.errors import ConfigError
from sat_optuna.evidence.results import RetrainJob, read_result
from sat_optuna.evidence.retrain import retrain, run_jobs
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.materialise import build_network
from sat_optuna.training import step as steps
from sat_optuna.training.checkpoint import EpochRecord, load_tensors
from sat_optuna.training.loop import fit
from tests.networks import SHAPE, tiny_supernet
from tests.tickets import network_and_ticket, ticket_of
from tests.training.test_loop import assert_same

if TYPE_CHECKING:
    from sat_optuna.events import Event

TICKET = network_and_ticket()[1]
X, Y = torch.rand(30, *SHAPE), torch.arange(30) % 5
CONFIG = TrainConfig(batch=8)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_a_split_is_trained_on_with_its_validation_part_and_other_images_whole():
    data = Split.from_arrays(X, Y, seed=1)  # without a test part, which is not looked at
    expected = build_network(TICKET, seed=4)
    fit(expected, data.train_and_valid, epochs=1, seed=4, config=CONFIG)
    for given in (data, data.train_and_valid, TensorDataset(X, Y)):
        assert same(retrain(TICKET, given, epochs=1, seed=4, config=CONFIG), expected)
    loader = DataLoader(TensorDataset(X, Y), 8)
    parts = Split.from_loaders(DataLoader(TensorDataset(X[:20], Y[:20]), 8), TensorDataset(X, Y))
    for loaded in (loader, parts):
        assert not same(retrain(TICKET, loaded, epochs=1, seed=4, config=CONFIG), expected)


@pytest.mark.slow
def test_jobs_that_one_process_trains_together_give_what_each_gives_alone(tmp_path, monkeypatch):
    study = StudyConfig(
        data=DataConfig(limit=100), train=CONFIG, retrain=RetrainConfig(epochs=2, workers=1)
    )
    data = load_configured(study.data, seed=study.seed)
    net = tiny_supernet(blocks=(1, 1, 1))
    tickets = [
        replace(
            ticket_of(net, Scheme.parse(scheme)),
            backbone_settings={**net.backbone_settings, "stem_stride": 2},
            classes=10,
            input_shape=data.shape,
            dataset_fingerprint=data.fingerprint,
        )
        for scheme in ("1-0-0", "0-1-1")
    ]
    found = []
    for together in (1, 3):
        most = max(one.params for one in tickets)
        monkeypatch.setattr(steps, "TOGETHER", {"cpu": (together, most)})
        monkeypatch.setattr(steps, "STRATEGIES", {"cpu": most})
        folder = tmp_path / str(together)
        jobs = [
            (RetrainJob(one.scheme, seed, study, folder), one)
            for one in tickets
            for seed in (0, 1)
        ]
        results = list(run_jobs(jobs, workers=1))
        assert [read_result(job) for job, _ in jobs] == results
        found.append((results, [load_tensors(job.weights_path) for job, _ in jobs]))
    (alone, tensors), (shared, others) = found
    assert shared == alone
    for one, other in zip(tensors, others, strict=True):
        assert_same(one, other)


def test_events_are_those_of_a_retraining_and_the_last_brings_the_network():
    events: list[Event] = []
    data = Split.from_arrays(X, Y)
    net = retrain(TICKET, data, epochs=2, seed=0, config=CONFIG, on_event=events.append)
    assert {(event.step, event.total) for event in events} == {("retrain", 2)}
    epochs = [event.made.epoch for event in events if isinstance(event.made, EpochRecord)]
    assert epochs == [0, 1]
    assert events[-1].finished
    assert events[-1].made is net


def test_epochs_below_1_are_refused():
    with pytest.raises(ConfigError, match=r"^retrain: epochs is -1; write at least 1$"):
        retrain(TICKET, Split.from_arrays(X, Y), epochs=-1, seed=0)
