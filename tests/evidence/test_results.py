"""Results of retrainings: found again by their job alone, never by another one."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from sat_optuna.config.config import StudyConfig
from sat_optuna.evidence.results import (
    RetrainJob,
    RetrainResult,
    read_result,
    retrain_fingerprint,
    write_result,
)
from sat_optuna.scheme import Scheme
from sat_optuna.training.checkpoint import EpochRecord

SCHEME = Scheme.parse("110-010-001")
RESULT = RetrainResult(
    scheme=SCHEME,
    seed=1,
    accuracy=97.35000000000001,
    images=1000,
    history=(EpochRecord(epoch=0, loss=0.5, accuracy=80.0, lr=0.1),),
    class_hits=(950, 20, 0),
    class_counts=(960, 40, 0),
)


@pytest.fixture
def job(tmp_path):
    return RetrainJob(SCHEME, 1, StudyConfig(), tmp_path / "retrain")


def with_key(section, **keys):
    config = StudyConfig()
    return replace(config, **{section: replace(getattr(config, section), **keys)})


def test_a_result_comes_back_as_it_was(job):
    assert read_result(job) is None
    path = write_result(job, RESULT)
    assert path == job.result_path
    assert path.name == "110-010-001.seed1.json"
    assert job.weights_path.name == "110-010-001.seed1.safetensors"
    assert read_result(job) == RESULT
    before = path.read_bytes()
    write_result(job, replace(RESULT, started=1.5, ended=2.5))
    assert path.read_bytes() == before  # times are no part of a result's bytes
    found = read_result(job)
    assert found is not None
    assert (found.started, found.ended) == (1.5, 2.5)
    assert RESULT.balanced_accuracy == pytest.approx(100 * (950 / 960 + 20 / 40) / 2)


@pytest.mark.parametrize(
    "change",
    [
        {"scheme": Scheme.parse("110-010-000")},
        {"seed": 2},
        {"config": with_key("retrain", epochs=11)},
        {"config": with_key("train", lr=0.2)},
        {"config": with_key("data", limit=100)},
        {"config": replace(StudyConfig(), seed=1)},
    ],
)
def test_another_job_does_not_take_it(job, change):
    write_result(job, RESULT)
    assert read_result(replace(job, **change)) is None


@pytest.mark.parametrize(
    "config",
    [
        with_key("retrain", seeds=(1, 2, 3, 4)),
        with_key("retrain", workers=2),
        with_key("search", trials=100),
        with_key("pretrain", epochs=3),
    ],
)
def test_what_decides_no_retraining_does_not_matter(job, config):
    write_result(job, RESULT)
    assert retrain_fingerprint(config) == retrain_fingerprint(job.config)
    assert read_result(replace(job, config=config)) == RESULT


@pytest.mark.parametrize("key", ["fingerprint", "accuracy", "images", "history"])
def test_a_result_that_lacks_something_counts_as_none(job, key):
    document = json.loads(write_result(job, RESULT).read_text())
    del document[key]
    job.result_path.write_text(json.dumps(document))
    assert read_result(job) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"fingerprint": 1}', "\udcff"])
def test_a_broken_file_counts_as_none(job, text):
    job.folder.mkdir()
    job.result_path.write_bytes(text.encode(errors="surrogateescape"))
    assert read_result(job) is None


def test_history_of_other_form_counts_as_none(job):
    document = json.loads(write_result(job, RESULT).read_text())
    document["history"] = [{"epoch": 0, "lost": 1}]
    job.result_path.write_text(json.dumps(document))
    assert read_result(job) is None


def test_asking_for_results_imports_no_torch(job):
    write_result(job, RESULT)
    program = (
        "import sys; from pathlib import Path\n"
        "from sat_optuna.config.config import StudyConfig\n"
        "from sat_optuna.evidence.results import RetrainJob, read_result\n"
        "from sat_optuna.scheme import Scheme\n"
        f"folder = Path({str(job.folder)!r})\n"
        f"job = RetrainJob(Scheme.parse('{SCHEME}'), 1, StudyConfig(), folder)\n"
        f"assert read_result(job).accuracy == {RESULT.accuracy!r}\n"
        "assert not {'torch', 'optuna'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
