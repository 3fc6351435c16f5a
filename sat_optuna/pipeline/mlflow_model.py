"""The ticket's network on its way to MLflow's logged models and registry."""

import warnings
from statistics import fmean
from typing import TYPE_CHECKING

from sat_optuna.errors import SatOptunaError, SatOptunaWarning, StudyError
from sat_optuna.files import sha256_of
from sat_optuna.pipeline.done import Done
from sat_optuna.pipeline.outcome import networks_step

if TYPE_CHECKING:
    from sat_optuna.pipeline.folder import StudyFolder
    from sat_optuna.pipeline.outcome import Outcome
    from sat_optuna.tracking.models import TicketModel
    from sat_optuna.tracking.store import RunStore

__all__ = ["DIGITS", "log_best_model"]

DIGITS = 4  # after the point: MLflow shows all there are, and cuts what its columns do not hold


def log_best_model(
    study: "StudyFolder", outcome: "Outcome", store: "RunStore", run_id: str
) -> str | None:
    """Log the ticket's network, as retrained with the first seed, and register it as the best.

    Where that cannot be done, that is said and nothing else is missing.

    Args:
        study: the study's folder.
        outcome: what was retrained, the ticket with its first seed at least.
        store: where to.
        run_id: the run of the ticket.

    Returns:
        The number of the registered version; None where there is none.

    Raises:
        TrackingError: the store cannot be read or written.
    """
    from sat_optuna.tracking import TrackingError
    from sat_optuna.tracking.models import log_ticket_model

    try:
        return log_ticket_model(store, run_id, _model_of(study, outcome))
    except TrackingError:
        raise
    except SatOptunaError as error:  # its weights were removed, or no format can hold it
        warnings.warn(f"no model was logged to MLflow: {error}", SatOptunaWarning, stacklevel=2)
        return None


def _model_of(study: "StudyFolder", outcome: "Outcome") -> "TicketModel":
    """Return the ticket's network with the weights of its first retraining.

    Raises:
        StudyError: the weights are not what the retraining made.
    """
    from sat_optuna.export.weights import load_weights
    from sat_optuna.tracking.models import TicketModel

    ticket, measured = outcome.tickets["ticket"], f"{outcome.split}_{outcome.measure.name}"
    scores = {score.seed: score.value for score in ticket.scores if score.split == outcome.split}
    job = next(job for job in outcome.jobs if job.scheme == ticket.scheme)  # seeds are outermost
    record = study.records.get(networks_step(study.config)) or Done({})
    path = job.weights_path
    if not path.is_file() or sha256_of(path) != record.made.get(path.name):
        raise StudyError(
            f"{path} was removed or is not what the retraining made; bring work/ back from a copy"
        )
    metrics = {
        # As in the run's summary: metrics of a model are also metrics of its run.
        measured: round(fmean(scores.values()), DIGITS),
        f"{measured} seed {job.seed}": round(scores[job.seed], DIGITS),  # of these weights
        "parameters": ticket.params,
        "macs": ticket.macs,
    }
    if ticket.latency_ms is not None:
        metrics["latency_ms"] = round(ticket.latency_ms, DIGITS)
    return TicketModel(
        name=ticket.study or study.name,
        uuid=ticket.study_uuid or "",
        place=study.project.name,
        scheme=str(ticket.scheme),
        network=load_weights(ticket, path),
        input_shape=ticket.input_shape,
        ticket=ticket.to_json(),
        metrics=metrics,
        params={
            "backbone": ticket.backbone,
            "epochs": study.config.retrain.epochs,
            "seed": job.seed,
        },
    )
