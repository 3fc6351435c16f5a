"""Two rivals without a model: rules that change a scheme of the study's history.

`one_plus_one` is the (1+1) search. `regularised_evolution` (Real et al., AAAI 2019,
arXiv:1802.01548) has 10 members and tournaments of 3.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

from lookup import Ints

__all__ = ["EvolutionSampler", "Rule", "one_plus_one", "regularised_evolution"]

Rule: TypeAlias = Callable[[np.random.Generator, Ints, Sequence[Ints], Sequence[float]], Ints]

_TRIES = 100  # mutations of one trial; if all were seen before, the last one is taken
_POPULATION, _TOURNAMENT = 10, 3


class EvolutionSampler(RandomSampler):
    """Propose whole schemes, each a function of the seed, the trial's number and the history.

    Args:
        rule: returns a scheme, (n,), from a generator, the number of choices of each parameter,
            (n,), and the schemes and values of the finished trials, the oldest first.
        space: the parameters, categorical.
        seed: of all trials.
    """

    def __init__(self, rule: Rule, space: Mapping[str, BaseDistribution], seed: int) -> None:
        super().__init__(seed)
        self._rule, self._space, self._seed = rule, dict(space), seed
        self._choices = {
            n: d.choices for n, d in space.items() if isinstance(d, CategoricalDistribution)
        }

    @override
    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._space

    @override
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        known = self._choices.items()
        schemes = [np.array([c.index(t.params[n]) for n, c in known]) for t in trials]
        rng = np.random.default_rng([self._seed, trial.number])
        sizes = np.array([len(c) for _, c in known])
        scheme = self._rule(rng, sizes, schemes, [float(t.values[0]) for t in trials])
        return {n: c[index] for (n, c), index in zip(known, scheme, strict=True)}


def one_plus_one(
    rng: np.random.Generator, sizes: Ints, schemes: Sequence[Ints], values: Sequence[float]
) -> Ints:
    """Change each choice of the newest best trial with probability 1 / n, at least one of them.

    A scheme that was seen before is drawn again.
    """
    if not schemes:
        return rng.integers(sizes)
    best = max(range(len(values)), key=lambda index: (values[index], index))
    parent, seen = schemes[best], {scheme.tobytes() for scheme in schemes}
    child = parent
    for _ in range(_TRIES):
        changed = rng.random(len(parent)) < 1 / len(parent)
        changed[rng.integers(len(parent))] |= not changed.any()
        child = np.where(changed, _others(rng, sizes, parent), parent)
        if child.tobytes() not in seen:
            break
    return child


def regularised_evolution(
    rng: np.random.Generator, sizes: Ints, schemes: Sequence[Ints], values: Sequence[float]
) -> Ints:
    """Change one choice of the best of 3 drawn from the last 10 trials; the first 10 are drawn."""
    if len(schemes) < _POPULATION:
        return rng.integers(sizes)
    alive = rng.choice(np.arange(len(schemes))[-_POPULATION:], _TOURNAMENT, replace=False)
    parent = schemes[max(alive, key=lambda index: values[index])]
    changed = np.arange(len(parent)) == rng.integers(len(parent))
    return np.where(changed, _others(rng, sizes, parent), parent)


def _others(rng: np.random.Generator, sizes: Ints, scheme: Ints) -> Ints:
    """Return for each parameter a choice drawn from those that a scheme does not make, if any."""
    return np.asarray((scheme + rng.integers(1, np.maximum(sizes, 2))) % sizes)
