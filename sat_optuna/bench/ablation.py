"""What each part of a sampler is worth: variants with it off, beside the sampler they are of."""

from collections.abc import Mapping, Sequence

import numpy as np

from sat_optuna.bench.comparison import Versus, normalised, scales
from sat_optuna.bench.runs import Run

__all__ = ["ablation_markdown"]

_PREFACE = """\
# What each part of the samplers is worth

A row is a sampler with one setting changed. A cell is the mean, over so many seeds, of its
regret less that of the sampler it is of, in thousandths of the way from a random scheme to the
optimum; above 0 the change does harm. Bold: p below 0.05 of the two-sided Wilcoxon signed-rank
test over seeds, Holm corrected over the variants of one sampler on one family of problems. Of
noisy problems it is the regret of the scheme with the best reward. The same runs, with intervals:
table.md.
"""


def ablation_markdown(runs: Sequence[Run], comparisons: Sequence[Versus]) -> str | None:
    """Return a table for each sampler that has variants; None where none has."""
    tests = {(row.problem, row.rival): row for row in comparisons if ":" in row.rival}
    if not tests:
        return None
    regrets = _regrets(runs)
    parts = [_PREFACE]
    for base in sorted({rival.partition(":")[0] for _, rival in tests}):
        variants = [rival for _, rival in tests if rival.partition(":")[0] == base]
        parts.append(_section(base, sorted(set(variants)), tests, regrets))
    return "\n".join(parts)


def _regrets(runs: Sequence[Run]) -> Mapping[tuple[str, str], Mapping[int, float]]:
    """Return the regret of each run by problem and rival, then seed."""
    scale = scales(runs)
    found: dict[tuple[str, str], dict[int, float]] = {}
    for run in runs:
        regret = float(normalised(run.value, scale[run.problem, run.seed]))
        found.setdefault((run.problem, run.rival), {})[run.seed] = regret
    return found


def _section(
    base: str,
    variants: Sequence[str],
    tests: Mapping[tuple[str, str], Versus],
    regrets: Mapping[tuple[str, str], Mapping[int, float]],
) -> str:
    problems = sorted({problem for problem, rival in tests if rival in variants})
    rows = [["changed", *problems, "mean"], ["--"] * (len(problems) + 2)]
    seeds = set()
    for variant in variants:
        cells, means = [], []
        for problem in problems:
            test = tests.get((problem, variant))
            if test is None:
                cells.append("")
                continue
            mine, theirs = regrets[problem, variant], regrets[problem, base]
            both = mine.keys() & theirs.keys()
            seeds.add(len(both))
            means.append(1000 * float(np.mean([mine[seed] - theirs[seed] for seed in both])))
            cell = f"{means[-1]:+.0f}"
            cells.append(f"**{cell}**" if test.p_holm < 0.05 else cell)
        rows.append([variant.partition(":")[2], *cells, f"{np.mean(means):+.1f}"])
    lines = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    made = " or ".join(str(count) for count in sorted(seeds))
    return f"## {base}\n\n{made} seeds.\n\n{lines}\n"
