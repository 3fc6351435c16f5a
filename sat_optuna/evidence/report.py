"""The report of a study: what was found, how sure it is, and how it was measured."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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
    draw_front,
    draw_search,
    shares_by_batch,
)
from sat_optuna.evidence.maps import MapResults
from sat_optuna.evidence.pages import markdown_table, write_page
from sat_optuna.evidence.retrained import (
    OnTest,
    came_to,
    draw_networks,
    how_made,
    kinds_of,
    legend,
    measured_in,
    networks_parts,
    paired_by_seed,
    results_table,
    scores_of,
    start_of,
    unit_of,
    what_can_be_said,
    where_of,
)
from sat_optuna.evidence.spread import Part, Spread
from sat_optuna.evidence.statistics import (
    Summary,
    summarise,
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


def complete(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Return the trials that are complete."""
    return [row for row in rows if row.state == "COMPLETE"]


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
    ticket, measure = tickets["ticket"], measured_in(tickets)
    accuracies = scores_of(tickets)
    blocks = blocks or blocks_of_trials(ticket, search)
    differences = paired_by_seed(tickets, accuracies, images, measure)
    largest = tested.part.majority if tested else 0.0
    _draw(folder / "figures", tickets, search, blocks, images, curves or {}, largest, maps)
    head = [
        claims_text(claims_of(tickets)),
        f"{_result(ticket, differences, accuracies, search, measure)} "
        f"{_answer(blocks.effects, measure)}".strip(),
    ]
    if search.spread.tells_nothing:  # which is the first to be known
        head.reverse()
    parts = [
        f"# {folder.name}: in which blocks of {ticket.backbone} does "
        f"{' / '.join(kinds_of(ticket))} pay?",
        *head,
        "![the ticket](figures/ticket.png)",
        legend(ticket, controlled="constant" in tickets),
        *(["## Without passengers", passengers] if passengers else []),
        "## Block by block",
        *_blocks(blocks, ticket, measure),
        *networks_parts(
            tickets,
            images=images,
            latency=latency,
            tested=tested,
            curves=bool(curves),
            maps=maps,
            doubts=_doubts(ticket, accuracies, search, images),
        ),
        "## What can be said",
        what_can_be_said(tickets, differences, accuracies, images, measure),
        *(_front(search.front, ticket, search.valid, measure) if search.front else ()),
        "## The search",
        *(() if search.front else ("![search](figures/search.png)",)),
        _search(search),
        "![connections](figures/connections.png)",
        "## How it was measured",
        how_made(
            ticket,
            hardware,
            measure,
            found=[
                *_scoring(ticket.config, measure),
                *([f"latency of schemes: {search.latency}"] if search.latency else []),
            ],
            of="`tickets/*.json`, `figures/trials.csv` and the table of blocks beside this file",
        ),
    ]
    return write_page(folder / "report.md", "\n\n".join(parts) + "\n")


def _draw(
    figures: Path,
    tickets: Mapping[str, Ticket],
    search: SearchSummary,
    blocks: Blocks,
    images: int,
    curves: Mapping[str, Sequence[Sequence[float]]],
    largest: float,
    maps: MapResults | None,
) -> None:
    """Draw all figures; `largest` is the per cent of the largest class of the test images."""
    ticket, measure = tickets["ticket"], measured_in(tickets)
    kinds = [spec.kind for spec in ticket.attention]
    draw_networks(figures, tickets, images=images, curves=curves, largest=largest, maps=maps)
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
    write_text(figures / "trials.csv", search.to_csv())


def _result(
    ticket: Ticket,
    differences: Mapping[str, Summary],
    accuracies: Mapping[str, Sequence[float]],
    search: SearchSummary,
    measure: Measure,
) -> str:
    """Return what was found, and how it stands against plain and full: two sentences."""
    scheme, spread = ticket.scheme, search.spread
    by = (
        f", by trial {ticket.trial} of {_counted(search.trials)}"
        if ticket.trial is not None
        else ""
    )
    made = "Without its passengers the search" if "searched" in accuracies else "The search"
    found = f"{made} found `{scheme}`: attention {where_of(ticket)}{by}."
    if spread.tells_nothing:
        found = (
            f"**Nothing can be told**: all {spread.schemes:,} schemes that the search scored have "
            f"the same validation {spread.measure.title}, {spread.measure.text(spread.high)}, so "
            f"its ticket `{scheme}` was "
            "chosen by the weight of sparsity and by order alone."
        )
    return f"{found} {came_to(ticket, differences, accuracies, measure)}"


def _counted(rows: Sequence[TrialRow]) -> str:
    """Return how many trials there are, and how they ended if not all are complete."""
    states = Counter(row.state for row in rows)
    words = {"FAIL": "failed"}
    ended = ", ".join(f"{n} {words.get(state, state.lower())}" for state, n in states.items())
    return f"{len(rows)}" + (f" ({ended})" if states.keys() - {"COMPLETE"} else "")


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
    heads = ["block", "kind", unit_of(measure), "95 % interval", "reading", "in the ticket"]
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


def _doubts(
    ticket: Ticket,
    accuracies: Mapping[str, Sequence[float]],
    search: SearchSummary,
    images: int,
) -> list[str]:
    """Return what should be doubted of the accuracies."""
    remarks = []
    seen = next((score.value for score in ticket.scores if score.split == "valid"), None)
    mean = summarise(accuracies["ticket"]).mean
    if seen is not None and seen - mean > _FAR:
        _, high = wilson(mean, images)
        low = wilson(seen, search.valid.images)[0] if search.valid else seen
        if high < low:
            remarks.append(
                f"**Far below the search**: {start_of(ticket.config['retrain'])} the ticket has "
                f"{mean:.2f} %, where the search saw {seen:.2f} % on the validation images. "
                "Networks so little trained tell little of what the search found; give the "
                "retraining more epochs (retrain.epochs)."
            )
    return remarks


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
        f"ticket is {rule}. It alone was trained {start_of(ticket.config['retrain'])}; the others "
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


def _scoring(config: Mapping[str, Any], measure: Measure) -> list[str]:
    """Return how the search scored a scheme, of the configuration's sections."""
    search, pretrain = config["search"], config["pretrain"]
    by_training = search["objective"] == "train"
    draws = pretrain["draws"]
    if draws == "iid":
        draws += f", connection probability {pretrain['connect']}"
    supernet = f"supernet: {pretrain['epochs']} epochs under random schemes ({draws})"
    if pretrain.get("start") == "weights":
        supernet += f", {start_of(pretrain)}"
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
