"""The figures of a report, as PNG files that are written whole or not at all.

Networks, and kinds of attention, differ in marker or line as well as in colour. Colours that meet
in one figure are told apart in deuteranopia and protanopia too (CIEDE2000 of 10 at least).
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from sat_optuna.evidence.effects import UNTOLD, Effect, readings
from sat_optuna.evidence.statistics import summarise_scores
from sat_optuna.files import write_atomically
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import ACCURACY, Measure

__all__ = [
    "draw_blocks",
    "draw_confusion",
    "draw_connections",
    "draw_costs",
    "draw_curves",
    "draw_front",
    "draw_ranking",
    "draw_search",
    "draw_ticket",
    "draw_truth",
    "shares_by_batch",
]

_NAMELESS = {"Software": None}  # without matplotlib's version, equal pictures have equal bytes
_INK = "#22303c"
_OFF = "#e4e8ec"
_KINDS = ("#d55e00", "#0072b2", "#009e73", "#591600", "#00b6f2", "#f2b600", "#468080", "#315945")
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<")  # one a kind, in the same order
_CLOUD = "#9aa5b1"
_MANY = 12  # blocks whose names stand side by side
_WRITTEN, _NAMED = 20, 60  # classes up to which counts, and names, can be read


class _Look(NamedTuple):
    """How a network is drawn."""

    colour: str
    marker: str
    line: Any
    size: float = 8


_LOOKS = {
    "ticket": _Look("#d55e00", "*", "-", 14),
    "plain": _Look("#3b4a57", "s", "--"),
    "full": _Look("#0072b2", "^", "-."),
    "constant": _Look("#009e73", "D", ":"),
    "random": _Look(_CLOUD, "o", (0, (1, 3)), 6),
}
_OTHER = _Look("#591600", "v", (0, (5, 1, 1, 1)))


def _look(label: str) -> _Look:
    """Return the look of a network by the first role of its label."""
    return _LOOKS.get(label.split("-")[0].split(" ")[0], _OTHER)


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
        color=_ink_on(colour) if choice else "#5d6975",
        fontsize=fontsize,
        fontweight="bold",
    )


def _ink_on(colour: str) -> str:
    """Return white or black, whichever is easier to read on a colour (WCAG's contrast)."""
    channels = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return "white" if float(linear @ [0.2126, 0.7152, 0.0722]) < 0.179 else "black"


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
    for label, rows, colour, line, face in (
        ("random schemes", random, _CLOUD, "--", "white"),
        (f"sampler: {name}", trials, _LOOKS["ticket"].colour, "-", None),
    ):
        for complete, marker in ((True, "o"), (False, "x")):
            numbers = [number for number, _, whole in rows if whole is complete]
            rewards = [reward for _, reward, whole in rows if whole is complete]
            if not rewards:
                continue
            word = None if complete else f"pruned, {label}"
            (points,) = axes.plot(numbers, rewards, marker, color=colour, alpha=0.6, label=word)
            points.set(markerfacecolor=face or colour, markersize=3 if complete else 5)
            if complete:
                best, word = list(accumulate(rewards, max)), f"best so far, {label}"
                axes.step(numbers, best, where="post", color=colour, ls=line, lw=1.8, label=word)
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

        axes.plot(*zip(*map(point, trials), strict=True), ".", color=_CLOUD, alpha=0.5, ms=5)
        along = sorted(map(point, front.values()))
        axes.plot(*zip(*along, strict=True), "o-", color=_INK, lw=1.4, ms=4, label="front")
        for role, values in references.items():
            look = _look(role)
            axes.plot(*point(values), look.marker, color=look.colour, ms=7, label=role)
        if ticket in front:
            look = _LOOKS["ticket"]
            axes.plot(*point(front[ticket]), look.marker, color=look.colour, ms=12, label="ticket")
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

    Where it is told from 0 (Holm, 5 %), "pays" or "hurts" stands at it.

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
    for effect, reading in zip(effects, readings(effects), strict=True):
        block, kind = names.index(effect.block), kinds.index(effect.kind)
        x = places[block] + (kind - (len(kinds) - 1) / 2) * step
        colour = _KINDS[kind % len(_KINDS)]
        taken = scheme.choices[block] == kind + 1
        axes.plot([x, x], [effect.low, effect.high], color=colour, lw=2.0, solid_capstyle="round")
        face = colour if taken else "white"
        shape = _SHAPES[kind % len(_SHAPES)]
        axes.plot(x, effect.points, shape, color=colour, mfc=face, ms=7, mew=1.6)
        if reading != UNTOLD:
            above = effect.points > 0
            axes.annotate(
                reading,
                (x, effect.high if above else effect.low),
                xytext=(0, 3 if above else -3),
                textcoords="offset points",
                ha="center",
                va="bottom" if above else "top",
                color=_INK,
                fontsize=8,
                rotation=90 if blocks * len(kinds) > _MANY else 0,
            )
    axes.margins(y=0.2 if len(kinds) > 1 else 0.12)
    for kind, name in enumerate(kinds):
        colour, shape = (of[kind % len(of)] for of in (_KINDS, _SHAPES))
        axes.plot([], [], "-", color=colour, marker=shape, label=name.upper())
    axes.plot([], [], "o", color=_INK, label="in the ticket")
    axes.plot([], [], "o", color=_INK, mfc="white", label="not in it")
    axes.legend(
        frameon=False, ncols=len(kinds) + 2, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8
    )
    axes.set_xticks(places, names, rotation=90 if blocks > _MANY else 0, fontsize=8)
    axes.set_xlim(-0.7, places[-1] + 0.7)
    other = f"validation {measure.title} for the better"
    label = "validation points that it adds" if measure.unit == "%" else other
    axes.set_ylabel(label, color=_INK)
    _bare(axes)
    return _save(figure, path)


def draw_costs(
    path: Path,
    networks: Mapping[str, tuple[float, Sequence[float]]],
    *,
    cost: str,
    images: int,
    measure: Measure = ACCURACY,
) -> Path:
    """Draw the test accuracy, or another score, of each network against what it costs extra.

    Args:
        path: the PNG file.
        networks: by label what it costs beyond plain, and a score for each seed. Labels begin with
            the role; those of random schemes are one cloud.
        cost: what the cost is, with its unit.
        images: number of images of the test set.
        measure: what the scores are in.
    """
    figure = Figure(figsize=(7.0, 3.8), layout="constrained")
    axes = figure.subplots()
    cloud = [label for label in networks if _look(label) is _LOOKS["random"]]
    width = max((abs(extra) for extra, _ in networks.values()), default=0) or 1
    labels, taken = [], []
    costs: list[float] = []
    for label, (extra, values) in networks.items():
        look = _look(label)
        spread = summarise_scores(values, images=images, measure=measure)
        # Networks that cost the same stand side by side.
        x = extra + 0.05 * width * sum(abs(other - extra) < 0.02 * width for other in costs)
        costs.append(extra)
        taken.append((x, spread.mean, spread.mean))
        if len(cloud) > 1 and label in cloud:
            axes.plot(x, spread.mean, look.marker, color=look.colour, mfc="none", ms=look.size)
            if label == cloud[-1]:
                labels.append(_Label(x, spread.mean, "random schemes"))
            continue
        aside = x - 0.02 * width
        axes.plot([aside] * len(values), values, ".", color=look.colour, ms=5, mew=0)
        ends = [[spread.mean - spread.low], [spread.high - spread.mean]]
        axes.errorbar(
            x, spread.mean, yerr=ends, fmt=look.marker, color=look.colour, ms=look.size, capsize=3
        )
        number = f"{spread.mean:.1f} %" if measure.unit == "%" else measure.text(spread.mean)
        labels.append(_Label(x, spread.mean, f"{label}, {number}"))
        low, high = np.nan_to_num([spread.low, spread.high], nan=spread.mean)
        taken += [(x, low, high), *((aside, value, value) for value in values)]
    axes.set_xlabel(cost, color=_INK)
    unit = f", {measure.unit}" if measure.unit else ""
    axes.set_ylabel(f"test {measure.title}{unit}", color=_INK)
    most = max(costs, default=0)
    axes.set_xlim(min(costs, default=0) - 0.1 * width, most + 0.25 * width)
    seeds = max((len(values) for _, values in networks.values()), default=0)
    said = f"mean and 95 % interval of {seeds} seeds; a dot is one seed" if seeds > 1 else "1 seed"
    axes.set_title(said, loc="left", fontsize=8, color=_INK)
    _bare(axes)
    _write_labels(axes, labels, taken)
    return _save(figure, path)


def draw_truth(
    path: Path, means: NDArray[np.float64], marked: Mapping[str, float], *, score: str
) -> Path:
    """Draw how the scores of all schemes are spread, and where plain, full and others stand.

    Args:
        path: the PNG file.
        means: (S,), the score of each scheme; those that are NaN are left out.
        marked: by label the score of a network.
        score: what it is, for the axis: "validation accuracy, %, mean of 2 seeds".
    """
    figure = Figure(figsize=(7.0, 3.4), layout="constrained")
    axes = figure.subplots()
    known = means[np.isfinite(means)]
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.hist(known, bins=40, color="#c9d1d9", edgecolor="white", lw=0.5, zorder=2)
    top = axes.get_ylim()[1]
    rows = [top * (1.06 + 0.1 * row) for row in reversed(range(len(marked)))]
    for (label, value), height in zip(marked.items(), rows, strict=True):
        look = _look(label)
        axes.plot([value, value], [0, height], color=look.colour, ls=look.line, lw=2, zorder=3)
        axes.plot(value, height, look.marker, color=look.colour, ms=look.size, zorder=4)
    left, right = axes.get_xlim()
    for (label, value), height in zip(marked.items(), rows, strict=True):
        aside = -8 if value > left + 0.8 * (right - left) else 8
        _write(axes, _Label(value, height, label), aside, 0)
    axes.set_ylim(0, top * (1.1 + 0.1 * len(marked)))
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= top])
    axes.set_xlabel(score, color=_INK)
    axes.set_ylabel("schemes", color=_INK)
    of = "all" if len(known) == len(means) else f"{len(known):,} of the"
    axes.set_title(f"{of} {len(means):,} schemes", loc="left", fontsize=9, color=_INK)
    _bare(axes)
    return _save(figure, path)


def draw_ranking(
    path: Path,
    scores: NDArray[np.float64],
    truths: NDArray[np.float64],
    marked: Mapping[str, int],
    *,
    tau: tuple[float, float, float],
    score: str,
    truth: str,
) -> Path:
    """Draw what the supernet says of each scheme against what training from scratch gives.

    Args:
        path: the PNG file.
        scores: (S,), of the supernet.
        truths: (S,), of the same schemes trained from scratch; NaN where one is missing.
        marked: by label the row of a scheme: plain, full, the ticket.
        tau: Kendall's, with the ends of its interval; NaN ends where there is none.
        score: what the supernet's are, for the axis.
        truth: what the others are.
    """
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    look = _LOOKS["random"]
    axes.plot(scores, truths, look.marker, color=look.colour, mfc="none", ms=4, mew=1)
    labels = []
    for label, row in marked.items():
        look = _look(label)
        x, y = float(scores[row]), float(truths[row])
        axes.plot(x, y, look.marker, color=look.colour, ms=look.size)
        labels.append(_Label(x, y, label))
    value, low, high = tau
    interval = "" if np.isnan(low) else f" ({low:.2f} to {high:.2f})"
    axes.set_title(
        f"Kendall's tau {value:.2f}{interval}: 1 the same order, 0 none",
        loc="left",
        fontsize=10,
        color=_INK,
    )
    axes.set_xlabel(score, color=_INK)
    axes.set_ylabel(truth, color=_INK)
    _bare(axes)
    known = zip(scores.tolist(), truths.tolist(), strict=True)
    _write_labels(axes, labels, [(x, y, y) for x, y in known if not np.isnan(y)])
    return _save(figure, path)


def draw_curves(
    path: Path, curves: Mapping[str, Sequence[Sequence[float]]], *, score: str
) -> Path:
    """Draw what each network reaches epoch by epoch: thin a seed, thick their mean.

    Args:
        path: the PNG file.
        curves: by label, for each seed one number an epoch, from epoch 1.
        score: what it is, for the axis.
    """
    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    axes = figure.subplots()
    labels = []
    for label, seeds in curves.items():
        look = _look(label)
        for values in seeds:
            epochs = range(1, len(values) + 1)
            axes.plot(epochs, values, color=look.colour, ls=look.line, lw=0.7, alpha=0.5)
        mean = [fmean(column) for column in zip(*seeds, strict=True)]
        axes.plot(
            range(1, len(mean) + 1),
            mean,
            color=look.colour,
            ls=look.line,
            lw=2.2,
            marker=look.marker,
            markevery=max(1, len(mean) // 6),
            ms=0.7 * look.size,
        )
        labels.append(_Label(len(mean), mean[-1], label))
    last = max((label.x for label in labels), default=1)
    axes.set_xlim(1 - 0.03 * last, last + 0.25 * max(last - 1, 1))
    ticks = MaxNLocator(8, integer=True).tick_values(1, last)
    axes.set_xticks([tick for tick in ticks if 1 <= tick <= last])
    axes.set_xlabel("epoch", color=_INK)
    axes.set_ylabel(score, color=_INK)
    _bare(axes)
    _write_labels(axes, labels, [], right=True)
    return _save(figure, path)


def shares_by_batch(
    schemes: Sequence[Sequence[int]], *, batches: int
) -> tuple[NDArray[np.float64], list[int]]:
    """Return in which share of the trials of each batch a block was connected.

    >>> shares, ends = shares_by_batch([[0, 1], [1, 1], [0, 0], [0, 2]], batches=2)
    >>> shares.tolist(), ends
    ([[0.5, 1.0], [0.0, 0.5]], [2, 4])

    Args:
        schemes: the choices of each trial, in their order.
        batches: how many there are at most, equal but for one trial.

    Returns:
        (T, B) shares, 0..1, and how many trials there were at the end of each batch.
    """
    parts = np.array_split(np.asarray(schemes) > 0, min(batches, len(schemes)))
    ends = list(accumulate(len(part) for part in parts))
    return np.array([part.mean(axis=0) for part in parts]), ends


def draw_connections(
    path: Path,
    shares: NDArray[np.float64],
    ends: Sequence[int],
    scheme: Scheme,
    *,
    name: str,
) -> Path:
    """Draw how often each block was connected, or was likely to be, in the course of a search.

    Args:
        path: the PNG file.
        shares: (T, B), 0..1, of each batch of trials; or probabilities of a policy.
        ends: how many trials there were at the end of each batch.
        scheme: the ticket, whose blocks are marked at the right.
        name: of the sampler.
    """
    blocks, sizes = len(scheme.choices), scheme.stages
    inches = min(7.4, max(2.6, 1.3 + 0.22 * blocks))
    figure = Figure(figsize=(7.0, inches), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(
        shares.T, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
    )
    for boundary in list(accumulate(sizes))[:-1]:
        axes.axhline(boundary - 0.5, color="white", lw=3)
    taken = [block for block, choice in enumerate(scheme.choices) if choice]
    right = len(shares) - 0.5
    look = _LOOKS["ticket"]
    axes.plot(
        [right + 0.03 * len(shares)] * len(taken),
        taken,
        look.marker,
        color=look.colour,
        ms=9,
        clip_on=False,
    )
    names = Scheme.parameter_names(sizes)
    shown = range(0, blocks, 1 + blocks // 40)
    axes.set_yticks(list(shown), [names[block] for block in shown], fontsize=8)
    step = max(1, len(ends) // 6)
    axes.set_xticks(
        range(step - 1, len(ends), step), [f"{end:,}" for end in ends[step - 1 :: step]]
    )
    axes.set_xlim(-0.5, right)
    axes.set_xlabel(f"trials so far (sampler: {name})", color=_INK)
    bar = figure.colorbar(picture, ax=axes, pad=0.07)
    bar.set_label("share that connects the block", color=_INK)
    said = "star: in the ticket" if taken else "no block is in the ticket"
    axes.set_title(said, loc="right", fontsize=8, color=_INK)
    axes.tick_params(colors=_INK)
    return _save(figure, path)


class _Label(NamedTuple):
    """A text that belongs to a point of a figure."""

    x: float
    y: float
    text: str


def _write(axes: Axes, label: _Label, aside: float, up: float) -> Annotation:
    """Write a label so many points beside its own, with a white rim."""
    text = axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=(aside, up),
        textcoords="offset points",
        ha="left" if aside > 0 else "right",
        va="center",
        color=_INK,
        fontsize=9,
        path_effects=[withStroke(linewidth=3, foreground="white")],
        zorder=6,
    )
    text.set_in_layout(False)
    return text


def _write_labels(
    axes: Axes,
    labels: Sequence[_Label],
    taken: Iterable[tuple[float, float, float]],
    *,
    right: bool = False,
) -> None:
    """Write each label beside its point, where nothing else is as far as there is room.

    Args:
        axes: with all that is drawn.
        labels: the first ones have the first choice.
        taken: x, low and high of what is in the way.
        right: only at the right of the points.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not labels:
        return
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # from here on the places of the data are known
    renderer: Any = cast("Any", canvas).get_renderer()
    inside, point = axes.get_window_extent(), figure.dpi / 72
    boxes = []
    for x, low, high in (*taken, *((label.x, label.y, label.y) for label in labels)):
        ends = axes.transData.transform([(x, low), (x, high)])
        boxes.append(Bbox([ends[0] - 4 * point, ends[1] + 4 * point]))
    places = [
        (aside, 6 * up)
        for up in sorted(range(-16, 17), key=abs)
        for aside in ((9,) if right else (9, -9))
    ]
    for label in labels:
        for aside, up in places:
            text = _write(axes, label, aside, up)
            extent = text.get_window_extent(renderer)
            within = inside.x0 <= extent.x0 and extent.x1 <= inside.x1
            within = within and inside.y0 <= extent.y0 and extent.y1 <= inside.y1
            if within and not any(extent.overlaps(box) for box in boxes):
                break
            text.remove()
        else:
            extent = _write(axes, label, *places[0]).get_window_extent(renderer)
        boxes.append(extent)


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
