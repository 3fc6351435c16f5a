"""The report of a study: what was found, how sure it is, and how it was measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sat_optuna.evidence.figures import draw_accuracies, draw_search, draw_ticket
from sat_optuna.evidence.statistics import Comparison, compare, resolvable, summarise
from sat_optuna.files import write_text
from sat_optuna.ticket import Ticket

__all__ = ["SearchSummary", "TrialRow", "results_table", "write_report"]


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


def _accuracies(tickets: Mapping[str, Ticket]) -> dict[str, list[float]]:
    return {
        role: [score.value for score in ticket.scores if score.split == "test"]
        for role, ticket in tickets.items()
    }


def _signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def results_table(tickets: Mapping[str, Ticket]) -> str:
    """Return the table of networks in Markdown: accuracy with interval, and what each costs."""
    plain = tickets["plain"]
    lines = [
        "| network | scheme | test accuracy % | n | 95 % interval | parameters | "
        "multiply-adds | latency ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for role, values in _accuracies(tickets).items():
        ticket, spread = tickets[role], summarise(values)
        added = ticket.params - plain.params
        extra = f" (+{added:,})" if added else ""
        latency = "–" if ticket.latency_ms is None else f"{ticket.latency_ms:.2f}"
        lines.append(
            f"| {role} | `{ticket.scheme}` | {spread.mean:.2f} | {spread.n} | "
            f"{spread.low:.2f} to {spread.high:.2f} | {ticket.params:,}{extra} | "
            f"{ticket.macs:,} | {latency} |"
        )
    return "\n".join(lines)


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    lines = ["| ticket minus | points | 95 % interval | p (Holm) | verdict |", "|---|---|---|---|---|"]
    for entry in comparisons:
        spread = entry.difference
        if math.isnan(entry.p):
            lines.append(f"| {entry.control} | 0 | – | – | the same network |")
            continue
        better = "ticket better" if spread.mean > 0 else "ticket worse"
        verdict = "within noise" if entry.within_noise else better
        lines.append(
            f"| {entry.control} | {_signed(spread.mean)} | {_signed(spread.low)} to "
            f"{_signed(spread.high)} | {entry.p:.3f} | {verdict} |"
        )
    return "\n".join(lines)


def _resolution(comparisons: Sequence[Comparison], mean: float, images: int) -> str:
    by_seeds, by_images = resolvable(comparisons, accuracy=mean, images=images)
    n = comparisons[0].difference.n
    seeds = "" if math.isnan(by_seeds) else (
        f"With {n} seeds a mean difference between two of these networks is known to "
        f"± {by_seeds:.2f} points (half a 95 % interval, paired by seed, spread pooled over the "
        "controls). "
    )
    ranking = (
        "No difference in the table stands out of the noise: the order of the networks is "
        "**within noise** and must not be read as a ranking."
        if all(entry.within_noise for entry in comparisons)
        else "Only differences marked better or worse stand out of the noise; every other order "
        "in the table is **within noise** and must not be read as a ranking."
    )
    return (
        f"{seeds}The test set of {images:,} images resolves ± {by_images:.2f} points between two "
        "networks that err independently (1.96 binomial standard errors; less where they err on "
        f"the same images). {ranking} p-values are from paired t tests with Holm's correction over "
        f"{len(comparisons)} controls; with {n} seeds such a test sees only large effects."
    )


def write_report(
    folder: Path,
    tickets: Mapping[str, Ticket],
    search: SearchSummary,
    *,
    images: int,
    latency: str,
    hardware: str,
) -> Path:
    """Write report.md and its figures.

    Args:
        folder: the study's.
        tickets: by role, the ticket first, each with its test scores.
        search: what was searched.
        images: number of test images.
        latency: how latency was measured, a sentence.
        hardware: what it ran on.

    Returns:
        The path of report.md.
    """
    ticket = tickets["ticket"]
    accuracies = _accuracies(tickets)
    kinds = [spec.kind for spec in ticket.attention]
    figures = folder / "figures"
    draw_ticket(
        figures / "ticket.png",
        ticket.scheme,
        kinds=kinds,
        title=f"{ticket.backbone} on {ticket.dataset}: ticket {ticket.scheme}",
    )
    draw_search(
        figures / "search.png",
        [trial.reward for trial in search.trials],
        [trial.reward for trial in search.random],
        name=search.sampler,
    )
    write_text(figures / "trials.csv", search.to_csv())
    draw_accuracies(figures / "accuracy.png", accuracies)
    controls = {role: values for role, values in accuracies.items() if role != "ticket"}
    comparisons = compare(accuracies["ticket"], controls)
    mean = summarise(accuracies["plain"]).mean
    text = "\n\n".join(
        [
            f"# {folder.name}: in which blocks of {ticket.backbone} does "
            f"{' / '.join(kind.upper() for kind in kinds)} pay?",
            f"![the ticket](figures/ticket.png)",
            _found(ticket, search),
            "## From scratch, on train + validation",
            results_table(tickets),
            f"Last-epoch test accuracy, mean over seeds; {latency} Multiply-adds are those of "
            "convolutions and matrix products for one image; element-wise and reduction work is "
            "not in them.",
            "![accuracies](figures/accuracy.png)",
            "## What can be said",
            _comparison_table(comparisons),
            _resolution(comparisons, mean, images),
            "## The search",
            "![search](figures/search.png)",
            _search(search),
            "## How it was measured",
            _method(ticket, hardware),
        ]
    )
    return write_text(folder / "report.md", text + "\n")


def _found(ticket: Ticket, search: SearchSummary) -> str:
    blocks = len(ticket.scheme.choices)
    return (
        f"Trial {ticket.trial} of {len(search.trials)} found `{ticket.scheme}`: "
        f"{ticket.scheme.connections} of {blocks} blocks carry attention "
        f"(density {ticket.scheme.density:.2f})."
    )


def _search(search: SearchSummary) -> str:
    distinct = len({trial.scheme for trial in search.trials})
    best = max(trial.reward for trial in search.trials)
    random = max(trial.reward for trial in search.random)
    return (
        f"Sampler `{search.sampler}`: {len(search.trials)} complete trials, {distinct} distinct "
        f"schemes, best reward {best:.3f}. The best of {len(search.random)} random schemes, scored "
        f"by the same objective, has {random:.3f}. One search and one random draw: the difference "
        "between the two is an anecdote, not evidence about samplers."
    )


def _method(ticket: Ticket, hardware: str) -> str:
    config = ticket.config
    listed = ", ".join(f"{name} {number}" for name, number in ticket.versions.items())
    seeds = ", ".join(str(seed) for seed in config["retrain"]["seeds"])
    return (
        f"- data: {ticket.dataset}, fingerprint `{ticket.dataset_fingerprint[:16]}`; the test part "
        "was read by the retraining alone, after its last epoch\n"
        f"- supernet: {config['pretrain']['epochs']} epochs under random schemes "
        f"({config['pretrain']['draws']}, connection probability {config['pretrain']['connect']})\n"
        f"- reward: validation accuracy in points + {config['search']['sparsity_weight']} x share "
        "of blocks without attention\n"
        f"- retraining: {config['retrain']['epochs']} epochs, seeds {seeds}; equal initial weights "
        "of shared parts and equal data order for all networks of a seed\n"
        f"- hardware: {hardware}\n"
        f"- versions: {listed}\n"
        "- every figure comes from `tickets/*.json` and `figures/trials.csv` beside this file, made by "
        f"`sat-optuna run {ticket.study}`"
    )
