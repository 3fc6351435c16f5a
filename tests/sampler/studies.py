"""A small search that the tests of the sampler in Optuna share: six blocks of three kinds each."""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from sat_optuna.sampler import PolicyGradientSampler

__all__ = [
    "KINDS",
    "NAMES",
    "PRESETS",
    "SPACE",
    "objective",
    "policy_of",
    "proposals",
    "sampler_of",
    "spaces",
    "states",
    "study_with",
    "unbroken",
]

PRESETS = ("default", "paper")
KINDS = ("none", "se", "sge")
NAMES = [f"s{i // 3}.b{i % 3:02}" for i in range(6)]
SPACE: dict[str, BaseDistribution] = {name: CategoricalDistribution(KINDS) for name in NAMES}


def objective(trial: optuna.Trial) -> float:
    picked = [KINDS.index(trial.suggest_categorical(name, KINDS)) for name in NAMES]
    return float(sum((i + 1) * choice for i, choice in enumerate(picked)))


def study_with(
    preset: Any = "default",
    *,
    seed: int | None = 5,
    name: str | None = "s",
    storage: Any = None,
    directions: Any = ("maximize",),
    **settings: Any,
) -> optuna.Study:
    return optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=PolicyGradientSampler(seed=seed, preset=preset, **settings),
        directions=directions,
        load_if_exists=storage is not None,
    )


def spaces(sizes: Sequence[int]) -> dict[str, BaseDistribution]:
    return {f"p{i}": CategoricalDistribution(range(size)) for i, size in enumerate(sizes)}


def sampler_of(study: optuna.Study) -> PolicyGradientSampler:
    assert isinstance(study.sampler, PolicyGradientSampler)
    return study.sampler


def policy_of(study: optuna.Study) -> dict[str, dict[Any, float]]:
    return sampler_of(study).policy(study)


def states(study: optuna.Study) -> list[optuna.trial.TrialState]:
    return [t.state for t in study.get_trials(deepcopy=False)]


def proposals(study: optuna.Study, names: Sequence[str] = NAMES) -> list[tuple[int, ...]]:
    trials = study.get_trials(deepcopy=False)
    return [tuple(KINDS.index(t.params[name]) for name in names) for t in trials]


def unbroken(preset: str, trials: int, **settings: Any) -> list[tuple[int, ...]]:
    study = study_with(preset, **settings)
    study.optimize(objective, n_trials=trials)
    return proposals(study)
