"""What a report says of retrained networks: their table, differences, figures, how it was done.

A report of a search and one of a transfer have this in common.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sat_optuna.errors import TicketError
from sat_optuna.evidence.effects import signed
from sat_optuna.evidence.figures import draw_costs, draw_curves, draw_ticket
from sat_optuna.evidence.map_figures import draw_maps
from sat_optuna.evidence.maps import MapResults
from sat_optuna.evidence.pages import markdown_table
from sat_optuna.evidence.spread import Part
from sat_optuna.evidence.statistics import (
    Summary,
    detectable_by_seeds,
    detectable_differences,
    paired,
    summarise,
    summarise_scores,
)
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import ACCURACY, Measure, Ticket

__all__ = [
    "DASH",
    "OnTest",
    "came_to",
    "draw_networks",
    "how_made",
    "kinds_of",
    "legend",
    "measured_in",
    "networks_parts",
    "paired_by_seed",
    "results_table",
    "scores_of",
    "start_of",
    "unit_of",
    "what_can_be_said",
    "where_of",
]

DASH = "\N{EN DASH}"
_DIGITS = "123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class OnTest:
    """What is known of the test beside the scores.

    Attributes:
        part: the test part.
        balanced: by role, the mean over the seeds of the balanced accuracy, per cent.
        accuracy: by role, that of the accuracy, where another metric was searched for.
    """

    part: Part
    balanced: Mapping[str, float]
    accuracy: Mapping[str, float] = field(default_factory=dict)


def results_table(
    tickets: Mapping[str, Ticket],
    *,
    images: int,
    balanced: Mapping[str, float] | None = None,
    accuracy: Mapping[str, float] | None = None,
) -> str:
    """Return the table of networks in Markdown: the metric with interval, and what each costs.

    Args:
        tickets: by role, plain among them, each with test scores of the same seeds.
        images: number of test images.
        balanced: by role, the balanced accuracy, per cent.
        accuracy: by role, the accuracy, per cent, where the metric is another.

    Raises:
        TicketError: their seeds or metrics differ.
    """
    measure = measured_in(tickets)
    beside = {"balanced %": balanced}
    if measure != ACCURACY:
        even = None if measure.name == "balanced_accuracy" else balanced
        both = {"accuracy %": accuracy, "balanced %": even}
        beside = {title: values for title, values in both.items() if values}
    columns = ["network", "scheme", f"test {_with_unit(measure)}", "n", "95 % interval", *beside]
    columns += ["parameters", "multiply-adds", "latency ms"]
    rows = []
    for role, values in scores_of(tickets).items():
        ticket = tickets[role]
        spread = summarise_scores(values, images=images, measure=measure)
        mean, interval = _mean_and_interval(spread, measure)
        params, latency = _cost(ticket, tickets["plain"])
        more = [f"{v[role]:.2f}" if v else DASH for v in beside.values()]
        row = [role, f"`{ticket.scheme}`", mean, str(spread.n), interval, *more]
        rows.append([*row, params, f"{ticket.macs:,}", latency])
    return markdown_table(columns, rows)


def _mean_and_interval(spread: Summary, measure: Measure) -> tuple[str, str]:
    number = measure.number
    interval = DASH if spread.n < 2 else f"{number(spread.low)} to {number(spread.high)}"
    return number(spread.mean), interval


def _cost(ticket: Ticket, plain: Ticket) -> tuple[str, str]:
    """Return the parameters of a ticket, with what it has more than plain, and its latency."""
    added = ticket.params - plain.params
    latency = DASH if ticket.latency_ms is None else f"{ticket.latency_ms:.2f}"
    return f"{ticket.params:,}" + (f" (+{added:,})" if added else ""), latency


def measured_in(tickets: Mapping[str, Ticket]) -> Measure:
    """Return what all tickets are measured in on the test.

    Raises:
        TicketError: there are several.
    """
    found = {s.measure for ticket in tickets.values() for s in ticket.scores if s.split == "test"}
    if len(found) > 1:
        names = " and ".join(sorted(measure.name for measure in found))
        raise TicketError(
            f"the tickets have test scores of {names}; give those of one study, which have one"
        )
    return found.pop() if found else ACCURACY


def _with_unit(measure: Measure) -> str:
    return f"{measure.title} {measure.unit}".rstrip()


def unit_of(measure: Measure) -> str:
    """Return what differences are in, as a table's head."""
    return _points(measure).strip() or measure.title


def _points(measure: Measure) -> str:
    """Return what differences are in, after a number."""
    return " points" if measure.unit == "%" else f" {measure.unit}".rstrip()


def _how_measured(measure: Measure) -> str:
    """Return how the scores of the table were measured."""
    if measure == ACCURACY:
        return (
            "Last-epoch test accuracy, mean over seeds, with Student's interval over the seeds, "
            "cut at 0 and 100 %; where the seeds do not differ at all, with Wilson's over the "
            "test images. Balanced: the mean over the classes."
        )
    return (
        f"Last-epoch test {measure.title}, the {measure.better} the better, mean over seeds, with "
        "Student's interval over the seeds alone"
        + (", cut at 0 and 100 %" if measure.unit == "%" else "")
        + ": that the test images are a sample is not in it."
    )


def scores_of(tickets: Mapping[str, Ticket]) -> dict[str, list[float]]:
    """Return each network's test scores, all in the order of the first one's seeds."""
    by_seed = {
        role: {score.seed: score.value for score in ticket.scores if score.split == "test"}
        for role, ticket in tickets.items()
    }
    first, *_ = by_seed
    seeds = list(by_seed[first])
    for role, scores in by_seed.items():
        if not seeds or scores.keys() != set(seeds):
            raise TicketError(
                f"{role} has test scores of the seeds {sorted(scores)} and {first} of "
                f"{sorted(seeds)}; retrain all networks with the same seeds"
            )
    return {role: [scores[seed] for seed in seeds] for role, scores in by_seed.items()}


def _beside_the_ticket(tickets: Mapping[str, Ticket], images: int) -> list[list[str]]:
    """Return what the ticket's figure tells of it, plain and full, row by row, the heads first."""
    scores, measure = scores_of(tickets), measured_in(tickets)
    n = len(scores["ticket"])
    heads = ["network", f"test {_with_unit(measure)}", f"95 % interval, n = {n}"]
    rows = [[*heads, "parameters", "latency ms"]]
    for label, (role, *_) in _labels(tickets).items():
        if role.split("-")[0] in ("ticket", "plain", "full"):
            spread = summarise_scores(scores[role], images=images, measure=measure)
            told = _mean_and_interval(spread, measure)
            rows.append([label, *told, *_cost(tickets[role], tickets["plain"])])
    return rows


def _labels(tickets: Mapping[str, Ticket]) -> dict[str, list[str]]:
    """Return the roles of each distinct network by what a figure calls it."""
    roles: dict[Scheme, list[str]] = {}
    for role, ticket in tickets.items():
        roles.setdefault(ticket.scheme, []).append(role)
    said = {"random-density": "random scheme"}
    return {" = ".join(said.get(r, r) for r in found): found for found in roles.values()}


def _against_cost(
    tickets: Mapping[str, Ticket],
) -> tuple[dict[str, tuple[float, Sequence[float]]], str]:
    """Return what each network costs beyond plain, with its test scores, and what the cost is."""
    scores, plain = scores_of(tickets), tickets["plain"]
    cost, of = "parameters more than plain", {role: t.params for role, t in tickets.items()}
    extra: dict[str, float] = {role: count - plain.params for role, count in of.items()}
    times = {role: t.latency_ms for role, t in tickets.items() if t.latency_ms is not None}
    if not any(extra.values()) and len(times) == len(tickets):  # modules without parameters
        cost = "ms more than plain"
        extra = {role: ms - times["plain"] for role, ms in times.items()}
    labels = _labels(tickets)
    return {label: (extra[roles[0]], scores[roles[0]]) for label, roles in labels.items()}, cost


def paired_by_seed(
    tickets: Mapping[str, Ticket],
    scores: Mapping[str, Sequence[float]],
    images: int,
    measure: Measure,
) -> dict[str, Summary]:
    """Return the ticket minus each control that is another network, over the same seeds."""
    return {
        role: paired(scores["ticket"], scores[role], images=images, measure=measure)
        for role, ticket in tickets.items()
        if ticket.scheme != tickets["ticket"].scheme
    }


def _against(role: str, spread: Summary | None, measure: Measure) -> str:
    if spread is None:
        return f"it is the {role} network itself"
    interval = (
        ""
        if math.isnan(spread.low)
        else f" ({signed(spread.low, measure)} to {signed(spread.high, measure)})"
    )
    return f"{signed(spread.mean, measure)}{_points(measure)}{interval} against {role}"


def legend(ticket: Ticket, *, controlled: bool) -> str:
    """Return what the digits of a scheme mean.

    Args:
        ticket: whose kinds they stand for.
        controlled: whether there is a constant control.
    """
    kinds = kinds_of(ticket)
    digits = [f"{digit} {name}" for digit, name in zip(_DIGITS, kinds, strict=False)]
    said = (
        "A scheme has a digit a block, from shallow to deep, with a dash between stages: 0 none, "
        f"{', '.join(digits)}. Block s2.b00 is the first one of the second stage."
    )
    if controlled:
        constants = zip(_DIGITS[len(kinds) :], kinds, strict=False)
        listed = ", ".join(f"{digit} stands where {name} would" for digit, name in constants)
        said += (
            f" The network `constant` is the ticket with input-independent scaling: {listed}, a "
            "learnt number a channel that starts where the fresh module would rescale to."
        )
    return said


def kinds_of(ticket: Ticket) -> list[str]:
    """Return a ticket's kinds of attention as a text has them."""
    return [spec.kind.upper() for spec in ticket.attention]


def what_can_be_said(
    tickets: Mapping[str, Ticket],
    differences: Mapping[str, Summary],
    accuracies: Mapping[str, Sequence[float]],
    images: int,
    measure: Measure,
) -> str:
    """Return what the ticket has more than each control, and what can be resolved at all."""
    rows = [
        _difference(role, differences[role], measure)
        if role in differences
        else (role, "the same network", DASH, DASH)
        for role in tickets
        if role != "ticket"
    ]
    mean = summarise(accuracies["plain"]).mean
    told = _resolution(list(differences.values()), mean, images, measure)
    heads = ("ticket minus", unit_of(measure), "95 % interval", "n")
    return f"{markdown_table(heads, rows)}\n\n{told}"


def _difference(role: str, spread: Summary, measure: Measure) -> tuple[str, ...]:
    """Return the row of one control."""
    interval = f"{signed(spread.low, measure)} to {signed(spread.high, measure)}"
    interval = DASH if math.isnan(spread.low) else interval
    return role, signed(spread.mean, measure), interval, str(spread.n)


def _resolution(differences: Sequence[Summary], mean: float, images: int, measure: Measure) -> str:
    by_accuracy = measure == ACCURACY  # of other metrics the number of images tells nothing
    by_seeds, by_images = (
        detectable_differences(differences, accuracy=mean, images=images)
        if by_accuracy
        else (detectable_by_seeds(differences), math.nan)
    )
    n = differences[0].n
    parts = [
        "The table describes, and tests nothing: differences of all seeds, failed starts too, "
        "each with its own interval. What is shown and what is not decided, the verdicts at the "
        "head say, which pay for looking several times and at several controls and leave failed "
        "starts out."
    ]
    if n > 1 and math.isnan(by_seeds):
        parts.append(
            f"In none of the comparisons do the {n} seeds differ, which is no certainty: they do "
            "not tell how large the noise is"
            + (", and the intervals are those of the test images." if by_accuracy else ".")
        )
    elif n > 1:
        parts.append(
            f"With {n} seeds a mean difference between the ticket and a control is known to "
            f"± {measure.number(by_seeds)}{_points(measure)} (half a 95 % interval, paired by "
            "seed, spread pooled over the controls)."
        )
    else:
        parts.append("One seed decides nothing: the noise is not known.")
    if by_accuracy:
        parts.append(
            f"The test set of {images:,} images resolves ± {by_images:.2f} points between two "
            "networks that err independently (half of Newcombe's 95 % score interval; less where "
            "they err on the same images)."
        )
    return " ".join(parts)


def start_of(step: Mapping[str, Any]) -> str:
    """Return what a step started from, of its section of the configuration."""
    return "from the given weights" if step.get("start") == "weights" else "from scratch"


def where_of(ticket: Ticket) -> str:
    """Return in which blocks a ticket has attention, as "in 1 of 9 blocks (SE in s1.b00)"."""
    names = Scheme.parameter_names(ticket.scheme.stages)
    placed = [
        f"{spec.kind.upper()} in {', '.join(blocks)}"
        for choice, spec in enumerate(ticket.attention, start=1)
        if (
            blocks := [
                name for name, c in zip(names, ticket.scheme.choices, strict=True) if c == choice
            ]
        )
    ]
    if not placed:
        return "in no block"
    return f"in {ticket.scheme.connections} of {len(names)} blocks ({'; '.join(placed)})"


def came_to(
    ticket: Ticket,
    differences: Mapping[str, Summary],
    accuracies: Mapping[str, Sequence[float]],
    measure: Measure,
) -> str:
    """Return what a ticket came to, and how it stands against plain and full; a sentence."""
    n = len(accuracies["ticket"])
    against = [
        _against(role, differences.get(role), measure)
        for role in accuracies
        if role == "plain" or role.split("-")[0] == "full"
    ]
    mean = summarise(accuracies["ticket"]).mean
    has = (
        f"it has {mean:.2f} % of the test images right"
        if measure == ACCURACY
        else f"its test {measure.title} is {measure.text(mean)}"
    )
    return (
        f"Trained {start_of(ticket.config['retrain'])} {has} "
        f"(mean of {n} seed{'s' * (n > 1)}): {'; '.join(against)}."
    )


def draw_networks(
    figures: Path,
    tickets: Mapping[str, Ticket],
    *,
    images: int,
    curves: Mapping[str, Sequence[Sequence[float]]],
    largest: float,
    maps: MapResults | None = None,
) -> None:
    """Draw ticket.png, accuracy.png and, of what there is, curves.png and maps.png.

    Args:
        figures: the folder.
        tickets: by role, as of `results_table`.
        images: number of test images.
        curves: by role, for each seed the training accuracy of each epoch, per cent.
        largest: the per cent of the largest class of the test images.
        maps: of networks that answer with maps; else None.
    """
    ticket, measure = tickets["ticket"], measured_in(tickets)
    draw_ticket(
        figures / "ticket.png",
        ticket.scheme,
        kinds=[spec.kind for spec in ticket.attention],
        title=f"{ticket.backbone} on {ticket.dataset}: ticket {ticket.scheme}",
        table=_beside_the_ticket(tickets, images),
    )
    networks, cost = _against_cost(tickets)
    draw_costs(figures / "accuracy.png", networks, cost=cost, images=images, measure=measure)
    if curves:
        drawn_once = {label: curves[roles[0]] for label, roles in _labels(tickets).items()}
        least = max(largest, 100 / ticket.classes)
        named = "largest class of\nthe test" if largest == least else "chance"
        floor = (f"{named}, {least:.1f} %", least)
        score = "training accuracy, %"
        draw_curves(figures / "curves.png", drawn_once, score=score, floor=floor)
    if maps and maps.examples:
        draw_maps(figures / "maps.png", maps.examples)


def networks_parts(
    tickets: Mapping[str, Ticket],
    *,
    images: int,
    latency: str,
    tested: OnTest | None,
    curves: bool,
    maps: MapResults | None = None,
    doubts: Sequence[str] = (),
) -> list[str]:
    """Return the part of a report that has the table of networks and its figures.

    Args:
        tickets: by role, as of `results_table`.
        images: number of test images.
        latency: how latency was measured, a sentence.
        tested: what else is known of the test; None where nothing is.
        curves: whether the training's curves are drawn.
        maps: trivial rules and test images, of networks that answer with maps; else None.
        doubts: what should be doubted of the accuracies, sentences.
    """
    measure, start = measured_in(tickets), start_of(tickets["ticket"].config["retrain"])
    scores = scores_of(tickets)
    remarks = [*_on_test(scores, tested), *doubts] if measure == ACCURACY else []
    return [
        f"## {start[:1].upper()}{start[1:]}, on train + validation",
        results_table(
            tickets,
            images=images,
            balanced=tested.balanced if tested else None,
            accuracy=tested.accuracy if tested else None,
        ),
        f"{_how_measured(measure)} {latency[:1].upper()}{latency[1:]} "
        "Multiply-adds are those of convolutions and matrix products for one image; element-wise "
        "and reduction work is not in them.",
        *remarks,
        "![accuracies](figures/accuracy.png)",
        *(["![training](figures/curves.png)"] if curves else []),
        *(maps.parts(scores, measure) if maps else ()),
    ]


def _on_test(accuracies: Mapping[str, Sequence[float]], tested: OnTest | None) -> list[str]:
    """Return what the accuracies are to be compared with."""
    if not tested:
        return []
    part = tested.part
    text = f"On the {part.images:,} test images {part}."
    if blind := [role for role, values in accuracies.items() if min(values) <= part.majority]:
        text += (
            f" **No better than naming the largest class each time**, with one seed or more: "
            f"{', '.join(blind)}."
        )
    return [text]


def how_made(
    ticket: Ticket,
    hardware: str,
    measure: Measure,
    *,
    found: Sequence[str],
    of: str,
) -> str:
    """Return how a study was made, a list.

    Args:
        ticket: with its test scores.
        hardware: what it ran on.
        measure: of its scores.
        found: how the ticket was found, an item each.
        of: what the figures come from.
    """
    retrain = ticket.config["retrain"]
    seeds = ", ".join(str(seed) for seed in retrain["seeds"])
    listed = ", ".join(f"{name} {number}" for name, number in ticket.versions.items())
    fine = f" {start_of(retrain)}" if retrain.get("start") == "weights" else ""
    compiled = ", compiled by torch" if ticket.config["train"].get("compile") else ""
    # Of maps the report's rules and pictures are of the test images too, and choose nothing.
    tested = "the test part was read"
    if measure != ACCURACY:
        tested = "networks were scored on the test part"
    items = [
        f"data: {ticket.dataset}, fingerprint `{ticket.dataset_fingerprint[:16]}`; {tested} by "
        "the retraining alone, after its last epoch",
        *found,
        *([f"trained weights: SHA-256 `{ticket.weights[:16]}`"] if ticket.weights else []),
        f"retraining: {retrain['epochs']} epochs{fine}, seeds {seeds}; equal initial weights of "
        f"shared parts and equal data order for all networks of a seed{compiled}",
        f"hardware: {hardware}",
        f"versions: {listed}",
        f"every figure comes from {of}, made by `sat-optuna run {ticket.study}`",
    ]
    return "\n".join(f"- {item}" for item in items)
