"""The search of a study and its random control, brought to their total of finished trials."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sat_optuna.errors import StudyError
from sat_optuna.events import GETTING_READY, Event, OnEvent
from sat_optuna.pipeline.dashboard import note_references, refresh
from sat_optuna.pipeline.done import Done
from sat_optuna.pipeline.latency import measure_latency
from sat_optuna.pipeline.mlflow_log import StudyLog
from sat_optuna.pipeline.outcome import RANDOM
from sat_optuna.pipeline.passengers import find_passengers
from sat_optuna.pipeline.results import Searched
from sat_optuna.seeds import seed_for

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from sat_optuna.evidence.spread import Part, Spread
    from sat_optuna.pipeline.folder import StudyFolder

__all__ = ["random_control", "scored_on", "search", "searched_trials"]


def search(study: "StudyFolder", *, mlflow: bool, on_event: OnEvent) -> Searched:
    """Bring the search to its total of finished trials; then see which blocks its ticket needs.

    Raises:
        StudyError: a search is there that something else decided, or the supernet is not trained.
    """
    measure_latency(study, on_event)
    result = _bring(
        study,
        "search",
        total=study.config.search.trials,
        timeout=study.config.search.timeout,
        sampler=lambda: study.parts.sampler(),
        pruner=study.config.search.pruner,
        log=StudyLog(study) if mlflow else None,
        on_event=on_event,
    )
    if not result.left and result.best:
        find_passengers(study, on_event=on_event)
    if result.new:
        refresh(study)
    return result


def searched_trials(study: "StudyFolder") -> "Sequence[FrozenTrial]":
    """Return the finished trials of the search, once it is known to be of this configuration.

    Raises:
        StudyError: no search was run yet, or something else decided it.
    """
    study.optuna_study()
    return _held(study, "search", "", Done(study.search_decided))[1]


def random_control(study: "StudyFolder", *, on_event: OnEvent) -> Searched:
    """Score as many random schemes as the search had trials, in an Optuna study of their own."""
    from sat_optuna.search.study import build_sampler

    # A seed of its own: a control that repeats the search's draws would be none.
    seed, batch = seed_for(RANDOM, study.config.seed) % 2**32, study.config.search.batch
    return _bring(
        study,
        "search random",
        suffix=RANDOM,
        total=len(searched_trials(study)),
        sampler=lambda: build_sampler("random", seed=seed, batch=batch),
        pruner="none",  # what is left of a sample that was pruned by its scores is not random
        on_event=on_event,
    )


def _bring(
    study: "StudyFolder",
    step: str,
    *,
    suffix: str = "",
    total: int,
    timeout: float = 0.0,
    sampler: Callable[[], Any],
    pruner: str,
    log: StudyLog | None = None,
    on_event: OnEvent,
) -> Searched:
    """Bring an Optuna study of a folder to its total of finished trials.

    Args:
        study: the folder.
        step: names the search in events and messages.
        suffix: of the Optuna study's name; the search itself has none.
        total: finished trials, those of earlier runs too.
        timeout: seconds after which no new batch is begun; 0 for none.
        sampler: builds the sampler, where trials are missing.
        pruner: its name.
        log: where each trial is logged to MLflow; None for nowhere.
        on_event: told of each trial.
    """
    from sat_optuna.search.study import finished_trials

    record = Done(study.search_decided)
    trials: Sequence[FrozenTrial] = ()
    if study.has_search(suffix):
        record, trials = _held(study, step, suffix, record)
        # What a user has enqueued is run, also where there are enough trials without it.
        total = max(total, len(trials) + study.unfinished(suffix))
    exhaustive = not suffix and study.config.search.sampler == "brute-force"
    total = _reachable(total, trials) if exhaustive else total
    before, caught_up = len(trials), False
    if before < total:
        on_event(Event(step=step, done=before, total=total, message=GETTING_READY))
        built = sampler()
        if study.uses_supernet:
            study.check_supernet()
        opened = _opened(study, step, suffix, record, built, pruner)
        if step == "search" and study.config.search.objectives:
            _ask_for_ends(study, opened)
        with log.trials(opened) if log else nullcontext(_nowhere) as on_trial:
            if exhaustive:
                total = _reachable(total, trials, study.parts.schemes)
            _score(study, step, opened, total, timeout, on_trial, on_event)
        trials = finished_trials(opened)
    elif log and not log.has_trials(trials):
        with log.trials(study.optuna_study(suffix)):
            pass
        caught_up = log.has_trials(trials)
    result = Searched(
        step=step,
        db=study.db,
        trials=len(trials),
        new=len(trials) - before,
        left=max(0, total - len(trials)),
        caught_up=caught_up,
        best=_best(study, suffix, trials),
        spread=_spread(study, trials) if step == "search" else None,
    )
    on_event(Event(step=step, done=len(trials), total=total, made=result, finished=True))
    return result


def _reachable(total: int, trials: "Sequence[FrozenTrial]", schemes: int | None = None) -> int:
    """Return how many trials there are when all schemes were tried, if `total` are not fewer.

    Args:
        total: the number asked for.
        trials: those that are finished.
        schemes: how many there are; None to know it from the choices that a trial had.
    """
    if schemes is None:
        if not trials:
            return total
        spaces: Iterable[Iterable[Any]] = (trial.distributions.values() for trial in trials)
        schemes = max(math.prod([len(d.choices) for d in space]) for space in spaces)
    tried = {tuple(sorted(trial.params.items())) for trial in trials}
    return min(total, len(trials) + schemes - len(tried))


def _best(study: "StudyFolder", suffix: str, trials: "Sequence[FrozenTrial]") -> str:
    if not any(map(_is_complete, trials)):
        return ""
    from sat_optuna.search.tickets import measure_of

    opened = study.optuna_study(suffix)
    if study.config.search.objectives:
        return _front(opened)
    measure = measure_of(opened)
    scored = [t for t in trials if _is_complete(t) and measure.name in t.user_attrs]
    if not scored:
        return ""
    best = max(scored, key=_reward)
    value = measure.text(best.user_attrs[measure.name])
    return (
        f"{best.user_attrs['scheme']} with validation {measure.title} {value}"
        f" and reward {_reward(best):.3f}"
    )


def _front(opened: "optuna.Study") -> str:
    """Return the front in words: its size and its ends."""
    from sat_optuna.search.front import front_trials, values_of

    front = front_trials(opened)
    ends = (
        f"{trial.user_attrs['scheme']} ("
        + ", ".join(f"{name} {value:.6g}" for name, value in values_of(opened, trial).items())
        + ")"
        for trial in (front if len(front) < 2 else (front[0], front[-1]))
    )
    return f"{_points(opened)}, {' to '.join(ends)}"


def _points(opened: "optuna.Study") -> str:
    """Return how many schemes are on the front, in words."""
    from sat_optuna.search.front import front_trials

    try:
        count = len(front_trials(opened))
    except StudyError:
        return ""  # no trial is complete yet
    return f"front of {count} scheme{'s' * (count > 1)}"


def scored_on(study: "StudyFolder") -> "Part | None":
    """Return what the schemes of a search were scored on; None in one of an earlier version."""
    from sat_optuna.evidence.spread import Part
    from sat_optuna.search.space import COUNTS_KEY

    return Part.of(study.optuna_study().user_attrs.get(COUNTS_KEY, ()))


def _spread(study: "StudyFolder", trials: "Sequence[FrozenTrial]") -> "Spread | None":
    """Return how far the complete trials' scores lie apart; None where there is none."""
    from sat_optuna.evidence.spread import Spread
    from sat_optuna.search.tickets import measure_of

    measure = measure_of(study.optuna_study())
    rows = [
        (trial.user_attrs["scheme"], trial.user_attrs[measure.name])
        for trial in trials
        if trial.state.name == "COMPLETE" and measure.name in trial.user_attrs
    ]
    return Spread.of(rows, scored_on(study), measure) if rows else None


def _held(
    study: "StudyFolder", step: str, suffix: str, record: Done
) -> "tuple[Done, Sequence[FrozenTrial]]":
    """Return the record and the finished trials of a search that was begun.

    Raises:
        StudyError: something else decided it, or its Optuna study is another one.
    """
    from sat_optuna.search.study import UUID_KEY, finished_trials

    there = f"study {study.search_name + suffix!r} in {study.db}"
    record = study.records.held(_record_of(step), record.decided, there=there)
    opened = study.optuna_study(suffix)
    uuid = opened.user_attrs.get(UUID_KEY)
    if record.made.get("uuid", uuid) != uuid:
        raise StudyError(
            f"{there} is not the one that was begun here; bring that study.db back, or make a new "
            "study"
        )
    return record, finished_trials(opened)


def _opened(
    study: "StudyFolder", step: str, suffix: str, record: Done, sampler: Any, pruner: str
) -> "optuna.Study":
    """Open the Optuna study for writing, made if missing; its record is written first."""
    from sat_optuna.search.study import UUID_KEY, build_pruner, create_study

    study.records.write(_record_of(step), record)
    opened = create_study(
        study.storage,
        study.search_name + suffix,
        config=study.config,
        sampler=sampler,
        pruner=build_pruner(pruner),
    )
    made = {"uuid": opened.user_attrs[UUID_KEY]}
    study.records.write(_record_of(step), Done(record.decided, made))
    return opened


def _ask_for_ends(study: "StudyFolder", opened: "optuna.Study") -> None:
    """Let the first trials of a front be plain and full, its natural ends, where they may be."""
    from sat_optuna.scheme import Scheme

    search, kinds = study.config.search, [spec.kind for spec in study.config.attention.kinds]
    if search.fixed or any(t.state.name != "WAITING" for t in opened.get_trials(deepcopy=False)):
        return
    names = Scheme.parameter_names(study.parts.check_fit())
    limited = search.max_connections or search.max_params or search.max_macs
    ends = ["none"] if limited or search.limits_latency else ["none", *kinds]
    for kind in ends:
        opened.enqueue_trial(dict.fromkeys(names, kind), skip_if_exists=True)


def _record_of(step: str) -> str:
    return step.replace(" ", "-")


def _score(
    study: "StudyFolder",
    step: str,
    opened: "optuna.Study",
    total: int,
    timeout: float,
    log_trial: "Callable[[FrozenTrial], object]",
    on_event: OnEvent,
) -> None:
    """Score trials until there are enough of them."""
    from sat_optuna.search.objective import SupernetObjective, TrainObjective
    from sat_optuna.search.study import (
        finished_trials,
        hold_to,
        run_trials,
        warn_of_other_machine,
    )
    from sat_optuna.training.checkpoint import read_record

    if not study.uses_supernet:  # else the pretraining has told it
        study.parts.tell_of_data(on_event)
    config, objective = study.config, study.parts.objective
    for scored in (study.optuna_study(), opened):  # a control is scored as its search was
        hold_to(scored, objective.scored_with())
    if study.uses_supernet:
        begun = read_record(study.supernet_path)["environment"]
        name = study.supernet_path.name
        device = objective.train.device.type
        warn_of_other_machine(f"the supernet of {study.name!r}, {name},", begun, device)
    trials = finished_trials(opened)
    several = bool(config.search.objectives)
    best = None if several else max(filter(_is_complete, trials), key=_reward, default=None)
    done = len(trials)

    def on_trial(trial: "FrozenTrial") -> None:
        nonlocal best, done
        done += 1
        if (
            not several
            and _is_complete(trial)
            and (best is None or _reward(trial) > _reward(best))
        ):
            best = trial
        log_trial(trial)
        on_event(told(trial))

    def told(trial: "FrozenTrial | None") -> Event:
        if several and done:
            return Event(step=step, done=done, total=total, message=_points(opened), made=trial)
        return _told(step, done, total, best, trial)

    def on_training(event: Event) -> None:
        within = (event.done + event.share) / event.total
        on_event(replace(told(None), share=within))

    if isinstance(objective, TrainObjective):
        objective.on_event = on_training
    on_event(told(None))
    run_trials(
        opened,
        objective,
        trials=total,
        batch=3 if config.search.sampler == "paper" else config.search.batch,
        stages=objective.stages,
        kinds=objective.kinds,
        timeout=timeout,
        on_batch=objective.score_ahead if isinstance(objective, SupernetObjective) else None,
        on_trial=on_trial,
    )
    if step == "search" and isinstance(objective, SupernetObjective):
        note_references(opened, objective)


def _is_complete(trial: "FrozenTrial") -> bool:
    """Tell whether a trial came to its end; a pruned one has the value of an early epoch."""
    return trial.state.name == "COMPLETE" and bool(trial.values)


def _reward(trial: "FrozenTrial") -> float:
    """Return the one value of a trial."""
    return trial.values[0] if trial.values else float("-inf")


def _told(
    step: str,
    done: int,
    total: int,
    best: "FrozenTrial | None",
    trial: "FrozenTrial | None",
) -> Event:
    """Return what is told after a trial, or before the first of them."""
    return Event(
        step=step,
        done=done,
        total=total,
        message="" if best is None else f"best reward {_reward(best):.3f}",
        best="" if best is None else best.user_attrs.get("scheme", ""),
        made=trial,
    )


def _nowhere(_trial: "FrozenTrial") -> None:
    """Log a trial nowhere."""
