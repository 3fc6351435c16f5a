"""The sampler benchmark on paper: tables in Markdown, and curves."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sat_optuna.bench.comparison import (
    RECOMMENDED,
    Mean,
    Standing,
    Versus,
    normalised,
    scales,
)
from sat_optuna.bench.contenders import make_contender
from sat_optuna.bench.problems import make_problem
from sat_optuna.bench.runs import Run
from sat_optuna.files import write_atomically

__all__ = ["draw_curves", "overhead_markdown", "sampler_markdown"]

_NAMELESS = {"Software": None}  # the same bytes from each version that draws the same
_INK = "#22303c"
_OURS = "default"
_FLOOR = 1e-3  # of a logarithmic axis of regrets
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

_PREFACE = """\
# Samplers on problems of categorical choices

Value: true value of the scheme of the best reward; greater is better. Regret: 0 at the optimum, or
where it is unknown at the best value that any run of the seed came to; 1 at the mean of schemes
drawn uniformly. Area: mean regret of the best-looking scheme over all evaluations. Brackets hold
95 % bootstrap intervals of the mean over seeds. Differences are paired by seed; p is of the
two-sided Wilcoxon signed-rank test, p Holm corrected over all tests of a family of problems. ms:
median of ask and tell, Optuna's samplers made anew for each trial.
"""


# By part of the document: what its table shows.
_OVERHEAD = {
    "ask_and_tell": """\
# What a sampler costs a trial

Ask and tell of one trial in memory, 54 parameters of two choices, one thread, on studies of so
many finished trials. first_ms: the first trial, for which a sampler reads them; median_ms and
p95_ms: of those after it, by the clock; cpu_ms: their median CPU time, which other work on the
machine disturbs less; beyond: medians less random's.
""",
    "reopening": """\
## The first proposal after a study was opened again

A fresh process opens a SQLite file of so many finished trials of 54 parameters, and reads them
all, or asks for a trial and its first parameter. Median and greatest over the rounds, imports not
counted; beyond_ms: medians less that of reading.
""",
    "asynchrony": """\
## Schemes proposed twice by processes that work at once

So many processes on one journal file, each of which asks, evaluates (20 ms on average,
exponentially distributed) and tells without waiting for another. repeats_percent: share of trials
whose scheme a trial of smaller number has, the mean over seeds; most_percent: the greatest;
at_work: how many other trials ran on average when one began. How often one process repeats itself
is in table.md.
""",
}


def sampler_markdown(
    runs: Sequence[Run], standings: Sequence[Standing], comparisons: Sequence[Versus]
) -> str:
    """Return all tables, a section a problem."""
    parts = [_PREFACE, *_notes(runs)]
    for problem in dict.fromkeys(row.problem for row in standings):
        mine = [row for row in standings if row.problem == problem]
        against = [row for row in comparisons if row.problem == problem]
        parts.append(f"## {problem}\n\n{_about(problem, against)}\n")
        parts.append(_section(mine, against))
    return "\n".join(parts)


def _notes(runs: Sequence[Run]) -> list[str]:
    versions = {tuple(sorted(run.versions.items())) for run in runs}
    lines = ["Made with " + ", ".join(f"{n} {v}" for n, v in of) for of in sorted(versions)]
    for rival in sorted({run.rival for run in runs}):
        mine = [run for run in runs if run.rival == rival]
        made = ", ".join(sorted({run.version for run in mine}))
        note = make_contender(rival).note
        short = sum(run.done < run.evaluations for run in mine)
        cut = f"; {short} of {len(mine)} runs ended early by the cap" if short else ""
        lines.append(f"{rival}: {made}{'; ' + note if note else ''}{cut}")
    return ["\n".join(f"- {line}" for line in lines) + "\n"]


def _about(problem: str, comparisons: Sequence[Versus]) -> str:
    _, optimum = make_problem(problem, 0).scale()
    size = f"{np.prod([len(c) for c in make_problem(problem, 0).choices], dtype=float):.3g}"
    tests: dict[str, int] = {}
    for row in comparisons:
        tests[row.family] = tests.get(row.family, 0) + 1
    best = "unknown" if optimum is None else f"{optimum:.3f} with problem seed 0"
    families = f" Families of tests: {', '.join(tests)}." if tests else ""
    return f"{size} schemes; optimum {best}.{families}"


def _section(standings: Sequence[Standing], comparisons: Sequence[Versus]) -> str:
    found = {(row.ours, row.rival): row for row in comparisons}
    ours = [n for n in (_OURS, _OURS + RECOMMENDED) if any(key[0] == n for key in found)]
    plain = [row for row in standings if ":" not in row.rival]
    text = _table(plain, {name: {r: found.get((name, r)) for r in _names(plain)} for name in ours})
    variants = [row for row in standings if ":" in row.rival]
    if variants:
        of = {row.rival: found.get((row.rival.partition(":")[0], row.rival)) for row in variants}
        text += "\n" + _table(variants, {"base": of})
    return text


def _names(rows: Iterable[Standing]) -> list[str]:
    return [row.rival for row in rows]


def _table(rows: Sequence[Standing], versus: Mapping[str, Mapping[str, Versus | None]]) -> str:
    head = ["rival", "seeds", "evaluations", "value", "regret", "area", "distinct", "ms"]
    for name in versus:
        head += [f"{name} - rival", "wins/losses", "p", "p Holm"]
    lines = []
    for row in rows:
        cells = [
            row.rival,
            str(row.seeds),
            f"{row.done:g}",
            _interval(row.value),
            _interval(row.regret),
            _interval(row.area),
            f"{100 * row.distinct:.1f} %",
            f"{row.ms:.2f}",
        ]
        for of in versus.values():
            cells += _against(of.get(row.rival))
        lines.append(cells)
    return _markdown(head, lines)


def _against(row: Versus | None) -> list[str]:
    if row is None:
        return [""] * 4
    marked = f"**{row.p_holm:.2g}**" if row.p_holm < 0.05 else f"{row.p_holm:.2g}"
    return [_interval(row.difference), f"{row.wins}/{row.losses}", f"{row.p:.2g}", marked]


def _interval(mean: Mean | None) -> str:
    return "" if mean is None else f"{mean.value:.3f} ({mean.low:.3f} to {mean.high:.3f})"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), ["--"] * len(head), *map(list, rows)]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def overhead_markdown(document: Mapping[str, Any]) -> str:
    """Return the tables of `sat-optuna bench sampler --overhead`, a section a part."""
    parts = []
    for name, text in _OVERHEAD.items():
        rows = document[name]
        head = list(rows[0])
        parts.append(f"{text}\n{_markdown(head, ([str(r[n]) for n in head] for r in rows))}")
    made = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    return "\n".join([*parts, f"Made with {made}, on {document['machine']}.\n"])


def draw_curves(path: Path, runs: Sequence[Run]) -> Path:
    """Draw each rival's mean regret after each evaluation with its 95 % band, a panel a problem.

    Variants are left out.
    """
    runs = [run for run in runs if ":" not in run.rival]
    scale = scales(runs)
    problems = list(dict.fromkeys(sorted(run.problem for run in runs)))
    columns = min(3, len(problems))
    lines = -(-len(problems) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.3 * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, problem in zip(panels, problems, strict=False):
        _panel(axes, problem, [run for run in runs if run.problem == problem], scale)
    for axes in panels[len(problems) :]:
        axes.axis("off")
    shown = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    order = [name for name in _COLOURS if name in shown]
    figure.legend(
        [shown[name] for name in order],
        order,
        loc="outside lower center",
        ncols=5,
        frameon=False,
    )
    FigureCanvasAgg(figure)
    return write_atomically(
        path,
        lambda temporary: figure.savefig(temporary, format="png", dpi=110, metadata=_NAMELESS),
    )


def _panel(
    axes: Axes,
    problem: str,
    runs: Sequence[Run],
    scale: Mapping[tuple[str, int], tuple[float, float]],
) -> None:
    for rival in [name for name in reversed(_COLOURS) if any(r.rival == name for r in runs)]:
        curves = np.stack(
            [normalised(r.curve(), scale[problem, r.seed]) for r in runs if r.rival == rival]
        )
        steps = np.arange(1, curves.shape[1] + 1)
        low, high = _band(curves)
        colour, ours = _COLOURS[rival], rival == _OURS
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


def _band(curves: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the 95 % bootstrap interval of the mean at each evaluation."""
    count = len(curves)
    drawn = np.random.default_rng(count).multinomial(count, [1 / count] * count, size=_SAMPLES)
    low, high = np.quantile(drawn @ curves / count, (0.025, 0.975), axis=0)
    return np.maximum(low, _FLOOR), np.maximum(high, _FLOOR)
