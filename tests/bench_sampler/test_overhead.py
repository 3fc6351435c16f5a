"""What a sampler costs: a trial, the first after a study was opened, and repeats of many workers.

No time is held to a bound; what the rows say must follow from each other.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from sat_optuna.bench.asynchrony import ASYNCHRONOUS, bench_asynchrony
from sat_optuna.bench.overhead import bench_overhead
from sat_optuna.bench.reopening import READERS, READING, bench_reopening
from sat_optuna.bench.sampler_report import overhead_markdown


def test_overhead_beside_random():
    notes: list[str] = []
    rows = bench_overhead(histories=(20, 60), rounds=5, on_history=notes.append)
    assert notes == ["20 trials", "60 trials"]
    assert [(row["sampler"], row["trials"]) for row in rows] == [
        ("random", 20),
        ("default", 20),
        ("random", 60),
        ("default", 60),
    ]
    for row in rows:
        assert (row["beyond_ms"] == 0) or row["sampler"] == "default"
        assert 0 < row["median_ms"] <= row["p95_ms"]
    default, random = rows[3], rows[2]
    beyond = default["median_ms"] - random["median_ms"]
    assert default["beyond_ms"] == pytest.approx(beyond, abs=2e-3)


@pytest.mark.slow
def test_reopening_beside_reading():
    notes: list[str] = []
    rows = bench_reopening(trials=15, rounds=2, on_opening=notes.append)
    assert notes == [*READERS, *READERS]
    assert [row["sampler"] for row in rows] == list(READERS)
    assert (rows[0]["sampler"], rows[0]["beyond_ms"]) == (READING, 0.0)
    for row in rows:
        assert (row["trials"], row["rounds"]) == (15, 2)
        assert 0 < row["median_ms"] <= row["most_ms"]
        beyond = row["median_ms"] - rows[0]["median_ms"]
        assert row["beyond_ms"] == pytest.approx(beyond, abs=0.2)


@pytest.mark.slow
def test_processes_at_once_share_a_study_and_their_repeats_are_counted(tmp_path):
    """A space of eight schemes and 24 trials: at least 16 are repeats, whoever asks."""
    table = tmp_path / "eight.npz"
    schemes = np.array(list(itertools.product(range(2), repeat=3)))
    np.savez(table, schemes=schemes, values=schemes @ [1.0, 0.5, 0.25])
    notes: list[str] = []
    found = bench_asynchrony(
        problems=[f"table:{table}"],
        workers=3,
        trials=24,
        seeds=2,
        pause_ms=2.0,
        on_study=notes.append,
    )
    assert [row["sampler"] for row in found] == list(ASYNCHRONOUS)
    assert len(notes) == 2 * len(found)
    for row in found:
        assert (row["workers"], row["trials"], row["seeds"]) == (3, 24, 2)
        assert 66.6 <= row["repeats_percent"] <= row["most_percent"] <= 95.9
        assert row["at_work"] <= 2
    assert max(row["at_work"] for row in found) > 0


def test_the_report_has_a_section_a_part():
    row = {"sampler": "default", "trials": 60}
    parts = {key: [row] for key in ("ask_and_tell", "reopening", "asynchrony")}
    about = {"versions": {"numpy": "2.1"}, "machine": "a machine"}
    text = overhead_markdown({**parts, **about})
    assert text.count("| default | 60 |") == 3
    assert text.startswith("# What a sampler costs a trial")
    assert text.count("\n## ") == 2
    assert text.endswith("Made with numpy 2.1, on a machine.\n")


def test_the_committed_figures_are_within_the_bounds_and_as_their_readme_says():
    folder = Path(__file__).parents[2] / "studies" / "bench-sampler"
    document = json.loads((folder / "overhead.json").read_text(encoding="utf-8"))
    readme = " ".join((folder / "README.md").read_text(encoding="utf-8").split())
    asked = {(row["sampler"], row["trials"]): row for row in document["ask_and_tell"]}
    reopened = {row["sampler"]: row for row in document["reopening"]}
    repeats = {
        (row["sampler"], row["problem"]): row["repeats_percent"] for row in document["asynchrony"]
    }

    default, tpe = (asked[sampler, 1000]["beyond_ms"] for sampler in ("default", "tpe"))
    assert default <= 5
    assert (
        f"takes {default:.1f} ms a trial more than Optuna's random one, TPE {tpe:.0f} ms" in readme
    )
    growth = asked["default", 4000]["beyond_ms"] / asked["default", 250]["beyond_ms"]
    assert growth <= 4000 / 250

    assert reopened["default"]["trials"] == 1000
    assert reopened["default"]["beyond_ms"] <= 1000
    beyond, reading = reopened["default"]["beyond_ms"], reopened[READING]["median_ms"]
    assert f"comes {beyond / 1e3:.2f} s after the {reading / 1e3:.1f} s that reading" in readme

    def share(value: float) -> str:
        return f"{value:.2g} %" if value else "none"

    ours = [share(repeats["default", problem]) for problem in ("ticket16", "ticket54")]
    theirs = [share(repeats["tpe", problem]) for problem in ("ticket16", "ticket54")]
    assert f"it repeats {ours[0]} on ticket16 and {ours[1]} on ticket54; " in readme
    assert f"TPE {theirs[0]} and {theirs[1]}." in readme
