"""The report of a study: what was found, how sure it is, and how it was measured."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sat_optuna.errors import TicketError
from sat_optuna.evidence.effects import UNTOLD, Effect, block_effects, readings
from sat_optuna.evidence.figures import draw_accuracies, draw_blocks, draw_search, draw_ticket
from sat_optuna.evidence.spread import Part, Spread
from sat_optuna.evidence.statistics import (
    Comparison,
    compare,
    detectable_differences,
    summarise,
    summarise_accuracies,
    wilson,
)
from sat_optuna.files import write_text
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Ticket

__all__ = [
    "Blocks",
    "OnTest",
    "SearchSummary",
    "TrialRow",
    "results_table",
    "verdicts",
    "write_report",
]

_DASH = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_DIGITS = "123456789abcdefghijklmnopqrstuvwxyz"
_FAR = 5.0  # points of accuracy that a retraining may lie below the search, unsaid


class TrialRow(NamedTuple):
    """One finished trial, as the report and `figures/trials.csv` hold it.

    One that was pruned has the reward and accuracy of its last epoch, one that failed has none.
    """

    number: int
    scheme: str
    reward: float | None
    accuracy: float | None
    state: str = "COMPLETE"


@dataclass(frozen=True, slots=True)
class SearchSummary:
    """What the report needs to know of a search.

    Attributes:
        sampler: its name in study.toml.
        trials: its finished trials, in number order; rewards in accuracy points.
        random: those of the random schemes, in number order.
        valid: what the schemes were scored on; None where it is not known.
    """

    sampler: str
    trials: Sequence[TrialRow]
    random: Sequence[TrialRow]
    valid: Part | None = None

    @property
    def spread(self) -> Spread:
        """How far the accuracies of the complete trials lie apart."""
        rows = [(r.scheme, r.accuracy) for r in complete(self.trials) if r.accuracy is not None]
        return Spread.of(rows, self.valid)

    def to_csv(self) -> str:
        """Return all trials, those of the search first."""
        lines = ["search,number,state,scheme,reward,accuracy"]
        for name, rows in ((self.sampler, self.trials), ("random-control", self.random)):
            for r in rows:
                reward, accuracy = ("" if v is None else repr(v) for v in (r.reward, r.accuracy))
                lines.append(f"{name},{r.number},{r.state},{r.scheme},{reward},{accuracy}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Blocks:
    """What each kind does at each block.

    Attributes:
        effects: of `block_effects`; empty where the schemes are too few.
        measured: on what, and what the intervals hold; sentences.
    """

    effects: Sequence[Effect]
    measured: str


@dataclass(frozen=True, slots=True)
class OnTest:
    """What is known of the test beside the accuracies.

    Attributes:
        part: the test part.
        balanced: by role, the mean over the seeds of the balanced accuracy, per cent.
    """

    part: Part
    balanced: Mapping[str, float]


def complete(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Return the trials that are complete."""
    return [row for row in rows if row.state == "COMPLETE"]


def results_table(
    tickets: Mapping[str, Ticket], *, images: int, balanced: Mapping[str, float] | None = None
) -> str:
    """Return the table of networks in Markdown: accuracy with interval, and what each costs.

    Args:
        tickets: by role, plain among them, each with test scores of the same seeds.
        images: number of test images.
        balanced: by role, the balanced accuracy, per cent.

    Raises:
        TicketError: their seeds differ.
    """
    lines = [
        "| network | scheme | test accuracy % | n | 95 % interval | balanced % | parameters | "
        "multiply-adds | latency ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for role, values in _accuracies(tickets).items():
        ticket, spread = tickets[role], summarise_accuracies(values, images=images)
        added = ticket.params - tickets["plain"].params
        extra = f" (+{added:,})" if added else ""
        latency = _DASH if ticket.latency_ms is None else f"{ticket.latency_ms:.2f}"
        interval = _DASH if spread.n < 2 else f"{spread.low:.2f} to {spread.high:.2f}"
        even = f"{balanced[role]:.2f}" if balanced else _DASH
        lines.append(
            f"| {role} | `{ticket.scheme}` | {spread.mean:.2f} | {spread.n} | {interval} | "
            f"{even} | {ticket.params:,}{extra} | {ticket.macs:,} | {latency} |"
        )
    return "\n".join(lines)


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
) -> Path:
    """Write report.md, its figures and figures/trials.csv.

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

    Returns:
        The path of report.md.

    Raises:
        TicketError: the seeds of the tickets differ.
        WriteError: a file could not be written.
    """
    folder = Path(folder)
    ticket = tickets["ticket"]
    accuracies = _accuracies(tickets)
    blocks = blocks or _of_trials(ticket, search)
    comparisons = {entry.control: entry for entry in verdicts(tickets, images=images)}
    _draw(folder / "figures", ticket, accuracies, search, blocks, images)
    start = _start(ticket.config["retrain"])
    parts = [
        f"# {folder.name}: in which blocks of {ticket.backbone} does "
        f"{' / '.join(_kinds(ticket))} pay?",
        f"{_result(ticket, comparisons, accuracies, search)} {_answer(blocks.effects)}".strip(),
        "![the ticket](figures/ticket.png)",
        _legend(ticket),
        "## Block by block",
        *_blocks(blocks, ticket),
        f"## {start[:1].upper()}{start[1:]}, on train + validation",
        results_table(tickets, images=images, balanced=tested.balanced if tested else None),
        "Last-epoch test accuracy, mean over seeds, with Student's interval over the seeds, cut "
        "at 0 and 100 %; where the seeds do not differ at all, with Wilson's over the test "
        f"images. Balanced: the mean over the classes. {latency[:1].upper()}{latency[1:]} "
        "Multiply-adds are those of convolutions and matrix products for one image; element-wise "
        "and reduction work is not in them.",
        *_remarks(ticket, accuracies, search, tested, images),
        "![accuracies](figures/accuracy.png)",
        "## What can be said",
        _said(tickets, comparisons, accuracies, images),
        "## The search",
        "![search](figures/search.png)",
        _search(search),
        "## How it was measured",
        _method(ticket, hardware),
    ]
    return write_text(folder / "report.md", "\n\n".join(parts) + "\n")


def _accuracies(tickets: Mapping[str, Ticket]) -> dict[str, list[float]]:
    """Return each network's test accuracies, all in the order of the first one's seeds."""
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
    ticket: Ticket,
    accuracies: Mapping[str, Sequence[float]],
    search: SearchSummary,
    blocks: Blocks,
    images: int,
) -> None:
    kinds = [spec.kind for spec in ticket.attention]
    draw_ticket(
        figures / "ticket.png",
        ticket.scheme,
        kinds=kinds,
        title=f"{ticket.backbone} on {ticket.dataset}: ticket {ticket.scheme}",
    )
    if blocks.effects:
        draw_blocks(figures / "blocks.png", blocks.effects, ticket.scheme, kinds=kinds)
    drawn, random = (
        [(t.number, t.reward, t.state == "COMPLETE") for t in rows if t.reward is not None]
        for rows in (search.trials, search.random)
    )
    draw_search(figures / "search.png", drawn, random, name=search.sampler)
    draw_accuracies(figures / "accuracy.png", accuracies, images=images)
    write_text(figures / "trials.csv", search.to_csv())


def verdicts(
    tickets: Mapping[str, Ticket], *, images: int | None = None
) -> tuple[Comparison, ...]:
    """Compare the ticket with each control that is another network, over the same seeds.

    Args:
        tickets: by role, the ticket among them, each with test scores of the same seeds.
        images: number of test images, as of `compare`.

    Raises:
        TicketError: their seeds differ.
    """
    accuracies, scheme = _accuracies(tickets), tickets["ticket"].scheme
    others = {role: accuracies[role] for role, t in tickets.items() if t.scheme != scheme}
    return tuple(compare(accuracies["ticket"], others, images=images))


def _signed(points: float) -> str:
    return f"{points:+z.2f}".replace("-", _MINUS)


def _result(
    ticket: Ticket,
    comparisons: Mapping[str, Comparison],
    accuracies: Mapping[str, Sequence[float]],
    search: SearchSummary,
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
    found = f"The search found `{scheme}`: attention {share}{where}{by}."
    if spread.tells_nothing:
        found = (
            f"**Nothing can be told**: all {spread.schemes:,} schemes that the search scored have "
            f"the same validation accuracy, {spread.high:.2f} %, so its ticket `{scheme}` was "
            "chosen by the weight of sparsity and by order alone."
        )
    n = len(accuracies["ticket"])
    against = [
        _against(role, comparisons.get(role))
        for role in accuracies
        if role == "plain" or role.split("-")[0] == "full"
    ]
    mean = summarise(accuracies["ticket"]).mean
    return (
        f"{found} Trained {_start(ticket.config['retrain'])} it has {mean:.2f} % of the test "
        f"images right (mean of {n} seed{'s' * (n > 1)}): {'; '.join(against)}."
    )


def _against(role: str, entry: Comparison | None) -> str:
    if entry is None:
        return f"it is the {role} network itself"
    spread = entry.difference
    interval = (
        "" if math.isnan(spread.low) else f" ({_signed(spread.low)} to {_signed(spread.high)})"
    )
    word = "better" if spread.mean > 0 else "worse"
    word = "within noise" if entry.within_noise else word
    word = "one seed, which decides nothing" if math.isnan(entry.p) else word
    return f"{_signed(spread.mean)} points{interval} against {role}, {word}"


def _counted(rows: Sequence[TrialRow]) -> str:
    """Return how many trials there are, and how they ended if not all are complete."""
    states = Counter(row.state for row in rows)
    words = {"FAIL": "failed"}
    ended = ", ".join(f"{n} {words.get(state, state.lower())}" for state, n in states.items())
    return f"{len(rows)}" + (f" ({ended})" if states.keys() - {"COMPLETE"} else "")


def _legend(ticket: Ticket) -> str:
    digits = [f"{digit} {name}" for digit, name in zip(_DIGITS, _kinds(ticket), strict=False)]
    return (
        "A scheme has a digit a block, from shallow to deep, with a dash between stages: 0 none, "
        f"{', '.join(digits)}. Block s2.b00 is the first one of the second stage."
    )


def _kinds(ticket: Ticket) -> list[str]:
    return [spec.kind.upper() for spec in ticket.attention]


def _of_trials(ticket: Ticket, search: SearchSummary) -> Blocks:
    """Return the effects of the blocks as the random schemes of the control tell them."""
    rows = [row for row in complete(search.random) if row.accuracy is not None]
    effects = block_effects(
        np.array([Scheme.parse(row.scheme).choices for row in rows], dtype=np.uint8).reshape(
            len(rows), len(ticket.scheme.choices)
        ),
        np.array([row.accuracy for row in rows]),
        stages=ticket.scheme.stages,
        kinds=[spec.kind for spec in ticket.attention],
        images=search.valid.images if search.valid else 0,
    )
    return Blocks(
        effects,
        f"Least squares of the validation accuracy on the choices of {len(rows)} random schemes, "
        "the control of the search, scored as its trials were. The search's own proposals are not "
        "random: they crowd where scores were high, so they are left out. Intervals are over the "
        "schemes and their trainings (Student's t of the residual), not over the validation "
        "images.",
    )


def _blocks(blocks: Blocks, ticket: Ticket) -> list[str]:
    """Return the table of blocks with its picture."""
    effects = blocks.effects
    if not effects:
        terms = len(ticket.scheme.choices) * len(ticket.attention)
        return [
            f"The random schemes are too few to tell the {terms} effects of a kind at a block "
            f"apart; more trials, or `sat-optuna enumerate {ticket.study}`, will."
        ]
    choices = dict(
        zip(Scheme.parameter_names(ticket.scheme.stages), ticket.scheme.choices, strict=True)
    )
    lines = [
        "| block | kind | points | 95 % interval | reading | in the ticket |",
        "|---|---|---|---|---|---|",
    ]
    for effect, reading in zip(effects, readings(effects), strict=True):
        choice = choices[effect.block]
        taken = choice > 0 and ticket.attention[choice - 1].kind == effect.kind
        lines.append(
            f"| {effect.block} | {effect.kind.upper()} | {_signed(effect.points)} | "
            f"{_signed(effect.low)} to {_signed(effect.high)} | {reading} | {'yes' * taken} |"
        )
    return [
        "![effects of the blocks](figures/blocks.png)",
        "\n".join(lines),
        "Points of validation accuracy that a kind adds at a block, in the mean over the other "
        f"blocks' choices. {blocks.measured} Readings are at 5 % for all rows at once (Holm); "
        "intervals are not corrected.",
    ]


def _answer(effects: Sequence[Effect]) -> str:
    """Return in which blocks it pays, a sentence."""
    told = [
        f"{effect.kind.upper()} in {effect.block} {word} ({_signed(effect.points)})"
        for effect, word in zip(effects, readings(effects), strict=True)
        if word != UNTOLD
    ]
    if not told:
        return "Block by block no effect is told from 0." if effects else ""
    rest = len(effects) - len(told)
    tail = f"; the other {rest} of {len(effects)} effects are {UNTOLD}" if rest else ""
    return f"Block by block, in points of validation accuracy, {', '.join(told)}{tail}."


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
    comparisons: Mapping[str, Comparison],
    accuracies: Mapping[str, Sequence[float]],
    images: int,
) -> str:
    """Return the ticket's comparison with each control, and what can be resolved at all."""
    lines = [
        "| ticket minus | points | 95 % interval | p (Holm) | verdict |",
        "|---|---|---|---|---|",
    ]
    lines += [
        _verdict(comparisons[role])
        if role in comparisons
        else f"| {role} | 0 | {_DASH} | {_DASH} | the same network |"
        for role in tickets
        if role != "ticket"
    ]
    mean = summarise(accuracies["plain"]).mean
    return "\n".join(lines) + "\n\n" + _resolution(list(comparisons.values()), mean, images)


def _verdict(entry: Comparison) -> str:
    """Return the row of one control."""
    spread = entry.difference
    if math.isnan(entry.p):
        interval, p, verdict = _DASH, _DASH, "one seed decides nothing"
    else:
        interval = f"{_signed(spread.low)} to {_signed(spread.high)}"
        p = "< 0.001" if entry.p < 0.001 else f"{entry.p:.3f}"
        better = "ticket better" if spread.mean > 0 else "ticket worse"
        verdict = "within noise" if entry.within_noise else better
    return f"| {entry.control} | {_signed(spread.mean)} | {interval} | {p} | {verdict} |"


def _resolution(comparisons: Sequence[Comparison], mean: float, images: int) -> str:
    by_seeds, by_images = detectable_differences(comparisons, accuracy=mean, images=images)
    n = comparisons[0].difference.n
    parts = []
    if n > 1 and math.isnan(by_seeds):
        parts.append(
            f"In none of the comparisons do the {n} seeds differ, which is no certainty: they do "
            "not tell how large the noise is, and the intervals are those of the test images."
        )
    elif n > 1:
        parts.append(
            f"With {n} seeds a mean difference between the ticket and a control is known to "
            f"± {by_seeds:.2f} points (half a 95 % interval, paired by seed, spread pooled over "
            "the controls)."
        )
    parts.append(
        f"The test set of {images:,} images resolves ± {by_images:.2f} points between two "
        "networks that err independently (half of Newcombe's 95 % score interval; less where they "
        "err on the same images)."
    )
    if all(math.isnan(entry.p) for entry in comparisons):
        parts.append("One seed decides nothing: the noise is not known.")
    elif all(entry.within_noise for entry in comparisons):
        parts.append(
            "No control differs from the ticket by more than the noise: the order of the networks "
            "is **within noise** and must not be read as a ranking."
        )
    else:
        parts.append(
            "Only differences marked better or worse stand out of the noise of the seeds (one "
            f"below {by_images:.2f} points may still be owed to the images of the test); every "
            "other order in the table is **within noise** and must not be read as a ranking."
        )
    if n > 1:
        controls = "1 control" if len(comparisons) == 1 else f"{len(comparisons)} controls"
        parts.append(
            f"p-values are from paired t tests with Holm's correction over {controls} (from the "
            "exact sign test, and intervals from the test images, where every seed has the same "
            f"difference), intervals are not corrected; with {n} seeds such tests see only large "
            "effects."
        )
    return " ".join(parts)


def _search(search: SearchSummary) -> str:
    best, random = (
        max(row.reward for row in complete(rows) if row.reward is not None)
        for rows in (search.trials, search.random)
    )
    return (
        f"Sampler `{search.sampler}`, trials (numbered from 0 as Optuna does): "
        f"{_counted(search.trials)}; best reward {best:.3f}. Random schemes, scored by the same "
        f"objective and not pruned: {_counted(search.random)}; best reward {random:.3f}. One "
        "search and one random draw: the difference between the two is an anecdote, not evidence "
        f"about samplers. Validation accuracy: {search.spread}."
    )


def _method(ticket: Ticket, hardware: str) -> str:
    retrain = ticket.config["retrain"]
    seeds = ", ".join(str(seed) for seed in retrain["seeds"])
    listed = ", ".join(f"{name} {number}" for name, number in ticket.versions.items())
    fine = f" {_start(retrain)}" if retrain.get("start") == "weights" else ""
    compiled = ", compiled by torch" if ticket.config["train"].get("compile") else ""
    items = [
        f"data: {ticket.dataset}, fingerprint `{ticket.dataset_fingerprint[:16]}`; the test part "
        "was read by the retraining alone, after its last epoch",
        *_scoring(ticket.config),
        *([f"trained weights: SHA-256 `{ticket.weights[:16]}`"] if ticket.weights else []),
        f"retraining: {retrain['epochs']} epochs{fine}, seeds {seeds}; equal initial weights of "
        f"shared parts and equal data order for all networks of a seed{compiled}",
        f"hardware: {hardware}",
        f"versions: {listed}",
        "every figure comes from `tickets/*.json`, `figures/trials.csv` and the table of blocks "
        f"beside this file, made by `sat-optuna run {ticket.study}`",
    ]
    return "\n".join(f"- {item}" for item in items)


def _scoring(config: Mapping[str, Any]) -> list[str]:
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
    scored = (
        f"of its network after {search['epochs']} epochs from {start}"
        if by_training
        else "in the supernet, BatchNorm re-estimated for it"
    )
    reward = (
        f"reward of a scheme: validation accuracy in points {scored}, + "
        f"{search['sparsity_weight']} x share of blocks without attention"
    )
    return [reward] if by_training and search["start"] != "supernet" else [supernet, reward]


def _start(step: Mapping[str, Any]) -> str:
    """Return what a step started from, of its section of the configuration."""
    return "from the given weights" if step.get("start") == "weights" else "from scratch"
