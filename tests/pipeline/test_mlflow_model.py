"""The ticket's network of a real study in MLflow's registry."""

import json

import mlflow
import pytest
import torch

from sat_optuna.errors import SatOptunaWarning
from sat_optuna.export.weights import load_weights
from sat_optuna.pipeline.folder import open_study
from sat_optuna.pipeline.mlflow_model import log_best_model
from sat_optuna.pipeline.outcome import read_outcome
from sat_optuna.tracking.store import RunStore, store_uri
from tests.pipeline.test_mlflow_log import TEXT
from tests.studies import make_study

RETRAIN = """
[retrain]
epochs = 1
seeds = [3, 0, 1]
workers = 1
"""


@pytest.mark.slow
def test_the_ticket_of_a_study_is_the_best_version_of_its_registered_model(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    study = open_study(make_study(tmp_path, text=TEXT + RETRAIN))
    study.run(mlflow=False)
    outcome, store = read_outcome(study), RunStore(study.mlruns)
    experiment = store.experiment("tiny", "u")
    run_id = store.create(experiment, "ticket", {}).info.run_id
    assert log_best_model(study, outcome, store, run_id) == "1"
    assert log_best_model(study, read_outcome(study), store, run_id) == "1"
    ticket = outcome.tickets["ticket"]
    (weights,) = outcome.folder.glob(f"{ticket.scheme}.seed3.safetensors")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri(study.mlruns))
    again = mlflow.pytorch.load_model("models:/tiny@best")
    images = torch.randn(4, *ticket.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = load_weights(ticket, weights)(images)
        torch.testing.assert_close(again(images), wanted, rtol=0, atol=1e-5)
    (model,) = store.client.search_logged_models([experiment])
    scores = {s.seed: s.value for s in ticket.scores if s.split == "test"}
    metrics = {m.key: m.value for m in model.metrics or ()}
    # MLflow's pages show a metric as it is stored, so it is stored with four digits.
    assert metrics["test_accuracy seed 3"] == round(scores[3], 4)
    assert metrics["test_accuracy"] == round(sum(scores.values()) / 3, 4)
    assert metrics["parameters"] == ticket.params
    written = mlflow.artifacts.load_text(f"{model.artifact_location}/ticket.json")
    assert json.loads(written)["scheme"] == str(ticket.scheme)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.warns(SatOptunaWarning, match=r"^no model was logged to MLflow: .*bring work/"):
        assert log_best_model(study, outcome, store, run_id) is None
    weights.unlink()
    with pytest.warns(SatOptunaWarning, match=r"^no model was logged to MLflow: .*bring work/"):
        assert log_best_model(study, outcome, store, run_id) is None
