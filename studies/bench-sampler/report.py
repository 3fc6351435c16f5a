"""The duel on paper: tables in Markdown, and curves."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from comparison import OURS, RECOMMENDED, Results, Versus, bootstrap
from lookup import Floats
from problems import make_problem
from rivals import make_rival
from runs import Run
from sat_optuna.files import write_atomically

__all__ = ["ablation_markdown", "draw_curves", "markdown", "table_markdown"]

_INK = "#22303c"
_FLOOR = 1e-3  # of the logarithmic axis of regrets
_SAMPLES = 1000
_COLOURS = {
    "default": "#e07a1f",
    "paper": "#c0392b",
    "random": "#9aa5b1",
    "tpe": "#1f77b4",
    "nsga2": "#2a9d5c",
    "gp": "#8e5ba6",
    "qmc": "#607d8b",
    "cmaes": "#b8860b",
    "one-plus-one": "#16a2b8",
    "regularised-evolution": "#7a5230",
}

_TABLE = """\
# Samplers on problems of categorical choices

Value: true value of the scheme of the best reward; greater is better. Regret: 0 at the optimum, or
where it is unknown at the best value that any run of the seed came to; 1 at the mean of schemes
drawn uniformly. Area: mean regret of the best-looking scheme over all evaluations. Brackets hold
95 % bootstrap intervals of the mean over seeds. Differences are paired by seed; p is of the
two-sided Wilcoxon signed-rank test, p Holm corrected over all tests of a family of problems. ms:
median of ask and tell, Optuna's samplers made anew for each trial.
"""

_ABLATION = """\
# What each part of the samplers is worth

A row is a sampler with one setting changed. A cell is the mean, over so many seeds, of its
regret less that of the sampler it is of, in thousandths of the way from a random scheme to the
optimum; above 0 the change does harm. Bold: p below 0.05 of the two-sided Wilcoxon signed-rank
test over seeds, Holm corrected over the variants of one sampler on one family of problems. Of
noisy problems it is the regret of the scheme with the best reward. The same runs, with intervals:
table.md.
"""


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table.

    >>> print(markdown(["rival", "ms"], [["tpe", "7.0"]]), end="")
    | rival | ms |
    | -- | -- |
    | tpe | 7.0 |
    """
    lines = [list(head), ["--"] * len(head), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def table_markdown(results: Results, comparisons: Sequence[Versus]) -> str:
    """Return all tables, a section a problem."""
    parts = [_TABLE, _notes(results.runs)]
    for problem in results.problems:
        against = [row for row in comparisons if row.problem == problem]
        parts.append(f"## {problem}\n\n{_about(problem, against)}\n")
        rows = [_row(results, problem, rival) for name, rival in results.groups if name == problem]
        parts.append(_section([cells for _, cells in sorted(rows)], against))
    return "\n".join(parts)


def _notes(runs: Sequence[Run]) -> str:
    versions = {tuple(sorted(run.versions.items())) for run in runs}
    lines = ["Made with " + ", ".join(f"{n} {v}" for n, v in of) for of in sorted(versions)]
    for rival in sorted({run.rival for run in runs}):
        mine = [run for run in runs if run.rival == rival]
        made = ", ".join(sorted({run.version for run in mine}))
        note = make_rival(rival).note
        short = sum(run.done < run.evaluations for run in mine)
        cut = f"; {short} of {len(mine)} runs ended early by the cap" if short else ""
        lines.append(f"{rival}: {made}{'; ' + note if note else ''}{cut}")
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _about(name: str, comparisons: Sequence[Versus]) -> str:
    problem = make_problem(name, 0)
    _, optimum = problem.scale()
    size = np.prod([len(c) for c in problem.choices], dtype=float)
    best = "unknown" if optimum is None else f"{optimum:.3f} with problem seed 0"
    families = ", ".join(dict.fromkeys(row.family for row in comparisons))
    tests = f" Families of tests: {families}." if families else ""
    return f"{size:.3g} schemes; optimum {best}.{tests}"


def _row(results: Results, problem: str, rival: str) -> tuple[float, list[str]]:
    """Return the mean regret of a rival on a problem, and its cells of the table."""
    label, runs = f"{problem} {rival}", list(results.groups[problem, rival].values())
    value = bootstrap([run.value for run in runs], label=f"{label} value")
    regrets = [float(results.regret(run, run.value)) for run in runs]
    regret = bootstrap(regrets, label=f"{label} regret")
    # A recommendation is made at the end alone, so it has no curve.
    areas = [results.regret(run, run.curve()).mean() for run in runs if run.path]
    area = bootstrap(areas, label=f"{label} area") if areas else ""
    done = np.mean([run.done for run in runs])
    distinct = 100 * np.mean([run.distinct for run in runs])
    ms = np.median([run.ms for run in runs])
    cells = [rival, str(len(runs)), f"{done:g}", str(value), str(regret), str(area)]
    return regret.value, [*cells, f"{distinct:.1f} %", f"{ms:.2f}"]


def _section(rows: Sequence[list[str]], comparisons: Sequence[Versus]) -> str:
    found = {(row.ours, row.rival): row for row in comparisons}
    ours = [name for name in (OURS, RECOMMENDED) if any(key[0] == name for key in found)]
    text = _table([cells for cells in rows if ":" not in cells[0]], ours, found)
    variants = [cells for cells in rows if ":" in cells[0]]
    return text + ("\n" + _table(variants, ["base"], found) if variants else "")


def _table(
    rows: Iterable[list[str]], ours: Sequence[str], found: Mapping[tuple[str, str], Versus]
) -> str:
    head = ["rival", "seeds", "evaluations", "value", "regret", "area", "distinct", "ms"]
    for name in ours:
        head += [f"{name} - rival", "wins/losses", "p", "p Holm"]
    lines = []
    for rival, *cells in rows:
        of = {"base": rival.partition(":")[0]}  # what a variant is compared with
        tests = [_against(found.get((of.get(name, name), rival))) for name in ours]
        lines.append([rival, *cells, *itertools.chain(*tests)])
    return markdown(head, lines)


def _against(row: Versus | None) -> list[str]:
    if row is None:
        return [""] * 4
    p_holm = _bold(f"{row.p_holm:.2g}", row)
    return [str(row.difference), f"{row.wins}/{row.losses}", f"{row.p:.2g}", p_holm]


def _bold(cell: str, row: Versus) -> str:
    return f"**{cell}**" if row.p_holm < 0.05 else cell


def ablation_markdown(comparisons: Sequence[Versus]) -> str:
    """Return what each setting is worth, a section a sampler; empty where there is no variant."""
    tests = [row for row in comparisons if ":" in row.rival]
    parts = [_ABLATION] if tests else []
    for base in sorted({row.ours for row in tests}):
        found = {(row.problem, row.rival): row for row in tests if row.ours == base}
        problems = sorted({problem for problem, _ in found})
        lines = []
        for variant in sorted({rival for _, rival in found}):
            of = {name: found[name, variant] for name in problems if (name, variant) in found}
            cells = [
                _bold(f"{1000 * of[name].regret:+.0f}", of[name]) if name in of else ""
                for name in problems
            ]
            mean = 1000 * np.mean([row.regret for row in of.values()])
            lines.append([variant.partition(":")[2], *cells, f"{mean:+.1f}"])
        seeds = " or ".join(map(str, sorted({row.seeds for row in found.values()})))
        table = markdown(["changed", *problems, "mean"], lines)
        parts.append(f"## {base}\n\n{seeds} seeds.\n\n{table}")
    return "\n".join(parts)


def draw_curves(path: Path, runs: Iterable[Run]) -> Path:
    """Draw each rival's mean regret after each evaluation with its 95 % band, a panel a problem.

    Variants are left out.
    """
    results = Results(run for run in runs if ":" not in run.rival)
    columns = min(3, len(results.problems))
    lines = -(-len(results.problems) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.3 * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, problem in zip(panels, results.problems, strict=False):
        _panel(axes, problem, results)
    for axes in panels[len(results.problems) :]:
        axes.axis("off")
    shown = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    order = [name for name in _COLOURS if name in shown]
    handles = [shown[name] for name in order]
    figure.legend(handles, order, loc="outside lower center", ncols=5, frameon=False)
    FigureCanvasAgg(figure)
    nameless = {"Software": None}  # the same bytes from each version that draws the same
    return write_atomically(
        path, lambda temporary: figure.savefig(temporary, format="png", dpi=110, metadata=nameless)
    )


def _panel(axes: Axes, problem: str, results: Results) -> None:
    for rival in [name for name in reversed(_COLOURS) if (problem, name) in results.groups]:
        runs = results.groups[problem, rival].values()
        curves = np.stack([results.regret(run, run.curve()) for run in runs])
        steps = np.arange(1, curves.shape[1] + 1)
        low, high = _band(curves)
        colour, ours = _COLOURS[rival], rival == OURS
        axes.fill_between(steps, low, high, color=colour, alpha=0.22 if ours else 0.1, lw=0)
        mean = np.maximum(curves.mean(axis=0), _FLOOR)
        axes.plot(steps, mean, color=colour, lw=2.4 if ours else 1.3, label=rival)
    axes.set_yscale("log")
    axes.set_ylim(_FLOOR, 1.6)
    axes.set_xlim(1, None)
    axes.set_title(problem, loc="left", color=_INK, fontsize=10, fontweight="bold")
    axes.set_xlabel("evaluation", color=_INK, fontsize=9)
    axes.set_ylabel("normalised regret", color=_INK, fontsize=9)
    axes.tick_params(colors=_INK, labelsize=8)
    axes.grid(visible=True, axis="y", color="#eef1f4", zorder=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _band(curves: Floats) -> tuple[Floats, Floats]:
    """Return the ends of the 95 % bootstrap interval of the mean at each evaluation."""
    count = len(curves)
    drawn = np.random.default_rng(count).multinomial(count, [1 / count] * count, size=_SAMPLES)
    low, high = np.quantile(drawn @ curves / count, (0.025, 0.975), axis=0)
    return np.maximum(low, _FLOOR), np.maximum(high, _FLOOR)
