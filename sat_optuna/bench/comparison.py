"""What the runs of the sampler benchmark say: means, intervals and paired tests.

Regret is normalised by the problem's seed: 0 is the optimum, or where that is unknown the best
value that any recorded run of the seed came to; 1 is the mean of schemes drawn uniformly. The area
is the mean, over evaluations, of the regret of the best-looking scheme so far.

Intervals hold 95 % of 10,000 bootstrap means over seeds (percentiles, seeded by what they are of).
p is of Wilcoxon's two-sided signed-rank test over the seeds that both have, and is corrected by
Holm over all tests of a family of problems. Variants are tested against the sampler they are of,
in families of their own.
"""

import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sat_optuna.bench.problems import make_problem
from sat_optuna.bench.runs import Run
from sat_optuna.evidence.statistics import holm

__all__ = [
    "RECOMMENDED",
    "Mean",
    "Standing",
    "Versus",
    "bootstrap",
    "compared",
    "normalised",
    "scales",
    "standings",
]

Floats = NDArray[np.float64]

RECOMMENDED = " (recommended)"
_SAMPLES = 10_000
_OURS = "default"


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Standing:
    """One rival on one problem.

    Attributes:
        problem, rival: their names.
        seeds: runs.
        done: mean number of evaluations made.
        value: true value of the chosen scheme.
        regret: of it, normalised.
        area: under the curve; None for a recommendation, which is made at the end alone.
        distinct: mean share of distinct proposals.
        ms: median over runs of the median time of ask and tell.
    """

    problem: str
    rival: str
    seeds: int
    done: float
    value: Mean
    regret: Mean
    area: Mean | None
    distinct: float
    ms: float


@dataclass(frozen=True, slots=True)
class Versus:
    """One sampler of ours against a rival on one problem, paired by seed.

    Attributes:
        problem, ours, rival: their names.
        family: of the tests that are corrected together.
        seeds: pairs.
        difference: ours minus the rival, in the problem's unit.
        wins, losses: pairs in which ours is better or worse.
        p: of the test alone.
        p_holm: corrected.
    """

    problem: str
    ours: str
    rival: str
    family: str
    seeds: int
    difference: Mean
    wins: int
    losses: int
    p: float
    p_holm: float


def bootstrap(values: Sequence[float] | Floats, *, label: str) -> Mean:
    """Return the mean of values with its interval; the label seeds the resampling."""
    array = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(zlib.crc32(label.encode()))
    means = array[rng.integers(len(array), size=(_SAMPLES, len(array)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Mean(float(array.mean()), float(low), float(high))


def paired_p(differences: Sequence[float] | Floats) -> float:
    """Return the p of Wilcoxon's two-sided signed-rank test; 1 where nothing differs."""
    array = np.asarray(differences, dtype=np.float64)
    return float(stats.wilcoxon(array).pvalue) if array.any() else 1.0


def _with_recommendations(runs: Sequence[Run]) -> list[Run]:
    """Return the runs, and on noisy problems our recommendations as if they were a rival's."""
    noisy = {name: _is_noisy(name) for name in {run.problem for run in runs}}
    more = [
        replace(run, rival=run.rival + RECOMMENDED, value=run.recommended, path=())
        for run in runs
        if noisy[run.problem] and run.rival == _OURS and run.recommended is not None
    ]
    return [*runs, *more]


def _is_noisy(problem: str) -> bool:
    return make_problem(problem, 0).observe is not None


def scales(runs: Sequence[Run]) -> dict[tuple[str, int], tuple[float, float]]:
    """Return by problem and seed the values of regret 1 and 0."""
    found: dict[tuple[str, int], tuple[float, float]] = {}
    best: dict[tuple[str, int], float] = defaultdict(lambda: -np.inf)
    for run in runs:  # a noisy problem has the truth of the one without noise
        place = (run.problem.removesuffix("-noisy"), run.seed)
        best[place] = max(best[place], run.value, *(value for _, value in run.path))
    for name, seed in sorted({(run.problem, run.seed) for run in runs}):
        level, optimum = make_problem(name, seed).scale()
        if optimum is None:
            optimum = best[name.removesuffix("-noisy"), seed]
        found[name, seed] = (level, optimum)
    return found


def normalised(values: Floats | float, scale: tuple[float, float]) -> Floats:
    """Return the regret of values; 0 on a problem where all schemes are equal."""
    level, optimum = scale
    span = optimum - level
    return np.asarray((optimum - np.asarray(values)) / span if span > 0 else np.zeros_like(values))


def _grouped(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """Return the runs by problem and rival, each group by seed; of equal runs the last."""
    groups: dict[tuple[str, str], dict[int, Run]] = defaultdict(dict)
    for run in runs:
        groups[run.problem, run.rival][run.seed] = run
    return {key: [of[seed] for seed in sorted(of)] for key, of in sorted(groups.items())}


def standings(runs: Sequence[Run]) -> list[Standing]:
    """Return each rival on each problem, the best mean value of a problem first."""
    scale = scales(runs)
    rows = []
    for (problem, rival), group in _grouped(_with_recommendations(runs)).items():
        label = f"{problem} {rival}"
        regrets = [normalised(r.value, scale[problem, r.seed]) for r in group]
        areas = [normalised(r.curve(), scale[problem, r.seed]).mean() for r in group if r.path]
        rows.append(
            Standing(
                problem=problem,
                rival=rival,
                seeds=len(group),
                done=float(np.mean([r.done for r in group])),
                value=bootstrap([r.value for r in group], label=f"{label} value"),
                regret=bootstrap(np.array(regrets), label=f"{label} regret"),
                area=bootstrap(areas, label=f"{label} area") if areas else None,
                distinct=float(np.mean([r.distinct for r in group])),
                ms=float(np.median([r.ms for r in group])),
            )
        )
    return sorted(rows, key=lambda row: (row.problem, row.regret.value))


def compared(runs: Sequence[Run]) -> list[Versus]:
    """Return the default against each rival on each problem, and variants against their base."""
    groups = _grouped(_with_recommendations(runs))
    rows = []
    for problem, rival in groups:
        family = make_problem(problem, 0).family
        base, variant, _ = rival.partition(":")
        if variant:
            pairs = [(base, f"{family}, variants of {base}")]
        elif base.startswith(_OURS):
            continue
        else:
            pairs = [(_OURS, family), (_OURS + RECOMMENDED, family)]
        rows += [
            _versus(problem, ours, rival, of, groups)
            for ours, of in pairs
            if (problem, ours) in groups
        ]
    rows = [row for row in rows if row.seeds]
    return _corrected(rows)


def _versus(
    problem: str,
    ours: str,
    rival: str,
    family: str,
    groups: Mapping[tuple[str, str], Sequence[Run]],
) -> Versus:
    theirs = {run.seed: run.value for run in groups[problem, rival]}
    differences = np.array(
        [run.value - theirs[run.seed] for run in groups[problem, ours] if run.seed in theirs]
    )
    if not differences.size:
        return Versus(problem, ours, rival, family, 0, Mean(0.0, 0.0, 0.0), 0, 0, 1.0, 1.0)
    return Versus(
        problem=problem,
        ours=ours,
        rival=rival,
        family=family,
        seeds=len(differences),
        difference=bootstrap(differences, label=f"{problem} {ours} - {rival}"),
        wins=int((differences > 0).sum()),
        losses=int((differences < 0).sum()),
        p=paired_p(differences),
        p_holm=1.0,
    )


def _corrected(rows: Sequence[Versus]) -> list[Versus]:
    families: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        families[row.family].append(place)
    corrected = list(rows)
    for places in families.values():
        for place, p in zip(places, holm([rows[i].p for i in places]), strict=True):
            corrected[place] = replace(rows[place], p_holm=p)
    return corrected
