"""The figures of a study as optuna-dashboard shows them: interactive, small, in plotly's JSON.

Colours and shapes are those of `figures`: networks and kinds differ in marker as well as in
colour. Every number that a graph holds is sent at each refresh of a page, so they are rounded, and
there is none for a single block of a single trial.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from sat_optuna.evidence.effects import UNTOLD, Effect, readings
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import ACCURACY, Measure

__all__ = ["Scored", "connections_graph", "costs_graph", "effects_graph"]

_INK, _CLOUD = "#22303c", "#9aa5b1"
_KINDS = ("#d55e00", "#0072b2", "#009e73", "#591600", "#00b6f2", "#f2b600", "#468080", "#315945")
_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")
_LOOKS = {  # by the first word of a role: colour, shape, size
    "ticket": ("#d55e00", "star", 16),
    "plain": ("#3b4a57", "square", 10),
    "full": ("#0072b2", "triangle-up", 11),
}
# Of several kinds each full network has a shape of its own.
_FULLS = ("triangle-up", "triangle-down", "triangle-left", "triangle-right", "diamond")
_STAR = "\N{BLACK STAR}"
_LINES = 40  # names of blocks that can be read below one another


class Scored(NamedTuple):
    """A trial's scheme with its validation score and what it costs."""

    scheme: str
    score: float
    cost: float
    trial: int | None = None


def _layout(title: str, **more: Any) -> dict[str, Any]:
    return {
        "title": {"text": title, "font": {"size": 15}},
        "template": "none",
        "font": {"color": _INK},
        "margin": {"l": 70, "r": 20, "t": 70, "b": 60},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "height": 450,
        **more,
    }


def connections_graph(
    shares: NDArray[np.float64], ends: Sequence[int], scheme: Scheme, *, name: str
) -> go.Figure:
    """Return how often each block was connected in the course of a search, as a heat map.

    Args:
        shares: (T, B), 0..1, of each batch of trials, as of `shares_by_batch`.
        ends: how many trials there were at the end of each batch.
        scheme: the ticket, whose blocks have a star.
        name: of the sampler.
    """
    blocks = Scheme.parameter_names(scheme.stages)
    marked = [
        f"{_STAR} {block}" if choice else block
        for block, choice in zip(blocks, scheme.choices, strict=True)
    ]
    starts = [1, *(end + 1 for end in ends[:-1])]
    heat = go.Heatmap(
        x=[f"{start}\N{EN DASH}{end}" for start, end in zip(starts, ends, strict=True)],
        y=marked,
        z=shares.T.round(3).tolist(),
        zmin=0,
        zmax=1,
        colorscale="Cividis",
        colorbar={"title": {"text": "share that<br>connects it"}},
        hovertemplate="%{y}, trials %{x}: %{z:.0%}<extra></extra>",
    )
    layout = _layout(
        f"Which blocks the search connects ({_STAR} in the ticket)",
        xaxis={
            "title": {"text": f"trials (sampler: {name})"},
            "type": "category",
            "dtick": 1 + len(ends) // 8,
            "tickangle": 0,
        },
        yaxis={
            "type": "category",
            "autorange": "reversed",
            "automargin": True,
            "dtick": 1 + len(blocks) // _LINES,
        },
        shapes=[
            {
                "type": "line",
                "x0": 0,
                "x1": 1,
                "xref": "paper",
                "y0": boundary - 0.5,
                "y1": boundary - 0.5,
                "line": {"color": "white", "width": 3},
            }
            for boundary in list(accumulate(scheme.stages))[:-1]
        ],
    )
    return go.Figure([heat], layout)


def effects_graph(
    effects: Sequence[Effect],
    scheme: Scheme,
    *,
    kinds: Sequence[str],
    measure: Measure = ACCURACY,
) -> go.Figure:
    """Return the effect of each kind at each block with its 95 % interval, from shallow to deep.

    Args:
        effects: of all blocks, and at each block of all kinds.
        scheme: the ticket; its choices are the filled points.
        kinds: names of the kinds of attention.
        measure: what the effects are in.
    """
    blocks = Scheme.parameter_names(scheme.stages)
    read = dict(zip(effects, readings(effects), strict=True))
    traces = []
    for index, kind in enumerate(kinds):
        own = [effect for effect in effects if effect.kind == kind]
        colour, shape = (of[index % len(of)] for of in (_KINDS, _SHAPES))
        taken = [scheme.choices[blocks.index(effect.block)] == index + 1 for effect in own]
        traces.append(
            go.Scatter(
                x=[effect.block for effect in own],
                y=[round(effect.points, 4) for effect in own],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [round(effect.high - effect.points, 4) for effect in own],
                    "arrayminus": [round(effect.points - effect.low, 4) for effect in own],
                    "color": colour,
                },
                mode="markers+text",
                text=["" if read[effect] == UNTOLD else read[effect] for effect in own],
                textposition="top center",
                cliponaxis=False,
                customdata=[read[effect] for effect in own],
                hovertemplate=f"{kind.upper()} at %{{x}}: %{{y:+.3f}}, %{{customdata}}",
                marker={
                    "size": 10,
                    "symbol": [shape if is_in else f"{shape}-open" for is_in in taken],
                    "color": colour,
                    "line": {"width": 2, "color": colour},
                },
                name=kind.upper(),
            )
        )
    adds = "points that it adds" if measure.unit == "%" else "for the better"
    layout = _layout(
        "What attention does at each block (95 % interval; filled: in the ticket)",
        xaxis={
            "type": "category",
            "categoryarray": list(blocks),
            "categoryorder": "array",
            "range": [-0.8, len(blocks) - 0.2],
            "automargin": True,
        },
        yaxis={"title": {"text": f"validation {measure.title}, {adds}"}, "zeroline": True},
        scattermode="group",
        showlegend=True,
    )
    return go.Figure(traces, layout)


def costs_graph(
    trials: Sequence[Scored],
    references: Mapping[str, Scored],
    *,
    cost: str,
    measure: Measure = ACCURACY,
) -> go.Figure:
    """Return the validation score of all trials against what they cost, with their front.

    Args:
        trials: the complete ones.
        references: by role the ticket, plain and full, of those that are known.
        cost: what the cost is, with its unit.
        measure: what the scores are in.
    """
    named = "%{text}: " + f"{measure.title} %{{y:.6g}}, {cost} %{{x:,}}<extra></extra>"
    front = _front(trials, measure)
    traces = [
        # A thousand schemes of 54 digits would be the larger part of the page.
        _points(
            [point._replace(scheme=f"#{point.trial}") for point in trials],
            "trials",
            named,
            mode="markers",
            marker={"color": _CLOUD, "size": 6},
        ),
        _points(
            front,
            "front",
            named,
            mode="lines+markers",
            line={"color": _INK, "width": 1.5, "shape": "hv"},
            marker={"color": _INK, "size": 7, "symbol": "circle-open"},
        ),
    ]
    fulls = [role for role in references if role.startswith("full")]
    for role, scored in references.items():
        colour, shape, size = _LOOKS[role.partition("-")[0]]
        shape = _FULLS[fulls.index(role) % len(_FULLS)] if role in fulls else shape
        marker = {"color": colour, "symbol": shape, "size": size}
        traces.append(_points([scored], role, f"{role} {named}", mode="markers", marker=marker))
    unit = f", {measure.unit}" if measure.unit else ""
    layout = _layout(
        f"Validation {measure.title} against cost",
        xaxis={"title": {"text": cost}},
        yaxis={"title": {"text": f"validation {measure.title}{unit}"}},
        showlegend=True,
    )
    return go.Figure(traces, layout)


def _points(scored: Sequence[Scored], name: str, hover: str, **more: Any) -> go.Scatter:
    return go.Scatter(
        x=[float(f"{point.cost:.9g}") for point in scored],
        y=[round(point.score, 4) for point in scored],
        text=[point.scheme for point in scored],
        hovertemplate=hover,
        name=name,
        **more,
    )


def _front(trials: Sequence[Scored], measure: Measure) -> list[Scored]:
    """Return the trials that no other one beats in score or cost at the same of the other."""
    front: list[Scored] = []
    for scored in sorted(trials, key=lambda one: (one.cost, -measure.points(one.score))):
        if not front or measure.points(scored.score) > measure.points(front[-1].score):
            front.append(scored)
    return front
