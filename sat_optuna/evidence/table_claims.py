"""The claims C5 and C6, which take a truth table: how every scheme of the network does.

C5 counts what is truly above full and below plain, with the noise of training taken out; a claim
of it holds where that is one scheme at least, by the whole interval. C6 asks how far the ticket is
from the best of all schemes. Both are of the table's validation images, and of its recipe.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from sat_optuna.evidence.claims import Claim, Verdict
from sat_optuna.evidence.ranking import regret_of_scheme
from sat_optuna.evidence.shares import Share, TrueMeans, share_above, share_below
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Measure

if TYPE_CHECKING:
    from sat_optuna.evidence.truth import TruthTable

__all__ = ["table_claims"]

_ABOVE = Claim("C5 (a)", "some schemes are truly better than full")
_BELOW = Claim("C5 (b)", "some schemes are truly worse than plain")
_BEST = Claim("C6", "the ticket is as good as the best of all schemes")


def table_claims(
    table: "TruthTable | None", ticket: Scheme, *, margin: float, study: str
) -> tuple[Claim, Claim, Claim]:
    """Return C5 (a), C5 (b) and C6.

    Args:
        table: of the ticket's network, data and recipe; None where there is none.
        ticket: the searched scheme.
        margin: how much worse than the best scheme the ticket may be, in the metric's unit.
        study: its name, for the command that makes a table.
    """
    if table is None:
        why = "there is no truth table of its network and data; make one: sat-optuna truth "
        above, below, best = (replace(c, why=why + study) for c in (_ABOVE, _BELOW, _BEST))
        return above, below, best
    measure = Measure(**table.manifest["measure"])
    balanced = table.balanced
    values = np.where(measure.better == "higher", 1.0, -1.0) * balanced.valid
    if not np.isfinite(values).any():
        why = "the truth table has no training yet"
        above, below, best = (replace(c, why=why) for c in (_ABOVE, _BELOW, _BEST))
        return above, below, best
    references = {
        role: [measure.points(value) for value in table.reference(role).values()]
        for role in table.manifest["references"]
    }
    fulls = {r: v for r, v in references.items() if r.split("-")[0] == "full" and v}
    full = max(fulls, key=lambda role: fmean(fulls[role]), default="full")
    named = replace(_ABOVE, sentence=f"some schemes are truly better than {full}")
    count = len(values)
    return (
        _of_share(named, fulls, full, count, lambda runs: share_above(values, runs)),
        _of_share(_BELOW, references, "plain", count, lambda runs: share_below(values, runs)),
        _of_regret(table, ticket, TrueMeans(values), measure, margin),
    )


def _of_share(
    claim: Claim,
    references: Mapping[str, Sequence[float]],
    role: str,
    schemes: int,
    share_of: Callable[[Sequence[float]], Share],
) -> Claim:
    """Return the claim that one scheme at least is on a side of a reference."""
    runs = references.get(role, ())
    if not runs:
        return replace(claim, why=f"the truth table has no training of {role}")
    share = share_of(runs)
    verdict: Verdict = "not decided"
    if share.low * schemes >= 1:
        verdict = "holds"
    elif share.high * schemes < 1:
        verdict = "fails"
    why = f"{schemes} schemes, {len(runs)} seeds of {role}"
    return replace(
        claim,
        verdict=verdict,
        effect=100 * share.share,
        low=100 * share.low,
        high=100 * share.high,
        unit="% of all schemes",
        level=0.95,
        test="deconvolved",
        why=f"{why}; not identifiable: {share.why}" if share.why else why,
    )


def _of_regret(
    table: "TruthTable", ticket: Scheme, truth: TrueMeans, measure: Measure, margin: float
) -> Claim:
    """Return C6: the ticket's regret against the true optimum, and where it stands among all."""
    unit = "points" if measure.unit == "%" else measure.unit
    number = f"{margin:.2f}" if measure.unit == "%" else f"{margin:g}"
    sentence = f"the ticket is not worse than the best of all schemes by {number} {unit}".rstrip()
    claim = replace(_BEST, sentence=sentence, unit=unit, margin=margin)
    rows = np.flatnonzero((table.balanced.choices == np.array(ticket.choices)).all(axis=1))
    if not len(rows) or not truth.known[rows[0]] or not truth.freedom:
        return replace(claim, why=f"the truth table has too few trainings to place {ticket}")
    found = regret_of_scheme(truth, int(rows[0]))
    verdict: Verdict = "not decided"
    if found.high <= margin:
        verdict = "holds"
    elif found.low > margin:
        verdict = "fails"
    return replace(
        claim,
        verdict=verdict,
        effect=-found.points,
        low=-found.high,
        high=-found.low,
        level=0.95,
        test="regret against the true optimum",
        why=f"the ticket is better than {found.percentile:.0f} % of the other schemes",
    )
