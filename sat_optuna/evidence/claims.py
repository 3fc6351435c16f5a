"""The claims about a ticket: each holds, fails or is not decided; numbers alone, no torch.

Networks are paired by seed and looked at after 4, 8, 16 and 32 seeds only, each time at 5 % over
the four looks, with intervals of that level. A claim *holds* where the test says so, *fails* where
the same test shows the opposite (the interval lies wholly beyond the margin), and is *not decided*
otherwise. Runs that failed to start are left out of a test, so no verdict is for the network that
has more of them. Claims with parts hold where each part does, with the largest p of them, which
needs no correction; they fail where one part does after Holm's correction.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median_high
from typing import Literal

import numpy as np
from scipy import stats

from sat_optuna.evidence.controls import other_arrangements
from sat_optuna.evidence.ranking import regret_of_scheme
from sat_optuna.evidence.shares import Share, TrueMeans, share_below
from sat_optuna.evidence.statistics import holm, one_sided_p, paired
from sat_optuna.evidence.truth import Signed
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import ACCURACY, HEURISTICS, Measure

__all__ = [
    "ALPHA",
    "LOOKS",
    "Claim",
    "Runs",
    "Table",
    "Verdict",
    "claims",
    "failed_starts",
    "is_random",
    "over",
    "over_random",
    "three_conditions",
]

# Numbers of seeds. One plan for all: a look that is added once results were seen errs too often.
LOOKS = (4, 8, 16, 32)
ALPHA = 0.05
SHARE_OF_FULL = 0.6  # of full's increment of latency that a ticket may have (C2)
ABOVE_FULL = (0.0, 0.5, 1.0)  # points (C5)

Verdict = Literal["holds", "fails", "not decided"]
_HOLDS: Verdict = "holds"
_FAILS: Verdict = "fails"
_OPEN: Verdict = "not decided"
_MINUS = "\N{MINUS SIGN}"


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

    def amount(self, value: float, form: str = "g") -> str:
        """Return a difference with its unit, as in "1 point", "0.5 points" or "0.1 nats"."""
        number = format(value, form)
        unit = "point" if number == "1" and self.unit == "points" else self.unit
        return f"{number} {unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Table:
    """All schemes of a network, trained from scratch.

    Attributes:
        schemes: their values, and those of plain and full or full-KIND with many seeds.
        budget: what each was trained with and scored on, as in `Runs.budget`.
    """

    schemes: Signed
    budget: str = ""


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
        p: of the test; of a claim with parts the largest of theirs, or, where it fails, that of
            the part that fails, corrected by Holm's method; NaN where there is none.
        margin: how much worse the ticket may be in "accuracy kept", or the share of full's
            increment that "faster" allows, per cent; NaN where 0 is what the effect is held to.
        test: which it was, and on what.
        seeds: number of pairs of runs in the test.
        failed_starts: by role, runs that were left out of it, for they learnt nothing.
        more_seeds: where it is not decided, how many more the next look needs at which it would be
            if the effect and the spread stay; None where no planned look would.
        why: what else a reader must know, a sentence without its full stop; empty for nothing.
        control_over_plain: of "over constant", whether the control is better than plain; None of
            other claims.
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
    control_over_plain: Verdict | None = None

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
            parts.append(_p(self.p))
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


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.0005 else f"p {value:.3f}"


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


def is_random(role: str) -> bool:
    """Return whether a role is one of the random schemes of the ticket's density.

    >>> [role for role in ("random-density", "random-12", "random-best") if is_random(role)]
    ['random-density', 'random-12']
    """
    return re.fullmatch(r"random-(\d+|density)", role) is not None


@dataclass(frozen=True, slots=True)
class _Starts:
    """Which runs of two networks, or of one and several others, failed to start."""

    names: tuple[str, str]
    failed: tuple[frozenset[tuple[str, int]], frozenset[tuple[str, int]]]  # (role, seed)
    runs: tuple[int, int]

    @classmethod
    def of(
        cls, runs: Runs, first: str, others: Sequence[str], name: str, seeds: Sequence[int]
    ) -> "_Starts":
        """Return those among some seeds, of a network and of the others, which have one name."""

        def known(roles: Sequence[str]) -> list[tuple[str, int]]:
            values = {role: runs.accuracy.get(role, {}) for role in roles}
            return [
                (role, seed)
                for role in roles
                for seed in seeds
                if not math.isnan(values[role].get(seed, math.nan))
            ]

        there = known([first]), known(others)
        failed = []
        for pairs in there:
            trained: dict[str, dict[int, float]] = {}
            for role, seed in pairs:
                value = runs.train_accuracy.get(role, {}).get(seed, math.nan)
                trained.setdefault(role, {})[seed] = value
            failed.append(
                frozenset(
                    (role, seed)
                    for role, values in trained.items()
                    for seed in failed_starts(values, runs.classes)
                )
            )
        one, two = failed
        return cls((first, name), (one, two), (len(there[0]), len(there[1])))

    def __contains__(self, pair: tuple[str, int]) -> bool:
        """Return whether the run of a role and a seed failed to start."""
        return any(pair in failed for failed in self.failed)

    @property
    def counts(self) -> dict[str, int]:
        """By name, how many; without those that have none."""
        pairs = zip(self.names, self.failed, strict=True)
        return {name: len(failed) for name, failed in pairs if failed}

    def allow(self, verdict: Verdict) -> bool:
        """Return whether a verdict is not for the network that failed to start more often."""
        (one, two), (runs, others) = map(len, self.failed), self.runs
        ahead = one * others - two * runs
        return not ((verdict == _HOLDS and ahead > 0) or (verdict == _FAILS and ahead < 0))

    def __str__(self) -> str:
        (one, two), (runs, others) = map(len, self.failed), self.runs
        first, second = self.names
        total = f" of {_count(others, 'run')}" if others != runs else ""
        said = f"{first} failed to start in {one} of {_count(runs, 'run')}"
        return f"{said}, {second} in {two}{total}"


@dataclass(frozen=True, slots=True)
class _Part:
    """A claim as a part of another, with its p-values and the level that they are held to."""

    claim: Claim
    holds: float
    fails: float
    alpha: float
    undecided: str = ""  # the failed starts that leave it so


@dataclass(frozen=True, slots=True)
class _Test:
    """A paired test of one network against another, before it is a claim."""

    claim: Claim  # all but verdict, p and more_seeds
    differences: tuple[float, ...]  # of the pairs in the test, for the better
    trained: int  # pairs there are
    looked: int  # pairs of the look; fewer than the first look's where it is not reached
    holds: float  # p-values; NaN where there is no test
    fails: float
    sides: int
    starts: _Starts
    same: Verdict | None = None  # where both are the same network

    @property
    def blocked(self) -> bool:
        """Whether failed starts leave nothing to decide, or are more of the network ahead."""
        if not self.differences:
            return bool(self.starts.counts)
        return not self.starts.allow(_HOLDS if self._mean > 0 else _FAILS)

    @property
    def _mean(self) -> float:
        margin = 0.0 if math.isnan(self.claim.margin) else self.claim.margin
        return fmean(self.differences) + margin

    def part(self) -> _Part:
        """Return the claim with its p-values."""
        said = str(self.starts) if self.blocked and not self.same else ""
        return _Part(self.decided(), self.holds, self.fails, ALPHA / len(LOOKS), said)

    def decided(self) -> Claim:
        """Return the claim."""
        if self.same:
            return replace(self.claim, verdict=self.same)
        alpha, why = ALPHA / len(LOOKS), self.claim.why
        p = self.fails if self.sides == 2 and self.fails < self.holds else self.holds
        if self.blocked:
            return replace(self.claim, p=p, why=_and(why, str(self.starts)))
        verdict = _OPEN
        if self.looked in LOOKS:
            verdict = _HOLDS if self.holds <= alpha else _FAILS if self.fails <= alpha else _OPEN
        more = self._more(alpha) if verdict == _OPEN else None
        if verdict == _OPEN and more is None and self.looked in LOOKS:
            why = _and(why, f"{LOOKS[-1]} seeds, the last look, would not decide it")
        p = self.fails if verdict == _FAILS else p
        return replace(self.claim, verdict=verdict, p=p, more_seeds=more, why=why)

    def _more(self, alpha: float) -> int | None:
        """Return what `Claim.more_seeds` says."""
        count = len(self.differences)
        if count < 2:
            return next((look - self.trained for look in LOOKS if look > self.trained), None)
        mean, sd = self._mean, float(np.std(self.differences, ddof=1))
        for look in LOOKS:
            if look <= self.trained:
                continue
            n = max(2, round(look * count / self.looked))
            p = 2.0**-n if sd < 1e-9 else stats.t.sf(abs(mean) / sd * math.sqrt(n), n - 1)
            if abs(mean) > 1e-9 and p * self.sides <= alpha:
                return look - self.trained
        return None


def _and(first: str, second: str) -> str:
    return "; ".join(text for text in (first, second) if text)


def _paired_test(
    runs: Runs, first: str, second: str, claim: Claim, *, margin: float | None = None
) -> _Test:
    """Test whether a network is better than another, or not worse by a margin where one is given.

    The first seeds of the largest look that is reached are taken; of these, the seeds in which a
    network failed to start are left out.
    """
    one, two = (runs.accuracy.get(role, {}) for role in (first, second))
    common = [seed for seed in one if not math.isnan(one[seed] + two.get(seed, math.nan))]
    used = common[: max((look for look in LOOKS if look <= len(common)), default=None)]
    starts = _Starts.of(runs, first, [second], second, used)
    kept = [seed for seed in used if not any((r, seed) in starts for r in (first, second))]
    values = [[runs.measure.points(of[seed]) for seed in kept] for of in (one, two)]
    differences = tuple(a - b for a, b in zip(*values, strict=True))
    sides = 2 if margin is None else 1
    level = 1 - 2 * ALPHA / len(LOOKS) / sides
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
        failed_starts=starts.counts,
        why=why,
    )
    scheme = runs.schemes.get(first)
    if scheme is not None and scheme == runs.schemes.get(second):
        same = _FAILS if margin is None else _HOLDS
        claim = replace(claim, effect=0.0, test="", why=f"{first} and {second} are one network")
        no = math.nan
        return _Test(claim, (), len(common), len(used), no, no, sides, starts, same)
    holds = fails = math.nan
    if differences:
        spread = paired(*values, images=runs.images, measure=runs.measure, level=level)
        claim = replace(claim, effect=spread.mean, low=spread.low, high=spread.high, level=level)
        holds = _capped(sides * one_sided_p(differences, above=limit))
        fails = _capped(sides * one_sided_p([-d for d in differences], above=-limit))
    elif not common:
        claim = replace(claim, test="", why=f"there is no seed with both {first} and {second}")
    return _Test(claim, differences, len(common), len(used), holds, fails, sides, starts)


def _capped(p: float) -> float:
    return p if math.isnan(p) else min(1.0, p)  # min(1.0, nan) is 1.0


def _conjunction(claim: Claim, parts: Sequence[_Part]) -> Claim:
    """Return the claim that each part holds.

    It holds where each part does by its own p-value, the largest of which is its own, and fails
    where one part fails after Holm's correction for their number.

    Args:
        claim: with its name and its sentence.
        parts: at least one.
    """
    seeds = min((part.claim.seeds for part in parts if part.claim.seeds), default=0)
    claim = replace(claim, seeds=seeds)
    # In units of each part's own level, which a part that is looked at once has another of.
    corrected = holm([part.fails * ALPHA / part.alpha for part in parts])
    broken = [
        (0.0 if math.isnan(p) else p, part)
        for part, p in zip(parts, corrected, strict=True)
        if part.claim.verdict == _FAILS and not p > ALPHA
    ]
    if broken:
        p, part = min(broken, key=lambda pair: pair[0])
        if math.isnan(part.fails):
            return replace(claim, verdict=_FAILS, why=part.claim.why)
        number = sum(not math.isnan(other.fails) for other in parts)
        test = part.claim.name + (f", Holm of {number}" if number > 1 else "")
        return replace(claim, verdict=_FAILS, p=_capped(p * part.alpha / ALPHA), test=test)
    tested = [part.holds for part in parts]
    if not any(map(math.isnan, tested)):
        claim = replace(claim, p=max(tested), test="the largest p of its parts")
    if all(part.claim.verdict == _HOLDS for part in parts):
        return replace(claim, verdict=_HOLDS)
    needed = [part.claim.more_seeds for part in parts if part.claim.verdict != _HOLDS]
    known = [n for n in needed if n is not None]
    why = "; ".join(dict.fromkeys(part.undecided for part in parts if part.undecided))
    for part in parts:
        if part.claim.verdict == _FAILS:
            why = _and(why, f"{part.claim.name} fails by itself, and not after Holm's correction")
    return replace(claim, more_seeds=None if None in needed else max(known, default=None), why=why)


def three_conditions(runs: Runs, *, margin: float) -> tuple[Claim, ...]:
    """Return whether the ticket is faster, smaller, keeps the accuracy, and what attention gave.

    Args:
        runs: of ticket and full at least; of plain and constant where there are any.
        margin: how much worse than full the ticket may be, in the metric's unit.

    Returns:
        "faster" (C2), "smaller" (C3), "accuracy kept" (C1), "over plain", "over constant", and
        "attention pays", which is the two before it.
    """
    over = [_over(runs, "ticket", control).part() for control in ("plain", "constant")]
    plain, constant = (part.claim for part in over)
    pays = Claim("attention pays", _said(runs, "ticket beats plain and its constant control"))
    rescaling = _over(runs, "constant", "plain").decided()
    if not math.isnan(rescaling.p):
        said = f"constant over plain {rescaling.verdict}"
        said = f"{said.replace('plain not', 'plain is not')}, {_p(rescaling.p)}"
        constant = replace(constant, why=_and(constant.why, said))
    return (
        _faster(runs, "faster"),
        _smaller(runs, "smaller"),
        _kept(runs, "accuracy kept", margin),
        plain,
        replace(constant, control_over_plain=rescaling.verdict),
        _conjunction(pays, over),
    )


def over(runs: Runs, control: str) -> Claim:
    """Return whether the ticket is better than another network, by itself.

    Args:
        runs: of both.
        control: the role of the other.
    """
    return _over(runs, "ticket", control).decided()


def _over(runs: Runs, first: str, control: str, name: str = "over") -> _Test:
    claim = Claim(f"{name} {control}", _said(runs, f"{first} is better than {control}"))
    return _paired_test(runs, first, control, claim)


def claims(runs: Runs, *, margin: float, table: Table | None = None) -> tuple[Claim, ...]:
    """Return the claims C1 to C6.

    Args:
        runs: of the ticket and of all controls.
        margin: how much worse than full the ticket may be, in the metric's unit.
        table: of all schemes of the network; None where it was not made.

    Returns:
        C1 to C6 in their order; C4 is followed by its parts, and C5 has four.
    """
    return (
        _kept(runs, "C1", margin),
        _faster(runs, "C2"),
        _smaller(runs, "C3"),
        *_same_density(runs),
        *_phenomena(runs, table),
        _search_worth(runs, table, margin),
    )


def _said(of: Runs | Table | None, sentence: str) -> str:
    return f"{sentence} after {of.budget}" if of and of.budget else sentence


def _kept(runs: Runs, name: str, margin: float) -> Claim:
    """Return C1, against the full network that the ticket is nearest to falling behind."""
    number = runs.amount(margin, ".2f" if runs.measure.unit == "%" else "g")
    tests = []
    for full in runs.fulls or ("full",):
        claim = Claim(name, _said(runs, f"ticket is at most {number} worse than {full}"))
        tests.append(_paired_test(runs, "ticket", full, claim, margin=margin))

    def hardest(test: _Test) -> float:
        return -1.0 if test.same else _or(test.holds, 2.0)

    # Not worse than each: the largest p. Worse than one: the smallest, times their number.
    worst = max(tests, key=hardest)
    decided = replace(worst, fails=_capped(len(tests) * worst.fails)).decided()
    blocked = [test for test in tests if test.blocked and not test.same]
    if decided.verdict != _FAILS and blocked:
        return max(blocked, key=hardest).decided()
    return decided


def _or(value: float, instead: float) -> float:
    return instead if math.isnan(value) else value


def _faster(runs: Runs, name: str) -> Claim:
    """Return C2: by the exact sign test over rounds, against the least of the full networks."""
    share = f"{SHARE_OF_FULL:.0%}".replace("%", " %")
    sentence = f"ticket takes at most {share} of full's extra inference time"
    claim = Claim(name, sentence, unit="% of full's increment", margin=100 * SHARE_OF_FULL)
    timed = runs.latency
    rounds = len(timed.get("plain", ()))
    fulls = [role for role in runs.fulls if len(timed.get(role, ())) == rounds]
    if not fulls or len(timed.get("ticket", ())) != rounds or rounds < 2:
        return replace(claim, why="ticket, plain and full were not timed in the same rounds")
    from sat_optuna.cost.timing import LEAST_ROUNDS, increment, share_of_increment

    if rounds < LEAST_ROUNDS:
        return replace(claim, why=f"{rounds} rounds were timed, and {LEAST_ROUNDS} are needed")
    plain, passed = timed["plain"], timed["ticket"]
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


def _smaller(runs: Runs, name: str) -> Claim:
    """Return C3: counted, against the smallest of the full networks."""
    claim = Claim(name, "ticket adds fewer parameters than full", unit="parameters")
    known = runs.params
    fulls = [role for role in runs.fulls if role in known]
    if not fulls or "ticket" not in known or "plain" not in known:
        return replace(claim, why="the parameters of ticket, plain and full are not all known")
    plain = known["plain"]
    full = min(fulls, key=lambda role: known[role])
    added, most = known["ticket"] - plain, known[full] - plain
    if most == 0:
        return replace(claim, effect=float(added), why=f"{full} adds none either")
    return replace(
        claim,
        verdict=_HOLDS if added < most else _FAILS,
        effect=float(added - most),
        test="counted",
        why=f"ticket adds {added:,} and {full} {most:,}",
    )


def _same_density(runs: Runs) -> list[Claim]:
    """Return C4 and its parts: over random schemes, and over each heuristic."""
    scheme = runs.schemes.get("ticket")
    tests, beside = [], []
    for role in (role for role in HEURISTICS if role in runs.accuracy):
        test = _over(runs, "ticket", role, "C4 over")
        other = runs.schemes.get(role)
        if scheme is None or other is None or _makeup(scheme) == _makeup(other):
            if test.same is None:
                tests.append(test.part())
            else:
                beside.append(replace(test.claim, why=f"{role} is the ticket's own scheme"))
        else:
            why = f"not tested: {role} has another density ({other})"
            beside.append(replace(test.claim, test="", why=why))
    drawn = _over_random(runs)
    sentence = "ticket beats schemes of its own density, random ones and the usual rules"
    whole = _conjunction(Claim("C4", _said(runs, sentence)), [*tests, drawn])
    return [whole, drawn.claim, *(part.claim for part in tests), *beside]


def _makeup(scheme: str) -> list[int]:
    """Return how many blocks have which kind, as the sorted choices."""
    return sorted(Scheme.parse(scheme).choices)


_NO_TABLE = "there is no table of all schemes of this network"


def _phenomena(runs: Runs, table: Table | None) -> list[Claim]:
    """Return C5: whether schemes are truly above full, and below plain."""
    references = table.schemes.references if table else {}
    means = {role: fmean(runs.values()) for role, runs in references.items() if runs}
    full = max(
        (role for role in means if role.startswith("full")),
        key=lambda role: means[role],
        default="full",
    )
    found = []
    for points in ABOVE_FULL:
        more = f" by {runs.amount(points)}" if points else ""
        sentence = _said(table, f"some schemes are truly better than {full}{more}")
        claim = Claim(f"C5 above {full}" + (f" + {points:g}" if points else ""), sentence)
        share = None
        if table and len(references.get(full, ())) > 1:
            others, paired_runs = table.schemes.paired(full)
            share = TrueMeans(table.schemes.values).above(others, points, paired=paired_runs)
        found.append(_of_share(claim, share, table))
    share = None
    if table and len(references.get("plain", ())) > 1:
        others, paired_runs = table.schemes.paired("plain")
        share = share_below(table.schemes.values, others, paired=paired_runs)
    sentence = _said(table, "some schemes are truly worse than plain")
    return [*found, _of_share(Claim("C5 below plain", sentence), share, table)]


def _of_share(claim: Claim, share: Share | None, table: Table | None) -> Claim:
    """Return the claim that a share is at least one scheme's; of fewer than one, that it fails."""
    if table is None:
        return replace(claim, why=_NO_TABLE)
    if share is None:
        return replace(claim, why="the table has fewer than two runs of the network beside it")
    rows = np.isfinite(table.schemes.values).any(axis=1)
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
        seeds=int(np.isfinite(table.schemes.values).sum(axis=1).max()),
        why=why,
    )


def _search_worth(runs: Runs, table: Table | None, margin: float) -> Claim:
    """Return C6: that the ticket is no worse than the best of all schemes but for the margin."""
    number = runs.amount(margin)
    sentence = _said(table, f"ticket is at most {number} worse than the best of all schemes")
    claim = Claim("C6", sentence, unit=runs.unit, margin=margin)
    if table is None:
        return replace(claim, why=_NO_TABLE)
    scheme = [int(digit, 36) for digit in runs.schemes.get("ticket", "").replace("-", "")]
    rows = [row for row, choices in enumerate(table.schemes.choices.tolist()) if choices == scheme]
    truth = TrueMeans(table.schemes.values)
    if not rows or not truth.known[rows[0]]:
        return replace(claim, why="the table has no run of the scheme of ticket")
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
        seeds=int(np.isfinite(table.schemes.values).sum(axis=1).max()),
        why=why,
    )


def over_random(runs: Runs) -> Claim:
    """Return whether the ticket is better than the random schemes of its density that there are.

    It is a part of C4, with the same numbers.
    """
    return _over_random(runs).claim


def _over_random(runs: Runs) -> _Part:
    """Return whether the ticket is better than other schemes of its density, by ranks.

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
        _said(runs, "ticket is better than random schemes of its density"),
        unit=runs.unit,
    )

    def untested(why: str) -> _Part:
        return _Part(replace(claim, why=why), math.nan, math.nan, ALPHA)

    scheme = runs.schemes.get("ticket")
    others: dict[str, str] = {}  # by scheme, one role
    for role in filter(is_random, runs.accuracy):
        if (other := runs.schemes.get(role, role)) != scheme:
            others.setdefault(other, role)
    arrangements = math.inf if scheme is None else other_arrangements(Scheme.parse(scheme))
    if arrangements == 0:
        return untested(f"no other scheme has the density of {scheme}")
    values = {
        role: {
            seed: runs.measure.points(value)
            for seed, value in runs.accuracy.get(role, {}).items()
            if not math.isnan(value)
        }
        for role in ("ticket", *others.values())
    }
    mine = values.pop("ticket")
    seeds = [seed for seed in mine if any(seed in known for known in values.values())]
    if not seeds:
        return untested("there is no seed with both ticket and a random scheme")
    complete = len(others) == arrangements
    planned = LOOKS if complete else LOOKS[:1]
    look = max((n for n in planned if n <= len(seeds)), default=None)
    used = seeds[:look]
    starts = _Starts.of(runs, "ticket", [*values], "random schemes", used)
    started = {
        role: {seed: known[seed] for seed in used if seed in known and (role, seed) not in starts}
        for role, known in values.items()
    }
    rows = [
        (mine[seed], rivals)
        for seed in used
        if ("ticket", seed) not in starts
        and (rivals := [known[seed] for known in started.values() if seed in known])
    ]
    claim = replace(claim, seeds=len(rows), failed_starts=starts.counts)
    if not rows:
        return untested(str(starts))
    alpha = ALPHA / len(planned)
    spread = paired(
        [own for own, _ in rows],
        [fmean(rivals) for _, rivals in rows],
        images=runs.images,
        measure=runs.measure,
        level=1 - 2 * alpha,
    )
    claim = replace(
        claim, effect=spread.mean, low=spread.low, high=spread.high, level=1 - 2 * alpha
    )
    testable = True
    if complete:
        holds, fails = (_rank_sum_p(rows, sign) for sign in (1, -1))
        claim = replace(
            claim, test=f"ranks in each seed among all {len(others)} others, one-sided"
        )
    else:
        own = fmean(value for value, _ in rows)
        means = [fmean(known.values()) for known in started.values() if known]
        as_good = sum(value >= own for value in means)
        as_bad = sum(value <= own for value in means)
        holds, fails = ((1 + count) / (1 + len(means)) for count in (as_good, as_bad))
        claim = replace(claim, test=f"rank among {len(means)} drawn, one-sided")
        testable = 1 / (1 + len(means)) <= ALPHA
        if not testable:
            claim = replace(claim, why="19 others are the fewest that such a test can decide by")
    verdict = _OPEN
    if look is not None:
        verdict = _HOLDS if holds <= alpha else _FAILS if fails <= alpha else _OPEN
    blocked = not starts.allow(_HOLDS if holds <= fails else _FAILS)
    more = None
    if blocked:
        verdict, claim = _OPEN, replace(claim, why=_and(claim.why, str(starts)))
    elif verdict == _OPEN and testable and (complete or look is None):
        for n in planned:
            if n > len(seeds):
                again = [rows[i % len(rows)] for i in range(n)]
                if not complete or min(_rank_sum_p(again, s) for s in (1, -1)) <= alpha:
                    more = n - len(seeds)
                    break
    p = fails if verdict == _FAILS else holds
    claim = replace(claim, verdict=verdict, p=p, more_seeds=more)
    return _Part(claim, holds, fails, alpha, str(starts) if blocked else "")


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
