"""The claims about a ticket: each holds, fails or is not decided; numbers alone, no torch.

Networks are paired by seed and looked at after 4, 8, 16 (32) seeds only, each time at 5 % over the
number of planned looks, with intervals of that level. A claim *holds* where the test says so,
*fails* where the same test shows the opposite (the interval lies wholly beyond the margin), and is
*not decided* otherwise. p-values of one claim about several tickets or controls are corrected by
Holm's method, and their intervals are not; a conjunction takes the largest p of its parts, which
needs no correction.

    accuracy kept           paired t, one-sided, against the margin (non-inferiority)
    over another network    paired t, two-sided
    over random schemes     ranks, exact: see `_over_random`
    faster                  exact sign test over rounds of an interleaved timing
    smaller                 counted
    shares (C5)             deconvolution of a table of all schemes: `sat_optuna.evidence.shares`
    search worth (C6)       regret against the best of that table: `sat_optuna.evidence.ranking`
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median_high
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sat_optuna.evidence.controls import HEURISTICS
from sat_optuna.evidence.ranking import regret_of_scheme
from sat_optuna.evidence.shares import Share, TrueMeans, share_below
from sat_optuna.evidence.statistics import holm, one_sided_p, paired
from sat_optuna.ticket import ACCURACY, Measure

__all__ = [
    "ALPHA",
    "LOOKS",
    "Claim",
    "Runs",
    "Table",
    "Verdict",
    "claims",
    "failed_starts",
    "over",
    "three_conditions",
]

LOOKS = (4, 8, 16, 32)  # numbers of seeds
ALPHA = 0.05
SHARE_OF_FULL = 0.6  # of full's increment of latency that a ticket may have (C2)
ABOVE_FULL = (0.0, 0.5, 1.0)  # points (C5)

Verdict = Literal["holds", "fails", "not decided"]
_HOLDS: Verdict = "holds"
_FAILS: Verdict = "fails"
_OPEN: Verdict = "not decided"
_MINUS = "\N{MINUS SIGN}"
_RANDOM = re.compile(r"random-(\d+|density)")


@dataclass(frozen=True, slots=True)
class Runs:
    """What the networks of a study reached, by role: ticket, plain, full or full-KIND, and so on.

    Attributes:
        accuracy: by role and seed, on the test, per cent; or another metric's values. The order of
            the ticket's seeds is the order in which they are looked at.
        classes: number of classes; 0 in a task without.
        images: number of test images.
        train_accuracy: by role and seed, of the last epoch, per cent; where it is known.
        schemes: by role, the scheme's text; where it is known.
        params: by role, the number of parameters; where it is known.
        latency: by role, the milliseconds of each round of one interleaved timing; where measured.
        measure: what the values are in.
        budget: what each was trained with, as in "20 epochs of 6,000 images"; it is part of the
            claims.
    """

    accuracy: Mapping[str, Mapping[int, float]]
    classes: int
    images: int
    train_accuracy: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    schemes: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, int] = field(default_factory=dict)
    latency: Mapping[str, Sequence[float]] = field(default_factory=dict)
    measure: Measure = ACCURACY
    budget: str = ""

    @property
    def fulls(self) -> tuple[str, ...]:
        """The roles of full networks."""
        known = dict.fromkeys([*self.accuracy, *self.params, *self.latency])
        return tuple(role for role in known if role == "full" or role.startswith("full-"))

    @property
    def unit(self) -> str:
        """What differences are in."""
        return "points" if self.measure.unit == "%" else self.measure.unit


@dataclass(frozen=True, slots=True)
class Table:
    """All schemes of a network, trained from scratch.

    Attributes:
        choices: (S, blocks).
        values: (S, seeds), the higher the better, NaN where a run is missing.
        references: by role, plain and full or full-KIND, the values of its runs with many seeds.
    """

    choices: NDArray[np.uint8]
    values: NDArray[np.float64]
    references: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim with what was found.

    Attributes:
        name: "C1", "over plain" and so on.
        sentence: what is claimed.
        verdict: "holds", "fails" or "not decided".
        effect: the ticket's value minus the other's, for the better, or what `unit` names; NaN
            where nothing was measured.
        low, high: its interval; NaN where there is none.
        unit: of the three.
        level: of the interval, in 0..1; NaN where there is none.
        p: of the test, corrected where there are several; NaN where there is none.
        margin: how much worse the ticket may be in "accuracy kept", or the share of full's
            increment that "faster" allows, per cent; NaN where 0 is what the effect is held to.
        test: which it was, and on what.
        seeds: number of pairs of runs in the test.
        failed_starts: by role, runs that were left out of it, for they learnt nothing.
        more_seeds: where it is not decided, how many more the next look needs at which it would be
            if the effect and the spread stay; None where no planned look would.
        why: what else a reader must know, a sentence without its full stop; empty for nothing.
    """

    name: str
    sentence: str
    verdict: Verdict = _OPEN
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    unit: str = ""
    level: float = math.nan
    p: float = math.nan
    margin: float = math.nan
    test: str = ""
    seeds: int = 0
    failed_starts: Mapping[str, int] = field(default_factory=dict)
    more_seeds: int | None = None
    why: str = ""

    def line(self) -> str:
        """Return the claim with its numbers on one line of plain text.

        >>> print(Claim("C1", "kept", "holds", 0.5, -0.25, 1.25, "points", 0.95, 0.01,
        ...             1.0, "paired t, one-sided", 4).line().replace("\N{MINUS SIGN}", "-"))
        C1: holds: kept: +0.50 points (95 % interval -0.25 to +1.25), p 0.010, paired t, \
one-sided, 4 seeds
        """
        said: list[str] = [self.verdict]
        if self.more_seeds:
            said = [f"{self.verdict} ({_count(self.more_seeds, 'more seed')} needed)"]
        parts = []
        if math.isnan(self.effect) and not math.isnan(self.low):
            ends = f"{self._number(self.low)} and {self._number(self.high)}"
            parts.append(f"between {ends} {self.unit}")
        elif not math.isnan(self.effect):
            effect = f"{self._number(self.effect)} {self.unit}".rstrip()
            if not (math.isnan(self.low) and math.isnan(self.high)):
                ends = f"{self._number(self.low)} to {self._number(self.high)}"
                effect += f" ({_percent(self.level)} interval {ends})"
            parts.append(effect)
        if not math.isnan(self.p):
            parts.append("p < 0.001" if self.p < 0.0005 else f"p {self.p:.3f}")
        if self.test:
            parts.append(self.test)
        if self.seeds:
            parts.append(_count(self.seeds, "seed"))
        for role, count in self.failed_starts.items():
            if count:
                parts.append(f"{_count(count, 'failed start')} of {role} left out")
        text = ": ".join([self.name, *said, self.sentence])
        text += f": {', '.join(parts)}" if parts else ""
        return text + (f"; {self.why}" if self.why else "")

    def _number(self, value: float) -> str:
        if self.unit.startswith("%"):
            return f"{value:z.1f}".replace("-", _MINUS)
        if self.unit == "parameters":
            return f"{value:+,.0f}".replace("-", _MINUS)
        form = "+z.2f" if self.unit == "points" else "+z.4f"
        return format(value, form).replace("-", _MINUS)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _percent(level: float) -> str:
    return f"{100 * level:.1f}".removesuffix(".0") + " %"


def failed_starts(train_accuracy: Mapping[int, float], classes: int) -> frozenset[int]:
    """Return the seeds of a role whose training never started.

    Such a run came less than half as far above chance, in training accuracy, as the median of the
    role's runs (the upper of two), or no more than a twentieth of the way from chance to 100 %.

    >>> sorted(failed_starts({0: 95.0, 1: 38.1, 2: 94.8}, 10))
    [1]
    >>> sorted(failed_starts({0: 38.5, 1: 39.1, 2: 95.0}, 10))  # it is this network's way
    []

    Args:
        train_accuracy: by seed, of the last epoch, per cent.
        classes: number of classes; 0 in a task without, where none is told.
    """
    known = {seed: value for seed, value in train_accuracy.items() if not math.isnan(value)}
    if not known or classes < 1:
        return frozenset()
    chance = 100 / classes
    least = max((median_high(known.values()) - chance) / 2, (100 - chance) / 20)
    return frozenset(seed for seed, value in known.items() if value - chance < least)


@dataclass(frozen=True, slots=True)
class _Test:
    """A paired test of one network against another, before it is a claim."""

    claim: Claim  # all but verdict, p and more_seeds
    differences: tuple[float, ...]  # of the pairs in the test, for the better
    trained: int  # pairs there are
    looked: int  # pairs of the look; fewer than the first look's where it is not reached
    holds: float  # p-values, not corrected; NaN where there is no test
    fails: float
    sides: int
    planned: Sequence[int]
    same: Verdict | None = None  # where both are the same network

    @property
    def alpha(self) -> float:
        return ALPHA / len(self.planned)

    def decided(self, holds: float, fails: float) -> Claim:
        """Return the claim, of p-values that are corrected."""
        if self.same:
            return replace(self.claim, verdict=self.same)
        verdict = _OPEN
        if self.looked in self.planned:
            verdict = _HOLDS if holds <= self.alpha else _FAILS if fails <= self.alpha else _OPEN
        p = fails if verdict == _FAILS or (self.sides == 2 and fails < holds) else holds
        more = self._more(holds, fails) if verdict == _OPEN else None
        why = self.claim.why
        if verdict == _OPEN and more is None and self.looked in self.planned:
            why = _and(why, f"{self.planned[-1]} seeds, the last look, would not decide it")
        return replace(self.claim, verdict=verdict, p=p, more_seeds=more, why=why)

    def _more(self, holds: float, fails: float) -> int | None:
        """Return what `Claim.more_seeds` says."""
        count = len(self.differences)
        if count < 2:
            return next(
                (look - self.trained for look in self.planned if look > self.trained), None
            )
        factor = 1.0
        if min(self.holds, self.fails) > 0:
            better = self.holds <= self.fails
            factor = holds / self.holds if better else fails / self.fails
        margin = 0.0 if math.isnan(self.claim.margin) else self.claim.margin
        mean, sd = fmean(self.differences) + margin, float(np.std(self.differences, ddof=1))
        for look in self.planned:
            if look <= self.trained:
                continue
            n = max(2, round(look * count / self.looked))
            p = 2.0**-n if sd < 1e-9 else stats.t.sf(abs(mean) / sd * math.sqrt(n), n - 1)
            if abs(mean) > 1e-9 and p * self.sides * factor <= self.alpha:
                return look - self.trained
        return None


def _and(first: str, second: str) -> str:
    return "; ".join(text for text in (first, second) if text)


def _paired_test(
    runs: Runs,
    first: str,
    second: str,
    claim: Claim,
    *,
    looks: Sequence[int],
    margin: float | None = None,
) -> _Test:
    """Test whether a network is better than another, or not worse by a margin where one is given.

    The first seeds of the largest look that is reached are taken; of these, the seeds in which a
    network failed to start are left out.
    """
    one, two = (runs.accuracy.get(role, {}) for role in (first, second))
    common = [seed for seed in one if not math.isnan(one[seed] + two.get(seed, math.nan))]
    used = common[: max((look for look in looks if look <= len(common)), default=None)]
    failed = {
        role: failed_starts(
            {seed: runs.train_accuracy.get(role, {}).get(seed, math.nan) for seed in used},
            runs.classes,
        )
        for role in (first, second)
    }
    kept = [seed for seed in used if not any(seed in seeds for seeds in failed.values())]
    values = [[runs.measure.points(of[seed]) for seed in kept] for of in (one, two)]
    differences = tuple(a - b for a, b in zip(*values, strict=True))
    sides = 2 if margin is None else 1
    level = 1 - 2 * ALPHA / len(looks) / sides
    why = ""
    if len(one) != len(common) or len(two) != len(common):
        why = f"{first} has {_count(len(one), 'seed')} and {second} {len(two)}; "
        why += f"the {len(common)} common ones count"
    limit = 0.0 if margin is None else -margin
    claim = replace(
        claim,
        unit=runs.unit,
        margin=math.nan if margin is None else margin,
        test="paired t, " + ("two-sided" if sides == 2 else "one-sided"),
        seeds=len(kept),
        failed_starts={role: len(seeds) for role, seeds in failed.items() if seeds},
        why=why,
    )
    scheme = runs.schemes.get(first)
    if scheme is not None and scheme == runs.schemes.get(second):
        same = _FAILS if margin is None else _HOLDS
        claim = replace(claim, effect=0.0, test="", why=f"{first} and {second} are one network")
        return _Test(claim, (), len(common), len(used), math.nan, math.nan, sides, looks, same)
    holds = fails = math.nan
    if differences:
        spread = paired(*values, images=runs.images, measure=runs.measure, level=level)
        claim = replace(claim, effect=spread.mean, low=spread.low, high=spread.high, level=level)
        holds = min(1.0, sides * one_sided_p(differences, above=limit))
        fails = min(1.0, sides * one_sided_p([-d for d in differences], above=-limit))
    elif not common:
        claim = replace(claim, test="", why=f"there is no seed with both {first} and {second}")
    return _Test(claim, differences, len(common), len(used), holds, fails, sides, looks)


def _family(tests: Sequence[_Test]) -> list[Claim]:
    """Return the claims of tests that are corrected for their number."""
    holds = holm([test.holds for test in tests])
    fails = holm([test.fails for test in tests])
    found = [test.decided(*both) for test, *both in zip(tests, holds, fails, strict=True)]
    number = sum(not math.isnan(test.holds) for test in tests)
    if number < 2:
        return found
    return [
        claim if math.isnan(claim.p) else replace(claim, test=f"{claim.test}, Holm of {number}")
        for claim in found
    ]


def _conjunction(claim: Claim, tests: Sequence[_Test], more: Sequence[Claim] = ()) -> Claim:
    """Return the claim that each test holds, and each of some claims more.

    It holds where each part does by its own p-value, and fails where one part fails after Holm's
    correction.

    Args:
        claim: with its name and its sentence.
        tests: at least one, or one claim more.
        more: claims that were tested in another way.
    """
    parts = [*(test.decided(test.holds, test.fails) for test in tests), *more]
    verdict = _OPEN
    if all(part.verdict == _HOLDS for part in parts):
        verdict = _HOLDS
    elif any(part.verdict == _FAILS for part in (*_family(tests), *more)):
        verdict = _FAILS
    needed = [part.more_seeds for part in parts if part.verdict == _OPEN]
    seeds = [n for n in needed if n is not None]
    tested = [test.holds for test in tests if not test.same] + [part.p for part in more]
    return replace(
        claim,
        verdict=verdict,
        p=math.nan if any(map(math.isnan, tested)) else max(tested, default=math.nan),
        test="the largest p of its parts",
        seeds=min((part.seeds for part in parts if part.seeds), default=0),
        more_seeds=max(seeds) if verdict == _OPEN and seeds and None not in needed else None,
    )


def three_conditions(
    runs: Runs,
    *,
    margin: float,
    looks: Sequence[int] = LOOKS[:3],
    ticket: str = "ticket",
) -> tuple[Claim, ...]:
    """Return whether the ticket is faster, smaller, keeps the accuracy, and what attention gave.

    Args:
        runs: of ticket and full at least; of plain and constant where there are any.
        margin: how much worse than full the ticket may be, in the metric's unit.
        looks: the planned numbers of seeds, rising.
        ticket: its role.

    Returns:
        "faster" (C2), "smaller" (C3), "accuracy kept" (C1), "over plain", "over constant", and
        "attention pays", which is the two before it.
    """
    over = _over_controls(runs, ticket, looks)
    pays = Claim("attention pays", _said(runs, f"{ticket} beats plain and its constant gates"))
    return (
        _faster(runs, "faster", ticket),
        _smaller(runs, "smaller", ticket),
        *_kept(runs, "accuracy kept", [ticket], margin, looks),
        *_family(over),
        _conjunction(pays, over),
    )


def over(
    runs: Runs, control: str, *, looks: Sequence[int] = LOOKS[:3], ticket: str = "ticket"
) -> Claim:
    """Return whether the ticket is better than another network, by itself.

    Args:
        runs: of both.
        control: the role of the other.
        looks: the planned numbers of seeds, rising.
        ticket: its role.
    """
    claim = Claim(f"over {control}", _said(runs, f"{ticket} is better than {control}"))
    test = _paired_test(runs, ticket, control, claim, looks=looks)
    return test.decided(test.holds, test.fails)


def claims(
    runs: Runs,
    *,
    margin: float,
    table: Table | None = None,
    looks: Sequence[int] = LOOKS[:3],
    tickets: Sequence[str] = ("ticket",),
) -> tuple[Claim, ...]:
    """Return the claims C1 to C6.

    Args:
        runs: of the tickets and of all controls.
        margin: how much worse than full a ticket may be, in the metric's unit.
        table: of all schemes of the network; None where it was not made.
        looks: the planned numbers of seeds, rising.
        tickets: their roles.

    Returns:
        C1 of each ticket, then C2, C3 and C4 of each, then C5, and C6 of each ticket; C4 is
        followed by its parts, and C5 has four.
    """
    return (
        *_kept(runs, "C1", tickets, margin, looks),
        *(_faster(runs, "C2", ticket) for ticket in tickets),
        *(_smaller(runs, "C3", ticket) for ticket in tickets),
        *(claim for ticket in tickets for claim in _same_density(runs, ticket, looks)),
        *_phenomena(runs, table),
        *(_search_worth(runs, table, ticket, margin) for ticket in tickets),
    )


def _said(runs: Runs, sentence: str) -> str:
    return f"{sentence} after {runs.budget}" if runs.budget else sentence


def _over_controls(runs: Runs, ticket: str, looks: Sequence[int]) -> list[_Test]:
    return [
        _paired_test(
            runs,
            ticket,
            control,
            Claim(f"over {control}", _said(runs, f"{ticket} is better than {control}")),
            looks=looks,
        )
        for control in ("plain", "constant")
    ]


def _kept(
    runs: Runs, name: str, tickets: Sequence[str], margin: float, looks: Sequence[int]
) -> list[Claim]:
    """Return C1 of each ticket, against the full network that it is nearest to falling behind."""
    number = f"{margin:.2f}" if runs.measure.unit == "%" else f"{margin:g}"
    hardest = []
    for ticket in tickets:
        tests = []
        for full in runs.fulls or ("full",):
            sentence = f"{ticket} is not worse than {full} by {number} {runs.unit}".rstrip()
            claim = Claim(name, _said(runs, sentence))
            tests.append(_paired_test(runs, ticket, full, claim, looks=looks, margin=margin))
        # Not worse than each: the largest p. Worse than one: the smallest, times their number.
        worst = max(tests, key=lambda test: -1.0 if test.same else _or(test.holds, 2.0))
        hardest.append(replace(worst, fails=min(1.0, len(tests) * worst.fails)))
    return _family(hardest)


def _or(value: float, instead: float) -> float:
    return instead if math.isnan(value) else value


def _faster(runs: Runs, name: str, ticket: str) -> Claim:
    """Return C2: by the exact sign test over rounds, against the least of the full networks."""
    share = f"{SHARE_OF_FULL:.0%}".replace("%", " %")
    sentence = f"{ticket} takes at most {share} of full's extra inference time"
    claim = Claim(name, sentence, unit="% of full's increment", margin=100 * SHARE_OF_FULL)
    timed = runs.latency
    rounds = len(timed.get("plain", ()))
    fulls = [role for role in runs.fulls if role in timed]
    if not fulls or ticket not in timed or rounds < 2:
        return replace(claim, why=f"{ticket}, plain and full were not timed in the same rounds")
    from sat_optuna.cost.timing import LEAST_ROUNDS, increment, share_of_increment

    if rounds < LEAST_ROUNDS:
        return replace(claim, why=f"{rounds} rounds were timed, and {LEAST_ROUNDS} are needed")
    plain, passed = timed["plain"], timed[ticket]
    full = min(fulls, key=lambda role: increment(timed[role], plain).value)
    estimate = share_of_increment(passed, timed[full], plain)
    if estimate is None:
        why = f"{full}'s own increment cannot be told from 0 in {rounds} rounds"
        return replace(claim, why=why)
    left = [
        SHARE_OF_FULL * (most - least) - (time - least)
        for time, most, least in zip(passed, timed[full], plain, strict=True)
    ]
    apart = [value for value in left if value != 0]
    p = float(stats.binomtest(sum(v > 0 for v in apart), len(apart)).pvalue) if apart else 1.0
    limit = SHARE_OF_FULL
    return replace(
        claim,
        verdict=_HOLDS if estimate.high <= limit else _FAILS if estimate.low > limit else _OPEN,
        effect=100 * estimate.value,
        low=100 * estimate.low,
        high=100 * estimate.high,
        level=0.95,
        p=p,
        test=f"sign test over {rounds} rounds, two-sided",
    )


def _smaller(runs: Runs, name: str, ticket: str) -> Claim:
    """Return C3: counted, against the smallest of the full networks."""
    claim = Claim(name, f"{ticket} adds fewer parameters than full", unit="parameters")
    known = runs.params
    fulls = [role for role in runs.fulls if role in known]
    if not fulls or ticket not in known or "plain" not in known:
        return replace(claim, why=f"the parameters of {ticket}, plain and full are not all known")
    plain = known["plain"]
    full = min(fulls, key=lambda role: known[role])
    added, most = known[ticket] - plain, known[full] - plain
    if most == 0:
        return replace(claim, effect=float(added), why=f"{full} adds none either")
    return replace(
        claim,
        verdict=_HOLDS if added < most else _FAILS,
        effect=float(added - most),
        test="counted",
        why=f"{ticket} adds {added:,} and {full} {most:,}",
    )


def _same_density(runs: Runs, ticket: str, looks: Sequence[int]) -> list[Claim]:
    """Return C4 and its parts: over random schemes, and over each heuristic."""
    scheme = runs.schemes.get(ticket)
    tests, beside = [], []
    for role in HEURISTICS:
        if role not in runs.accuracy:
            continue
        claim = Claim(f"C4 over {role}", _said(runs, f"{ticket} is better than {role}"), _OPEN)
        test = _paired_test(runs, ticket, role, claim, looks=looks)
        other = runs.schemes.get(role)
        if scheme is None or other is None or _makeup(scheme) == _makeup(other):
            if test.same is None:
                tests.append(test)
            else:
                beside.append(replace(test.claim, why=f"{role} is the ticket's own scheme"))
        else:
            why = f"not tested: {role} has another density ({other})"
            beside.append(replace(test.claim, test="", why=why))
    drawn = _over_random(runs, ticket, looks)
    sentence = f"{ticket} beats schemes of its own density, random ones and the usual rules"
    whole = _conjunction(Claim("C4", _said(runs, sentence)), tests, [drawn])
    return [whole, drawn, *_family(tests), *beside]


_NO_TABLE = "there is no table of all schemes of this network"


def _phenomena(runs: Runs, table: Table | None) -> list[Claim]:
    """Return C5: whether schemes are truly above full, and below plain."""
    full, *_ = sorted(
        (role for role in (table.references if table else ()) if role.startswith("full")),
        key=lambda role: -fmean(table.references[role]) if table else 0.0,
    ) or ["full"]
    found = []
    for points in ABOVE_FULL:
        more = f" by {points:g} {runs.unit}".rstrip() if points else ""
        sentence = _said(runs, f"some schemes are truly better than {full}{more}")
        claim = Claim(f"C5 above {full}" + (f" + {points:g}" if points else ""), sentence)
        share = None
        if table and len(table.references.get(full, ())) > 1:
            share = TrueMeans(table.values).above(table.references[full], points)
        found.append(_of_share(claim, share, table))
    share = None
    if table and len(table.references.get("plain", ())) > 1:
        share = share_below(table.values, table.references["plain"])
    sentence = _said(runs, "some schemes are truly worse than plain")
    return [*found, _of_share(Claim("C5 below plain", sentence), share, table)]


def _of_share(claim: Claim, share: Share | None, table: Table | None) -> Claim:
    """Return the claim that a share is at least one scheme's; of fewer than one, that it fails."""
    if table is None:
        return replace(claim, why=_NO_TABLE)
    if share is None:
        return replace(claim, why="the table has fewer than two runs of the network beside it")
    rows = np.isfinite(table.values).any(axis=1)
    one = 1 / int(rows.sum())
    why = "" if rows.all() else f"the table lacks {_count(int((~rows).sum()), 'scheme')}; "
    why += f"a count of noisy means would say {100 * share.counted:.1f} %"
    verdict = _OPEN
    if share.identifiable:
        verdict = _HOLDS if share.low >= one else _FAILS if share.high < one else _OPEN
    else:
        why = f"not identifiable: {share.why}; {why}"
    return replace(
        claim,
        verdict=verdict,
        effect=100 * share.share,
        low=100 * share.low,
        high=100 * share.high,
        unit="% of schemes",
        level=0.95,
        test="deconvolution",
        seeds=int(np.isfinite(table.values).sum(axis=1).max()),
        why=why,
    )


def _search_worth(runs: Runs, table: Table | None, ticket: str, margin: float) -> Claim:
    """Return C6: that the ticket is not worse than the best of all schemes by the margin."""
    number = f"{margin:g} {runs.unit}".rstrip()
    sentence = _said(runs, f"{ticket} is not worse than the best of all schemes by {number}")
    claim = Claim("C6", sentence, unit=runs.unit, margin=margin)
    if table is None:
        return replace(claim, why=_NO_TABLE)
    scheme = [int(digit, 36) for digit in runs.schemes.get(ticket, "").replace("-", "")]
    rows = [row for row, choices in enumerate(table.choices.tolist()) if choices == scheme]
    truth = TrueMeans(table.values)
    if not rows or not truth.known[rows[0]]:
        return replace(claim, why=f"the table has no run of the scheme of {ticket}")
    if not truth.freedom:
        return replace(claim, why="the table has one seed, which does not tell noise")
    regret = regret_of_scheme(truth, rows[0])
    known = int(truth.known.sum())
    why = f"it is better than {regret.percentile:.1f} % of the {known - 1} others"
    if known < len(truth.known):
        why += f"; the table lacks {_count(len(truth.known) - known, 'scheme')}"
    return replace(
        claim,
        verdict=_HOLDS if regret.high <= margin else _FAILS if regret.low > margin else _OPEN,
        effect=-regret.points,
        low=-regret.high,
        high=-regret.low,
        level=0.95,
        test="regret, the noise of the table taken out",
        seeds=int(np.isfinite(table.values).sum(axis=1).max()),
        why=why,
    )


def _makeup(scheme: str) -> Counter[str]:
    """Return how many blocks have which kind."""
    return Counter(scheme.replace("-", ""))


def _arrangements(scheme: str) -> int:
    """Return how many schemes have as many blocks of each kind."""
    counts = _makeup(scheme).values()
    return math.factorial(sum(counts)) // math.prod(math.factorial(count) for count in counts)


def _over_random(runs: Runs, ticket: str, looks: Sequence[int]) -> Claim:
    """Return whether a ticket is better than other schemes of its density, by ranks.

    Two cases, both exact, ties included:

    - All others of the density are there, which are not a sample. In each seed the ticket has a
      rank among them; if the scheme did not matter, each of the seed's ranks would be as likely,
      in each seed anew. The test is of the sum of the ranks, at each look.
    - Some were drawn. If the ticket were one more draw, each rank of its mean would be as likely:
      p is the number of schemes that are as good, itself included, over their number. More seeds
      do not sharpen that, so it is looked at once, after the first look's seeds, at 5 %; 19 others
      are the fewest that can decide it.
    """
    claim = Claim(
        "C4 over random",
        _said(runs, f"{ticket} is better than random schemes of its density"),
        unit=runs.unit,
    )
    scheme = runs.schemes.get(ticket)
    others: dict[str, str] = {}  # by scheme, one role
    for role in runs.accuracy:
        if _RANDOM.fullmatch(role) and (other := runs.schemes.get(role, role)) != scheme:
            others.setdefault(other, role)
    if scheme is not None and _arrangements(scheme) == 1:
        return replace(claim, why=f"no other scheme has the density of {scheme}")
    known = {role: _started(runs, role) for role in (ticket, *others.values())}
    mine = known.pop(ticket)
    seeds = [seed for seed in mine if any(seed in values for values in known.values())]
    complete = scheme is not None and len(others) == _arrangements(scheme) - 1
    if not seeds:
        return replace(claim, why=f"there is no seed with both {ticket} and a random scheme")
    planned = looks if complete else looks[:1]
    look = max((n for n in planned if n <= len(seeds)), default=None)
    used = seeds[:look]
    rows = [
        (mine[seed], [values[seed] for values in known.values() if seed in values])
        for seed in used
    ]
    level = 1 - 2 * ALPHA / len(planned)
    spread = paired(
        [own for own, _ in rows],
        [fmean(values) for _, values in rows],
        images=runs.images,
        measure=runs.measure,
        level=level,
    )
    claim = replace(
        claim, effect=spread.mean, low=spread.low, high=spread.high, level=level, seeds=len(used)
    )
    failed = sum(len(runs.accuracy[role]) for role in (ticket, *known)) - len(mine)
    failed -= sum(len(values) for values in known.values())
    if failed:
        claim = replace(claim, failed_starts={"all of them": failed})
    if complete:
        holds, fails = (_rank_sum_p(rows, sign) for sign in (1, -1))
        claim = replace(
            claim, test=f"ranks in each seed among all {len(others)} others, one-sided"
        )
    else:
        kept = {
            role: fmean(values[seed] for seed in used if seed in values)
            for role, values in known.items()
            if any(seed in values for seed in used)
        }
        own = fmean(mine[seed] for seed in used)
        as_good = sum(value >= own for value in kept.values())
        as_bad = sum(value <= own for value in kept.values())
        holds, fails = ((1 + count) / (1 + len(kept)) for count in (as_good, as_bad))
        claim = replace(claim, test=f"rank among {len(kept)} drawn, one-sided")
        if 1 / (1 + len(kept)) > ALPHA:
            claim = replace(claim, why="19 others are the fewest that such a test can decide by")
    alpha = ALPHA / len(planned)
    verdict = _OPEN
    if look is not None:
        verdict = _HOLDS if holds <= alpha else _FAILS if fails <= alpha else _OPEN
    more = None
    if verdict == _OPEN and (complete or look is None):
        for n in planned:
            if n > len(seeds):
                again = [rows[i % len(rows)] for i in range(n)]
                if not complete or min(_rank_sum_p(again, s) for s in (1, -1)) <= alpha:
                    more = n - len(seeds)
                    break
    return replace(
        claim, verdict=verdict, p=fails if verdict == _FAILS else holds, more_seeds=more
    )


def _started(runs: Runs, role: str) -> dict[int, float]:
    """Return the values of the runs that started, by seed, for the better."""
    failed = failed_starts(runs.train_accuracy.get(role, {}), runs.classes)
    return {
        seed: runs.measure.points(value)
        for seed, value in runs.accuracy.get(role, {}).items()
        if seed not in failed and not math.isnan(value)
    }


def _rank_sum_p(rows: Sequence[tuple[float, Sequence[float]]], sign: int) -> float:
    """Return how likely ranks that are as good are, if each rank of a seed is as likely.

    Args:
        rows: for each seed, the value of the one and those of the others.
        sign: 1 for the higher the better, -1 for the lower.
    """
    ways = np.ones(1)
    reached = 0
    for own, others in rows:
        values = sign * np.array([own, *others])
        # Twice the middle ranks, which are whole numbers; ties share theirs.
        ranks = np.rint(2 * stats.rankdata(values)).astype(int)
        reached += int(ranks[0])
        ways = np.convolve(ways, np.bincount(ranks) / len(ranks))
    return min(1.0, float(ways[reached:].sum()))
