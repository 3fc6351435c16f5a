"""The samplers that are compared, each seeded by (seed, trial number) where Optuna allows.

A name with settings is a variant: `default:pairs=false`, `paper:rnd=false+replay=false`; its
values are JSON and go to `PolicyGradientSampler`, as `batch`, `learning_rate`, `replicates` or an
option.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler

from sat_optuna.bench.evolution import OnePlusOne, RegularisedEvolution
from sat_optuna.bench.problems import BenchError, Problem
from sat_optuna.errors import UnknownName
from sat_optuna.registry import Registry
from sat_optuna.sampler import PolicyGradientSampler

__all__ = ["CONTENDERS", "Contender", "Space", "make_contender"]

Space = Mapping[str, BaseDistribution]
Preset = Literal["default", "paper"]

_PRESETS: dict[str, Preset] = {"default": "default", "paper": "paper"}
_ARGUMENTS = (
    "batch",
    "learning_rate",
    "replicates",
)  # of the sampler itself, not of its controller


@dataclass(frozen=True, slots=True)
class Contender:
    """A sampler under a name.

    Attributes:
        start: called with space and seed for a run; returns what gives each trial its sampler.
        version: what a run depends on besides problem, seed and budget.
        integers: parameters are whole numbers 0..K-1, as the sampler takes nothing categorical.
        capped: its runs end early where they take too long.
        note: for the table.
    """

    start: Callable[[Space, int], Callable[[int], BaseSampler]]
    version: str
    integers: bool = False
    capped: bool = False
    note: str = ""

    def space(self, problem: Problem) -> dict[str, BaseDistribution]:
        """Return a problem's parameters as the sampler takes them."""
        if self.integers:
            return {
                f"x{place:02d}": IntDistribution(0, len(choices) - 1)
                for place, choices in enumerate(problem.choices)
            }
        return {
            f"x{place:02d}": CategoricalDistribution(choices)
            for place, choices in enumerate(problem.choices)
        }


CONTENDERS: Registry[Contender] = Registry("rival")


def make_contender(name: str) -> Contender:
    """Return the contender of that name, or a variant of one.

    Raises:
        UnknownName: no such rival, or no such setting of it.
    """
    base, mark, settings = name.partition(":")
    contender = CONTENDERS.get(base)
    if not mark:
        return contender
    preset = _PRESETS.get(base)
    if preset is None:
        raise UnknownName(f"rival {name!r} has settings; only default and paper take them")
    try:
        given = dict(_setting(part) for part in settings.split("+"))
        return _policy_gradient(preset, given)
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


def _policy_gradient(preset: Preset, given: Mapping[str, Any]) -> Contender:
    direct = {name: value for name, value in given.items() if name in _ARGUMENTS}
    options = {name: value for name, value in given.items() if name not in _ARGUMENTS}
    make = partial(PolicyGradientSampler, preset=preset, options=options, **direct)
    settings = make(seed=0).settings()

    def start(_space: Space, seed: int) -> Callable[[int], BaseSampler]:
        sampler = make(seed=seed)  # seeds each trial itself
        return lambda _number: sampler

    return Contender(start, f"{settings['algorithm']} {settings['version']}")


def _optuna(make: Callable[..., BaseSampler], **more: Any) -> Contender:
    """Return a contender that is a fresh sampler a trial, all it knows being in the study."""

    def start(_space: Space, seed: int) -> Callable[[int], BaseSampler]:
        return lambda number: make(
            seed=int(np.random.default_rng([seed, number]).integers(2**32)),
        )

    return Contender(start, f"optuna {optuna.__version__}", **more)


def _whole_run(make: Callable[..., BaseSampler], *, needs: str = "", **more: Any) -> Contender:
    """Return a contender that is one sampler a run, seeded once: it keeps what no study holds."""

    def start(_space: Space, seed: int) -> Callable[[int], BaseSampler]:
        if needs:
            importlib.import_module(needs)  # here, and not in the first trial's time
        sampler = make(seed=seed)
        return lambda _number: sampler

    return Contender(start, f"optuna {optuna.__version__}", **more)


def _evolution(kind: type[OnePlusOne] | type[RegularisedEvolution]) -> Contender:
    def start(space: Space, seed: int) -> Callable[[int], BaseSampler]:
        categorical = {
            name: distribution
            for name, distribution in space.items()
            if isinstance(distribution, CategoricalDistribution)
        }
        sampler = kind(categorical, seed)  # seeds each trial itself
        return lambda _number: sampler

    return Contender(start, "1")


def _cmaes(*, seed: int) -> BaseSampler:
    try:
        importlib.import_module("cmaes")
    except ImportError as error:
        raise BenchError(
            "rival 'cmaes' needs cmaes; install it with: pip install 'sat_optuna[bench]'"
        ) from error
    return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)


CONTENDERS.add("random", _optuna(optuna.samplers.RandomSampler))
CONTENDERS.add("tpe", _optuna(optuna.samplers.TPESampler))
CONTENDERS.add(
    "nsga2",
    _optuna(partial(optuna.samplers.NSGAIISampler, population_size=20), note="population 20"),
)
CONTENDERS.add(
    "gp", _whole_run(optuna.samplers.GPSampler, needs="torch", capped=True, note="time-capped")
)
CONTENDERS.add(
    "qmc",
    _whole_run(
        partial(optuna.samplers.QMCSampler, scramble=True),
        integers=True,
        note="scrambled Sobol points; choices as whole numbers, for it takes nothing categorical",
    ),
)
CONTENDERS.add(
    "cmaes",
    _optuna(
        _cmaes,
        integers=True,
        note="choices as whole numbers, for it takes nothing categorical",
    ),
)
CONTENDERS.add("one-plus-one", _evolution(OnePlusOne))
CONTENDERS.add("regularised-evolution", _evolution(RegularisedEvolution))
for _name, _preset in _PRESETS.items():
    CONTENDERS.add(_name, _policy_gradient(_preset, {}))
