"""The report of a study: what was found, how sure it is, and how it was measured."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sat_optuna.errors import TicketError
from sat_optuna.evidence.effects import (
    UNTOLD,
    Effect,
    block_effects,
    in_words,
    readings,
    signed,
)
from sat_optuna.evidence.figures import (
    draw_blocks,
    draw_connections,
    draw_costs,
    draw_curves,
    draw_front,
    draw_maps,
    draw_search,
    draw_ticket,
    shares_by_batch,
)
from sat_optuna.evidence.maps import MapResults
from sat_optuna.evidence.pages import markdown_table, write_page
from sat_optuna.evidence.spread import Part, Spread
from sat_optuna.evidence.statistics import (
    Summary,
    detectable_by_seeds,
    detectable_differences,
    paired,
    summarise,
    summarise_scores,
    wilson,
)
from sat_optuna.evidence.verdicts import claims_of, claims_text
from sat_optuna.files import write_text
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import ACCURACY, Measure, Ticket

__all__ = [
    "Blocks",
    "Front",
    "OnTest",
    "SearchSummary",
    "TrialRow",
    "blocks_of_trials",
    "results_table",
    "words_of",
    "write_report",
]

_DASH = "\N{EN DASH}"
_DIGITS = "123456789abcdefghijklmnopqrstuvwxyz"
_FAR = 5.0  # points of accuracy that a retraining may lie below the search, unsaid


class TrialRow(NamedTuple):
    """One finished trial, as the report and `figures/trials.csv` hold it.

    The score is the accuracy or what else was searched for. One that was pruned has the reward and
    score of its last epoch, one that failed has none.
    """

    number: int
    scheme: str
    reward: float | None
    score: float | None
    state: str = "COMPLETE"
    values: tuple[float, ...] = ()  # of several objectives, which have no reward


@dataclass(frozen=True, slots=True)
class Front:
    """The front of a search of several objectives.

    Attributes:
        objectives: their names.
        points: by scheme the value of each objective, of the schemes on the front, those of the
            highest metric first.
        references: by role the same of plain and full, scored as the trials were.
        random: number of schemes on the front of the random schemes.
    """

    objectives: tuple[str, ...]
    points: Mapping[str, Sequence[float]]
    references: Mapping[str, Sequence[float]]
    random: int


@dataclass(frozen=True, slots=True)
class SearchSummary:
    """What the report needs to know of a search.

    Attributes:
        sampler: its name in study.toml.
        trials: its finished trials, in number order.
        random: those of the random schemes, in number order.
        valid: what the schemes were scored on; None where it is not known.
        measure: what was searched for.
        front: of several objectives; None where there is one reward.
        latency: how the milliseconds of schemes were known and kept, sentences; empty where the
            search asked for none.
    """

    sampler: str
    trials: Sequence[TrialRow]
    random: Sequence[TrialRow]
    valid: Part | None = None
    measure: Measure = ACCURACY
    front: Front | None = None
    latency: str = ""

    @property
    def spread(self) -> Spread:
        """How far the scores of the complete trials lie apart."""
        rows = [(r.scheme, r.score) for r in complete(self.trials) if r.score is not None]
        return Spread.of(rows, self.valid, self.measure)

    def to_csv(self) -> str:
        """Return all trials, those of the search first."""
        lines = [f"search,number,state,scheme,reward,{self.measure.name}"]
        if self.front:
            lines[0] += "".join(f",objective {name}" for name in self.front.objectives)
        for name, rows in ((self.sampler, self.trials), ("random-control", self.random)):
            for r in rows:
                reward, score = ("" if v is None else repr(v) for v in (r.reward, r.score))
                values = "".join(f",{value!r}" for value in r.values)
                if self.front and not r.values:
                    values = "," * len(self.front.objectives)
                lines.append(f"{name},{r.number},{r.state},{r.scheme},{reward},{score}{values}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Blocks:
    """What each kind does at each block.

    Attributes:
        effects: of `block_effects`; empty where the schemes are too few.
        measured: on what, and what the intervals hold; sentences.
        schemes: how many the effects were told of.
    """

    effects: Sequence[Effect]
    measured: str
    schemes: int = 0


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


def complete(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Return the trials that are complete."""
    return [row for row in rows if row.state == "COMPLETE"]


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
    measure = _measure(tickets)
    beside = {"balanced %": balanced}
    if measure != ACCURACY:
        even = None if measure.name == "balanced_accuracy" else balanced
        both = {"accuracy %": accuracy, "balanced %": even}
        beside = {title: values for title, values in both.items() if values}
    columns = ["network", "scheme", f"test {_with_unit(measure)}", "n", "95 % interval", *beside]
    columns += ["parameters", "multiply-adds", "latency ms"]
    rows = []
    for role, values in _scores(tickets).items():
        ticket = tickets[role]
        spread = summarise_scores(values, images=images, measure=measure)
        mean, interval = _mean_and_interval(spread, measure)
        params, latency = _cost(ticket, tickets["plain"])
        more = [f"{v[role]:.2f}" if v else _DASH for v in beside.values()]
        row = [role, f"`{ticket.scheme}`", mean, str(spread.n), interval, *more]
        rows.append([*row, params, f"{ticket.macs:,}", latency])
    return markdown_table(columns, rows)


def _mean_and_interval(spread: Summary, measure: Measure) -> tuple[str, str]:
    number = measure.number
    interval = _DASH if spread.n < 2 else f"{number(spread.low)} to {number(spread.high)}"
    return number(spread.mean), interval


def _cost(ticket: Ticket, plain: Ticket) -> tuple[str, str]:
    """Return the parameters of a ticket, with what it has more than plain, and its latency."""
    added = ticket.params - plain.params
    latency = _DASH if ticket.latency_ms is None else f"{ticket.latency_ms:.2f}"
    return f"{ticket.params:,}" + (f" (+{added:,})" if added else ""), latency


def _measure(tickets: Mapping[str, Ticket]) -> Measure:
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


def _differences(measure: Measure) -> str:
    """Return what differences are in, as a table's head."""
    return _points(measure).strip() or measure.title


def _points(measure: Measure) -> str:
    """Return what differences are in, after a number."""
    return " points" if measure.unit == "%" else f" {measure.unit}".rstrip()


def write_report(
    folder: str | PathLike[str],
    tickets: Mapping[str, Ticket],
    search: SearchSummary,
    *,
    images: int,
    latency: str,
    hardware: str,
    blocks: Blocks | None = None,
    tested: OnTest | None = None,
    curves: Mapping[str, Sequence[Sequence[float]]] | None = None,
    passengers: str = "",
    maps: MapResults | None = None,
) -> Path:
    """Write report.md and report.html, their figures and figures/trials.csv.

        write_report(
            "studies/mine",
            {"ticket": ticket, "plain": plain, "full": full},  # Tickets with their test scores
            SearchSummary(sampler="policy", trials=trials, random=random),
            images=len(data.test),
            latency="not measured",
            hardware="two cores",
        )

    Args:
        folder: the study's.
        tickets: by role, the ticket first, plain and full among them, each with test scores of the
            same seeds.
        search: what was searched.
        images: number of test images.
        latency: how latency was measured, a sentence.
        hardware: what it ran on.
        blocks: what each kind does at each block; None to tell it from the random schemes.
        tested: what else is known of the test; None where nothing is.
        curves: by role, for each seed the training accuracy of each epoch, per cent; None where it
            is not known.
        passengers: what the searched scheme can do without, sentences; empty where not known.
        maps: trivial rules and test images, of networks that answer with maps; else None.

    Returns:
        The path of report.md.

    Raises:
        TicketError: the seeds of the tickets differ.
        WriteError: a file could not be written.
    """
    folder = Path(folder)
    ticket, measure = tickets["ticket"], _measure(tickets)
    accuracies = _scores(tickets)
    blocks = blocks or blocks_of_trials(ticket, search)
    differences = _paired(tickets, accuracies, images, measure)
    largest = tested.part.majority if tested else 0.0
    _draw(folder / "figures", tickets, search, blocks, images, curves or {}, largest)
    if maps and maps.examples:
        draw_maps(folder / "figures" / "maps.png", maps.examples)
    start = _start(ticket.config["retrain"])
    head = [
        claims_text(claims_of(tickets)),
        f"{_result(ticket, differences, accuracies, search, measure)} "
        f"{_answer(blocks.effects, measure)}".strip(),
    ]
    if search.spread.tells_nothing:  # which is the first to be known
        head.reverse()
    parts = [
        f"# {folder.name}: in which blocks of {ticket.backbone} does "
        f"{' / '.join(_kinds(ticket))} pay?",
        *head,
        "![the ticket](figures/ticket.png)",
        _legend(ticket, controlled="constant" in tickets),
        *(["## Without passengers", passengers] if passengers else []),
        "## Block by block",
        *_blocks(blocks, ticket, measure),
        f"## {start[:1].upper()}{start[1:]}, on train + validation",
        results_table(
            tickets,
            images=images,
            balanced=tested.balanced if tested else None,
            accuracy=tested.accuracy if tested else None,
        ),
        f"{_measured(measure)} {latency[:1].upper()}{latency[1:]} "
        "Multiply-adds are those of convolutions and matrix products for one image; element-wise "
        "and reduction work is not in them.",
        *(_remarks(ticket, accuracies, search, tested, images) if measure == ACCURACY else []),
        "![accuracies](figures/accuracy.png)",
        *(["![training](figures/curves.png)"] if curves else []),
        *(maps.parts(accuracies, measure) if maps else ()),
        "## What can be said",
        _said(tickets, differences, accuracies, images, measure),
        *(_front(search.front, ticket, search.valid, measure) if search.front else ()),
        "## The search",
        *(() if search.front else ("![search](figures/search.png)",)),
        _search(search),
        "![connections](figures/connections.png)",
        "## How it was measured",
        _method(ticket, hardware, measure, search.latency),
    ]
    return write_page(folder / "report.md", "\n\n".join(parts) + "\n")


def _measured(measure: Measure) -> str:
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


def _scores(tickets: Mapping[str, Ticket]) -> dict[str, list[float]]:
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


def _draw(
    figures: Path,
    tickets: Mapping[str, Ticket],
    search: SearchSummary,
    blocks: Blocks,
    images: int,
    curves: Mapping[str, Sequence[Sequence[float]]],
    largest: float,
) -> None:
    """Draw all figures; `largest` is the per cent of the largest class of the test images."""
    ticket, measure = tickets["ticket"], _measure(tickets)
    kinds = [spec.kind for spec in ticket.attention]
    draw_ticket(
        figures / "ticket.png",
        ticket.scheme,
        kinds=kinds,
        title=f"{ticket.backbone} on {ticket.dataset}: ticket {ticket.scheme}",
        table=_beside_the_ticket(tickets, images),
    )
    if blocks.effects:
        draw_blocks(
            figures / "blocks.png", blocks.effects, ticket.scheme, kinds=kinds, measure=measure
        )
    drawn, random = (
        [(t.number, t.reward, t.state == "COMPLETE") for t in rows if t.reward is not None]
        for rows in (search.trials, search.random)
    )
    if front := search.front:
        draw_front(
            figures / "front.png",
            [row.values for row in complete(search.trials)],
            front.points,
            front.references,
            objectives=front.objectives,
            measure=measure,
            ticket=str(ticket.scheme),
        )
    else:
        draw_search(figures / "search.png", drawn, random, name=search.sampler, measure=measure)
    tried = [Scheme.parse(row.scheme).choices for row in search.trials if row.scheme]
    shares, ends = shares_by_batch(tried, batches=min(12, max(1, len(tried) // 5)))
    draw_connections(figures / "connections.png", shares, ends, ticket.scheme, name=search.sampler)
    networks, cost = _against_cost(tickets)
    draw_costs(figures / "accuracy.png", networks, cost=cost, images=images, measure=measure)
    if curves:
        drawn_once = {label: curves[roles[0]] for label, roles in _labels(tickets).items()}
        least = max(largest, 100 / ticket.classes)
        named = "largest class of\nthe test" if largest == least else "chance"
        floor = (f"{named}, {least:.1f} %", least)
        score = "training accuracy, %"
        draw_curves(figures / "curves.png", drawn_once, score=score, floor=floor)
    write_text(figures / "trials.csv", search.to_csv())


def _beside_the_ticket(tickets: Mapping[str, Ticket], images: int) -> list[list[str]]:
    """Return what the ticket's figure tells of it, plain and full, row by row, the heads first."""
    scores, measure = _scores(tickets), _measure(tickets)
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
    scores, plain = _scores(tickets), tickets["plain"]
    cost, of = "parameters more than plain", {role: t.params for role, t in tickets.items()}
    extra: dict[str, float] = {role: count - plain.params for role, count in of.items()}
    times = {role: t.latency_ms for role, t in tickets.items() if t.latency_ms is not None}
    if not any(extra.values()) and len(times) == len(tickets):  # modules without parameters
        cost = "ms more than plain"
        extra = {role: ms - times["plain"] for role, ms in times.items()}
    labels = _labels(tickets)
    return {label: (extra[roles[0]], scores[roles[0]]) for label, roles in labels.items()}, cost


def _paired(
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


def _result(
    ticket: Ticket,
    differences: Mapping[str, Summary],
    accuracies: Mapping[str, Sequence[float]],
    search: SearchSummary,
    measure: Measure,
) -> str:
    """Return what was found, and how it stands against plain and full: two sentences."""
    scheme, spread = ticket.scheme, search.spread
    names = Scheme.parameter_names(scheme.stages)
    placed = [
        f"{spec.kind.upper()} in {', '.join(blocks)}"
        for choice, spec in enumerate(ticket.attention, start=1)
        if (blocks := [name for name, c in zip(names, scheme.choices, strict=True) if c == choice])
    ]
    where = f" ({'; '.join(placed)})" if placed else ""
    by = (
        f", by trial {ticket.trial} of {_counted(search.trials)}"
        if ticket.trial is not None
        else ""
    )
    share = f"in {scheme.connections} of {len(names)} blocks" if placed else "in no block"
    made = "Without its passengers the search" if "searched" in accuracies else "The search"
    found = f"{made} found `{scheme}`: attention {share}{where}{by}."
    if spread.tells_nothing:
        found = (
            f"**Nothing can be told**: all {spread.schemes:,} schemes that the search scored have "
            f"the same validation {spread.measure.title}, {spread.measure.text(spread.high)}, so "
            f"its ticket `{scheme}` was "
            "chosen by the weight of sparsity and by order alone."
        )
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
        f"{found} Trained {_start(ticket.config['retrain'])} {has} "
        f"(mean of {n} seed{'s' * (n > 1)}): {'; '.join(against)}."
    )


def _against(role: str, spread: Summary | None, measure: Measure) -> str:
    if spread is None:
        return f"it is the {role} network itself"
    interval = (
        ""
        if math.isnan(spread.low)
        else f" ({signed(spread.low, measure)} to {signed(spread.high, measure)})"
    )
    return f"{signed(spread.mean, measure)}{_points(measure)}{interval} against {role}"


def _counted(rows: Sequence[TrialRow]) -> str:
    """Return how many trials there are, and how they ended if not all are complete."""
    states = Counter(row.state for row in rows)
    words = {"FAIL": "failed"}
    ended = ", ".join(f"{n} {words.get(state, state.lower())}" for state, n in states.items())
    return f"{len(rows)}" + (f" ({ended})" if states.keys() - {"COMPLETE"} else "")


def _legend(ticket: Ticket, *, controlled: bool) -> str:
    kinds = _kinds(ticket)
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


def _kinds(ticket: Ticket) -> list[str]:
    return [spec.kind.upper() for spec in ticket.attention]


def blocks_of_trials(ticket: Ticket, search: SearchSummary) -> Blocks:
    """Return the effects of the blocks as the random trials tell them; none where these are few.

    The search's own proposals follow its scores and come again, so they are no sample.

    Args:
        ticket: of the search.
        search: its trials and those of its random control.
    """
    # One that came again with the same score tells nothing new.
    random = list({(row.scheme, row.score): row for row in complete(search.random)}.values())
    effects = _effects_of(ticket, search, random)
    if not effects:
        return Blocks(
            (),
            f"Only random schemes could tell it, and the control has {len(random)}; the search's "
            "own proposals crowd where scores were high. What helps: more trials (search.trials), "
            f"of which the control has as many, or `sat-optuna enumerate {ticket.study}`, which "
            "scores all schemes in a pretrained supernet.",
            len(random),
        )
    return Blocks(
        effects,
        f"Least squares of the validation {search.measure.title} on the choices of {len(random)} "
        "random schemes, the control of the search, scored as its trials were. The search's own "
        "proposals are not random: they crowd where scores were high, so they are left out. "
        "Intervals are over the schemes and their trainings (Student's t of the residual), not "
        "over the validation images.",
        len(random),
    )


def _effects_of(ticket: Ticket, search: SearchSummary, rows: Sequence[TrialRow]) -> list[Effect]:
    scored = [(row.scheme, row.score) for row in rows if row.score is not None]
    choices = [Scheme.parse(scheme).choices for scheme, _ in scored]
    return block_effects(
        np.array(choices, dtype=np.uint8).reshape(len(scored), len(ticket.scheme.choices)),
        np.array([search.measure.points(score) for _, score in scored]),
        stages=ticket.scheme.stages,
        kinds=[spec.kind for spec in ticket.attention],
        images=search.valid.images if search.valid else 0,
        measure=search.measure,
    )


def _blocks(blocks: Blocks, ticket: Ticket, measure: Measure) -> list[str]:
    """Return the table of blocks with its picture."""
    effects = blocks.effects
    if not effects:
        (said,) = words_of(blocks, ticket, measure)
        return [f"{said[:1].upper()}{said[1:]}. {blocks.measured}"]
    choices = dict(
        zip(Scheme.parameter_names(ticket.scheme.stages), ticket.scheme.choices, strict=True)
    )
    heads = ["block", "kind", _differences(measure), "95 % interval", "reading", "in the ticket"]
    rows = []
    for effect, reading in zip(effects, readings(effects), strict=True):
        choice = choices[effect.block]
        taken = choice > 0 and ticket.attention[choice - 1].kind == effect.kind
        between = f"{signed(effect.low, measure)} to {signed(effect.high, measure)}"
        row = [effect.block, effect.kind.upper(), signed(effect.points, measure), between]
        rows.append([*row, reading, "yes" * taken])
    return [
        "![effects of the blocks](figures/blocks.png)",
        markdown_table(heads, rows),
        f"{_gains(measure)} that a kind adds at a block, in the mean over the other "
        f"blocks' choices. {blocks.measured} Readings are at 5 % for all rows at once (Holm); "
        "intervals are not corrected.",
    ]


def words_of(blocks: Blocks, ticket: Ticket, measure: Measure = ACCURACY) -> list[str]:
    """Return what each kind does at each block of a study, a plain sentence each."""
    terms = len(ticket.scheme.choices) * len(ticket.attention)
    return in_words(blocks.effects, schemes=blocks.schemes, terms=terms, measure=measure)


def _gains(measure: Measure) -> str:
    """Return what the effects at the blocks are in."""
    if measure.unit == "%" and measure.better == "higher":
        return f"Points of validation {measure.title}"
    unit = f" in {measure.unit}" if measure.unit else ""
    return f"Validation {measure.title}{unit}, positive where it is {measure.better} (better),"


def _answer(effects: Sequence[Effect], measure: Measure) -> str:
    """Return in which blocks it pays or hurts, a sentence."""
    if not effects:
        return ""
    said = in_words(effects, schemes=0, terms=len(effects), measure=measure)
    told = [words for words in said if UNTOLD not in words]
    if not told:
        return "Block by block no effect is told from 0."
    rest = len(effects) - len(told)
    tail = f"; the other {rest} of {len(effects)} effects are {UNTOLD}" if rest else ""
    return f"Block by block, in the validation {measure.title}: {'; '.join(told)}{tail}."


def _remarks(
    ticket: Ticket,
    accuracies: Mapping[str, Sequence[float]],
    search: SearchSummary,
    tested: OnTest | None,
    images: int,
) -> list[str]:
    """Return what the accuracies are to be compared with, and what should be doubted."""
    remarks = []
    if tested:
        part = tested.part
        text = f"On the {part.images:,} test images {part}."
        blind = [role for role, values in accuracies.items() if min(values) <= part.majority]
        if blind:
            text += (
                f" **No better than naming the largest class each time**, with one seed or more: "
                f"{', '.join(blind)}."
            )
        remarks.append(text)
    seen = next((score.value for score in ticket.scores if score.split == "valid"), None)
    mean = summarise(accuracies["ticket"]).mean
    if seen is not None and seen - mean > _FAR:
        _, high = wilson(mean, images)
        low = wilson(seen, search.valid.images)[0] if search.valid else seen
        if high < low:
            remarks.append(
                f"**Far below the search**: {_start(ticket.config['retrain'])} the ticket has "
                f"{mean:.2f} %, where the search saw {seen:.2f} % on the validation images. "
                "Networks so little trained tell little of what the search found; give the "
                "retraining more epochs (retrain.epochs)."
            )
    return remarks


def _said(
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
        else (role, "the same network", _DASH, _DASH)
        for role in tickets
        if role != "ticket"
    ]
    mean = summarise(accuracies["plain"]).mean
    told = _resolution(list(differences.values()), mean, images, measure)
    heads = ("ticket minus", _differences(measure), "95 % interval", "n")
    return f"{markdown_table(heads, rows)}\n\n{told}"


def _difference(role: str, spread: Summary, measure: Measure) -> tuple[str, ...]:
    """Return the row of one control."""
    interval = f"{signed(spread.low, measure)} to {signed(spread.high, measure)}"
    interval = _DASH if math.isnan(spread.low) else interval
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


def _front(front: Front, ticket: Ticket, valid: Part | None, measure: Measure) -> list[str]:
    """Return the table of the front with its picture, and how the ticket was chosen of it."""
    names, chosen = front.objectives, str(ticket.scheme)
    cost = next(name for name in names if name != measure.name)
    lines = []
    rows = [(scheme, values, "") for scheme, values in front.points.items()]
    roles = {scheme: "ticket" for scheme in front.points if scheme == chosen}
    references = [(role, values, "for comparison") for role, values in front.references.items()]
    for what, values, note in (*rows, *references):
        shown = [_shown(name, value) for name, value in zip(names, values, strict=True)]
        lines.append([f"`{what}`", *shown, roles.get(what, note)])
    images = f" over the {valid.images:,} validation images" if valid else ""
    rule = f"the one with the highest {measure.title}"
    if measure == ACCURACY:
        rule = (
            f"the one with the least {cost} of those whose accuracy lies within one standard error"
            f"{images} of the highest, which was in part chosen by luck (the one-standard-error "
            "rule)"
        )
    if measure.better == "lower":
        rule += ", which counts negative, for it is the better the lower"
    return [
        "## The front",
        "![front](figures/front.png)",
        markdown_table(("scheme", *names, ""), lines),
        f"No scheme that was tried beats one of these in {' and '.join(names)} at once. The "
        f"ticket is {rule}. It alone was trained {_start(ticket.config['retrain'])}; the others "
        "are as the search scored them, on the images that chose them. "
        f"`sat-optuna ticket {ticket.study} --front` writes a ticket for each.",
    ]


def _shown(name: str, value: float) -> str:
    return f"{value:,.0f}" if name in ("params", "macs") else f"{value:z.2f}"


def _search(search: SearchSummary) -> str:
    if search.front:
        return (
            f"Sampler `{search.sampler}`, objectives {', '.join(search.front.objectives)}; trials "
            f"(numbered from 0 as Optuna does): {_counted(search.trials)}, "
            f"{len(search.front.points)} schemes on the front. Random schemes, scored by the same "
            f"objectives: {_counted(search.random)}, {search.front.random} on their front. One "
            "search and one random draw are no evidence about samplers. Validation accuracy: "
            f"{search.spread}."
        )
    best, random = (
        f"best reward {max(rewards):z.3f}" if rewards else "none of them has a reward"
        for rewards in (
            [row.reward for row in complete(rows) if row.reward is not None]
            for rows in (search.trials, search.random)
        )
    )
    return (
        f"Sampler `{search.sampler}`, trials (numbered from 0 as Optuna does): "
        f"{_counted(search.trials)}; {best}. Random schemes, scored by the same "
        f"objective and not pruned: {_counted(search.random)}; {random}. One "
        "search and one random draw: the difference between the two is an anecdote, not evidence "
        f"about samplers. Validation {search.measure.title}: {search.spread}."
    )


def _method(ticket: Ticket, hardware: str, measure: Measure, latency: str) -> str:
    retrain = ticket.config["retrain"]
    seeds = ", ".join(str(seed) for seed in retrain["seeds"])
    listed = ", ".join(f"{name} {number}" for name, number in ticket.versions.items())
    fine = f" {_start(retrain)}" if retrain.get("start") == "weights" else ""
    compiled = ", compiled by torch" if ticket.config["train"].get("compile") else ""
    items = [
        f"data: {ticket.dataset}, fingerprint `{ticket.dataset_fingerprint[:16]}`; the test part "
        f"was {'read' if measure == ACCURACY else 'scored'} by the retraining alone, after its "
        "last epoch",
        *_scoring(ticket.config, measure),
        *([f"latency of schemes: {latency}"] if latency else []),
        *([f"trained weights: SHA-256 `{ticket.weights[:16]}`"] if ticket.weights else []),
        f"retraining: {retrain['epochs']} epochs{fine}, seeds {seeds}; equal initial weights of "
        f"shared parts and equal data order for all networks of a seed{compiled}",
        f"hardware: {hardware}",
        f"versions: {listed}",
        "every figure comes from `tickets/*.json`, `figures/trials.csv` and the table of blocks "
        f"beside this file, made by `sat-optuna run {ticket.study}`",
    ]
    return "\n".join(f"- {item}" for item in items)


def _scoring(config: Mapping[str, Any], measure: Measure) -> list[str]:
    """Return how the search scored a scheme, of the configuration's sections."""
    search, pretrain = config["search"], config["pretrain"]
    by_training = search["objective"] == "train"
    draws = pretrain["draws"]
    if draws == "iid":
        draws += f", connection probability {pretrain['connect']}"
    supernet = f"supernet: {pretrain['epochs']} epochs under random schemes ({draws})"
    if pretrain.get("start") == "weights":
        supernet += f", {_start(pretrain)}"
    starts = {"supernet": "the supernet's weights", "weights": "the given weights"}
    start = starts.get(search["start"], "scratch")
    scored = "in the supernet, BatchNorm re-estimated for it"
    if by_training:
        scored = f"of its network after {search['epochs']} epochs from {start}"
    elif search["objective"] == "folded":
        scored = "of the trained network with constants for the modules that it drops"
    value = f"validation {measure.title}{' in points' if measure.unit == '%' else ''}"
    value = value if measure.better == "higher" else f"minus the {value}"
    reward = (
        f"reward of a scheme: {value} {scored}, + "
        f"{search['sparsity_weight']} x share of blocks without attention"
    )
    if objectives := search.get("objectives"):
        reward = (
            f"objectives of a scheme: {', '.join(objectives)}; the metric is the {value} "
            f"{scored}, and nothing is added for sparsity"
        )
    return [reward] if by_training and search["start"] != "supernet" else [supernet, reward]


def _start(step: Mapping[str, Any]) -> str:
    """Return what a step started from, of its section of the configuration."""
    return "from the given weights" if step.get("start") == "weights" else "from scratch"
