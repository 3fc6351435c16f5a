"""The report of a study: what was found, how sure it is, and how it was measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from sat_optuna.errors import TicketError
from sat_optuna.evidence.figures import draw_accuracies, draw_search, draw_ticket
from sat_optuna.evidence.statistics import Comparison, compare, detectable_differences, summarise
from sat_optuna.files import write_text
from sat_optuna.ticket import Ticket

__all__ = ["SearchSummary", "TrialRow", "results_table", "verdicts", "write_report"]

_DASH = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"


class TrialRow(NamedTuple):
    """One complete trial, as the report and `figures/trials.csv` hold it."""

    number: int
    scheme: str
    reward: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class SearchSummary:
    """What the report needs to know of a search.

    Attributes:
        sampler: its name in study.toml.
        trials: its complete trials, in number order; rewards in accuracy points.
        random: those of the random schemes, in number order.
    """

    sampler: str
    trials: Sequence[TrialRow]
    random: Sequence[TrialRow]

    def to_csv(self) -> str:
        """Return all trials, those of the search first."""
        lines = ["search,number,scheme,reward,accuracy"]
        for name, rows in ((self.sampler, self.trials), ("random-control", self.random)):
            lines += [f"{name},{r.number},{r.scheme},{r.reward!r},{r.accuracy!r}" for r in rows]
        return "\n".join(lines) + "\n"


def results_table(tickets: Mapping[str, Ticket]) -> str:
    """Return the table of networks in Markdown: accuracy with interval, and what each costs.

    Args:
        tickets: by role, plain among them, each with test scores of the same seeds.

    Raises:
        TicketError: their seeds differ.
    """
    lines = [
        "| network | scheme | test accuracy % | n | 95 % interval | parameters | "
        "multiply-adds | latency ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for role, values in _accuracies(tickets).items():
        ticket, spread = tickets[role], summarise(values)
        added = ticket.params - tickets["plain"].params
        extra = f" (+{added:,})" if added else ""
        latency = _DASH if ticket.latency_ms is None else f"{ticket.latency_ms:.2f}"
        interval = _DASH if spread.n < 2 else f"{spread.low:.2f} to {spread.high:.2f}"
        lines.append(
            f"| {role} | `{ticket.scheme}` | {spread.mean:.2f} | {spread.n} | {interval} | "
            f"{ticket.params:,}{extra} | {ticket.macs:,} | {latency} |"
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

    Returns:
        The path of report.md.

    Raises:
        TicketError: the seeds of the tickets differ.
        WriteError: a file could not be written.
    """
    folder = Path(folder)
    ticket = tickets["ticket"]
    pay = " / ".join(spec.kind.upper() for spec in ticket.attention)
    accuracies = _accuracies(tickets)
    _draw(folder / "figures", ticket, accuracies, search)
    parts = [
        f"# {folder.name}: in which blocks of {ticket.backbone} does {pay} pay?",
        "![the ticket](figures/ticket.png)",
        _found(ticket, search),
        "## From scratch, on train + validation",
        results_table(tickets),
        f"Last-epoch test accuracy, mean over seeds; {latency} Multiply-adds are those of "
        "convolutions and matrix products for one image; element-wise and reduction work is "
        "not in them.",
        "![accuracies](figures/accuracy.png)",
        "## What can be said",
        _said(tickets, accuracies, images),
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
    figures: Path, ticket: Ticket, accuracies: Mapping[str, Sequence[float]], search: SearchSummary
) -> None:
    draw_ticket(
        figures / "ticket.png",
        ticket.scheme,
        kinds=[spec.kind for spec in ticket.attention],
        title=f"{ticket.backbone} on {ticket.dataset}: ticket {ticket.scheme}",
    )
    draw_search(
        figures / "search.png",
        [trial.reward for trial in search.trials],
        [trial.reward for trial in search.random],
        name=search.sampler,
    )
    draw_accuracies(figures / "accuracy.png", accuracies)
    write_text(figures / "trials.csv", search.to_csv())


def verdicts(tickets: Mapping[str, Ticket]) -> tuple[Comparison, ...]:
    """Compare the ticket with each control that is another network, over the same seeds.

    Args:
        tickets: by role, the ticket among them, each with test scores of the same seeds.

    Raises:
        TicketError: their seeds differ.
    """
    accuracies, scheme = _accuracies(tickets), tickets["ticket"].scheme
    others = {role: accuracies[role] for role, t in tickets.items() if t.scheme != scheme}
    return tuple(compare(accuracies["ticket"], others))


def _signed(points: float) -> str:
    return f"{points:+z.2f}".replace("-", _MINUS)


def _found(ticket: Ticket, search: SearchSummary) -> str:
    return (
        f"Trial {ticket.trial}, of {len(search.trials)} complete ones, found `{ticket.scheme}`: "
        f"attention in {ticket.scheme.connections} of {len(ticket.scheme.choices)} blocks "
        f"(density {ticket.scheme.density:.2f})."
    )


def _said(
    tickets: Mapping[str, Ticket], accuracies: Mapping[str, Sequence[float]], images: int
) -> str:
    """Return the ticket's comparison with each control, and what can be resolved at all."""
    comparisons = {entry.control: entry for entry in verdicts(tickets)}
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
    if n > 1:
        parts.append(
            f"With {n} seeds a mean difference between the ticket and a control is known to "
            f"± {by_seeds:.2f} points (half a 95 % interval, paired by seed, spread pooled over "
            "the controls)."
        )
    parts.append(
        f"The test set of {images:,} images resolves ± {by_images:.2f} points between two "
        "networks that err independently (1.96 binomial standard errors; less where they err on "
        "the same images)."
    )
    if all(entry.within_noise for entry in comparisons):
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
            "exact sign test where every seed has the same difference), intervals are not "
            f"corrected; with {n} seeds such tests see only large effects."
        )
    return " ".join(parts)


def _search(search: SearchSummary) -> str:
    distinct = len({trial.scheme for trial in search.trials})
    best = max(trial.reward for trial in search.trials)
    random = max(trial.reward for trial in search.random)
    return (
        f"Sampler `{search.sampler}`: {len(search.trials)} complete trials, {distinct} distinct "
        f"schemes, best reward {best:.3f}. The best of {len(search.random)} random schemes, "
        f"scored by the same objective, has {random:.3f}. One search and one random draw: the "
        "difference between the two is an anecdote, not evidence about samplers."
    )


def _method(ticket: Ticket, hardware: str) -> str:
    retrain = ticket.config["retrain"]
    seeds = ", ".join(str(seed) for seed in retrain["seeds"])
    listed = ", ".join(f"{name} {number}" for name, number in ticket.versions.items())
    compiled = ", compiled by torch" if ticket.config["train"].get("compile") else ""
    items = [
        f"data: {ticket.dataset}, fingerprint `{ticket.dataset_fingerprint[:16]}`; the test part "
        "was read by the retraining alone, after its last epoch",
        *_scoring(ticket.config),
        f"retraining: {retrain['epochs']} epochs, seeds {seeds}; equal initial weights of shared "
        f"parts and equal data order for all networks of a seed{compiled}",
        f"hardware: {hardware}",
        f"versions: {listed}",
        "every figure comes from `tickets/*.json` and `figures/trials.csv` beside this file, made "
        f"by `sat-optuna run {ticket.study}`",
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
    start = "the supernet's weights" if search["start"] == "supernet" else "scratch"
    scored = (
        f"of its network after {search['epochs']} epochs from {start}"
        if by_training
        else "in the supernet, BatchNorm re-estimated for it"
    )
    reward = (
        f"reward of a scheme: validation accuracy in points {scored}, + "
        f"{search['sparsity_weight']} x share of blocks without attention"
    )
    return [reward] if by_training and search["start"] == "scratch" else [supernet, reward]
