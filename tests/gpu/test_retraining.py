"""Retraining on the device: in this process, and as jobs of a study in processes of their own."""

import pytest

from sat_optuna.config.config import DataConfig, NetworkConfig, RetrainConfig, StudyConfig
from sat_optuna.data import load_configured
from sat_optuna.evaluate import accuracy
from sat_optuna.evidence.results import RetrainJob, read_result, retrain_fingerprint
from sat_optuna.evidence.retrain import retrain, run_jobs
from sat_optuna.scheme import Scheme
from sat_optuna.supernet.supernet import Supernet
from sat_optuna.ticket import Score, Ticket
from sat_optuna.training.checkpoint import read_record
from sat_optuna.training.loop import Checkpoint
from tests.gpu.made import CONFIG, assert_same, weights

pytestmark = pytest.mark.gpu

STUDY = StudyConfig(
    data=DataConfig(limit=200),
    network=NetworkConfig(width=8, stem_stride=4, blocks=(1, 1, 1)),
    train=CONFIG,
    retrain=RetrainConfig(epochs=1),
)


def ticket_of(scheme, data):
    net = Supernet(
        "resnet20",
        attention=STUDY.attention.kinds,
        in_channels=data.shape[0],
        classes=data.classes,
        seed=0,
        **STUDY.network.backbone_settings,
    )
    return Ticket(
        role="ticket",
        scheme=scheme,
        backbone=net.backbone_name,
        backbone_settings=net.backbone_settings,
        attention=net.specs,
        classes=data.classes,
        input_shape=data.shape,
        dataset=data.name,
        dataset_fingerprint=data.fingerprint,
        seed=0,
        scores=(Score(split="test", value=50.0, seed=0, epochs=1),),
        params=1,
        macs=1,
    )


def test_jobs_share_the_device_and_give_what_one_retraining_gives(device, tmp_path, same_kernels):
    data = load_configured(STUDY.data, seed=STUDY.seed, device=str(device))
    tickets = [ticket_of(Scheme.parse(text), data) for text in ("1-0-1", "0-0-0")]
    jobs = [(RetrainJob(one.scheme, 1, STUDY, tmp_path), one) for one in tickets]
    results = {result.scheme: result for result in run_jobs(jobs, workers=1)}
    for job, ticket in jobs:
        assert read_result(job) == results[ticket.scheme]
        assert read_record(job.weights_path)["environment"]["device"] == device.type
        mine = Checkpoint(tmp_path / "mine.safetensors", retrain_fingerprint(STUDY))
        mine.path.unlink(missing_ok=True)
        net = retrain(ticket, data, epochs=1, seed=1, config=STUDY.train, checkpoint=mine)
        assert next(net.parameters()).device == device
        # The jobs choose their kernels by speed, so the last bits may differ.
        assert results[ticket.scheme].accuracy == pytest.approx(accuracy(net, data.test), abs=5)
    again = retrain(tickets[0], data, epochs=1, seed=1, config=STUDY.train)
    assert_same(
        weights(again), weights(retrain(tickets[0], data, epochs=1, seed=1, config=STUDY.train))
    )
