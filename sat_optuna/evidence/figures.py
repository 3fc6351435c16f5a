"""The figures of a report, as PNG files that are written whole or not at all."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sat_optuna.evidence.effects import Effect
from sat_optuna.evidence.statistics import summarise_scores
from sat_optuna.files import write_atomically
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import ACCURACY, Measure

__all__ = [
    "draw_accuracies",
    "draw_blocks",
    "draw_confusion",
    "draw_front",
    "draw_search",
    "draw_ticket",
]

_NAMELESS = {"Software": None}  # without matplotlib's version, equal pictures have equal bytes
_INK = "#22303c"
_OFF = "#e4e8ec"
_KINDS = ("#e07a1f", "#1f77b4", "#2a9d5c", "#8e5ba6", "#c0392b", "#16a2b8", "#b8860b", "#607d8b")
_WRITTEN, _NAMED = 20, 60  # classes up to which counts, and names, can be read
_ROLES = {
    "ticket": "#e07a1f",
    "plain": "#607d8b",
    "full": "#1f77b4",
    "constant": "#b8860b",
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

    Where none has any that is written across them.

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
            text = kinds[choice - 1].upper() if choice else "\N{EN DASH}" * any(scheme.choices)
            _draw_block(axes, left + block, choice, text, fontsize)
        left = end + 0.6
    if not any(scheme.choices):
        axes.text(
            (left - 0.7) / 2,
            0.45,
            "no block carries attention",
            ha="center",
            va="center",
            color=_INK,
            fontsize=11,
        )
    axes.set_title(title, loc="left", color=_INK, fontsize=11, fontweight="bold")
    axes.set_xlim(-0.3, left - 0.4)
    axes.set_ylim(-0.2, 1.0)
    axes.set_aspect("equal")
    axes.axis("off")
    return _save(figure, path)


def _draw_block(axes: Axes, left: float, choice: int, text: str, fontsize: float) -> None:
    colour = _KINDS[(choice - 1) % len(_KINDS)] if choice else _OFF
    style = "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch((left, 0), 0.9, 0.9, boxstyle=style, fc=colour, ec="none"))
    axes.text(
        left + 0.45,
        0.45,
        text,
        ha="center",
        va="center",
        color="white" if choice else "#9aa5b1",
        fontsize=fontsize,
        fontweight="bold",
    )


def draw_search(
    path: Path,
    trials: Sequence[tuple[int, float, bool]],
    random: Sequence[tuple[int, float, bool]],
    *,
    name: str,
    measure: Measure = ACCURACY,
) -> Path:
    """Draw each trial's reward, and the best reward so far, beside those of random search.

    Args:
        path: the PNG file.
        trials: of the search, in their order: Optuna's number, the reward in the metric's unit,
            and whether the trial is complete. One that was pruned is drawn as a cross.
        random: those of the random schemes.
        name: of the sampler.
        measure: what the rewards are of.
    """
    figure = Figure(figsize=(7.0, 3.4), layout="constrained")
    axes = figure.subplots()
    for label, rows, colour in (
        ("random schemes", random, "#9aa5b1"),
        (f"sampler: {name}", trials, "#e07a1f"),
    ):
        for complete, marker in ((True, "."), (False, "x")):
            numbers = [number for number, _, whole in rows if whole is complete]
            rewards = [reward for _, reward, whole in rows if whole is complete]
            if not rewards:
                continue
            word = None if complete else f"pruned, {label}"
            axes.plot(numbers, rewards, marker, color=colour, alpha=0.5, markersize=5, label=word)
            if complete:
                best, word = list(accumulate(rewards, max)), f"best so far, {label}"
                axes.step(numbers, best, where="post", color=colour, lw=1.8, label=word)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial (Optuna's number, from 0)", color=_INK)
    unit = "points" if measure.unit == "%" else f"{measure.unit}, higher is better"
    axes.set_ylabel(f"reward ({measure.title} {unit})", color=_INK)
    axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8)
    _bare(axes)
    return _save(figure, path)


def draw_front(
    path: Path,
    trials: Sequence[Sequence[float]],
    front: Mapping[str, Sequence[float]],
    references: Mapping[str, Sequence[float]],
    *,
    objectives: Sequence[str],
    measure: Measure,
    ticket: str,
) -> Path:
    """Draw the metric against each cost: all trials, the front, and the networks to compare with.

    Args:
        path: the PNG file.
        trials: the value of each objective, of each complete trial.
        front: the same by scheme, of those that no other one beats in all.
        references: the same by role: plain and full, scored as the trials were.
        objectives: their names, in the order of the values.
        measure: the metric, which is one of them; the others are costs.
        ticket: the scheme of the front that was retrained.
    """
    metric = measure.name
    row, costs = objectives.index(metric), [name for name in objectives if name != metric]
    figure = Figure(figsize=(5.6 * len(costs) + 1.4, 3.6), layout="constrained")
    panels = figure.subplots(1, len(costs), squeeze=False)[0]
    for axes, name in zip(panels, costs, strict=True):
        column = objectives.index(name)

        def point(values: Sequence[float], column: int = column) -> tuple[float, float]:
            return values[column], values[row]

        axes.plot(*zip(*map(point, trials), strict=True), ".", color="#9aa5b1", alpha=0.5, ms=5)
        along = sorted(map(point, front.values()))
        axes.plot(*zip(*along, strict=True), "o-", color=_INK, lw=1.4, ms=4, label="front")
        for role, values in references.items():
            colour = _ROLES.get(role.split("-")[0], _ROLES["full"])
            axes.plot(*point(values), "s", color=colour, ms=7, label=role)
        if ticket in front:
            axes.plot(*point(front[ticket]), "o", color=_ROLES["ticket"], ms=9, label="ticket")
        axes.set_xlabel(name, color=_INK)
        axes.set_ylabel(f"validation {measure.title}, {measure.unit}", color=_INK)
        axes.legend(frameon=False, ncols=5, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8)
        _bare(axes)
    return _save(figure, path)


def draw_blocks(
    path: Path,
    effects: Sequence[Effect],
    scheme: Scheme,
    *,
    kinds: Sequence[str],
    measure: Measure = ACCURACY,
) -> Path:
    """Draw the effect of each kind at each block with its 95 % interval, from shallow to deep.

    Args:
        path: the PNG file.
        effects: of all blocks, and at each block of all kinds.
        scheme: the ticket; its choices are the filled points.
        kinds: names of the kinds of attention.
        measure: what the effects are in.
    """
    blocks = len(scheme.choices)
    figure = Figure(figsize=(min(14.0, max(7.0, 0.5 * blocks + 2)), 3.6), layout="constrained")
    axes = figure.subplots()
    names = Scheme.parameter_names(scheme.stages)
    gaps = [stage * 0.6 for stage, size in enumerate(scheme.stages) for _ in range(size)]
    places = [block + gap for block, gap in enumerate(gaps)]
    axes.axhline(0, color=_INK, lw=1)
    step = 0.6 / len(kinds)
    for effect in effects:
        block, kind = names.index(effect.block), kinds.index(effect.kind)
        x = places[block] + (kind - (len(kinds) - 1) / 2) * step
        colour = _KINDS[kind % len(_KINDS)]
        taken = scheme.choices[block] == kind + 1
        axes.plot([x, x], [effect.low, effect.high], color=colour, lw=2.0, solid_capstyle="round")
        face = colour if taken else "white"
        axes.plot(x, effect.points, "o", color=colour, mfc=face, ms=7, mew=1.6)
    for kind, name in enumerate(kinds):
        axes.plot([], [], "o-", color=_KINDS[kind % len(_KINDS)], label=name.upper())
    axes.plot([], [], "o", color=_INK, label="in the ticket")
    axes.plot([], [], "o", color=_INK, mfc="white", label="not in it")
    axes.legend(
        frameon=False, ncols=len(kinds) + 2, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8
    )
    axes.set_xticks(places, names, rotation=90 if blocks > 12 else 0, fontsize=8)
    axes.set_xlim(-0.7, places[-1] + 0.7)
    other = f"validation {measure.title} for the better"
    label = "validation points that it adds" if measure.unit == "%" else other
    axes.set_ylabel(label, color=_INK)
    _bare(axes)
    return _save(figure, path)


def draw_accuracies(
    path: Path,
    accuracies: Mapping[str, Sequence[float]],
    *,
    images: int,
    measure: Measure = ACCURACY,
) -> Path:
    """Draw the test accuracies, or other scores, of each network with mean and 95 % interval.

    Args:
        path: the PNG file.
        accuracies: by role, one value for each seed.
        images: number of images of the test set.
        measure: what the values are in.
    """
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    axes = figure.subplots()
    for column, (role, values) in enumerate(accuracies.items()):
        colour = _ROLES.get(role, _ROLES["full"])
        spread = summarise_scores(values, images=images, measure=measure)
        axes.plot([column - 0.12] * len(values), values, "o", color=colour, alpha=0.5, ms=5, mew=0)
        ends = [[spread.mean - spread.low], [spread.high - spread.mean]]
        axes.errorbar(column + 0.1, spread.mean, yerr=ends, fmt="s", color=colour, capsize=4)
    axes.set_xticks(range(len(accuracies)), list(accuracies))
    axes.set_xlim(-0.5, len(accuracies) - 0.5)
    unit = f", {measure.unit}" if measure.unit else ""
    axes.set_ylabel(f"test {measure.title}{unit}", color=_INK)
    _bare(axes)
    return _save(figure, path)


def draw_confusion(
    path: Path, confusion: NDArray[np.int64], class_names: Sequence[str], *, title: str
) -> Path:
    """Draw how often images of each class are given each answer.

    Args:
        path: the PNG file.
        confusion: (K, K) images by class, a row for the true one, a column for the answer.
        class_names: one a class.
        title: of the figure.
    """
    count = len(class_names)
    shares = confusion / confusion.sum(axis=1, keepdims=True).clip(min=1)
    side = min(12.0, max(3.6, 1.4 + 0.45 * count))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if count <= _WRITTEN:
        for row, column in np.ndindex(count, count):
            if confusion[row, column]:
                ink = "white" if shares[row, column] > 0.5 else _INK
                text = str(confusion[row, column])
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)
    if count <= _NAMED:
        axes.set_xticks(range(count), class_names, rotation=90, fontsize=8, color=_INK)
        axes.set_yticks(range(count), class_names, fontsize=8, color=_INK)
    axes.set_xlabel("the network's answer", color=_INK)
    axes.set_ylabel("true class", color=_INK)
    axes.set_title(title, fontsize=9, color=_INK)
    return _save(figure, path)
