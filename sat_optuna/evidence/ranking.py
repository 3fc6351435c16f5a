"""How far supernet scores rank what schemes reach when they are trained from scratch (T3).

Kendall's tau-b of the scores against one training seed at a time, averaged: against the mean of
several seeds it would rise with their number. The same between two training seeds is the ceiling.
Accuracies here stand for any metric, the higher the better.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sat_optuna.evidence.shares import TrueMeans
from sat_optuna.seeds import seed_for

__all__ = [
    "LEAST_SUPERNETS",
    "Regret",
    "Tau",
    "holders",
    "regret_of_scheme",
    "regret_of_top",
    "seed_to_seed",
    "tau_of_scores",
]

LEAST_SUPERNETS = 5  # seeds of the supernet that an interval needs
_BOOTSTRAPS = 100
_DRAWS = 400

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tau:
    """A rank correlation with its interval.

    Attributes:
        tau: the mean over supernets and training seeds; NaN where nothing can be ranked.
        low, high: the 95 % interval: over supernet seeds and the noise of training; NaN with fewer
            than five supernets.
        supernets: how many.
        seeds: of training, how many.
        schemes: how many were ranked.
    """

    tau: float
    low: float
    high: float
    supernets: int
    seeds: int
    schemes: int


@dataclass(frozen=True, slots=True)
class Regret:
    """How far below the best of all schemes a choice lies.

    Attributes:
        points: the best scheme's true accuracy minus the choice's.
        low, high: the 95 % interval; of the choices of supernets NaN with fewer than five.
        percentile: share of the other schemes that are truly worse, per cent.
    """

    points: float
    low: float
    high: float
    percentile: float


def holders(choices: NDArray[np.uint8], block: int) -> NDArray[np.bool_]:
    """Return which schemes carry attention at a block.

    Among those that hold the most important block, tau says what the supernet ranks beside it.

    Args:
        choices: (S, blocks).
        block: counted from 0.
    """
    held: NDArray[np.bool_] = choices[:, block] > 0
    return held


def tau_of_scores(scores: Values, values: Values, *, seed: int = 0) -> Tau:
    """Return how far scores rank single trainings.

    The noise of training is told by a bootstrap that takes one of each scheme's own runs, the
    spread of supernets by Student's t over them; five are too few for a bootstrap of their own.

    >>> scores = np.array([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0]])
    >>> round(tau_of_scores(scores, np.array([[50.0], [60.0], [70.0]])).tau, 3)
    0.667

    Args:
        scores: (G, S), of each supernet; NaN where a scheme has none.
        values: (S, seeds), of training; NaN where a run is missing.
        seed: of the bootstrap.
    """
    supernets = len(scores)
    columns = [column for column in values.T if np.isfinite(column).sum() > 1]
    taus = np.array([[_tau(row, column) for column in columns] for row in scores])
    counts = (supernets, len(columns), int((np.isfinite(values).any(axis=1)).sum()))
    if not taus.size or np.isnan(taus).any():
        return Tau(math.nan, math.nan, math.nan, *counts)
    each = taus.mean(axis=1)
    tau = float(each.mean())
    if supernets < LEAST_SUPERNETS or np.isfinite(values).sum(axis=1).max() < 2:
        return Tau(tau, math.nan, math.nan, *counts)
    rng = np.random.default_rng(seed_for("tau", seed))
    again = [
        float(np.mean([_tau(row, one) for row in scores for one in _picked(values, rng)]))
        for _ in range(_BOOTSTRAPS)
    ]
    half = _half(float(each.var(ddof=1)) / supernets, supernets - 1, _noise(again, values))
    return Tau(tau, tau - half, tau + half, *counts)


def seed_to_seed(values: Values, *, seed: int = 0) -> Tau:
    """Return the tau of one training seed against another: the ceiling of `tau_of_scores`.

    Arguments as of it; no supernet is in it.
    """
    columns = [column for column in values.T if np.isfinite(column).sum() > 1]
    pairs = list(combinations(columns, 2))
    counts = (0, len(columns), int((np.isfinite(values).sum(axis=1) > 1).sum()))
    tau = float(np.mean([_tau(*pair) for pair in pairs])) if pairs else math.nan
    if math.isnan(tau):
        return Tau(math.nan, math.nan, math.nan, *counts)
    # Two picks of the same few runs are too alike, so tables are simulated after this one.
    truth = TrueMeans(values)
    rng = np.random.default_rng(seed_for("ceiling", seed))
    of_run = truth.errors * np.sqrt(np.isfinite(values).sum(axis=1))
    there = np.where(np.isfinite(values), 0.0, np.nan).T[:, None]
    noise = of_run * rng.normal(size=(values.shape[1], _BOOTSTRAPS, len(values)))
    tables = (truth.drawn(1, seed=seed) + noise + there).swapaxes(0, 1)
    again = [np.mean([_tau(*pair) for pair in combinations(table, 2)]) for table in tables]
    half = _half(0.0, 1, float(np.nanvar(again, ddof=1)))
    return Tau(tau, tau - half, tau + half, *counts)


def regret_of_scheme(truth: TrueMeans, scheme: int, *, seed: int = 0) -> Regret:
    """Return how far below the best scheme one lies that was not chosen by the table's runs.

    The best of noisy means would be too good: true means are drawn from what the table tells.
    A search has seen the validation images, if with other weights, and its choice may suit them by
    luck: a table of test values (`TruthTable.signed`) knows nothing of them.

    Args:
        truth: of the table.
        scheme: its row in the table.
        seed: of the draws.

    Raises:
        ValueError: the table has no run of the scheme, or no scheme with two.
    """
    if not truth.known[scheme]:
        raise ValueError(f"scheme {scheme} has no run in the table; train it")
    behind, percentile = _behind(truth, [np.array([scheme])], seed)
    low, high = np.quantile(behind, [0.025, 0.975])
    return Regret(float(behind.mean()), float(low), float(high), percentile)


def regret_of_top(scores: Values, truth: TrueMeans, count: int, *, seed: int = 0) -> Regret:
    """Return how far below the best scheme the best of the `count` highest scores lies.

    It is the mean over supernets. Their spread is told by Student's t over them, as for tau; to it
    comes what the table leaves open.

    >>> truth = TrueMeans(np.array([[50.0, 50.1], [60.0, 60.1], [70.0, 70.1]]))
    >>> round(regret_of_top(np.array([[1.0, 3.0, 2.0]]), truth, 1).points)
    10

    Args:
        scores: (G, S), of each supernet; NaN where a scheme has none.
        truth: of the table.
        count: how many schemes of a supernet are trained, of which the best is taken.
        seed: of the draws.

    Raises:
        ValueError: no scheme has both a score and a run, or none has two runs.
    """
    taken = []
    for row in scores:
        usable = np.flatnonzero(np.isfinite(row) & truth.known)
        if not usable.size:
            raise ValueError("no scheme of the table has a score and a run; score some of it")
        taken.append(usable[np.argsort(-row[usable], kind="stable")[:count]])
    behind, percentile = _behind(truth, taken, seed)
    points, supernets = float(behind.mean()), len(taken)
    if supernets < LEAST_SUPERNETS:
        return Regret(points, math.nan, math.nan, percentile)
    of_supernets = float(behind.mean(axis=0).var(ddof=1)) / supernets
    half = _half(of_supernets, supernets - 1, float(behind.mean(axis=1).var(ddof=1)))
    return Regret(points, max(points - half, 0.0), points + half, percentile)


def _behind(
    truth: TrueMeans, taken: Sequence[NDArray[np.intp]], seed: int
) -> tuple[Values, float]:
    """Return by how much choices, each of the best of some rows, lie behind the best scheme.

    Returns:
        (draws, choices) points, and the percentile of `Regret`.
    """
    rng = np.random.default_rng(seed_for("regret", seed))
    drawn = truth.drawn(_DRAWS, seed=seed)
    others = int(truth.known.sum()) - 1
    behind, worse = np.empty((_DRAWS, len(taken))), []
    for number, rows in enumerate(taken):
        table = drawn.copy()
        own = table[:, rows]
        # What the table tells draws each scheme towards the crowd. These were chosen for being
        # better, by other trainings, so that as a group they stay where their own runs have them.
        errors = float(np.mean(truth.errors[rows] ** 2))
        spread = math.sqrt(max(errors - float(own.var(axis=0).mean()), 0.0) / len(rows))
        shift = float((truth.means[rows] - own.mean(axis=0)).mean())
        table[:, rows] = own + shift + spread * rng.normal(size=(_DRAWS, 1))
        best = table[:, rows].max(axis=1)
        behind[:, number] = np.nanmax(table, axis=1) - best
        worse.append(float((table < best[:, None]).sum(axis=1).mean()))
    return behind, 100 * float(np.mean(worse)) / others if others else math.nan


def _tau(first: Values, second: Values) -> float:
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 2 or np.ptp(first[both]) == 0 or np.ptp(second[both]) == 0:
        return math.nan  # nothing is ranked
    return float(stats.kendalltau(first[both], second[both]).statistic)


def _picked(values: Values, rng: np.random.Generator) -> list[Values]:
    """Return as many columns as there are, with one of its own runs for each scheme."""
    there = np.isfinite(values)
    counts = there.sum(axis=1)
    firsts = np.argsort(~there, axis=1, kind="stable")  # the runs that are there come first
    columns = []
    for seen in there.T:
        place = (rng.random(len(values)) * np.maximum(counts, 1)).astype(int)
        picked = values[np.arange(len(values)), firsts[np.arange(len(values)), place]]
        columns.append(np.where(seen, picked, np.nan))
    return [column for column in columns if np.isfinite(column).sum() > 1]


def _noise(again: Sequence[float], values: Values) -> float:
    """Return the variance that the noise of training gives, from bootstrapped values.

    Of n runs of a scheme, drawing one again has only (n - 1) / n of the noise.
    """
    counts = np.isfinite(values).sum(axis=1)
    shares = [(n - 1) / n for n in counts[counts > 0]]
    return float(np.nanvar(again, ddof=1)) / float(np.mean(shares))


def _half(of_supernets: float, freedom: int, of_training: float) -> float:
    """Return half the 95 % interval of two errors; the degrees of freedom are Satterthwaite's."""
    total = of_supernets + of_training
    if total == 0.0:
        return 0.0
    known = of_supernets**2 / freedom + of_training**2 / (_BOOTSTRAPS - 1)
    return float(stats.t.ppf(0.975, total**2 / known)) * math.sqrt(total)
