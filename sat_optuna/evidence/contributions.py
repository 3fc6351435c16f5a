"""What each block, each pair and each density is worth, from a table of all schemes.

All of it is a weighted sum of the schemes' means, so that all intervals come from one place:
Student's t on what the seeds of a scheme differ. The schemes are all there are, no sample.
Accuracies here stand for any metric, the higher the better.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sat_optuna.evidence.effects import Effect, block_effects, is_complete, noise_of, seed_effects
from sat_optuna.evidence.statistics import holm
from sat_optuna.scheme import Scheme

__all__ = [
    "Density",
    "Interaction",
    "agreement",
    "best_densities",
    "densities",
    "interactions",
    "main_effects",
    "shapley_values",
]

_ROUNDING = 1e-9  # accuracy points
Choices = NDArray[np.uint8]
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interaction:
    """What two blocks give together beyond what each gives alone.

    Attributes:
        blocks: Optuna's names of them.
        kinds: of attention, one a block.
        points: the effect of the one where the other is there minus where it is not; below 0 where
            one does instead of the other.
        low, high: the 95 % interval.
        p: two-sided, that there is none.
    """

    blocks: tuple[str, str]
    kinds: tuple[str, str]
    points: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, slots=True)
class Density:
    """The schemes with one number of connections.

    Attributes:
        connections: number of blocks that carry attention.
        schemes: how many there are.
        mean: of their accuracies, which is what a random one of them can expect.
        low, high: the 95 % interval of the mean.
    """

    connections: int
    schemes: int
    mean: float
    low: float
    high: float


def main_effects(
    choices: Choices, values: Values, *, stages: Sequence[int], kinds: Sequence[str]
) -> list[Effect]:
    """Return the effect of each kind at each block; none where the schemes are too few.

    Where schemes are missing, it is what least squares tells of the rest.

    >>> choices = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.uint8)
    >>> values = np.array([[50.0, 51], [50, 51], [60, 61], [60, 61]])
    >>> [effect.points for effect in main_effects(choices, values, stages=(2,), kinds=["se"])]
    [10.0, 0.0]

    Args:
        choices: (S, blocks).
        values: (S, seeds), NaN where one is missing; each scheme has one at least.
        stages: number of blocks of each stage.
        kinds: names of the kinds.
    """
    means = np.nanmean(values - seed_effects(values), axis=1)
    return block_effects(choices, means, stages=stages, kinds=kinds, images=0, runs=values)


def interactions(
    choices: Choices, values: Values, *, stages: Sequence[int], kinds: Sequence[str]
) -> list[Interaction]:
    """Return the interaction of each pair of blocks and kinds; none where a scheme is missing.

    Arguments as of `main_effects`.
    """
    if not is_complete(choices, len(kinds)):
        return []
    names, found = Scheme.parameter_names(stages), []
    for first, second in combinations(range(len(names)), 2):
        for one in range(1, len(kinds) + 1):
            for two in range(1, len(kinds) + 1):
                weights = _difference(choices[:, first], one) * _difference(
                    choices[:, second], two
                )
                mean, low, high, p = _contrast(_scaled(weights), values)
                of = (kinds[one - 1], kinds[two - 1])
                found.append(Interaction((names[first], names[second]), of, mean, low, high, p))
    return found


def shapley_values(
    choices: Choices, values: Values, *, stages: Sequence[int], kinds: Sequence[str]
) -> list[Effect]:
    """Return the exact Shapley value of each block, for each kind; none where a scheme is missing.

    It is what a block adds in the mean over all orders in which the blocks may get that kind, so
    that the values of a kind sum to full minus plain (Shapley 1953).

    Arguments as of `main_effects`.
    """
    if not is_complete(choices, len(kinds)):
        return []
    names, found = Scheme.parameter_names(stages), []
    blocks = len(names)
    for block, name in enumerate(names):
        for choice, kind in enumerate(kinds, start=1):
            among = ((choices == 0) | (choices == choice)).all(axis=1)
            others = (choices == choice).sum(axis=1) - (choices[:, block] == choice)
            share = np.array([1 / (blocks * math.comb(blocks - 1, n)) for n in range(blocks)])
            weights = np.zeros(len(choices))
            weights[among] = share[others[among]]
            weights *= np.where(choices[:, block] == choice, 1, -1)
            found.append(Effect(name, kind, *_contrast(weights, values)))
    return found


def densities(choices: Choices, values: Values) -> list[Density]:
    """Return the mean of each number of connections, from none to all.

    Args:
        choices: (S, blocks).
        values: (S, seeds), as of `main_effects`.
    """
    found = []
    for connections, weights in _of_densities(choices).items():
        mean, low, high, _ = _contrast(weights, values)
        found.append(Density(connections, int((weights > 0).sum()), mean, low, high))
    return found


def best_densities(choices: Choices, values: Values) -> list[int]:
    """Return the number of connections with the highest mean, then those not told from it.

    They are not told from it at 5 %, Holm's correction over all others.
    """
    weights = _of_densities(choices)
    means = {number: _contrast(of, values)[0] for number, of in weights.items()}
    best = max(means, key=lambda number: means[number])
    others = [number for number in means if number != best]
    p = holm([_contrast(weights[best] - weights[number], values)[3] for number in others])
    untold = [number for number, value in zip(others, p, strict=True) if not value < 0.05]
    return [best, *sorted(untold, key=lambda number: -means[number])]


def agreement(first: Sequence[Effect], second: Sequence[Effect]) -> tuple[float, float]:
    """Return Kendall's tau-b of two tables' or two seeds' effects, and its p-value.

    NaN where fewer than two blocks are in both.

    Args:
        first: effects, of the same blocks as the second; of kinds by other names in order.
        second: the same.
    """
    pairs = list(zip(first, second, strict=True))
    if len(pairs) < 2:
        return math.nan, math.nan
    found = stats.kendalltau([a.points for a, _ in pairs], [b.points for _, b in pairs])
    return float(found.statistic), float(found.pvalue)


def _contrast(weights: Values, values: Values) -> tuple[float, float, float, float]:
    """Return a weighted sum of the schemes' means, its 95 % interval, and p that it is 0."""
    mean = float(weights @ np.nanmean(values - seed_effects(values), axis=1))
    noise, freedom = noise_of(values)
    if not freedom:
        return mean, math.nan, math.nan, math.nan
    error = math.sqrt(float(weights**2 @ (noise / np.isfinite(values).sum(axis=1))))
    if error < _ROUNDING:  # the seeds do not differ at all, which is no certainty
        return mean, math.nan, math.nan, math.nan
    half = float(stats.t.ppf(0.975, freedom)) * error
    return mean, mean - half, mean + half, 2 * float(stats.t.sf(abs(mean) / error, freedom))


def _difference(column: Choices, choice: int) -> Values:
    """Return 1 where a block has a choice, -1 where it has none, 0 elsewhere."""
    return np.where(column == choice, 1.0, np.where(column == 0, -1.0, 0.0))


def _scaled(signs: Values) -> Values:
    """Return weights that subtract means from means: each of the four groups counts 1."""
    scaled: Values = signs * 4 / np.abs(signs).sum()
    return scaled


def _of_densities(choices: Choices) -> dict[int, Values]:
    connections = (choices > 0).sum(axis=1)
    numbers = np.unique(connections).tolist()
    return {n: (connections == n) / (connections == n).sum() for n in numbers}
