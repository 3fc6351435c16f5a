"""The rivals of the duel: samplers under a name, which take a seed.

A name with settings is a variant, such as `default:pairs=false` or `paper:rnd=false+replay=false`.
Its values are JSON and go to `PolicyGradientSampler`, as `batch`, `learning_rate`, `replicates` or
an option.
"""

import importlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias, cast, get_args

import optuna
from optuna import samplers
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler

from evolution import EvolutionSampler, one_plus_one, regularised_evolution
from problems import Problem
from sat_optuna import PolicyGradientSampler
from sat_optuna.errors import UnknownName
from sat_optuna.registry import Registry

__all__ = ["RIVALS", "Rival", "Space", "make_rival"]

Space: TypeAlias = Mapping[str, BaseDistribution]
Preset: TypeAlias = Literal["default", "paper"]

_OF_THE_SAMPLER = ("batch", "learning_rate", "replicates")  # other settings are options
_GP_CAP_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A sampler under a name.

    Attributes:
        make: returns the sampler, from the parameters and a seed.
        version: what a run depends on besides problem, seed and budget.
        renewed: whether each trial gets a new sampler, seeded by (seed, trial number); so it is
            with those of Optuna's that know nothing but the study.
        integers: whether parameters are whole numbers 0..K-1, for what takes nothing categorical.
        cap_s: seconds of CPU after which a run ends early.
        note: for the table.
    """

    make: Callable[[Space, int], BaseSampler]
    version: str = f"optuna {optuna.__version__}"
    renewed: bool = False
    integers: bool = False
    cap_s: float = math.inf
    note: str = ""

    def space(self, problem: Problem) -> dict[str, BaseDistribution]:
        """Return a problem's parameters as the sampler takes them, named x00, x01, ..."""
        return {
            f"x{index:02d}": IntDistribution(0, len(choices) - 1)
            if self.integers
            else CategoricalDistribution(choices)
            for index, choices in enumerate(problem.choices)
        }


RIVALS: Registry[Rival] = Registry("rival")


def make_rival(name: str) -> Rival:
    """Return the rival of that name, or a variant of one.

    >>> make_rival("paper:rnd=false").version
    'policy-gradient/paper 3'

    Raises:
        UnknownName: there is no such rival or setting, or its package is not installed.
    """
    base, mark, settings = name.partition(":")
    rival = RIVALS.get(base)
    if base == "cmaes" and find_spec("cmaes") is None:
        raise UnknownName("rival 'cmaes' needs cmaes; install it: pip install 'sat_optuna[bench]'")
    if not mark:
        return rival
    if base not in get_args(Preset):
        raise UnknownName(f"rival {name!r} has settings; only default and paper take them")
    try:
        return _policy_gradient(cast("Preset", base), dict(map(_setting, settings.split("+"))))
    except (ValueError, TypeError) as error:
        raise UnknownName(f"rival {name!r}: {error}") from error


def _setting(text: str) -> tuple[str, Any]:
    name, mark, value = text.partition("=")
    if not mark:
        raise ValueError(f"setting {text!r} has no value; write NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError as error:
        raise ValueError(f"setting {text!r} has no JSON value; write true, false or 1") from error


def _policy_gradient(preset: Preset, given: Mapping[str, Any]) -> Rival:
    direct = {name: value for name, value in given.items() if name in _OF_THE_SAMPLER}
    options = {name: value for name, value in given.items() if name not in _OF_THE_SAMPLER}
    make = partial(PolicyGradientSampler, preset=preset, options=options, **direct)
    settings = make(seed=0).settings()
    version = f"{settings['algorithm']} {settings['version']}"
    return Rival(make=lambda _, seed: make(seed=seed), version=version)


def _gp(_space: Space, seed: int) -> BaseSampler:
    importlib.import_module("torch")  # here, so that the first trial's time does not hold it
    return samplers.GPSampler(seed=seed)


def _cmaes(_space: Space, seed: int) -> BaseSampler:
    return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)


_WHOLE = "choices as whole numbers, for it takes nothing categorical"
for _name, _rival in {
    "default": _policy_gradient("default", {}),
    "paper": _policy_gradient("paper", {}),
    "random": Rival(make=lambda _, seed: samplers.RandomSampler(seed), renewed=True),
    "tpe": Rival(make=lambda _, seed: samplers.TPESampler(seed=seed), renewed=True),
    "nsga2": Rival(
        make=lambda _, seed: samplers.NSGAIISampler(seed=seed, population_size=20),
        renewed=True,
        note="population 20",
    ),
    "gp": Rival(
        make=_gp,
        version=f"optuna {optuna.__version__}, {_GP_CAP_S:g} s",
        cap_s=_GP_CAP_S,
        note="time-capped",
    ),
    "qmc": Rival(
        make=lambda _, seed: samplers.QMCSampler(seed=seed, scramble=True),
        integers=True,
        note=f"scrambled Sobol points; {_WHOLE}",
    ),
    "cmaes": Rival(make=_cmaes, renewed=True, integers=True, note=_WHOLE),
    "one-plus-one": Rival(make=partial(EvolutionSampler, one_plus_one), version="1"),
    "regularised-evolution": Rival(
        make=partial(EvolutionSampler, regularised_evolution), version="1"
    ),
}.items():
    RIVALS.add(_name, _rival)
