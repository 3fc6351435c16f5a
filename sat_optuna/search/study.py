"""The Optuna study of a search: opened, continued after any end, and read."""

import json
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, TypeAlias

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sat_optuna.config.config import StudyConfig
from sat_optuna.config.objectives import directions_of
from sat_optuna.errors import SatOptunaWarning, StudyError, TrainingError
from sat_optuna.processes import worker_name
from sat_optuna.sampler import PolicyGradientSampler
from sat_optuna.sampler.storage import SamplerSettingsError, backend_of, claim_study, id_of
from sat_optuna.scheme import Scheme
from sat_optuna.search.baselines import NumberSeededSampler
from sat_optuna.search.hub import HubSampler
from sat_optuna.search.space import (
    NETWORK_KEY,
    WORKER_KEY,
    ChoiceError,
    check_names,
    given_choices,
    scheme_space,
    suggest_scheme,
)
from sat_optuna.search.storage import UUID_KEY, place_of, still_there, together, writing
from sat_optuna.search.unfinished import stale_trials
from sat_optuna.tasks import MetricError
from sat_optuna.ticket import Setting
from sat_optuna.training.checkpoint import environment

__all__ = [
    "CONFIG_KEY",
    "HUB",
    "MACHINE_KEY",
    "REWARD",
    "UUID_KEY",
    "StudySampler",
    "build_pruner",
    "build_sampler",
    "create_study",
    "finished_trials",
    "hold_to",
    "load_study",
    "name_objectives",
    "name_of",
    "note_machine",
    "run_trials",
    "warn_of_other_machine",
]

# An Optuna objective: a value, or one for each direction of the study.
Objective: TypeAlias = Callable[[optuna.Trial], float | tuple[float, ...]]

StudySampler: TypeAlias = PolicyGradientSampler | NumberSeededSampler | HubSampler
HUB = "optunahub:"  # begins the names of OptunaHub's samplers

REWARD = "reward"  # the name of the one objective, where there are not several

# What is known of a study lies in user attributes, and stays there: when optuna-dashboard renames
# a study it makes a new one, which gets these alone.
CONFIG_KEY = "sat:config"
# What machine, versions, threads and device the first trials were scored with.
MACHINE_KEY = "sat:machine"


def build_sampler(
    name: str,
    *,
    seed: int,
    batch: int,
    settings: Mapping[str, Setting] = MappingProxyType({}),
    space: Mapping[str, Sequence[str]] = MappingProxyType({}),
    **more: Any,
) -> StudySampler:
    """Return the sampler of a name of `[search] sampler`.

    Each is a function of the study's history, but for those of OptunaHub, which warn.

    Args:
        name: of the sampler.
        seed: of its proposals.
        batch: trials told at once, of "policy".
        settings: further arguments, of Optuna's and OptunaHub's samplers.
        space: the parameters and their choices, of OptunaHub's samplers.
        **more: `replicates`, `search_space`, `budget`, `max_connections`, `fixed` of our own
            samplers.

    Raises:
        StudyError: no scheme keeps the budget, or the sampler cannot be had or made.
    """
    if name.startswith(HUB):
        return HubSampler(name.removeprefix(HUB), seed=seed, settings=settings, space=space)
    try:
        if name == "policy":
            return PolicyGradientSampler(seed=seed, batch=batch, **more)
        if name == "paper":
            return PolicyGradientSampler(seed=seed, preset="paper", **more)
    except ValueError as error:
        raise StudyError(f"the sampler of this study cannot be made: {error}") from error
    return NumberSeededSampler(name, seed=seed, settings=settings)


def build_pruner(name: str) -> optuna.pruners.BasePruner:
    """Return the pruner of a name of `[search] pruner`."""
    pruners: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
        "none": optuna.pruners.NopPruner,
        "median": optuna.pruners.MedianPruner,
        "halving": optuna.pruners.SuccessiveHalvingPruner,
        "hyperband": optuna.pruners.HyperbandPruner,
    }
    return pruners[name]()


def create_study(
    storage: BaseStorage,
    name: str,
    *,
    config: StudyConfig,
    sampler: StudySampler,
    pruner: optuna.pruners.BasePruner | None = None,
) -> optuna.Study:
    """Open the study of that name, or make it, with its configuration stored.

    Raises:
        StudyError: it was made with another version of the sampler, or cannot be written.
    """
    objectives = config.search.objectives
    with writing(name):
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            sampler=sampler,
            pruner=pruner or optuna.pruners.NopPruner(),
            directions=directions_of(objectives),
            load_if_exists=True,
        )
        if objectives or not study.metric_names:
            name_objectives(study, objectives)
        if UUID_KEY not in study.user_attrs:
            study.set_user_attr(UUID_KEY, str(uuid.uuid4()))
        try:
            claim_study(study, sampler.settings())
        except SamplerSettingsError as error:
            raise StudyError(str(error)) from error
        if study.user_attrs.get(CONFIG_KEY) != config.to_dict():
            study.set_user_attr(CONFIG_KEY, config.to_dict())
    return study


def hold_to(study: optuna.Study, scored_with: Mapping[str, Any]) -> None:
    """Note what the trials of a study are scored with, or compare it with what is noted.

    Args:
        study: an objective's, to be maximised.
        scored_with: network, attention, data and what else decides a score; JSON values.

    Raises:
        StudyError: earlier trials were scored with something else, or the study's directions are
            not those of the objectives.
    """
    objectives = scored_with.get("objectives", ())
    directions = directions_of(objectives)
    if objectives or len(study.directions) > 1:
        has = [direction.name.lower() for direction in study.directions]
        if has != list(directions):
            raise StudyError(
                f"study {study.study_name!r} has the directions {has}, and this objective returns "
                f"{', '.join(objectives) or 'one reward'}; create it with "
                f"directions={list(directions)}"
            )
        name_objectives(study, objectives)
    if study.directions == [StudyDirection.MINIMIZE]:
        raise StudyError(
            f"study {study.study_name!r} minimises, and this objective returns a reward, which is "
            "the better the higher; create it with direction='maximize'"
        )
    stored, given = study.user_attrs.get(NETWORK_KEY), json.loads(json.dumps(scored_with))
    if stored is None:
        study.set_user_attr(NETWORK_KEY, given)
    # Task and metric are named where they are not classification and accuracy.
    elif changed := [
        key
        for key in dict.fromkeys((*given, *(stored.keys() & {"class_weights", "metric", "task"})))
        if given.get(key) != stored.get(key)
    ]:
        raise StudyError(
            f"the trials of study {study.study_name!r} were scored with another "
            f"{' and '.join(changed)} than is given now; bring that back, or make a new study"
        )


def name_objectives(study: optuna.Study, objectives: Sequence[str]) -> None:
    """Store the names of a study's objectives, which Optuna's plots and its dashboard show.

    Without any there is one, the reward.
    """
    names = list(objectives or (REWARD,))
    if study.metric_names != names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(names)


def note_machine(study: optuna.Study, device: str) -> None:
    """Note what scores a study: machine, versions, threads, device; warn where it was another.

    Args:
        study: whose trials are scored now.
        device: its type.
    """
    begun = study.user_attrs.get(MACHINE_KEY)
    if begun is None:
        study.set_user_attr(MACHINE_KEY, _machine(device))
    else:
        warn_of_other_machine(f"study {study.study_name!r}", begun, device)


def _machine(device: str) -> dict[str, Any]:
    import torch  # not for those who only read a study

    return environment(device, torch.get_num_threads())


def warn_of_other_machine(what: str, begun: Mapping[str, Any], device: str) -> None:
    """Warn where something was begun with another machine, version, device or thread count."""
    here = _machine(device)
    if changed := [key for key in here if begun.get(key) != here[key]]:
        said = "; ".join(f"{key}: {begun.get(key)} then, {here[key]} now" for key in changed)
        warnings.warn(
            f"{what} was begun elsewhere ({said}); the search goes on, but its last bits may "
            "differ from those of an unbroken one",
            SatOptunaWarning,
            stacklevel=3,
        )


def name_of(storage: BaseStorage, uuid: str) -> str | None:
    """Return the name of the study that has a uuid, whatever its folder is called now."""
    studies = storage.get_all_studies()
    return next((s.study_name for s in studies if s.user_attrs.get(UUID_KEY) == uuid), None)


def load_study(storage: BaseStorage, name: str) -> optuna.Study:
    """Open a study for reading.

    Raises:
        StudyError: there is none of that name.
    """
    try:
        return optuna.load_study(
            storage=storage, study_name=name, sampler=optuna.samplers.RandomSampler()
        )
    except KeyError as error:
        known = ", ".join(optuna.get_all_study_names(storage)) or "none"
        raise StudyError(
            f"{place_of(storage)} holds no study {name!r}; it holds: {known}; give one of these "
            "names"
        ) from error


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the finished trials in number order, not copied."""
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]


def run_trials(
    study: optuna.Study,
    objective: Objective,
    *,
    trials: int,
    batch: int,
    stages: Iterable[int],
    kinds: Iterable[str],
    timeout: float = 0.0,
    on_batch: Callable[[list[Scheme]], None] | None = None,
    on_trial: Callable[[FrozenTrial], None] | None = None,
) -> int:
    """Bring a study to its total of finished trials, batch by batch, in number order.

    A batch is asked whole before its first trial is scored, as plain `study.optimize` would not:
    the objective's values are the same either way. A RUNNING trial of a dead worker is taken over
    under its own number; what it had stored comes back and what is missing is drawn again by the
    same rule, so an interrupted search equals an unbroken one. Enqueued trials are run all, in the
    places of their numbers; one with choices that are none of a scheme becomes FAIL.

    A trial's start is when its scoring begins, not when it was asked: that of its batch where
    `on_batch` scores the batch together, else its own turn.

    Args:
        study: opened by `create_study`.
        objective: an Optuna objective; a TrainingError or MetricError of it makes its trial FAIL.
        trials: total of finished trials, those of earlier runs and enqueued ones too; more only
            where more were enqueued.
        batch: trials asked together; batch k holds the numbers k * batch to (k + 1) * batch - 1.
        stages: blocks of each stage.
        kinds: names of the kinds of attention.
        timeout: seconds after which no new batch is begun; 0 for none.
        on_batch: called with the schemes of each batch before the first of them is scored.
        on_trial: called with each trial finished now.

    Returns:
        The number of trials finished now.

    Raises:
        StudyError: a trial belongs to a worker that is alive, or the study was deleted.
    """
    stages, kinds = tuple(stages), tuple(kinds)
    space = scheme_space(stages, kinds)
    schemes: dict[int, Scheme | None] = {}

    def suggest(trial: optuna.Trial) -> Scheme:
        with together(study):
            check_names(trial, space, given_choices(trial))
            return suggest_scheme(trial, stages, kinds)

    def suggested(trial: optuna.Trial) -> Scheme | None:
        if trial.number not in schemes:
            schemes[trial.number] = None  # it is told when it is the trial's turn
            with suppress(ChoiceError):
                schemes[trial.number] = suggest(trial)
        return schemes[trial.number]

    def scored(trial: optuna.Trial) -> float | tuple[float, ...]:
        return objective(trial) if suggested(trial) else suggest(trial).sparsity

    deadline = time.monotonic() + timeout if timeout else float("inf")
    done = 0
    with writing(study.study_name), still_there(study):
        while True:
            in_time = time.monotonic() < deadline
            asked = _next_batch(study, suggested, trials=trials, batch=batch, in_time=in_time)
            if not asked:
                return done
            if on_batch:
                asked = [trial for trial in asked if _start_now(study, trial)]
                on_batch([scheme for trial in asked if (scheme := suggested(trial))])
            for trial in asked:
                if not on_batch and not _start_now(study, trial):
                    continue
                finished = _finish(study, trial, scored)
                done += 1
                if on_trial:
                    on_trial(finished)


def _next_batch(
    study: optuna.Study,
    suggest: Callable[[optuna.Trial], object],
    *,
    trials: int,
    batch: int,
    in_time: bool,
) -> list[optuna.Trial]:
    """Return the trials to work on now: what dead workers left of a batch, and its rest asked."""
    taken = _take_over(study)
    known = study.get_trials(deepcopy=False)
    count = len(known)
    waiting = [t.number for t in known if t.state is TrialState.WAITING]
    if not taken and (not in_time or (count >= trials and not waiting)):
        return []
    first = min([trial.number for trial in taken] + waiting[:1], default=count)
    for trial in taken:
        suggest(trial)
    end = min((first // batch + 1) * batch, max(trials, count))
    # An ask takes the first waiting trial, and makes a new one where none waits.
    for _ in range(sum(number < end for number in waiting) + max(0, end - count)):
        with together(study):
            trial = study.ask()
            trial.set_user_attr(WORKER_KEY, worker_name())
            suggest(trial)  # before the next is asked, which shall not repeat it
        taken.append(trial)
    # Those that wait come after the taken ones above, and may have smaller numbers.
    return sorted(taken, key=lambda trial: trial.number)


def _start_now(study: optuna.Study, trial: optuna.Trial) -> bool:
    """Let a trial begin at this moment; tell whether it is still this process's.

    Optuna sets the start of a trial that was waiting. One that a kill leaves waiting between the
    two lines is asked first by the next run, with the parameters that it has.
    """
    backend, _ = backend_of(study)
    with suppress(UpdateFinishedTrialError):  # it is told when it is the trial's turn
        backend.set_trial_state_values(id_of(trial), TrialState.WAITING)
        if not backend.set_trial_state_values(id_of(trial), TrialState.RUNNING):
            warnings.warn(
                f"trial {trial.number} was taken by another process when its turn came; it is "
                "left to that, and the search goes on",
                SatOptunaWarning,
                stacklevel=3,
            )
            return False
    return True


def _take_over(study: optuna.Study) -> list[optuna.Trial]:
    """Attach to the RUNNING trials of dead workers; refuse those of live ones."""
    stale = stale_trials(study)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if alive := [t.number for t in running if t not in stale]:
        raise StudyError(
            f"trials {alive} of study {study.study_name!r} are being run by another process; "
            "wait for it, or end it, and run the same command again"
        )
    taken = [optuna.trial.Trial(study, id_of(t)) for t in stale]
    for trial in taken:
        trial.set_user_attr(WORKER_KEY, worker_name())
    return taken


def _finish(study: optuna.Study, trial: optuna.Trial, objective: Objective) -> FrozenTrial:
    """Score one trial and tell the study how it ended.

    One that somebody ended meanwhile, by a button of optuna-dashboard for example, stays as it is.
    """
    try:
        value = objective(trial)
    except UpdateFinishedTrialError:
        return _as_ended(study, trial)
    except optuna.TrialPruned:
        return study.tell(trial, state=TrialState.PRUNED)
    except (ChoiceError, MetricError, TrainingError) as error:
        if isinstance(error, ChoiceError):
            warnings.warn(f"{error}; the trial becomes FAIL", SatOptunaWarning, stacklevel=2)
        trial.set_user_attr("error", str(error))
        return study.tell(trial, state=TrialState.FAIL)
    try:
        return study.tell(trial, value)
    except (UpdateFinishedTrialError, ValueError):
        backend, _ = backend_of(study)
        if not backend.get_trial(id_of(trial)).state.is_finished():
            raise
        return _as_ended(study, trial)


def _as_ended(study: optuna.Study, trial: optuna.Trial) -> FrozenTrial:
    """Return a trial as it is stored, and warn that somebody ended it."""
    backend, _ = backend_of(study)
    ended = backend.get_trial(id_of(trial))
    warnings.warn(
        f"trial {trial.number} was ended as {ended.state.name} while it was being scored, in "
        "optuna-dashboard perhaps; it stays so, and the search goes on",
        SatOptunaWarning,
        stacklevel=3,
    )
    return ended
