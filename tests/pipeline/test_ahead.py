"""Networks that are trained beside the search are those of the retraining step, to the bit."""

import time

import pytest

import sat_optuna as sat
from sat_optuna.errors import SatOptunaWarning
from sat_optuna.evidence import retrain
from sat_optuna.pipeline.ahead import training_ahead
from sat_optuna.pipeline.outcome import networks_step
from tests.studies import STUDY, make_study

TEXT = STUDY.replace("workers = 1", "workers = 2").replace("limit = 300", "limit = 100")


def made(study) -> dict[str, str]:
    """The digests of results and weights there are."""
    record = study.records.get(networks_step(study.config))
    return dict(record.made) if record else {}


@pytest.mark.slow
def test_they_are_found_done_and_the_same(tmp_path):
    alone, beside = (sat.open_study(make_study(tmp_path, name, TEXT)) for name in "ab")
    with training_ahead(beside):
        while len(made(beside)) < 2 * 2 * 3:  # result and weights, plain and full, three seeds
            time.sleep(0.1)
    early = made(beside)
    assert {name.split(".")[0] for name in early} == {"00-00-00", "11-11-11"}
    for study in (alone, beside):
        study.pretrain()
        study.search(mlflow=False)
        study.retrain(mlflow=False)
    assert made(alone) == made(beside)
    assert early.items() <= made(beside).items()


@pytest.mark.slow
def test_what_is_under_way_when_the_block_ends_is_gone_on_with(tmp_path):
    text = TEXT.replace("[retrain]\nepochs = 1", "[retrain]\nepochs = 8")
    alone, beside = (sat.open_study(make_study(tmp_path, name, text)) for name in "ab")
    with training_ahead(beside):
        while not list(beside.work.glob("retrain/*/00-00-00.seed0.safetensors")):
            time.sleep(0.01)
    assert len(made(beside)) < 12
    for study in (alone, beside):
        study.pretrain()
        study.search(mlflow=False)
        study.retrain(mlflow=False)
    assert made(alone) == made(beside)


def test_what_fails_is_a_warning_and_left_to_the_retraining(tmp_path, monkeypatch):
    def failing(*_jobs, **_more):
        yield 1 / 0

    monkeypatch.setattr(retrain, "run_jobs", failing)
    study = sat.open_study(make_study(tmp_path, text=TEXT))
    said = r"could not be trained while .* \(ZeroDivisionError: division by zero\); the retrain"
    with pytest.warns(SatOptunaWarning, match=said), training_ahead(study):
        pass


@pytest.mark.parametrize(
    "change",
    [
        ("workers = 2", "workers = 1"),
        ("[data]", "[data]\nworkers = 1"),
        ("", ""),
    ],
)
def test_nothing_is_begun_where_no_core_is_left_or_the_search_is_there(tmp_path, change):
    study = sat.open_study(make_study(tmp_path, text=TEXT.replace(*change)))
    if change[0] == "":
        study.pretrain()
    with training_ahead(study):
        pass
    assert not (study.work / "retrain").exists()
