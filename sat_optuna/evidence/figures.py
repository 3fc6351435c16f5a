"""The figures of a report, of a truth table and of an evaluation.

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
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from sat_optuna.evidence.canvas import (
    CLOUD,
    INK,
    OFF,
    SMALLEST,
    WIDEST,
    ink_on,
    literal,
    save,
    wrapped,
    write_png,
)
from sat_optuna.evidence.effects import UNTOLD, Effect, readings
from sat_optuna.evidence.statistics import summarise_scores
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

_KINDS = ("#d55e00", "#0072b2", "#009e73", "#591600", "#00b6f2", "#f2b600", "#468080", "#315945")
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<")  # one a kind, in the same order
_QUIET = "#46515c"
_ROW, _PITCH = 18, 0.44  # blocks in a row of a ticket; inches a block
_HEAD = 0.4  # inches above a stage
_LEADER = {"arrowstyle": "-", "color": INK, "lw": 0.6, "shrinkB": 3, "relpos": (0, 0.5)}
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
    "plain": _Look("#50616f", "s", "--"),
    "full": _Look("#0072b2", "^", "-."),
    "constant": _Look("#009e73", "D", ":"),
    "random": _Look(CLOUD, "o", (0, (1, 3)), 6),
}
_OTHER = _Look("#591600", "v", (0, (5, 1, 1, 1)))


def _look(label: str) -> _Look:
    """Return the look of a network by the first role of its label."""
    return _LOOKS.get(label.split("-")[0].split(" ")[0], _OTHER)


def _bare(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK)
    axes.grid(visible=True, axis="y", color="#eef1f4", zorder=0)


def draw_ticket(
    path: Path,
    scheme: Scheme,
    *,
    kinds: Sequence[str],
    title: str,
    table: Sequence[Sequence[str]] = (),
) -> Path:
    """Draw a network block by block, those with attention coloured, and what it reaches below.

    Stages stand side by side where there is room; long ones are wrapped. Where no block has any
    attention that is said.

    Args:
        path: the PNG file.
        scheme: which block carries what.
        kinds: names of the kinds of attention.
        title: of the figure.
        table: what is told of the network and of others, row by row, the heads first.
    """
    rows = _placed(scheme.stages)
    pitch = max(_PITCH, min(0.62, WIDEST / max(row[-1].end for row in rows)))
    wide = pitch * max(row[-1].end for row in rows)
    columns = [max(map(len, column)) * 0.075 + 0.25 for column in zip(*table, strict=True)]
    wide = max(wide, sum(columns), 4.6)
    titles = wrapped(title, int(wide / 0.105))
    longest = max(len(kind) for kind in kinds)
    fontsize = min(9.0, 72 * 0.9 * pitch / longest / 0.92)  # of a wide bold letter
    names, key, empty = [kind.upper() for kind in kinds], "", not any(scheme.choices)
    if fontsize < SMALLEST:  # digits as in the scheme's text, which are explained
        signs, fontsize = [str(Scheme((c,), (1,))) for c in range(1, len(kinds) + 1)], 9.0
        key = ", ".join(f"{sign} {name}" for sign, name in zip(signs, names, strict=True))
        names = signs
    said = ["no block carries attention"] if empty else wrapped(key, int(wide / 0.08))
    heads = [_HEAD * any(part.first == 0 for part in row) for row in rows]
    deep = [head + pitch + 0.17 for head in heads]
    tall = 0.26 * len(titles) + sum(deep) + 0.2 * len(said) + 0.21 * len(table) + 0.2
    figure = Figure(figsize=(wide + 0.3, tall + 0.05))
    axes = figure.add_axes((0, 0, 1, 1))  # in inches from the top left
    axes.set_xlim(-0.15, wide + 0.15)
    axes.set_ylim(tall, -0.05)
    axes.axis("off")
    top = 0.0

    def write(x: float, y: float, text: str, **more: Any) -> None:
        told: dict[str, Any] = {"va": "center", "color": INK, "fontsize": 8.5}
        axes.text(x, y, text, **told | more)

    for line in titles:
        top += 0.26
        write(0, top - 0.13, line, fontsize=11, fontweight="bold")
    start = 0
    for row, head, height in zip(rows, heads, deep, strict=True):
        for part in row:
            left, down = part.left * pitch, top + head
            if part.first == 0:
                write(left, down - 0.2, f"stage {part.stage}")
                bar = (left, down - 0.09), pitch * (part.blocks - 0.1), 0.03
                axes.add_patch(Rectangle(*bar, color=INK, lw=0))
            for block in range(part.blocks):
                choice = scheme.choices[start + block]
                text = names[choice - 1] if choice else "\N{EN DASH}" * (not empty)
                at = left + block * pitch, down
                _draw_block(axes, at, 0.9 * pitch, choice, text, fontsize)
                middle = at[0] + 0.45 * pitch, down + 0.9 * pitch + 0.09
                write(*middle, f"b{part.first + block:02d}", ha="center", fontsize=7)
            start += part.blocks
        top += height
    top += 0.1
    for line in said:
        top += 0.2
        write(0, top - 0.1, line)
    ends = list(accumulate(columns))
    for count, cells in enumerate(table):
        top += 0.21
        weight = "bold" if count == 1 else "normal"
        for column, cell in enumerate(cells):
            x, side = (ends[column], "right") if column else (0, "left")
            write(x, top - 0.1, cell, ha=side, fontweight=weight)
    return save(figure, path)


class _Part(NamedTuple):
    """Blocks of one stage that stand in one row of a ticket's figure."""

    stage: int
    first: int
    blocks: int
    left: float  # in blocks

    @property
    def end(self) -> float:
        return self.left + self.blocks


def _placed(stages: Sequence[int]) -> list[list[_Part]]:
    """Return where the stages stand: row by row, left to right, a long stage over several rows."""
    rows: list[list[_Part]] = [[]]
    for stage, blocks in enumerate(stages, start=1):
        left = rows[-1][-1].end + 0.6 if rows[-1] else 0.0
        if left + blocks <= _ROW:
            rows[-1].append(_Part(stage, 0, blocks, left))
            continue
        if rows[-1]:
            rows.append([])
        lines = -(-blocks // _ROW)
        each = -(-blocks // lines)
        for first in range(0, blocks, each):
            rows[-1].append(_Part(stage, first, min(each, blocks - first), 0.0))
            rows.append([])
        if lines == 1:  # there is room beside it
            rows.pop()
    return [row for row in rows if row]


def _draw_block(
    axes: Axes, at: tuple[float, float], side: float, choice: int, text: str, fontsize: float
) -> None:
    colour = _KINDS[(choice - 1) % len(_KINDS)] if choice else OFF
    style = f"round,pad=0,rounding_size={0.13 * side}"
    axes.add_patch(FancyBboxPatch(at, side, side, boxstyle=style, fc=colour, ec="none"))
    axes.text(
        at[0] + side / 2,
        at[1] + side / 2,
        text,
        ha="center",
        va="center",
        color=ink_on(colour) if choice else _QUIET,
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

    A few trials far below all others stand as arrows at the lower edge, and are counted.

    Args:
        path: the PNG file.
        trials: of the search, in their order: Optuna's number, the reward in the metric's unit,
            and whether the trial is complete. One that was pruned is drawn as a cross.
        random: those of the random schemes.
        name: of the sampler.
        measure: what the rewards are of.
    """
    figure = Figure(figsize=(7.0, 3.8), layout="constrained")
    axes = figure.subplots()
    floor = _floor([reward for _, reward, _ in (*trials, *random)])
    for label, rows, colour, line, face, at in (
        ("random schemes", random, CLOUD, "--", "white", 0.0),
        (f"sampler: {name}", trials, _LOOKS["ticket"].colour, "-", None, 0.45),
    ):
        before = len(axes.lines)
        for complete, marker in ((True, "o"), (False, "x")):
            kept = [(number, reward) for number, reward, whole in rows if whole is complete]
            seen = [(number, reward) for number, reward in kept if reward >= floor]
            if seen:
                word = label if complete else "pruned"
                (points,) = axes.plot(*zip(*seen, strict=True), marker, color=colour, label=word)
                points.set(markerfacecolor=face or colour, markersize=3 if complete else 5)
            if kept and complete:
                best, word = list(accumulate((r for _, r in kept), max)), "best so far"
                numbers = [number for number, _ in kept]
                axes.step(numbers, best, where="post", color=colour, ls=line, lw=1.8, label=word)
        _mark_below(axes, [(n, r) for n, r, _ in rows if r < floor], floor, colour, face)
        drawn = axes.lines[before:]
        said = [str(artist.get_label()) for artist in drawn]
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (at, 1)}
        legend = Legend(axes, drawn, said, frameon=False, fontsize=8, **place)
        axes.add_artist(legend).set_clip_on(False)  # or the layout would not see it
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("trial (Optuna's number, from 0)", color=INK)
    unit = "points" if measure.unit == "%" else f"{measure.unit}, higher is better"
    axes.set_ylabel(f"reward ({measure.title} {unit})", color=INK)
    _bare(axes)
    return save(figure, path)


def _floor(values: Sequence[float]) -> float:
    """Return below what values are not drawn in their place, for they would flatten the others.

    That is Tukey's far out, three ranges of the middle half below it, where more than a third of
    the axis would be for what lies there; minus infinity where nothing does.
    """
    known = np.array([value for value in values if np.isfinite(value)])
    if not known.size:
        return -np.inf
    low, high = np.quantile(known, [0.25, 0.75])
    reach = max(3 * (high - low), known.max() - low)
    inside = known[known >= low - reach]
    far = known.max() - known.min() > 1.5 * (known.max() - inside.min())
    far = (far and np.ptp(inside) > 0) or len(known) < len(values)  # a loss may be infinite
    return float(inside.min()) if far else -np.inf


def _mark_below(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    floor: float,
    colour: str,
    face: str | None = None,
) -> None:
    """Mark at the lower edge what lies below it, and say how many these are and how far down."""
    if not points:
        return
    drawn = np.concatenate([np.ravel(line.get_ydata()) for line in axes.lines])
    height = float(drawn[np.isfinite(drawn)].max()) - floor or 1.0
    edge = floor - 0.08 * height
    axes.set_ylim(bottom=edge - 0.05 * height)
    count, lowest = len(points), min(value for _, value in points)
    axes.plot(
        [x for x, _ in points],
        [edge] * count,
        "v",
        color=colour,
        mfc=face or colour,
        ms=5,
        label=f"{count} below the axis, the lowest {lowest:.4g}",
    )


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

        along = sorted(map(point, front.values()))
        tried, named = list(map(point, trials)), [point(v)[1] for v in references.values()]
        floor = min(_floor([y for _, y in tried]), *named, *(y for _, y in along))
        seen = [(x, y) for x, y in tried if y >= floor]
        axes.plot(*zip(*seen, strict=True), ".", color=CLOUD, ms=5, label="tried")
        axes.plot(*zip(*along, strict=True), "o-", color=INK, lw=1.4, ms=4, label="front")
        for role, values in references.items():
            look = _look(role)
            axes.plot(*point(values), look.marker, color=look.colour, ms=7, label=role)
        if ticket in front:
            look = _LOOKS["ticket"]
            axes.plot(*point(front[ticket]), look.marker, color=look.colour, ms=12, label="ticket")
        _mark_below(axes, [(x, y) for x, y in tried if y < floor], floor, CLOUD)
        axes.set_xlabel(name, color=INK)
        axes.set_ylabel(f"validation {measure.title}, {measure.unit}", color=INK)
        axes.legend(frameon=False, ncols=5, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8)
        _bare(axes)
    return save(figure, path)


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
    axes.axhline(0, color=INK, lw=1)
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
                color=INK,
                fontsize=8,
                rotation=90 if blocks * len(kinds) > _MANY else 0,
            )
    axes.margins(y=0.2 if len(kinds) > 1 else 0.12)
    for kind, name in enumerate(kinds):
        colour, shape = (of[kind % len(of)] for of in (_KINDS, _SHAPES))
        axes.plot([], [], "-", color=colour, marker=shape, label=name.upper())
    axes.plot([], [], "o", color=INK, label="in the ticket")
    axes.plot([], [], "o", color=INK, mfc="white", label="not in it")
    axes.legend(
        frameon=False, ncols=len(kinds) + 2, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8
    )
    axes.set_xticks(places, names, rotation=90 if blocks > _MANY else 0, fontsize=8)
    axes.set_xlim(-0.7, places[-1] + 0.7)
    other = f"validation {measure.title} for the better"
    label = "validation points that it adds" if measure.unit == "%" else other
    axes.set_ylabel(label, color=INK)
    _bare(axes)
    return save(figure, path)


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
    axes.set_xlabel(cost, color=INK)
    unit = f", {measure.unit}" if measure.unit else ""
    axes.set_ylabel(f"test {measure.title}{unit}", color=INK)
    most = max(costs, default=0)
    axes.set_xlim(min(costs, default=0) - 0.1 * width, most + 0.25 * width)
    axes.set_title(_bars(networks, measure), loc="left", fontsize=8, color=INK)
    _bare(axes)
    _write_labels(axes, labels, taken)
    return save(figure, path)


def _bars(networks: Mapping[str, tuple[float, Sequence[float]]], measure: Measure) -> str:
    """Return how many seeds a figure is of, and what its bars and dots mean."""
    counts = {len(values) for _, values in networks.values()}
    if counts <= {1}:
        return f"{_seeds(counts)}, so no interval is known"
    same = any(len(v) > 1 and len(set(v)) == 1 for _, v in networks.values())
    equal = " (of equal seeds Wilson's over the images)" * (same and measure == ACCURACY)
    return (
        f"{_seeds(counts)} a network; large mark: mean; small dot: one seed\n"
        f"bar: 95 % interval, Student's t over the seeds{equal}"
    )


def _seeds(counts: Iterable[int]) -> str:
    """Return how many seeds networks have, as in "n = 1 seed" or "n = 3 to 4 seeds"."""
    ends = sorted(set(counts))[:: max(1, len(set(counts)) - 1)]
    return f"n = {' to '.join(map(str, ends))} seed{'s' * (ends[-1:] != [1])}"


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
    axes.set_xlabel(score, color=INK)
    axes.set_ylabel("schemes", color=INK)
    of = "all" if len(known) == len(means) else f"{len(known):,} of the"
    axes.set_title(f"{of} {len(means):,} schemes", loc="left", fontsize=9, color=INK)
    _bare(axes)
    return save(figure, path)


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
        color=INK,
    )
    axes.set_xlabel(score, color=INK)
    axes.set_ylabel(truth, color=INK)
    _bare(axes)
    known = zip(scores.tolist(), truths.tolist(), strict=True)
    _write_labels(axes, labels, [(x, y, y) for x, y in known if not np.isnan(y)])
    return save(figure, path)


def draw_curves(
    path: Path,
    curves: Mapping[str, Sequence[Sequence[float]]],
    *,
    score: str,
    floor: tuple[str, float] | None = None,
) -> Path:
    """Draw what each network reaches epoch by epoch: thin a seed, thick their mean.

    Args:
        path: the PNG file.
        curves: by label, for each seed one number an epoch, from epoch 1.
        score: what it is, for the axis.
        floor: what is reached without learning anything: its name and number.
    """
    figure = Figure(figsize=(7.0, 3.8), layout="constrained")
    axes = figure.subplots()
    labels = []
    for label, seeds in curves.items():
        look = _look(label)
        for values in seeds:
            epochs = range(1, len(values) + 1)
            axes.plot(epochs, values, color=look.colour, ls=look.line, lw=0.5)
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
        labels.append(_Label(len(mean), mean[-1], "\n".join(wrapped(label, 24))))
    last = max((label.x for label in labels), default=1)
    if floor:
        axes.plot([1, last], [floor[1]] * 2, color=INK, lw=1, zorder=1)
        labels.append(_Label(last, floor[1], floor[0]))
    axes.set_xlim(1 - 0.03 * last, last + 0.03 * last)
    ticks = MaxNLocator(8, integer=True).tick_values(1, last)
    axes.set_xticks([tick for tick in ticks if 1 <= tick <= last])
    axes.set_xlabel("epoch", color=INK)
    axes.set_ylabel(score, color=INK)
    said = f"{_seeds(map(len, curves.values()))} a network; thin: one seed; thick: their mean"
    axes.set_title(said, loc="left", fontsize=8, color=INK)
    _bare(axes)
    _write_beside(axes, labels)
    return save(figure, path)


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
    axes.set_xlabel(f"trials so far (sampler: {name})", color=INK)
    bar = figure.colorbar(picture, ax=axes, pad=0.07)
    bar.set_label("share that connects the block", color=INK)
    said = "star: in the ticket" if taken else "no block is in the ticket"
    axes.set_title(said, loc="right", fontsize=8, color=INK)
    axes.tick_params(colors=INK)
    return save(figure, path)


class _Label(NamedTuple):
    """A text that belongs to a point of a figure."""

    x: float
    y: float
    text: str


def _write(
    axes: Axes, label: _Label, aside: float, up: float, leader: Mapping[str, Any] | None = None
) -> Annotation:
    """Write a label so many points beside its own, with a white rim and maybe a line to it."""
    text = axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=(aside, up),
        textcoords="offset points",
        ha="left" if aside > 0 else "right",
        va="center",
        color=INK,
        fontsize=9,
        path_effects=[withStroke(linewidth=3, foreground="white")],
        arrowprops=dict(leader) if leader else None,
        zorder=6,
    )
    text.set_in_layout(False)
    return text


def _write_labels(
    axes: Axes,
    labels: Sequence[_Label],
    taken: Iterable[tuple[float, float, float]],
) -> None:
    """Write each label beside its point, where nothing else is as far as there is room.

    Args:
        axes: with all that is drawn.
        labels: the first ones have the first choice.
        taken: x, low and high of what is in the way.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not labels:
        return
    canvas = FigureCanvasAgg(figure)
    literal(figure)
    figure.draw_without_rendering()  # from here on the places of the data are known
    renderer: Any = cast("Any", canvas).get_renderer()
    inside, point = axes.get_window_extent(), figure.dpi / 72
    boxes = []
    for x, low, high in (*taken, *((label.x, label.y, label.y) for label in labels)):
        ends = axes.transData.transform([(x, low), (x, high)])
        boxes.append(Bbox([ends[0] - 4 * point, ends[1] + 4 * point]))
    places = [(aside, 6 * up) for up in sorted(range(-16, 17), key=abs) for aside in (9, -9)]
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


def _write_beside(axes: Axes, labels: Sequence[_Label]) -> None:
    """Write labels to the right of where their lines end, in the lines' order, none on another."""
    figure = axes.get_figure(root=True)
    if figure is None or not labels:
        return
    FigureCanvasAgg(figure)
    literal(figure)
    figure.draw_without_rendering()
    point, inside = figure.dpi / 72, axes.get_window_extent()
    order = sorted(labels, key=lambda label: -label.y)[::-1]  # of equal ones the first on top
    lines = [label.text.split("\n") for label in order]
    room = 24 + 5.7 * max(len(line) for text in lines for line in text)  # points
    left, end = axes.get_xlim()[0], max(label.x for label in order)
    axes.set_xlim(left, left + (end - left) / (1 - min(0.5, room * point / inside.width)))
    heights = np.array([11.5 * len(text) for text in lines])
    stacked = np.cumsum(heights) - heights / 2  # where they would stand with no room between
    wanted = np.array([axes.transData.transform((0, label.y))[1] / point for label in order])
    low, high = inside.y0 / point, inside.y1 / point - heights.sum()
    free = np.clip(wanted - stacked, low, max(low, high))
    # The nearest places in the same order (isotonic regression).
    count = range(len(order))
    for one in count:
        spread = [
            min(free[first : last + 1].mean() for last in count[one:]) for first in range(one + 1)
        ]
        _write(axes, order[one], 18, max(spread) + stacked[one] - wanted[one], _LEADER)


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
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if count <= _WRITTEN:
        for row, column in np.ndindex(count, count):
            if confusion[row, column]:
                ink = ink_on(to_hex(picture.cmap(shares[row, column])))
                text = str(confusion[row, column])
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)
    if count <= _NAMED:
        axes.set_xticks(range(count), class_names, rotation=90, fontsize=8, color=INK)
        axes.set_yticks(range(count), class_names, fontsize=8, color=INK)
    axes.set_xlabel("the network's answer", color=INK)
    axes.set_ylabel("true class", color=INK)
    axes.set_title(title, fontsize=9, color=INK)
    return write_png(figure, path)
