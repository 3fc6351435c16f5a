"""A ticket's trained network as MLflow's logged model and in its registry; never as a pickle.

The network is written as a torch.export program (pt2), or as ONNX where torch.export cannot, read
back and compared before the store hears of it.

    mlflow.pytorch.load_model("models:/mine@best")   # or mlflow.onnx

All calls go through the store's client: MLflow's own log_model needs its global address and run.
"""

import copy
import hashlib
import json
import re
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sat_optuna.errors import SatOptunaError
from sat_optuna.tracking.limits import NAME, PARAM, cut
from sat_optuna.tracking.store import RunStore, titles_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.models import Model
    from torch import Tensor, nn

__all__ = ["ALIAS", "ModelError", "TicketModel", "log_ticket_model"]

ALIAS = "best"  # of the version that a study's ticket is
TOLERANCE = 1e-5  # of the largest output; what another program may differ by
_BATCHES = (2, 1, 5)  # the first is traced: torch takes a batch of 1 as fixed
_STUDY, _WEIGHTS = "sat.study_uuid", "sat.weights"
_EXPORTING = threading.Lock()  # torch.export keeps what it traces with for all threads


class ModelError(SatOptunaError, RuntimeError):
    """A network that can be logged in no format that is no pickle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketModel:
    """A ticket's network, and what is known of it.

    Attributes:
        name: of the study; the registered model has it.
        uuid: of the study.
        place: tells the study from others of its name, the name of its project for example.
        scheme: of the ticket, its text form.
        network: with trained weights; (N, C, H, W) float32 images become one tensor.
        input_shape: C, H, W.
        ticket: its JSON, written beside the network.
        metrics: its final numbers.
        params: how it was trained, its seed for example.
    """

    name: str
    uuid: str
    place: str = ""
    scheme: str
    network: "nn.Module"
    input_shape: tuple[int, int, int]
    ticket: str
    metrics: Mapping[str, float]
    params: Mapping[str, object]


def log_ticket_model(store: RunStore, run_id: str, ticket: TicketModel) -> str:
    """Log a ticket's network under a run and register it with the alias `best`.

    A registered version with the same weights is taken as it is: only its alias and its metrics
    follow. A version of other weights stays, without the alias.

    Args:
        store: where to.
        run_id: the run of the ticket.
        ticket: the network.

    Returns:
        The number of the version.

    Raises:
        ModelError: neither torch.export nor torch.onnx can write the network.
        TrackingError: the store cannot be read or written.
    """
    digest = _digest(ticket.network)
    with store.guarded("log the ticket's network"):
        client = store.client
        name = _registered(client, ticket)
        versions = client.search_model_versions(f"name = '{name}'")
        version = next((v for v in versions if v.tags.get(_WEIGHTS) == digest), None)
        model = _logged(client, run_id, ticket, digest)
        if version is None:
            version = client.create_model_version(
                name,
                model.artifact_location,  # models:/ID would be looked for at the global address
                run_id,
                tags={_WEIGHTS: digest, "scheme": cut(ticket.scheme, PARAM)},
                description=_described(name, ticket, model),
                model_id=model.model_id,
            )
        if str(version.version) != str(client.get_registered_model(name).aliases.get(ALIAS)):
            client.set_registered_model_alias(name, ALIAS, version.version)
        _log_metrics(client, run_id, model, ticket.metrics)
    return str(version.version)


def _registered(client: "MlflowClient", ticket: TicketModel) -> str:
    """Return the name of the study's registered model, which is made if it is missing.

    It is known by its tag, also where it was renamed; see `RunStore.experiment`.
    """
    from mlflow.exceptions import MlflowException

    for found in client.search_registered_models(f"tags.`{_STUDY}` = '{ticket.uuid}'"):
        return str(found.name)
    # MLflow refuses some of these signs in a name, and its filters others.
    names = [
        cut(re.sub(r"[/:'\"%]", "_", title).lstrip(".") or "study", NAME)
        for title in titles_of(ticket.name, ticket.uuid, ticket.place)
    ]
    for name in names:
        try:
            client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            client.create_registered_model(
                name,
                {_STUDY: ticket.uuid},
                f"The ticket of study {ticket.name}; the alias {ALIAS} is the one found last.",
            )
            return name
    raise ModelError(
        f"the registered models {', '.join(names)} are of other studies; rename one in MLflow and "
        "run the same command again"
    )


def _described(name: str, ticket: TicketModel, model: "LoggedModel") -> str:
    load = "mlflow.pytorch" if (model.params or {}).get("format") == "pt2" else "mlflow.onnx"
    return (
        f"Scheme {cut(ticket.scheme, 1000)}, its network from the retraining with seed "
        f"{ticket.params.get('seed', '?')}. It takes float32 images (N, "
        f"{', '.join(map(str, ticket.input_shape))}), scaled and normalised as ticket.json says."
        f'\n\n    network = {load}.load_model("models:/{name}@{ALIAS}")'
    )


def _logged(
    client: "MlflowClient", run_id: str, ticket: TicketModel, digest: str
) -> "LoggedModel":
    """Return the logged model of these weights, written now where the store has none."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    experiment = client.get_run(run_id).info.experiment_id
    for found in client.search_logged_models([experiment], f"tags.`{_WEIGHTS}` = '{digest}'"):
        if found.status == LoggedModelStatus.READY:
            return found
        client.delete_logged_model(found.model_id)  # a killed process left it half-written
    with tempfile.TemporaryDirectory() as temporary:
        folder, form, written = _written(ticket, Path(temporary))
        model = client.create_logged_model(
            experiment,
            re.sub(r"[/:.%\"']", "_", f"ticket {cut(ticket.scheme, NAME)}"),
            run_id,
            tags={_WEIGHTS: digest, _STUDY: ticket.uuid},
            params={
                **{key: cut(value, PARAM) for key, value in ticket.params.items()},
                "scheme": cut(ticket.scheme, PARAM),
                "format": form,
            },
            model_type="ticket",
        )
        written.model_id = written.model_uuid = model.model_id
        written.run_id, written.artifact_path = run_id, model.artifact_location
        written.save(str(folder / "MLmodel"))
        (folder / "ticket.json").write_text(ticket.ticket, encoding="utf-8")
        client.log_model_artifacts(model.model_id, str(folder))
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def _log_metrics(
    client: "MlflowClient", run_id: str, model: "LoggedModel", metrics: Mapping[str, float]
) -> None:
    """Write the metrics that the model has not, as of the data that its run names."""
    from mlflow.entities import Metric

    known = {metric.key: metric.value for metric in model.metrics or ()}
    inputs = client.get_run(run_id).inputs
    used = inputs.dataset_inputs if inputs else []
    at = int(1000 * time.time())
    rows = [
        Metric(
            *(key, float(value), at, 0),
            model_id=model.model_id,
            dataset_name=used[0].dataset.name if used else None,
            dataset_digest=used[0].dataset.digest if used else None,
            run_id=run_id,
        )
        for key, value in metrics.items()
        if known.get(key) != value
    ]
    if rows:
        client.log_batch(run_id, metrics=rows)


def _written(ticket: TicketModel, folder: Path) -> "tuple[Path, str, Model]":
    """Write a network in the first format that can hold it; return folder, format and model.

    Raises:
        ModelError: none can.
    """
    from sat_optuna.export.program import root_cause

    network = copy.deepcopy(ticket.network).cpu().eval()
    reasons = []
    for form, write in (("pt2", _write_program), ("onnx", _write_onnx)):
        into = folder / form
        try:
            with _EXPORTING, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of MLflow's and torch's, for their developers
                model, run = write(network, ticket, into)
            _check(run, network, ticket)
        except Exception as error:  # torch and onnxruntime raise any type of error
            reasons.append(f"{form}: {root_cause(error)}")
        else:
            return into, form, model
    raise ModelError(
        f"the network of scheme {ticket.scheme} cannot be logged as a model ({'; '.join(reasons)})"
        "; its weights are kept, and sat-optuna export writes them as safetensors"
    )


def _write_program(
    network: "nn.Module", ticket: TicketModel, folder: Path
) -> "tuple[Model, Callable[[Tensor], Tensor]]":
    import mlflow.pytorch
    from mlflow.models import Model

    from sat_optuna.export.program import read_program

    model = Model()
    mlflow.pytorch.save_model(
        network,
        str(folder),
        mlflow_model=model,
        pip_requirements=_required("torch", "numpy"),
        serialization_format="pt2",
        **_interface(network, ticket),
    )
    (file,) = folder.glob("data/*.pt2")
    return model, read_program(file)


def _write_onnx(
    network: "nn.Module", ticket: TicketModel, folder: Path
) -> "tuple[Model, Callable[[Tensor], Tensor]]":
    from sat_optuna.export.onnx import check_onnx, read_onnx, write_onnx

    check_onnx()
    import mlflow.onnx
    import onnx
    from mlflow.models import Model

    file = folder.with_suffix(".onnx")
    example = _images(ticket, _BATCHES[0])
    write_onnx(network, json.loads(ticket.ticket), file, example=example, opset=None)
    model = Model()
    mlflow.onnx.save_model(
        onnx.load(str(file)),
        str(folder),
        mlflow_model=model,
        pip_requirements=_required("onnx", "onnxruntime", "numpy"),
        save_as_external_data=False,
        **_interface(network, ticket),
    )
    return model, read_onnx(file)


def _required(*packages: str) -> list[str]:
    """Return pip's requirements; MLflow would load the model anew to find out."""
    return [f"{name}=={installed(name).partition('+')[0]}" for name in packages]


def _interface(network: "nn.Module", ticket: TicketModel) -> dict[str, Any]:
    """Return MLflow's signature of a network, any number of images, and an example of two."""
    import numpy as np
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    example = _images(ticket, _BATCHES[0])
    with torch.no_grad():
        output = network(example)
    kinds = np.dtype(np.float32)
    return {
        "signature": ModelSignature(
            Schema([TensorSpec(kinds, (-1, *ticket.input_shape))]),
            Schema([TensorSpec(kinds, (-1, *output.shape[1:]))]),
        ),
        "input_example": example.numpy(),
    }


def _images(ticket: TicketModel, count: int) -> "Tensor":
    """Draw (count, C, H, W) images, with few digits, since MLflow writes an example as text."""
    import torch

    from sat_optuna.seeds import generator_for

    drawn = torch.randn(count, *ticket.input_shape, generator=generator_for("export", count))
    return (drawn * 100).round() / 100


def _check(run: "Callable[[Tensor], Tensor]", network: "nn.Module", ticket: TicketModel) -> None:
    """Make sure that what was written computes as the network does, for any number of images."""
    import torch

    for count in _BATCHES:
        images = _images(ticket, count)
        with torch.no_grad():
            wanted, got = network(images).double(), run(images).double()
        apart = float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
        if not apart <= TOLERANCE:  # true for NaN as well
            raise ModelError(f"it differs by {apart:.1e} of the largest output at batch {count}")


def _digest(network: "nn.Module") -> str:
    """Return the SHA-256 of a network's tensors, their names and shapes."""
    from numpy import ascontiguousarray

    state = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        state.update(ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return state.hexdigest()
