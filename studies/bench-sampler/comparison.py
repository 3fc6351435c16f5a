"""What the runs of the duel say: means, intervals and paired tests.

Regret is normalised for each seed of a problem. 0 is the optimum; where that is unknown, it is the
best value that any of the runs of the seed came to. 1 is the mean of schemes drawn uniformly.

An interval holds 95 % of 10,000 bootstrap means over seeds (percentiles; a label of what is
averaged seeds the resampling). p is of Wilcoxon's two-sided signed-rank test over the seeds that
both rivals have. It is corrected by Holm over all tests of a family of problems. A variant is
tested against the sampler it is a variant of, in a family of tests of its own.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from lookup import Floats
from problems import make_problem
from runs import Run
from sat_optuna.evidence.statistics import holm

__all__ = ["OURS", "RECOMMENDED", "Mean", "Results", "Versus", "bootstrap", "compared", "paired_p"]

OURS = "default"
RECOMMENDED = "default (recommended)"
_SAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds with its 95 % interval.

    >>> str(Mean(0.5, 0.25, 0.75))
    '0.500 (0.250 to 0.750)'
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


class Results:
    """Runs, by problem and rival and then by seed, and the scale of regret.

    On noisy problems the recommendations of our sampler stand beside its choices, as if they were
    another rival's.

    Args:
        runs: of equal ones the last counts.
    """

    def __init__(self, runs: Iterable[Run]) -> None:
        self.runs = tuple(runs)
        self.problems = sorted({run.problem for run in self.runs})
        noisy = {name for name in self.problems if make_problem(name, 0).observe is not None}
        recommended = [
            replace(run, rival=RECOMMENDED, value=run.recommended, path=())
            for run in self.runs
            if run.problem in noisy and run.rival == OURS and run.recommended is not None
        ]
        self.groups: dict[tuple[str, str], dict[int, Run]] = defaultdict(dict)
        for run in sorted([*self.runs, *recommended], key=lambda r: (r.problem, r.rival, r.seed)):
            self.groups[run.problem, run.rival][run.seed] = run
        self._scale = {key: self._ends(*key) for key in {(r.problem, r.seed) for r in self.runs}}

    def _ends(self, problem: str, seed: int) -> tuple[float, float]:
        """Return the values of regret 1 and 0."""
        level, optimum = make_problem(problem, seed).scale()
        if optimum is None:  # a noisy problem has the truth of the one without noise
            names = {problem.removesuffix("-noisy"), problem.removesuffix("-noisy") + "-noisy"}
            same = [run for run in self.runs if run.seed == seed and run.problem in names]
            optimum = max(value for run in same for value in (run.value, *dict(run.path).values()))
        return level, optimum

    def regret(self, run: Run, values: Floats | float) -> Floats:
        """Return the regret of values on a run's problem; 0 where all schemes are equal."""
        level, optimum = self._scale[run.problem, run.seed]
        span = optimum - level
        return np.asarray(
            (optimum - np.asarray(values)) / span if span > 0 else np.zeros_like(values)
        )


@dataclass(frozen=True, slots=True)
class Versus:
    """One sampler of ours against a rival on one problem, paired by seed.

    Attributes:
        problem, ours, rival: their names.
        family: of the tests that are corrected together.
        seeds: pairs.
        difference: ours less the rival, in the problem's unit.
        regret: the rival's mean regret less ours.
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
    regret: float
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


def compared(results: Results) -> list[Versus]:
    """Return the default against each rival on each problem, and variants against their base."""
    rows = []
    for (problem, rival), theirs in results.groups.items():
        base, variant, _ = rival.partition(":")
        family = make_problem(problem, 0).family
        pairs = [(OURS, family), (RECOMMENDED, family)]
        if variant:
            pairs = [(base, f"{family}, variants of {base}")]
        elif rival in (OURS, RECOMMENDED):
            continue
        for ours, tests in pairs:
            mine = results.groups.get((problem, ours), {})
            if mine.keys() & theirs.keys():
                rows.append(_versus(results, mine, theirs, tests))
    for family in {row.family for row in rows}:
        indices = [index for index, row in enumerate(rows) if row.family == family]
        for index, p in zip(indices, holm([rows[i].p for i in indices]), strict=True):
            rows[index] = replace(rows[index], p_holm=p)
    return rows


def _versus(
    results: Results, mine: Mapping[int, Run], theirs: Mapping[int, Run], family: str
) -> Versus:
    pairs = [(mine[seed], theirs[seed]) for seed in mine if seed in theirs]
    problem, ours, rival = pairs[0][0].problem, pairs[0][0].rival, pairs[0][1].rival
    differences = np.array([one.value - other.value for one, other in pairs])
    regrets = [
        results.regret(other, other.value) - results.regret(one, one.value) for one, other in pairs
    ]
    return Versus(
        problem=problem,
        ours=ours,
        rival=rival,
        family=family,
        seeds=len(pairs),
        difference=bootstrap(differences, label=f"{problem} {ours} - {rival}"),
        regret=float(np.mean(regrets)),
        wins=int((differences > 0).sum()),
        losses=int((differences < 0).sum()),
        p=paired_p(differences),
        p_holm=1.0,
    )
