"""What a sampler costs: rows that follow from each other, and what the README says of them."""

from pathlib import Path

import pytest

from overhead import Cost, ask_and_tell, first_proposal, overhead_markdown

FOLDER = Path(__file__).parents[2] / "studies" / "bench-sampler"


def test_trials_of_several_samplers():
    rows = ask_and_tell(["random", "default"], trials=20, rounds=5)
    assert [row[:3] for row in rows] == [
        ("ms a trial", name, 20) for name in ("random", "default")
    ]
    assert all(0 < row.median <= row.high for row in rows)


@pytest.mark.slow
def test_first_proposals_of_new_processes():
    rows = first_proposal(["random", "tpe", "paper"], trials=15, rounds=2)
    assert [row.sampler for row in rows] == ["random", "tpe", "paper"]
    for row in rows:
        assert (row.what, row.trials) == ("ms to the first proposal", 15)
        assert 0 < row.median <= row.high


def test_the_table_has_a_row_a_measurement_and_what_is_beyond_random():
    rows = [Cost("ms a trial", "random", 60, 1.5, 2.0), Cost("ms a trial", "tpe", 60, 9.0, 9.5)]
    text = overhead_markdown(rows, "numpy 2.1, on a machine")
    assert text.startswith("# What a sampler costs")
    assert "| ms a trial | random | 60 | 1.50 | 2.00 | 0.00 |" in text
    assert "| ms a trial | tpe | 60 | 9.00 | 9.50 | 7.50 |" in text
    assert text.endswith("\nMade with numpy 2.1, on a machine.\n")


def test_the_committed_figures_are_within_the_bounds_and_as_their_readme_says():
    lines = (FOLDER / "overhead.md").read_text(encoding="utf-8").splitlines()
    readme = " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ms ")]
    median = {(what, of, int(trials)): float(ms) for what, of, trials, ms, _, _ in cells}
    beyond = {(what, of, int(trials)): float(ms) for what, of, trials, _, _, ms in cells}

    default, tpe = (beyond["ms a trial", sampler, 1000] for sampler in ("default", "tpe"))
    assert default <= 5
    assert (
        f"takes {default:.1f} ms a trial more than Optuna's random one, TPE {tpe:.0f} ms" in readme
    )
    growth = [beyond["ms a trial", "default", trials] for trials in (250, 4000)]
    assert growth[1] / growth[0] <= 4000 / 250

    first = beyond["ms to the first proposal", "default", 1000]
    reading = median["ms to the first proposal", "random", 1000]
    assert first <= 1000
    assert f"comes {first / 1e3:.2f} s after the {reading / 1e3:.1f} s that reading" in readme
