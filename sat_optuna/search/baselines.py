"""Optuna's own samplers, made functions of history, so that a search continues as if unbroken.

A fresh sampler of Optuna's, seeded by (seed, trial number), serves each trial; one that lived as
long as its process would begin its random numbers again after an interruption and repeat itself.
"""

import contextlib
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

from sat_optuna.errors import StudyError
from sat_optuna.registry import Registry
from sat_optuna.sampler.storage import StoredSettings, claim_study, failing_if_new
from sat_optuna.search.settings import check_settings
from sat_optuna.ticket import Setting

__all__ = ["BASELINES", "NumberSeededSampler"]

BASELINES: Registry[Callable[..., BaseSampler]] = Registry("baseline sampler")
BASELINES.add("tpe", "optuna.samplers:TPESampler")
BASELINES.add("random", "optuna.samplers:RandomSampler")
BASELINES.add("nsga2", "optuna.samplers:NSGAIISampler")
BASELINES.add("gp", "optuna.samplers:GPSampler")
BASELINES.add("brute-force", "optuna.samplers:BruteForceSampler")


class NumberSeededSampler(BaseSampler):
    """A baseline whose proposals depend on (seed, trial number) and the study's history alone.

    Args:
        name: one of BASELINES.
        seed: with the history it determines all proposals.
        settings: further arguments of Optuna's sampler, by name.

    Raises:
        UnknownName: no such baseline.
        StudyError: it does not take these settings.
    """

    def __init__(
        self, name: str, *, seed: int, settings: Mapping[str, Setting] = MappingProxyType({})
    ) -> None:
        self._make = BASELINES.get(name)
        self._name = name
        self._seed = seed
        self._settings = dict(settings)
        check_settings(name, self._make, settings)
        try:
            self._made(seed)
        except (TypeError, ValueError) as error:
            raise StudyError(
                f"sampler {name!r} cannot be made: {error}; correct search.sampler_settings"
            ) from error

    def settings(self) -> StoredSettings:
        """Return all that proposals depend on besides the history."""
        named = {"algorithm": f"optuna/{self._name}", "version": 1, "seed": self._seed}
        # Absent where nothing is set, as in studies that were begun before it could be.
        return {**named, **({"settings": self._settings} if self._settings else {})}

    def _made(self, seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return self._make(seed=seed, **self._settings)

    def _inner(self, trial: FrozenTrial, parameter: str | None = None) -> BaseSampler:
        """Return Optuna's sampler for a trial, or for a parameter of it drawn by itself.

        By parameter, because a trial that is attached again draws the missing ones alone.
        """
        seed_key = [self._seed, trial.number]
        if parameter is not None:
            seed_key.append(zlib.crc32(parameter.encode()))
        return self._made(int(np.random.default_rng(seed_key).integers(2**32)))

    @override
    def reseed_rng(self) -> None:
        """Do nothing: each trial has its own generator."""

    @override
    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Hold the study to these settings before its trial begins."""
        with failing_if_new(study, trial):
            claim_study(study, self.settings())
            self._inner(trial).before_trial(study, trial)

    @override
    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._inner(trial).infer_relative_search_space(study, trial)

    @override
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._inner(trial).sample_relative(study, trial, search_space)

    @override
    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        inner = self._inner(trial, param_name)
        return inner.sample_independent(study, trial, param_name, param_distribution)

    @override
    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        # The brute-force sampler stops a study that has tried all; it can stop `optimize` alone.
        may_stop = self._name == "brute-force"
        with contextlib.suppress(RuntimeError) if may_stop else contextlib.nullcontext():
            self._inner(trial).after_trial(study, trial, state, values)
