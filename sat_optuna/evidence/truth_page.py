"""What a truth table tells, as a page: references, shares, blocks, and how far supernets rank it.

Everything is told by the validation images but the references' test scores.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sat_optuna.evidence.claims import failed_starts
from sat_optuna.evidence.contributions import (
    Density,
    agreement,
    best_densities,
    densities,
    interactions,
    main_effects,
    shapley_values,
)
from sat_optuna.evidence.effects import Effect
from sat_optuna.evidence.figures import draw_ranking, draw_truth
from sat_optuna.evidence.pages import markdown_table
from sat_optuna.evidence.ranking import (
    LEAST_SUPERNETS,
    Tau,
    holders,
    regret_of_top,
    seed_to_seed,
    tau_of_scores,
)
from sat_optuna.evidence.shares import Share, TrueMeans, counting, share_below
from sat_optuna.evidence.statistics import holm, summarise
from sat_optuna.evidence.truth import Signed, TruthTable
from sat_optuna.scheme import Scheme
from sat_optuna.seeds import seed_for
from sat_optuna.ticket import Measure

__all__ = ["draw_truth_figures", "truth_markdown"]

Values = NDArray[np.float64]

_BETTER = (0.0, 0.5, 1.0)  # points than full
_DRAWS = 400  # of true means
_SEARCH = 60  # random schemes that a search is held against (T2)
_TOP = 5
_SHOWN = 6  # interactions
_WEAK = 0.3  # a tau surely below that ranks little


def truth_markdown(
    table: TruthTable, supernets: Mapping[str, Values] | None = None, *, command: str = ""
) -> str:
    """Return the page of a truth table.

    Args:
        table: with two seeds at least of most schemes, as far as it is filled.
        supernets: by recipe, (G, S) the scores of all schemes in G supernets, the higher the
            better.
        command: that made the table.

    Raises:
        ValueError: no scheme has a run.
    """
    manifest, measure, whole = table.manifest, table.measure, table.signed()
    supernets = supernets or {}
    truth = TrueMeans(whole.values)
    choices, values = whole.choices[truth.known], whole.values[truth.known]
    of: dict[str, Any] = {"stages": table.stages, "kinds": table.kinds}
    effects = main_effects(choices, values, **of)
    taus = _taus(supernets, whole.values)
    ceiling = seed_to_seed(whole.values)
    trainings = int(np.isfinite(table.valid).sum())
    missing = f", {table.missing:,} are missing" if table.missing else ""
    lines = [
        f"# {manifest['name']}: what every placement reaches",
        "",
        " ".join([_first(effects, measure), *_of_recipes(taus)]),
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
        *_shares(whole, truth, len(table.kinds), measure),
        "",
        "## Blocks",
        "",
        *_blocks(effects, shapley_values(choices, values, **of), measure),
        "",
        *_together(choices, values, of, ceiling, measure),
    ]
    if taus:
        lines += ["", "## Do supernet scores rank the truth?", ""]
        lines += ["![supernet scores against the truth](figures/ranking.png)", ""]
        lines += _supernets(supernets, taus, whole, truth, effects, ceiling, measure)
    return "\n".join(lines) + "\n"


def draw_truth_figures(
    folder: Path, table: TruthTable, supernets: Mapping[str, Values] | None = None
) -> None:
    """Draw what the page of a truth table shows: figures/truth.png and figures/ranking.png.

    Args:
        folder: of the study.
        table: as of `truth_markdown`.
        supernets: as of `truth_markdown`; the first recipe that ranks anything is drawn. None for
            no ranking.
    """
    measure, whole = table.measure, table.signed()
    supernets = supernets or {}
    known = np.isfinite(whole.values).any(axis=1)
    means = np.full(len(whole.values), math.nan)
    # In the measure's own sign.
    means[known] = measure.points(1.0) * np.nanmean(whole.values[known], axis=1)
    marked = {
        role: measure.points(float(np.mean([*values.values()])))
        for role, values in whole.references.items()
        if values
    }
    seeds = f"mean of {len(whole.seeds)} seed{'s' * (len(whole.seeds) > 1)}"
    unit = f", {measure.unit}" * bool(measure.unit)
    scratch = f"validation {measure.title} from scratch{unit}, {seeds}"
    draw_truth(folder / "figures" / "truth.png", means, marked, score=scratch)
    for name, tau in list(_taus(supernets, whole.values).items())[:1]:
        scores = supernets[name]
        rows = {tuple(row): index for index, row in enumerate(whole.choices.tolist())}
        named = {
            role: rows[choices]
            for role, scheme in table.manifest["references"].items()
            if (choices := Scheme.parse(str(scheme)).choices) in rows
        }
        draw_ranking(
            folder / "figures" / "ranking.png",
            measure.points(1.0) * scores.mean(axis=0),
            means,
            named,
            tau=(tau.tau, tau.low, tau.high),
            score=f"validation {measure.title} in the supernet{unit}, mean of {len(scores)} "
            f"({name})",
            truth=scratch,
        )


def _taus(supernets: Mapping[str, Values], values: Values) -> dict[str, Tau]:
    """Return how far each recipe ranks, without those that rank nothing."""
    found = {name: tau_of_scores(scores, values) for name, scores in supernets.items()}
    return {name: tau for name, tau in found.items() if not math.isnan(tau.tau)}


def _best(taus: Mapping[str, Tau]) -> str:
    return max(taus, key=lambda name: taus[name].tau)


def _unit(measure: Measure) -> str:
    """Return what differences are in."""
    return "points" if measure.unit == "%" else f"{measure.title} {measure.unit}".rstrip()


def _text(measure: Measure, value: float, low: float = math.nan, high: float = math.nan) -> str:
    text = measure.number(value)
    if math.isnan(low):
        return text
    return f"{text} ({measure.number(low)} to {measure.number(high)})"


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return markdown_table(head, rows).splitlines()


def _first(effects: Sequence[Effect], measure: Measure) -> str:
    """Return what a reader must know first of the blocks."""
    if not effects:
        return "The schemes are too few to tell a block's effect."
    corrected = holm([effect.p for effect in effects])
    told = [effect for effect, p in zip(effects, corrected, strict=True) if p < 0.05]
    if not told:
        return "No block's effect is significantly different from 0."
    largest = max(told, key=lambda effect: abs(effect.points))
    return (
        f"**{largest.kind} at {largest.block} is worth "
        f"{_text(measure, largest.points, largest.low, largest.high)} {_unit(measure)}** in the "
        f"mean over all other choices; {len(told)} of {len(effects)} effects are significantly "
        "different from 0 (Holm)."
    )


def _of_recipes(taus: Mapping[str, Tau]) -> list[str]:
    """Return what a reader must know first of the supernets, of all recipes."""
    if not taus:
        return []
    best = _best(taus)
    # Ends that are not known, of fewer than five supernets, say nothing of misleading.
    misleading = sum(tau.high < _WEAK for tau in taus.values())
    if misleading == len(taus):
        return [
            f"**No recipe ranks the schemes, supernets mislead here**: {best} has the highest "
            f"Kendall's tau with the truth, {_tau(taus[best])}."
        ]
    also = f"; {misleading} of {len(taus)} recipes mislead" if misleading else ""
    return [
        f"Of supernets {best} ranks best: Kendall's tau with the truth is {_tau(taus[best])}"
        f"{also}."
    ]


def _references(table: TruthTable) -> list[str]:
    rows, measure = [], table.measure
    for role, scheme in table.manifest["references"].items():
        values = {part: table.reference(role, part) for part in ("valid", "test")}
        if not values["valid"]:
            continue
        train = table.reference(role, "train_accuracy")
        failed = len(failed_starts(train, table.manifest["classes"]))
        spreads = [summarise(list(values[part].values())) for part in ("valid", "test")]
        each = [_text(measure, s.mean, s.low, s.high) for s in spreads]
        worst = min(values["valid"].values(), key=measure.points)
        rows.append(
            (role, f"`{scheme}`", str(spreads[0].n), *each, _text(measure, worst), str(failed))
        )
    unit = f", {measure.unit}" * bool(measure.unit)
    head = (
        f"{measure.title}{unit}",
        "scheme",
        "seeds",
        "validation",
        "test",
        "worst",
        "failed starts",
    )
    return _rows(head, rows)


def _share(share: Share) -> str:
    if share.identifiable:
        return f"{share.share:.2f} ({share.low:.2f} to {share.high:.2f})"
    return f"not identifiable, {share.low:.2f} to {share.high:.2f}: {share.why}"


def _shares(whole: Signed, truth: TrueMeans, kinds: int, measure: Measure) -> list[str]:
    """Return C5 and T2: shares with the noise of schemes' means taken out."""
    roles = [role for role, runs in whole.references.items() if runs]
    fulls = [role for role in roles if role.startswith("full")]
    rows, shares = [], []
    for role in fulls:
        others, paired = whole.paired(role)
        for more in _BETTER if measure.unit == "%" else _BETTER[:1]:
            shares.append(truth.above(others, more, paired=paired))
            by = f" by {more:g} point{'s' * (more != 1)}" if more else ""
            rows.append((f"better than {role}{by}", _share(shares[-1])))
    if "plain" in roles:
        others, paired = whole.paired("plain")
        share = share_below(whole.values, others, paired=paired)
        rows.append(("worse than plain", _share(share)))
    lines = [
        "Shares of all schemes, with the noise of training taken out; in brackets the 95 % "
        "interval, or where these runs cannot tell the share, the bounds that they leave.",
        "",
        *_rows(("schemes", "share"), rows),
    ]
    if not fulls or len(whole.references[fulls[0]]) < 2 or not truth.freedom:
        return lines
    if not shares[0].identifiable:
        return [*lines, "", "So the shares by number of connections (T2) are not told either."]
    return lines + _by_density(whole, truth, fulls[0], kinds)


def _by_density(whole: Signed, truth: TrueMeans, full: str, kinds: int) -> list[str]:
    """Return T2, from draws of the schemes' true means and of full's."""
    others, paired = whole.paired(full)
    at, error, freedom = truth.placed(others, paired=paired)
    luck = stats.t.rvs(freedom, size=_DRAWS, random_state=np.random.default_rng(seed_for("full")))
    truths, blocks = truth.drawn(_DRAWS, seed=0), whole.choices.shape[1]
    ones, rows = (whole.choices > 0).sum(axis=1), []
    for connections in range(1, blocks):
        of = truth.known & (ones == connections)
        if of.any():
            schemes = math.comb(blocks, connections) * kinds**connections
            found = counting(truths[:, of], at + error * luck, schemes=schemes, draws=_SEARCH)
            rows.append(
                (
                    str(connections),
                    f"{found.share:.2f} ({found.low:.2f} to {found.high:.2f})",
                    f"{found.expected:.0f} of {schemes:,}",
                    f"{found.chance:.2f}",
                )
            )
    said = f"By number of connections (T2), of schemes that are truly better than {full}"
    chance = f"chance of one in {_SEARCH} different random draws, or in all"
    head = ("connections", "share p_k", "schemes", chance)
    return ["", f"{said}:", "", *_rows(head, rows)]


def _blocks(effects: Sequence[Effect], shapley: Sequence[Effect], measure: Measure) -> list[str]:
    if not effects:
        return ["The schemes that are there are too few to tell the blocks' effects."]
    by_block = {(effect.block, effect.kind): effect for effect in shapley}
    rows = []
    for effect in effects:
        value = by_block.get((effect.block, effect.kind))
        rows.append(
            (
                effect.block,
                effect.kind,
                _text(measure, effect.points, effect.low, effect.high),
                "< 0.001" if effect.p < 0.0005 else f"{effect.p:.3f}",
                _text(measure, value.points, value.low, value.high) if value else "",
            )
        )
    unit = _unit(measure)
    head = ("block", "kind", f"main effect, {unit}", "p", f"Shapley value, {unit}")
    return _rows(head, rows)


def _together(
    choices: NDArray[np.uint8],
    values: Values,
    of: Mapping[str, Any],
    ceiling: Tau,
    measure: Measure,
) -> list[str]:
    """Return interactions, densities and how stable all that is between seeds."""
    found = sorted(interactions(choices, values, **of), key=lambda pair: pair.p)
    told = [pair for pair in found if pair.p * len(found) < 0.05][:_SHOWN]
    lines = []
    if told:
        lines += [
            "Pairs whose effects depend on each other: how much more the one is worth where the "
            f"other block has attention too (Bonferroni of {len(found)}):",
            "",
        ]
        head = ("blocks", "kinds", f"interaction, {_unit(measure)}")
        lines += _rows(
            head,
            [
                (" ".join(p.blocks), " ".join(p.kinds), _text(measure, p.points, p.low, p.high))
                for p in told
            ],
        )
    elif found:
        lines.append(
            f"No two blocks' effects significantly depend on each other, of {len(found)} pairs."
        )
    rows = [
        (str(d.connections), str(d.schemes), _text(measure, *_unsigned(d, measure)))
        for d in densities(choices, values)
    ]
    lines += ["", *_rows(("connections", "schemes", "mean of all"), rows), ""]
    best, *untold = best_densities(choices, values)
    also = (
        f"; not significantly different from it: {', '.join(map(str, untold))}" if untold else ""
    )
    lines.append(f"The best density is {best} of {choices.shape[1]} blocks{also}.")
    lines += _stable(choices, values, of, ceiling)
    return lines


def _unsigned(density: Density, measure: Measure) -> tuple[float, float, float]:
    """Return a density's mean and interval in the measure's own sign."""
    low, high = sorted(map(measure.points, (density.low, density.high)))
    if measure.unit == "%":
        low, high = max(low, 0.0), min(high, 100.0)
    return measure.points(density.mean), low, high


def _stable(
    choices: NDArray[np.uint8], values: Values, of: Mapping[str, Any], ceiling: Tau
) -> list[str]:
    """Return how far two training seeds agree; nothing where they cannot be held together."""
    said = []
    if not math.isnan(ceiling.tau):
        said.append(f"two training seeds rank the schemes with tau {_tau(ceiling)}")
    whole = np.isfinite(values).all(axis=0)
    if whole.sum() > 1:
        one, two = np.flatnonzero(whole)[:2]
        each = [main_effects(choices, values[:, [column]], **of) for column in (one, two)]
        tau = agreement(*each)[0]
        if not math.isnan(tau):
            said.append(f"two training seeds rank the blocks' effects with tau {tau:z.2f}")
    return [f"{one[0].upper()}{one[1:]}." for one in said]


def _tau(tau: Tau) -> str:
    if math.isnan(tau.tau):
        return ""  # nothing is ranked
    if math.isnan(tau.low):
        return f"{tau.tau:z.2f}"
    return f"{tau.tau:z.2f} ({tau.low:z.2f} to {tau.high:z.2f})"


def _supernets(
    supernets: Mapping[str, Values],
    taus: Mapping[str, Tau],
    whole: Signed,
    truth: TrueMeans,
    effects: Sequence[Effect],
    ceiling: Tau,
    measure: Measure,
) -> list[str]:
    """Return T3: by recipe how far the scores rank, and what is lost by following them."""
    head = ["supernet", "seeds", "tau", "regret of its best", f"of the best of its {_TOP} best"]
    among = None
    if effects:
        names = list(dict.fromkeys(effect.block for effect in effects))
        largest = max(effects, key=lambda effect: abs(effect.points))
        among = holders(whole.choices, names.index(largest.block))
        head.insert(3, f"tau among those with {largest.block}")
    rows = []
    for name, scores in supernets.items():
        if name not in taus:
            rows.append([name, str(len(scores)), "ranks nothing", *[""] * (len(head) - 3)])
            continue
        row = [name, str(len(scores)), _tau(taus[name])]
        if among is not None:
            row.append(_tau(tau_of_scores(scores[:, among], whole.values[among])))
        for count in (1, _TOP) if truth.freedom else ():
            found = regret_of_top(scores, truth, count)
            row.append(_text(measure, found.points, found.low, found.high))
        rows.append(row + [""] * (len(head) - len(row)))
    limit = "" if math.isnan(ceiling.tau) else f"; between two trainings it is {_tau(ceiling)}, "
    limit += "the ceiling" * bool(limit)
    return [
        "Kendall's tau-b of supernet scores against one training from scratch, with 95 % "
        f"intervals over supernets and trainings where there are {LEAST_SUPERNETS} supernets"
        f"{limit}. Regret is in {_unit(measure)} of the true {measure.title} behind the best "
        "scheme. Supernet scores rank, and say nothing of sizes.",
        "",
        *_rows(head, rows),
        "",
        f"{_best(taus)} has the highest tau.",
    ]
