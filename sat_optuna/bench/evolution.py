"""Two simple rivals without a model; both are functions of the study's history.

`OnePlusOne`, the (1+1) search: mutate the best trial so far. `RegularisedEvolution` (Real et al.,
AAAI 2019, arXiv:1802.01548) with 10 members and tournaments of 3: the best of 3 drawn from the
last 10 trials gets one new choice.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

__all__ = ["OnePlusOne", "RegularisedEvolution"]

Ints = NDArray[np.int64]

_TRIES = 100  # mutations, before a scheme that was seen is taken
_POPULATION, _TOURNAMENT = 10, 3


class _Evolution(BaseSampler):
    """Propose a whole scheme of a known space, to be maximised.

    Args:
        space: the categorical parameters.
        seed: with a trial's number and the history it determines the proposal.
    """

    def __init__(self, space: Mapping[str, CategoricalDistribution], seed: int) -> None:
        self._space = dict(space)
        self._sizes = np.array([len(d.choices) for d in self._space.values()])
        self._seed = seed

    @abstractmethod
    def _proposed(
        self, rng: np.random.Generator, schemes: list[Ints], values: list[float]
    ) -> Ints:
        """Return a scheme, given those of the finished trials, the oldest first."""

    def _uniform(self, rng: np.random.Generator) -> Ints:
        return rng.integers(self._sizes)

    def _others(self, rng: np.random.Generator, scheme: Ints) -> Ints:
        """Return choices drawn uniformly from those that a scheme does not make, if any."""
        steps = rng.integers(1, np.maximum(self._sizes, 2))
        return np.asarray((scheme + steps) % self._sizes)

    @override
    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return dict(self._space)

    @override
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        schemes = [
            np.array([int(d.to_internal_repr(t.params[n])) for n, d in self._space.items()])
            for t in trials
        ]
        rng = np.random.default_rng([self._seed, trial.number])
        scheme = self._proposed(rng, schemes, [float(t.values[0]) for t in trials])
        return {n: d.choices[k] for (n, d), k in zip(self._space.items(), scheme, strict=True)}

    @override
    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler = RandomSampler(self._seed)
        return sampler.sample_independent(study, trial, param_name, param_distribution)


class OnePlusOne(_Evolution):
    """Change each choice of the newest best trial with probability 1 / n, at least one; no repeat.

    After 100 mutations that were all seen the last one is taken.
    """

    @override
    def _proposed(
        self, rng: np.random.Generator, schemes: list[Ints], values: list[float]
    ) -> Ints:
        if not schemes:
            return self._uniform(rng)
        best = max(range(len(values)), key=lambda place: (values[place], place))
        parent, seen = schemes[best], {scheme.tobytes() for scheme in schemes}
        child = parent
        for _ in range(_TRIES):
            changed = rng.random(len(parent)) < 1 / len(parent)
            changed[rng.integers(len(parent))] |= not changed.any()
            child = np.where(changed, self._others(rng, parent), parent)
            if child.tobytes() not in seen:
                break
        return child


class RegularisedEvolution(_Evolution):
    """Change a choice of the best of 3 drawn from the last 10 trials; the first 10 are random."""

    @override
    def _proposed(
        self, rng: np.random.Generator, schemes: list[Ints], values: list[float]
    ) -> Ints:
        if len(schemes) < _POPULATION:
            return self._uniform(rng)
        alive = rng.choice(np.arange(len(schemes))[-_POPULATION:], _TOURNAMENT, replace=False)
        parent = schemes[max(alive, key=lambda place: values[place])]
        changed = np.arange(len(parent)) == rng.integers(len(parent))
        return np.where(changed, self._others(rng, parent), parent)
