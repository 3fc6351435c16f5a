"""A ticket's network as a logged model and in the registry, in a real SQLite store."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor, nn

from sat_optuna.tracking import TrackingError
from sat_optuna.tracking.models import ModelError, TicketModel, log_ticket_model
from sat_optuna.tracking.store import RunStore, store_uri
from tests.networks import SHAPE, images
from tests.tickets import network_and_ticket

METRICS = {"test_accuracy": 97.5, "parameters": 1234.0}


@pytest.fixture
def root(tmp_path, empty_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    folder = tmp_path / "mlruns"
    folder.mkdir()
    shutil.copy(empty_store, folder)
    return folder


def model_of(network=None, *, kinds=("se",), metrics=METRICS, **more):
    """A network of one block a stage, an untrained one with these kinds by default."""
    made, ticket = network_and_ticket(*kinds)
    known = {"name": "mine", "uuid": "u1", "input_shape": SHAPE, "params": {"seed": 0}} | more
    return TicketModel(
        scheme=str(ticket.scheme),
        network=made if network is None else network,
        ticket=ticket.to_json(),
        metrics=metrics,
        **known,
    )


def begun(root, uuid="u1"):
    """The store, and a run in an experiment of the study."""
    store = RunStore(root)
    experiment = store.experiment("mine", uuid)
    return store, store.create(experiment, "ticket", {}).info.run_id


def loaded(root, load=mlflow.pytorch.load_model, name="mine"):
    """What a user loads, who has set the store's address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store_uri(root))
        return load(f"models:/{name}@best")


def the_model(root, run_id, but=98.0) -> Any:
    """The logged model of a run; of several that of another accuracy than one."""
    client = MlflowClient(store_uri(root))
    found: Any = client.search_logged_models([client.get_run(run_id).info.experiment_id])
    (model,) = [m for m in found if m.metrics[0].value != but]
    return model


def versions(root, name="mine"):
    """Each version's number and aliases."""
    client = MlflowClient(store_uri(root))
    numbers = sorted(v.version for v in client.search_model_versions(f"name = '{name}'"))
    return [(int(n), *client.get_model_version(name, n).aliases) for n in numbers]


@pytest.mark.parametrize("kinds", [("se",), pytest.param(("dia",), marks=pytest.mark.slow)])
def test_a_model_that_is_loaded_computes_as_the_ticket_and_is_no_pickle(root, kinds):
    store, run_id = begun(root)
    ticket = model_of(kinds=kinds)
    assert log_ticket_model(store, run_id, ticket) == "1"
    again = loaded(root)
    for count in (1, 2, 7):
        x = images(count, seed=count)
        with torch.no_grad():
            torch.testing.assert_close(again(x), ticket.network(x), rtol=0, atol=1e-5)
    client = MlflowClient(store_uri(root))
    version = client.get_model_version_by_alias("mine", "best")
    assert (version.run_id, version.tags["scheme"]) == (run_id, ticket.scheme)
    assert 'mlflow.pytorch.load_model("models:/mine@best")' in str(version.description)
    model = the_model(root, run_id)
    assert version.source == model.artifact_location
    assert (model.source_run_id, model.status.name, model.model_type) == (
        *(run_id, "READY", "ticket"),
    )
    assert {m.key: m.value for m in model.metrics} == METRICS
    assert model.params == {"seed": "0", "scheme": ticket.scheme, "format": "pt2"}
    run: Any = client.get_run(run_id)
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    folder = Path(unquote(model.artifact_location.removeprefix("file://")))
    assert folder.is_relative_to(root / "artifacts" / "mine")
    assert (folder / "ticket.json").read_text() == ticket.ticket
    assert not [p for p in folder.rglob("*") if p.suffix in (".pkl", ".pickle", ".pth")]
    example = torch.tensor(json.loads((folder / "input_example.json").read_text()))
    assert example.shape == (2, *SHAPE)
    card = mlflow.models.Model.load(str(folder))
    assert card.signature.inputs.inputs[0].shape == (-1, *SHAPE)
    assert card.signature.outputs.inputs[0].shape == (-1, 5)
    assert (card.run_id, card.model_id) == (run_id, model.model_id)
    required = (folder / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in required] == ["mlflow", "torch", "numpy"]


@pytest.mark.slow
def test_a_version_is_made_for_other_weights_alone_and_the_alias_follows_the_ticket(root):
    store, run_id = begun(root)
    first = model_of()
    assert [log_ticket_model(store, run_id, first) for _ in range(2)] == ["1", "1"]
    assert len(list(root.glob("artifacts/mine/models/*"))) == 1
    other, _ = network_and_ticket()
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    second = model_of(other, metrics={"test_accuracy": 98.0})
    assert log_ticket_model(RunStore(root), run_id, second) == "2"
    assert versions(root) == [(1,), (2, "best")]
    more = model_of(metrics={"test_accuracy": 97.0})  # the first again, scored with more seeds
    assert log_ticket_model(store, run_id, more) == "1"
    assert versions(root) == [(1, "best"), (2,)]
    # Of each metric MLflow keeps all that were logged, the newest last.
    newest = {m.key: m.value for m in the_model(root, run_id).metrics}
    assert newest == {"test_accuracy": 97.0, "parameters": 1234.0}


@pytest.mark.slow
def test_mlflows_global_state_stays_and_threads_do_not_mix(root, tmp_path):
    address, other = mlflow.get_tracking_uri(), tmp_path / "other"
    shutil.copytree(root, other)
    failed = []

    def log(folder, kind):
        try:
            store, run_id = begun(folder)
            log_ticket_model(store, run_id, model_of(kinds=(kind,)))
        except BaseException as error:
            failed.append(error)

    threads = [
        threading.Thread(target=log, args=arguments)
        for arguments in ((root, "se"), (other, "sge"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert (mlflow.get_tracking_uri(), mlflow.active_run()) == (address, None)
    assert versions(root) == versions(other) == [(1, "best")]
    assert loaded(root).state_dict().keys() != loaded(other).state_dict().keys()


@pytest.mark.slow
def test_what_a_killed_process_left_half_written_is_made_anew(root):
    store, run_id = begun(root)
    ticket = model_of()
    log_ticket_model(store, run_id, ticket)
    client, made = MlflowClient(store_uri(root)), the_model(root, run_id)
    client.delete_registered_model("mine")
    assert log_ticket_model(store, run_id, ticket) == "1"  # its model was whole, and is taken
    assert the_model(root, run_id).model_id == made.model_id
    client.delete_registered_model("mine")
    client.delete_logged_model(made.model_id)
    tags = {"sat.weights": made.tags["sat.weights"]}
    half = client.create_logged_model(made.experiment_id, "half", run_id, tags=tags)
    assert log_ticket_model(store, run_id, ticket) == "1"
    assert the_model(root, run_id).model_id not in (half.model_id, made.model_id)
    assert the_model(root, run_id).status.name == "READY"
    assert loaded(root)(images(2)).shape == (2, 5)


@pytest.mark.slow
def test_studies_of_one_name_have_registered_models_of_their_own(root):
    for uuid in ("u1", "u2"):
        store, run_id = begun(root, uuid)
        log_ticket_model(store, run_id, model_of(uuid=uuid, name="it's 50/50: mine"))
    names = ["it_s 50_50_ mine", "it_s 50_50_ mine (u2)"]
    client = MlflowClient(store_uri(root))
    assert sorted(model.name for model in client.search_registered_models()) == names
    client.rename_registered_model(names[0], "my own name")
    store, run_id = begun(root)
    log_ticket_model(store, run_id, model_of(uuid="u1", name="it's 50/50: mine"))
    assert versions(root, "my own name") == [(1, "best")]


@pytest.mark.slow
def test_a_model_is_found_where_its_folder_was_moved_to(root, tmp_path):
    store, run_id = begun(root)
    ticket = model_of()
    log_ticket_model(store, run_id, ticket)
    moved = tmp_path / "elsewhere" / "mlruns"
    shutil.copytree(root, moved)
    shutil.rmtree(root)
    assert log_ticket_model(RunStore(moved), run_id, ticket) == "1"
    x = images(2)
    torch.testing.assert_close(loaded(moved)(x), ticket.network(x), rtol=0, atol=1e-5)


class Refusing(nn.Module):
    """A network whose forward looks at values, which no exporter can trace."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 5)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3))
        made: Tensor = self.layer(pooled if float(pooled.sum()) > 0 else -pooled)
        return made


class Peculiar(Refusing):
    """A network that can be traced the second time alone: not by torch.export, but for ONNX."""

    traced = 0

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            Peculiar.traced += 1
            if Peculiar.traced == 1:
                raise RuntimeError("not yet")
        made: Tensor = self.layer(x.mean((2, 3)))
        return made


@pytest.mark.slow
def test_a_network_that_no_format_can_hold_is_one_sentence_and_leaves_nothing(root):
    store, run_id = begun(root)
    with pytest.raises(ModelError) as caught:
        log_ticket_model(store, run_id, model_of(Refusing()))
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith("the network of scheme 1-1-0 cannot be logged as a model (pt2: ")
    assert said.endswith(
        "; its weights are kept, and sat-optuna export writes them as safetensors"
    )
    client = MlflowClient(store_uri(root))
    assert client.search_logged_models([client.get_run(run_id).info.experiment_id]) == []
    assert versions(root) == []


@pytest.mark.slow
def test_onnx_stands_in_where_torch_export_cannot(root):
    store, run_id = begun(root)
    network = Peculiar().eval()
    assert log_ticket_model(store, run_id, model_of(network)) == "1"
    again = loaded(root, mlflow.pyfunc.load_model)
    x = images(3)
    (got,) = again.predict(x.numpy()).values()
    torch.testing.assert_close(torch.from_numpy(got), network(x), rtol=0, atol=1e-5)


def test_a_store_that_fails_is_one_sentence(root):
    store, run_id = begun(root)
    with pytest.raises(TrackingError, match="cannot log the ticket's network in MLflow's store"):
        log_ticket_model(store, "no such run", model_of())
    shutil.rmtree(root / "artifacts", ignore_errors=True)
    (root / "artifacts").write_text("in the way")
    with pytest.raises(TrackingError, match="cannot log the ticket's network") as caught:
        log_ticket_model(store, run_id, model_of())
    assert "\n" not in str(caught.value)
