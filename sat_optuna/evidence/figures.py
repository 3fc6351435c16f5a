"""The figures of a report, as PNG files that are written whole or not at all."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import MaxNLocator

from sat_optuna.evidence.statistics import summarise
from sat_optuna.files import write_atomically
from sat_optuna.scheme import Scheme

__all__ = ["draw_accuracies", "draw_search", "draw_ticket"]

_NAMELESS = {"Software": None}  # without matplotlib's version, equal pictures have equal bytes
_INK = "#22303c"
_OFF = "#e4e8ec"
_KINDS = ("#e07a1f", "#1f77b4", "#2a9d5c", "#8e5ba6", "#c0392b", "#16a2b8", "#b8860b", "#607d8b")
_ROLES = {
    "ticket": "#e07a1f",
    "plain": "#607d8b",
    "full": "#1f77b4",
    "random-density": "#8e5ba6",
    "random-best": "#2a9d5c",
}


def _save(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure)
    return write_atomically(
        path,
        lambda temporary: figure.savefig(temporary, format="png", dpi=160, metadata=_NAMELESS),
    )


def _bare(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=_INK)
    axes.grid(visible=True, axis="y", color="#eef1f4", zorder=0)


def draw_ticket(path: Path, scheme: Scheme, *, kinds: Sequence[str], title: str) -> Path:
    """Draw a network as a row of blocks; those with attention are coloured.

    Args:
        path: the PNG file.
        scheme: which block carries what.
        kinds: names of the kinds of attention.
        title: of the figure.
    """
    rows = scheme.by_stage()
    blocks = len(scheme.choices)
    units = blocks + 0.6 * (len(rows) - 1)
    inches = min(14.0, max(5.0, 0.75 * units))
    longest = max(len(kind) for kind in kinds)
    fontsize = min(9.0, 72 * inches / units / longest)  # a bold capital is narrower than 0.8 of it
    figure = Figure(figsize=(inches, 2.1), layout="constrained")
    axes = figure.subplots()
    left = 0.0
    for stage, choices in enumerate(rows, start=1):
        end = left + len(choices)
        axes.add_patch(Rectangle((left - 0.05, -0.12), len(choices), 0.04, color=_INK, lw=0))
        axes.annotate(
            f"stage {stage}",
            (left + len(choices) / 2, -0.12),
            xytext=(0, -4),  # in points, so the gap does not depend on the size of a block
            textcoords="offset points",
            ha="center",
            va="top",
            color=_INK,
            fontsize=9,
        )
        for block, choice in enumerate(choices):
            _draw_block(axes, left + block, choice, kinds, fontsize)
        left = end + 0.6
    axes.set_title(title, loc="left", color=_INK, fontsize=11, fontweight="bold")
    axes.set_xlim(-0.3, left - 0.4)
    axes.set_ylim(-0.2, 1.0)
    axes.set_aspect("equal")
    axes.axis("off")
    return _save(figure, path)


def _draw_block(
    axes: Axes, left: float, choice: int, kinds: Sequence[str], fontsize: float
) -> None:
    colour = _KINDS[(choice - 1) % len(_KINDS)] if choice else _OFF
    style = "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch((left, 0), 0.9, 0.9, boxstyle=style, fc=colour, ec="none"))
    text, ink = (kinds[choice - 1].upper(), "white") if choice else ("\N{EN DASH}", "#9aa5b1")
    axes.text(
        left + 0.45,
        0.45,
        text,
        ha="center",
        va="center",
        color=ink,
        fontsize=fontsize,
        fontweight="bold",
    )


def draw_search(
    path: Path, rewards: Sequence[float], random: Sequence[float], *, name: str
) -> Path:
    """Draw each trial's reward, and the best reward so far, beside those of random search.

    Args:
        path: the PNG file.
        rewards: of the complete trials of the search, in their order, in accuracy points.
        random: rewards of as many random schemes, in their order.
        name: of the sampler.
    """
    figure = Figure(figsize=(7.0, 3.4), layout="constrained")
    axes = figure.subplots()
    for label, values, colour in (
        (f"sampler: {name}", rewards, "#e07a1f"),
        ("random schemes", random, "#9aa5b1"),
    ):
        best = list(accumulate(values, max))
        steps = range(1, len(values) + 1)
        axes.plot(steps, values, ".", color=colour, alpha=0.45, markersize=5)
        axes.step(steps, best, where="post", color=colour, lw=1.8, label=f"best so far, {label}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial", color=_INK)
    axes.set_ylabel("reward (accuracy points)", color=_INK)
    axes.legend(frameon=False, loc="lower right")
    _bare(axes)
    return _save(figure, path)


def draw_accuracies(path: Path, accuracies: Mapping[str, Sequence[float]]) -> Path:
    """Draw the test accuracies of each network with their mean and its 95 % interval.

    Args:
        path: the PNG file.
        accuracies: by role, one accuracy for each seed, per cent.
    """
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    axes = figure.subplots()
    for column, (role, values) in enumerate(accuracies.items()):
        colour = _ROLES.get(role, _INK)
        spread = summarise(values)
        axes.plot([column - 0.12] * len(values), values, "o", color=colour, alpha=0.5, ms=5, mew=0)
        half = spread.high - spread.mean
        axes.errorbar(column + 0.1, spread.mean, yerr=half, fmt="s", color=colour, capsize=4)
    axes.set_xticks(range(len(accuracies)), list(accuracies))
    axes.set_xlim(-0.5, len(accuracies) - 0.5)
    axes.set_ylabel("test accuracy, %", color=_INK)
    _bare(axes)
    return _save(figure, path)
