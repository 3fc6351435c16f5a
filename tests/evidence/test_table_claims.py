"""C5 and C6 on tables whose truth is known."""

from dataclasses import asdict
from itertools import product

import numpy as np
import pytest

from sat_optuna.evidence.table_claims import table_claims
from sat_optuna.evidence.truth import TruthTable
from sat_optuna.scheme import Scheme
from sat_optuna.ticket import Measure

STAGES = (2, 3, 1)
CHOICES = np.array(list(product((0, 1), repeat=6)), dtype=np.uint8)


def table_of(truth, *, noise=0.3, seed=0, measure=None, decided=None):
    """A table of 2 seeds a scheme and 16 of plain and full, whose true means are these, (64,)."""
    rng = np.random.default_rng(seed)
    values = truth[:, None] + noise * rng.normal(size=(64, 16))
    values[1:-1, 2:] = np.nan
    blank = np.zeros((64, 16))
    return TruthTable(
        choices=CHOICES,
        seeds=tuple(range(16)),
        valid=values,
        test=values,
        valid_loss=blank,
        test_loss=blank,
        train_accuracy=blank,
        seconds=blank,
        machine=blank.astype(np.int16),
        params=np.zeros(64, dtype=np.int64),
        macs=np.zeros(64, dtype=np.int64),
        manifest={
            "name": "made",
            "what": "made for a test",
            "stages": list(STAGES),
            "kinds": ["se"],
            "seeds": [0, 1],
            "reference_seeds": list(range(16)),
            "references": {"plain": "00-000-0", "full": "11-111-1"},
            "measure": asdict(measure or Measure()),
            "decided": decided or {},
        },
    )


# Block 0 is worth 30 points, block 5 costs 5, each other is worth 1.5.
ONE_BLOCK = 60 + CHOICES @ np.array([30.0, 1.5, 1.5, 1.5, 1.5, -5.0])
FIRST, LAST = Scheme.parse("11-111-0"), Scheme.parse("00-000-1")


def judged(truth, ticket=FIRST, **more):
    found = table_claims(table_of(truth, **more), ticket, margin=1.0, study="mine")
    assert [claim.name for claim in found] == ["C5 (a)", "C5 (b)", "C6"]
    return found


def test_shares_and_regret_of_a_table_with_one_block_that_matters():
    above, below, best = judged(ONE_BLOCK, noise=0.05)
    # 15 of 64 beat full's 91 points, for they lack block 5 alone; 15 have less than plain's 60.
    for claim, share in ((above, 100 * 15 / 64), (below, 100 * 15 / 64)):
        assert claim.verdict == "holds"
        assert claim.low - 1 <= share <= claim.high + 1  # the grid of the estimate is coarse
        assert claim.effect == pytest.approx(share, abs=4)
    assert best.verdict == "holds"
    assert best.low <= 0 <= best.high + 0.5
    _, _, far = judged(ONE_BLOCK, LAST)
    assert far.verdict == "fails"
    assert far.low <= -41 <= far.high
    assert "better than 0 % of the other schemes" in far.why
    assert "64 schemes, 16 seeds of full" in above.line()


def test_where_lower_is_better_the_same_is_told_of_the_other_side():
    measure = Measure("log_loss", "nats", "lower")
    above, below, best = judged(1.0 - ONE_BLOCK / 100, noise=0.003, measure=measure)
    assert above.verdict == below.verdict == "holds"
    assert best.unit == "nats"
    assert best.verdict == "holds"


def test_where_nothing_differs_no_share_is_told():
    above, below, _ = judged(np.full(64, 90.0))
    for claim in (above, below):
        assert claim.verdict == "not decided"
        assert "not identifiable" in claim.why
        assert np.isnan(claim.effect)


def test_where_full_is_best_of_all_no_scheme_beats_it():
    above, below, best = judged(50 + 5.0 * CHOICES.sum(axis=1), Scheme.parse("11-111-1"))
    assert (above.verdict, below.verdict, best.verdict) == ("fails", "fails", "holds")


def test_what_is_missing_is_said():
    for claim in table_claims(None, FIRST, margin=1.0, study="mine"):
        assert claim.verdict == "not decided"
        assert "no truth table" in claim.why
        assert claim.why.endswith("sat-optuna truth mine")
    table = table_of(ONE_BLOCK)
    table.valid[CHOICES[:, 0] == 1] = np.nan  # full has no run then
    above, below, best = table_claims(table, FIRST, margin=1.0, study="mine")
    assert above.why == "the truth table has no training of full"
    assert below.verdict == "holds"
    assert "too few trainings to place 11-111-0" in best.why
    table.valid[:] = np.nan
    for claim in table_claims(table, FIRST, margin=1.0, study="mine"):
        assert claim.why == "the truth table has no training yet"
