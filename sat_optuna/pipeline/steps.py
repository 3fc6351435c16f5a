"""The steps of a study, each done once: pretrain, search, enumerate, retrain, report, run.

Each takes a study's folder, whose lock the caller holds, tells `on_event` how far it is, and
returns what it came to. A step whose result is there imports no torch.
"""

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from sat_optuna.config.config import decided
from sat_optuna.errors import SatOptunaError, SatOptunaWarning
from sat_optuna.events import GETTING_READY, Event, OnEvent
from sat_optuna.files import check_writable, sha256_of
from sat_optuna.pipeline.ahead import training_ahead
from sat_optuna.pipeline.blocks import current_enumeration, enumeration_decided
from sat_optuna.pipeline.done import Done
from sat_optuna.pipeline.folding import folding
from sat_optuna.pipeline.latency import measure_latency
from sat_optuna.pipeline.results import Enumerated, Pretrained, RunResult
from sat_optuna.pipeline.retraining import report, retrain, retrain_searched
from sat_optuna.pipeline.search import random_control, search, searched_trials
from sat_optuna.scheme import ENUMERATION_LIMIT
from sat_optuna.ticket import ACCURACY

if TYPE_CHECKING:
    from collections.abc import Collection

    from sat_optuna.pipeline.folder import StudyFolder

__all__ = ["pretrain", "report", "retrain", "run", "score_all", "search"]


def run(study: "StudyFolder", *, mlflow: bool, on_event: OnEvent) -> RunResult:
    """Go the whole road; where search.timeout ends the search, it ends there."""
    if study.config.is_given:
        return _run_given(study, mlflow=mlflow, on_event=on_event)
    if not study.has_search():  # where it was begun: no torch for nothing
        first = "pretrain" if study.uses_supernet else "search"
        on_event(Event(step=first, done=0, total=1, message=GETTING_READY))
        check_writable(study.db)
        if mlflow:
            _look_at_store(study)
        measure_latency(study, on_event)  # while the machine does nothing else
        study.parts.check_search()
    with training_ahead(study):
        if study.uses_supernet:
            pretrain(study, on_event=on_event)
        left = search(study, mlflow=mlflow, on_event=on_event).left
        folded = study.config.search.objective == "folded"
        if not left and not folded:
            random_control(study, on_event=on_event)
    if folded and not left:
        return _run_folded(study, on_event)
    if left:
        from sat_optuna.search.study import finished_trials
        from sat_optuna.search.tickets import best_ticket

        opened = study.optuna_study()
        complete = any(trial.state.name == "COMPLETE" for trial in finished_trials(opened))
        best = best_ticket(opened) if complete else None
        return RunResult(ticket=best, tickets={}, report=None)
    retrain_searched(study, mlflow=mlflow, on_event=on_event)
    return _reported(study, on_event)


def _reported(study: "StudyFolder", on_event: OnEvent) -> RunResult:
    reported = report(study, on_event=on_event)
    tickets = reported.tickets
    return RunResult(ticket=tickets["ticket"], tickets=tickets, report=reported.path)


def _run_given(study: "StudyFolder", *, mlflow: bool, on_event: OnEvent) -> RunResult:
    """Go the road of a ticket that is given: no pretraining, no search."""
    if study.records.get("given") is None:  # where it was begun: no torch for nothing
        on_event(Event(step="retrain", done=0, total=1, message=GETTING_READY))
        if mlflow:
            _look_at_store(study)
        study.parts.check_search()
    retrain(study, mlflow=mlflow, on_event=on_event)
    return _reported(study, on_event)


def _look_at_store(study: "StudyFolder") -> None:
    """Say at once, before hours of training, what the search would say of MLflow's store."""
    from sat_optuna.tracking import check_store

    try:
        check_store(study.mlruns)
    except SatOptunaError as error:
        warnings.warn(
            f"nothing can be logged to MLflow now: {error}; the study goes on, and is logged "
            "later: by the same command, or by sat-optuna doctor --fix",
            SatOptunaWarning,
            stacklevel=2,
        )


def _run_folded(study: "StudyFolder", on_event: OnEvent) -> RunResult:
    """End the road of a study in which nothing is trained again: with the scores of all schemes.

    Where there are too many to score all, the search is all there is.
    """
    from sat_optuna.search.tickets import best_ticket

    several = bool(study.config.search.objectives)  # of which no trial is the best
    best, page = None if several else best_ticket(study.optuna_study()), None
    if 2 ** sum(study.parts.check_fit()) <= ENUMERATION_LIMIT:
        limit = ENUMERATION_LIMIT
        page = score_all(study, top=10, memory=0, limit=limit, on_event=on_event).folded
    return RunResult(ticket=best, tickets={}, report=page)


def pretrain(study: "StudyFolder", *, on_event: OnEvent) -> Pretrained:
    """Train the supernet to its configured epochs, from where its checkpoint stands.

    Raises:
        StudyError: a supernet is there that something else decided.
    """
    path, epochs = study.supernet_path, study.config.pretrain.epochs
    record, loss = Done(decided(study.config, "pretrain")), None
    if path.exists():
        record = study.records.held("pretrain", record.decided, there=str(path))
    elif study.has_search():
        _check_searched(study)
        # The bytes that the search was begun with stay known, should this be stopped again.
        if gone := study.records.get("pretrain"):
            record = Done(record.decided, gone.made)
    if record.finished:
        study.check_supernet()
    else:
        loss = _train_supernet(study, record, on_event)
    result = Pretrained(path=path, epochs=epochs, loss=loss)
    on_event(Event(step="pretrain", done=epochs, total=epochs, made=result, finished=True))
    return result


def _check_searched(study: "StudyFolder") -> None:
    """Make sure, before a supernet is trained anew, that the search there is may go on with it.

    Raises:
        StudyError: no record says what the search was scored with, or something else decided it.
    """
    searched_trials(study)
    warnings.warn(
        f"the supernet that study {study.name!r} was searched with is gone; it is trained again, "
        "and the search goes on only if it comes out bit for bit the same, which takes the same "
        "machine, versions and number of threads",
        SatOptunaWarning,
        stacklevel=2,
    )


def _train_supernet(study: "StudyFolder", record: Done, on_event: OnEvent) -> float:
    """Train the supernet; return the loss of its last epoch."""
    total = study.config.pretrain.epochs
    on_event(Event(step="pretrain", done=0, total=total, message=GETTING_READY))
    from sat_optuna.training.loop import pretrain as train_supernet

    config, path = study.config, study.supernet_path
    body: Collection[str] = ()
    if config.pretrain.start == "weights":
        net, loaded = study.parts.loaded_supernet()
        body = loaded.body
    else:
        net = study.parts.fresh_supernet()
    study.parts.tell_of_data(on_event)
    study.records.write("pretrain", record)  # first: a checkpoint without one is never trained on
    history = train_supernet(
        net,
        study.parts.data,
        epochs=config.pretrain.epochs,
        seed=config.seed,
        connect=config.pretrain.connect,
        draws=config.pretrain.draws,
        config=config.train,
        body=body,
        task=study.parts.task,
        checkpoint=study.parts.checkpoint,
        # The step's last event is the caller's, once the record is written.
        on_event=lambda event: None if event.finished else on_event(event),
    )
    made = {path.name: sha256_of(path)}
    study.records.write("pretrain", Done(record.decided, made, finished=True))
    return history[-1].loss


def score_all(
    study: "StudyFolder", *, top: int, memory: int, limit: int, on_event: OnEvent
) -> Enumerated:
    """Score all schemes in the pretrained supernet, each with BatchNorm calibrated for it.

    Raises:
        SchemeError: there are more schemes than the limit.
        StudyError: the supernet is not trained.
    """
    on_event(Event(step="enumerate", done=0, total=1, message=GETTING_READY))
    from sat_optuna.evidence.enumeration import Enumeration, enumerate_schemes

    table, weight = study.folder / "enumeration.npz", study.config.search.sparsity_weight
    study.check_supernet()
    kinds = [spec.kind for spec in study.config.attention.kinds]
    new = current_enumeration(study) is None
    objective = study.parts.supernet_objective(cache=0, memory=memory) if new else None
    if objective:
        scores = enumerate_schemes(
            objective,
            limit=limit,
            journal=study.work / "enumeration.jsonl",
            on_event=on_event,
        )
    else:
        scores = Enumeration.read(table, kinds=kinds, sparsity_weight=weight)
    is_folded = study.config.search.objective == "folded"
    scored = {"scored": "in the trained network, its dropped modules constants,"}
    _, _, page = scores.write(study.folder, top=top, **(scored if is_folded else {}))
    record = Done(enumeration_decided(study), {table.name: sha256_of(table)}, finished=True)
    study.records.write("enumeration", record)
    result = Enumerated(scores=scores, new=new, table=table, page=page)
    if is_folded and scores.measure == ACCURACY:
        result = replace(result, **folding(study, scores, objective, on_event=on_event))
    total = len(scores.schemes)
    on_event(Event(step="enumerate", done=total, total=total, made=result, finished=True))
    return result
