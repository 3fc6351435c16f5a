"""What a truth table tells, as a page: references, shares, blocks, and how far supernets rank it.

Everything is told by the validation images but the references' test scores.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sat_optuna.evidence.claims import failed_starts
from sat_optuna.evidence.contributions import (
    agreement,
    best_densities,
    densities,
    interactions,
    main_effects,
    shapley_values,
)
from sat_optuna.evidence.effects import Effect
from sat_optuna.evidence.figures import draw_ranking, draw_truth
from sat_optuna.evidence.ranking import (
    Tau,
    holders,
    regret_of_top,
    seed_to_seed,
    tau_of_scores,
)
from sat_optuna.evidence.shares import Share, TrueMeans, counting, share_below
from sat_optuna.evidence.statistics import holm, summarise
from sat_optuna.evidence.truth import TruthTable
from sat_optuna.scheme import Scheme

__all__ = ["draw_truth_figures", "truth_markdown"]

Values = NDArray[np.float64]

_ABOVE = (0.0, 0.5, 1.0)  # points above full
_TOP = 5
_SHOWN = 6  # interactions
_WEAK = 0.3  # a tau below that ranks little


def truth_markdown(
    table: TruthTable, supernets: Mapping[str, Values] | None = None, *, command: str = ""
) -> str:
    """Return the page of a truth table.

    Args:
        table: with two seeds at least of most schemes, as far as it is filled.
        supernets: by recipe, (G, S) the scores of all schemes in G supernets.
        command: that made the table.
    """
    manifest, whole = table.manifest, table.balanced
    truth = TrueMeans(whole.valid)
    known = np.isfinite(whole.valid).any(axis=1)
    choices, values = whole.choices[known], whole.valid[known]
    of: dict[str, Any] = {"stages": table.stages, "kinds": table.kinds}
    effects = main_effects(choices, values, **of)
    trainings = int(np.isfinite(table.valid).sum())
    missing = f", {table.missing:,} are missing" if table.missing else ""
    lines = [
        f"# {manifest['name']}: what every placement reaches",
        "",
        *_first(effects, supernets, values, whole.choices),
        "",
        f"{manifest['what'][0].upper()}{manifest['what'][1:]}; {trainings:,} trainings{missing}. "
        f"What is told holds for this budget. Made by `{command}`.",
        "",
        "## References",
        "",
        *_references(table),
        "",
        "## How many schemes are better",
        "",
        "![the scores of all schemes](figures/truth.png)",
        "",
        *_shares(table, truth, values, choices),
        "",
        "## Blocks",
        "",
        *_blocks(effects, shapley_values(choices, values, **of)),
        "",
        *_together(choices, values, of),
    ]
    if supernets:
        lines += ["", "## Do supernet scores rank the truth?", ""]
        lines += ["![supernet scores against the truth](figures/ranking.png)", ""]
        lines += _supernets(supernets, whole.valid, whole.choices, truth, effects)
    return "\n".join(lines) + "\n"


def draw_truth_figures(
    folder: Path, table: TruthTable, supernets: Mapping[str, Values] | None = None
) -> None:
    """Draw what the page of a truth table shows: figures/truth.png and figures/ranking.png.

    Args:
        folder: of the study.
        table: as of `truth_markdown`.
        supernets: as of `truth_markdown`; the first recipe is drawn. None for no ranking.
    """
    whole = table.balanced
    known = np.isfinite(whole.valid).any(axis=1)
    means = np.full(len(whole.valid), math.nan)
    means[known] = np.nanmean(whole.valid[known], axis=1)
    marked = {
        role: float(np.mean(list(values.values())))
        for role in table.manifest["references"]
        if (values := table.reference(role))
    }
    seeds = f"mean of {len(whole.seeds)} seed{'s' * (len(whole.seeds) > 1)}"
    scratch = f"validation accuracy from scratch, %, {seeds}"
    draw_truth(folder / "figures" / "truth.png", means, marked, score=scratch)
    if supernets:
        name, scores = next(iter(supernets.items()))
        tau = tau_of_scores(scores, whole.valid)
        rows = {tuple(row): index for index, row in enumerate(whole.choices.tolist())}
        named = {
            role: rows[choices]
            for role, scheme in table.manifest["references"].items()
            if (choices := Scheme.parse(str(scheme)).choices) in rows
        }
        draw_ranking(
            folder / "figures" / "ranking.png",
            scores.mean(axis=0),
            means,
            named,
            tau=(tau.tau, tau.low, tau.high),
            score=f"validation accuracy in the supernet, %, mean of {len(scores)} ({name})",
            truth=scratch,
        )


def _points(value: float, low: float = math.nan, high: float = math.nan) -> str:
    text = f"{value:.2f}"
    return text if math.isnan(low) else f"{text} ({low:.2f} to {high:.2f})"


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _first(
    effects: Sequence[Effect],
    supernets: Mapping[str, Values] | None,
    values: Values,
    choices: NDArray[np.uint8],
) -> list[str]:
    """Return what a reader must know first."""
    corrected = holm([effect.p for effect in effects])
    told = [effect for effect, p in zip(effects, corrected, strict=True) if p < 0.05]
    said = "No block's effect is told from 0."
    if told:
        largest = max(told, key=lambda effect: abs(effect.points))
        said = (
            f"**{largest.kind} at {largest.block} is worth "
            f"{_points(largest.points, largest.low, largest.high)} points** in the mean over all "
            f"other choices; {len(told)} of {len(effects)} effects are told from 0 (Holm)."
        )
    if supernets and len(values) == len(choices):
        name, scores = next(iter(supernets.items()))
        tau = tau_of_scores(scores, values)
        word = "**The supernet misleads here**" if tau.tau < _WEAK else "The supernet ranks"
        said += f" {word}: Kendall's tau with the truth is {_tau(tau)} ({name})."
    return [said]


def _references(table: TruthTable) -> list[str]:
    rows = []
    for role, scheme in table.manifest["references"].items():
        values = {part: table.reference(role, part) for part in ("valid", "test")}
        if not values["valid"]:
            continue
        train = table.reference(role, "train_accuracy")
        failed = len(failed_starts(train, table.manifest["classes"]))
        spreads = [summarise(list(values[part].values())) for part in ("valid", "test")]
        each = [_points(s.mean, s.low, s.high) for s in spreads]
        lowest = min(values["valid"].values())
        rows.append((role, f"`{scheme}`", str(spreads[0].n), *each, f"{lowest:.2f}", str(failed)))
    head = ("network", "scheme", "seeds", "validation", "test", "lowest", "failed starts")
    return _rows(head, rows)


def _share(share: Share) -> str:
    if share.identifiable:
        return f"{share.share:.2f} ({share.low:.2f} to {share.high:.2f})"
    return f"not identifiable, {share.low:.2f} to {share.high:.2f}: {share.why}"


def _shares(
    table: TruthTable, truth: TrueMeans, values: Values, choices: NDArray[np.uint8]
) -> list[str]:
    """Return C5 and T2: shares with the noise of schemes' means taken out."""
    plain = [*table.reference("plain").values()]
    lines = [
        "Shares of all schemes, with the noise of training taken out; in brackets the 95 % "
        "interval.",
        "",
    ]
    rows = []
    for role in table.manifest["references"]:
        reference = [*table.reference(role).values()]
        if not role.startswith("full") or not reference:
            continue
        rows += [
            (f"above {role}" + f" + {more:g}" * (more > 0), _share(truth.above(reference, more)))
            for more in _ABOVE
        ]
    if plain:
        rows.append(("below plain", _share(share_below(values, plain))))
    lines += _rows(("schemes", "share"), rows)
    full = next((r for r in table.manifest["references"] if r.startswith("full")), None)
    if full is None or not table.reference(full):
        return lines
    at = float(np.mean([*table.reference(full).values()]))
    means, ones = np.nanmean(values, axis=1), (choices > 0).sum(axis=1)
    by_density = []
    for connections in range(1, choices.shape[1]):
        of = means[ones == connections]
        if of.size:
            found = counting(
                choices.shape[1],
                connections,
                beat=int((of > at).sum()),
                drawn=of.size,
                draws=60,
            )
            by_density.append(
                (
                    str(connections),
                    f"{found.share:.2f} ({found.low:.2f} to {found.high:.2f})",
                    f"{found.expected:.0f}",
                    f"{found.chance:.2f}",
                )
            )
    lines += [
        "",
        f"By number of connections (T2), of schemes whose mean, noise and all, is above {full}'s:",
        "",
    ]
    head = ("connections", "share p_k", "C(m, k) p_k", "chance of one in 60 random draws")
    return lines + _rows(head, by_density)


def _blocks(effects: Sequence[Effect], shapley: Sequence[Effect]) -> list[str]:
    by_block = {(effect.block, effect.kind): effect for effect in shapley}
    rows = []
    for effect in effects:
        value = by_block.get((effect.block, effect.kind))
        rows.append(
            (
                effect.block,
                effect.kind,
                _points(effect.points, effect.low, effect.high),
                f"{effect.p:.3f}",
                _points(value.points, value.low, value.high) if value else "",
            )
        )
    head = ("block", "kind", "main effect, points", "p", "Shapley value, points")
    return _rows(head, rows)


def _together(choices: NDArray[np.uint8], values: Values, of: Mapping[str, Any]) -> list[str]:
    """Return interactions, densities and how stable all that is between seeds."""
    found = sorted(interactions(choices, values, **of), key=lambda pair: pair.p)
    told = [pair for pair in found if pair.p * len(found) < 0.05][:_SHOWN]
    lines = []
    if told:
        lines += [f"Pairs that are more or less than their sum (Bonferroni of {len(found)}):", ""]
        head = ("blocks", "kinds", "interaction, points")
        lines += _rows(
            head,
            [
                (" ".join(p.blocks), " ".join(p.kinds), _points(p.points, p.low, p.high))
                for p in told
            ],
        )
    elif found:
        lines.append(
            f"No pair of blocks is told to be more or less than its sum, of {len(found)}."
        )
    rows = [
        (str(d.connections), str(d.schemes), _points(d.mean, d.low, d.high))
        for d in densities(choices, values)
    ]
    lines += ["", *_rows(("connections", "schemes", "mean of all"), rows), ""]
    best, *untold = best_densities(choices, values)
    also = f"; not told from it: {', '.join(map(str, untold))}" if untold else ""
    lines.append(f"The best density is {best} of {choices.shape[1]} blocks{also}.")
    ceiling = seed_to_seed(values)
    said = f"Two training seeds rank the schemes with tau {_tau(ceiling)}"
    whole = np.isfinite(values).all(axis=0)
    if whole.sum() > 1:
        one, two = np.flatnonzero(whole)[:2]
        each = [main_effects(choices, values[:, [column]], **of) for column in (one, two)]
        said += f", and the blocks' effects with tau {agreement(*each)[0]:.2f}"
    lines.append(f"{said}.")
    return lines


def _tau(tau: Tau) -> str:
    if math.isnan(tau.low):
        return f"{tau.tau:.2f}"
    return f"{tau.tau:.2f} ({tau.low:.2f} to {tau.high:.2f})"


def _supernets(
    supernets: Mapping[str, Values],
    values: Values,
    choices: NDArray[np.uint8],
    truth: TrueMeans,
    effects: Sequence[Effect],
) -> list[str]:
    """Return T3: by recipe how far the scores rank, and what is lost by following them."""
    names = list(dict.fromkeys(effect.block for effect in effects))
    largest = max(effects, key=lambda effect: abs(effect.points))
    among = holders(choices, names.index(largest.block))
    rows = []
    for name, scores in supernets.items():
        first, several = (regret_of_top(scores, truth, count) for count in (1, _TOP))
        rows.append(
            (
                name,
                str(len(scores)),
                _tau(tau_of_scores(scores, values)),
                _tau(tau_of_scores(scores[:, among], values[among])),
                _points(first.points, first.low, first.high),
                _points(several.points, several.low, several.high),
            )
        )
    head = (
        "supernet",
        "seeds",
        "tau",
        f"tau among those with {largest.block}",
        "regret of its best",
        f"of the best of its {_TOP} best",
    )
    ceiling = seed_to_seed(values)
    best = max(rows, key=lambda row: float(row[2].split()[0]))[0]
    return [
        "Kendall's tau-b of supernet scores against one training from scratch, with 95 % "
        "intervals over supernets and trainings; between two trainings it is "
        f"{_tau(ceiling)}, the ceiling. Regret is in points of true accuracy below the best "
        "scheme. Supernet scores rank, and say nothing of sizes.",
        "",
        *_rows(head, rows),
        "",
        f"The highest tau has: {best}.",
    ]
