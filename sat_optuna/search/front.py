"""The front of a search of several objectives: the schemes that no other one beats in all."""

import math

import optuna
from optuna.trial import FrozenTrial

from sat_optuna.config.objectives import COSTS, metric_of
from sat_optuna.errors import StudyError
from sat_optuna.search.space import COUNTS_KEY

__all__ = ["chosen_of_front", "front_trials", "objectives_of", "values_of"]


def objectives_of(study: optuna.Study) -> tuple[str, ...]:
    """Return the names of a study's objectives; none where it has one, the reward."""
    return tuple(study.metric_names or ()) if len(study.directions) > 1 else ()


def values_of(study: optuna.Study, trial: FrozenTrial) -> dict[str, float]:
    """Return the value of each of several objectives by name; empty for a trial without."""
    return dict(zip(objectives_of(study), trial.values or (), strict=False))


def front_trials(study: optuna.Study) -> tuple[FrozenTrial, ...]:
    """Return the trials of the front, each scheme once, those of the highest metric first.

    Raises:
        StudyError: the study has one objective, none of ours, or no complete trial.
    """
    names = objectives_of(study)
    metric = metric_of(names)
    if not metric or len(names) < 2:
        what = "one objective" if len(study.directions) == 1 else "objectives of another program"
        raise StudyError(
            f"study {study.study_name!r} has {what} and so no front of this kind; set "
            f'objectives = ["accuracy", "{COSTS[0]}"] under [search] in a new study'
        )
    by_scheme: dict[str, FrozenTrial] = {}
    for trial in study.best_trials:
        by_scheme.setdefault(trial.user_attrs["scheme"], trial)
    if not by_scheme:
        raise StudyError(
            f"study {study.study_name!r} has no complete trial, and so no front; look at "
            "sat-optuna trials"
        )
    column = names.index(metric)
    return tuple(sorted(by_scheme.values(), key=lambda t: (-t.values[column], t.number)))


def chosen_of_front(study: optuna.Study) -> FrozenTrial:
    """Return the cheapest point of the front that is as accurate as the best, within its error.

    That is the first other objective's least, among the points whose accuracy lies within one
    standard error (over the validation images) of the highest. The highest itself was in part
    chosen by luck; this is the one-standard-error rule of Breiman et al. (1984, CART). Of other
    metrics no error is known from one number, so it is the best itself.

    Raises:
        StudyError: as of `front_trials`.
    """
    front, names = front_trials(study), objectives_of(study)
    metric = metric_of(names)
    column = names.index(metric)
    cost = next(index for index, name in enumerate(names) if name != metric)
    best = front[0].values[column]
    images = sum(study.user_attrs.get(COUNTS_KEY, ())) if metric == "accuracy" else 0
    share = min(max(best / 100, 0.0), 1.0)
    error = 100 * math.sqrt(share * (1 - share) / images) if images else 0.0
    near = [trial for trial in front if trial.values[column] >= best - error]
    return min(near, key=lambda t: (t.values[cost], -t.values[column], t.number))
