"""Which blocks a study's ticket can do without, told by images that its search did not see."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from sat_optuna.events import GETTING_READY, Event, OnEvent
from sat_optuna.files import sha256_of, write_text
from sat_optuna.pipeline.done import Done
from sat_optuna.scheme import Scheme

if TYPE_CHECKING:
    from sat_optuna.evaluate import SchemeResult
    from sat_optuna.evidence.passengers import Passengers
    from sat_optuna.pipeline.folder import StudyFolder
    from sat_optuna.search.objective import SupernetObjective

__all__ = ["find_passengers", "known_passengers"]


def known_passengers(study: "StudyFolder", searched: Scheme) -> "Passengers | None":
    """Return what was found of a searched scheme; None where none was looked for yet, or can be.

    Where no validation image is held back from the search (search.held_back = 0), none can be.
    """
    if not study.config.search.held_back:
        return None
    from sat_optuna.evidence.passengers import Passengers

    path = study.work / "passengers.json"
    decided = {**study.search_decided, "searched": str(searched)}
    if not study.records.is_current("passengers", decided, {path.name: path}):
        return None
    return Passengers.from_dict(json.loads(path.read_text(encoding="utf-8")))


def find_passengers(study: "StudyFolder", *, on_event: OnEvent) -> "Passengers | None":
    """Find which connections of the best trial's scheme can go, unless it is known.

    Returns:
        None where no validation image is held back from the search.

    Raises:
        StudyError: no search was run yet, no trial is complete, or the supernet is not there.
        DataError: the metric is no mean over images.
    """
    if not study.config.search.held_back:
        return None
    searched = study.ticket().scheme
    found = known_passengers(study, searched)
    if found is None:
        on_event(Event(step="passengers", done=0, total=1, message=GETTING_READY))
        found = _found(study, searched)
        path = study.work / "passengers.json"
        write_text(path, json.dumps(found.to_dict(), indent=1) + "\n")
        decided = {**study.search_decided, "searched": str(searched)}
        made = {path.name: sha256_of(path)}
        study.records.write("passengers", Done(decided, made, finished=True))
    on_event(Event(step="passengers", done=1, total=1, made=found, finished=True))
    return found


def _found(study: "StudyFolder", searched: Scheme) -> "Passengers":
    from sat_optuna.evaluate import Evaluator
    from sat_optuna.evidence.passengers import drop_passengers

    objective = cast("SupernetObjective", study.parts.objective)
    evaluator = Evaluator(
        objective.net,
        study.parts.held_back,
        calibration=objective.evaluator.calibration,
        task=objective.task,
        metric=objective.metric,
    )

    def score(schemes: Sequence[Scheme]) -> "dict[Scheme, SchemeResult]":
        return {r.scheme: r for unit in evaluator.results(schemes) for r in unit}

    names = Scheme.parameter_names(searched.stages)
    return drop_passengers(
        searched,
        score,
        measure=objective.metric.measure,
        labels=evaluator.labels,
        fixed=[names.index(name) for name in study.config.search.fixed],
    )
